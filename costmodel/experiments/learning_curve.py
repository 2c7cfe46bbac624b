"""Error on unseen programs by the number of programs trained on; what larger sets would bring.

The paper trained on some 37,000 programs. Here the curve is the result: one test set, training sets
that are beginnings of one another, and a power law through the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, min_len

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.train import Samples

CLAIM = "costmodel.ours.learning_curve"
#: Of fewer programs in the largest set, a curve is luck.
LEAST_TO_JUDGE = 500
#: Small sets are trained for hundreds of epochs, each of which is scored on programs not in them.
VALIDATION_PROGRAMS = 200
#: Errors that the curve is asked for, in percent: our target and the paper's.
WANTED = (25.0, 16.0)


@attrs.frozen
class Settings:
    """data, programs, schedules: as of costmodel_accuracy.

    points: training programs; more than the set has are all it has;  seeds: of each model
    epochs, batch: of training; with fewer programs there are as many more epochs as make the number
        of steps that of the largest set, up to most_epochs
    """

    data: str
    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(2))
    points: list[int] = attrs.field(validator=[min_len(3), deep_iterable(ge(2))])
    seeds: int = attrs.field(validator=ge(1))
    epochs: int = attrs.field(validator=ge(1))
    most_epochs: int = attrs.field(validator=ge(1))
    batch: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Scores of each point, the exponent, and how many programs the wanted errors would take."""
    from costmodel.experiments import models, pairs
    from costmodel.experiments.scores import record_scores
    from costmodel.power_law import PowerLaw
    from costmodel.sample_sets import samples_of

    rows = pairs.labels(ctx, settings.data, settings.programs, settings.schedules)
    split = pairs.by_split(rows)
    available = pairs.n_programs_of(split["train"])
    if available < 2 or not split["test"]:
        raise ValueError(
            f"a learning curve needs programs to train on and others to test on, and the "
            f"{pairs.n_programs_of(rows)} of this set leave {available} to train on: raise programs"
        )
    sizes = sorted({min(point, available) for point in settings.points})
    every = samples_of(pairs.first_programs(split["train"], sizes[-1]))
    test = samples_of(split["test"])
    watched = pairs.first_programs(split["validation"], VALIDATION_PROGRAMS)
    validation = samples_of(watched) if watched else None

    def predicted(programs: int, seed: int) -> list[float]:
        # Programs are numbered from 0 in the order of the rows.
        part = _first(every, programs)
        epochs = min(settings.most_epochs, round(settings.epochs * sizes[-1] / programs))
        values = models.predicted(
            "recursive", part, validation, test, seed=seed, epochs=epochs, batch=settings.batch
        )
        return [float(value) for value in values]

    is_judged = sizes[-1] >= LEAST_TO_JUDGE
    n, errors = [], []
    todo = [(size, seed) for size in sizes for seed in range(settings.seeds)]
    for size, seed in ctx.progress(todo, "model"):
        values = ctx.cell(predicted, programs=size, seed=seed)
        claims = {"mape": [CLAIM]} if is_judged else {}
        found = record_scores(
            ctx,
            test.speedups,
            values,
            test.programs,
            claims,
            programs=size,
            seed=seed,
            system="recursive",
        )
        n.append(size)
        errors.append(found["mape"])
    if len(sizes) < 3:
        ctx.log.warning("fewer than three sizes: no power law is fitted")
        return
    law = PowerLaw.fit(n, errors)
    ctx.record(None, "exponent", law.exponent, "", low=law.low, high=law.high, timed=True)
    for size in sizes:
        ctx.record(None, "fit", law.at(size), "%", timed=True, programs=size, system="power law")
    for wanted in WANTED:
        if law.needed(wanted) < 1e9:
            ctx.record(None, "programs_needed", law.needed(wanted), "", timed=True, mape=wanted)


def _first(samples: Samples, n: int) -> Samples:
    """The samples of the first n programs."""
    import numpy as np

    kept = np.flatnonzero(samples.programs < n)
    trees = tuple(samples.trees[place] for place in kept)
    return attrs.evolve(
        samples, trees=trees, speedups=samples.speedups[kept], programs=samples.programs[kept]
    )


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Error over training programs, with the power law."""
    import pandas as pd

    from common.report.charts import lines

    measured = frame[(frame["metric"] == "mape") & frame["axis.programs"].notna()]
    if "axis.seed" in measured:
        measured = measured[measured["axis.seed"] == 0]
    rows = pd.concat([measured, frame[frame["metric"] == "fit"]])
    return [
        lines(
            rows,
            "axis.programs",
            "Learning curve",
            "Error on the same unseen programs; intervals are of other test programs, the line is "
            "a power law through all seeds.",
            x_title="training programs",
            y_title="MAPE (%)",
            log_x=True,
            log_y=True,
        )
    ]
