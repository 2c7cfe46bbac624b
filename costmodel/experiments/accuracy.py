"""How well speedups of unseen programs are predicted (abstract, evaluation of the model).

The model that was trained before is scored on measured pairs of programs it never saw; the paper's
alternatives are trained here on one training set and scored on one test set, beside constants and
a second measurement of the same schedules, which no model of them can beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, in_

from common.experiment import Context
from costmodel.experiments.models import NETWORKS, SYSTEMS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.features import Representation
    from costmodel.shards import Row
    from costmodel.train import Samples

#: What the model trained before is judged by.
CLAIMS = {
    "mape": ("costmodel.abstract.mape", "costmodel.ours.test_mape"),
    "pearson": ("costmodel.sec.pearson",),
    "spearman": ("costmodel.sec.spearman",),
    "spearman_per_program": (
        "costmodel.sec.notebook_spearman_per_program",
        "costmodel.ours.spearman_per_program",
    ),
    "ndcg": ("costmodel.sec.notebook_ndcg",),
    "ndcg_at_1": ("costmodel.sec.notebook_ndcg_at_1",),
}
#: Alternatives that the recursive model is to be better than, on the same data.
ORDERS = {
    "flat_lstm": "costmodel.sec.recursive_over_flat_lstm",
    "feed_forward": "costmodel.sec.recursive_over_feed_forward",
    "constant": "costmodel.ours.recursive_over_constant",
}
#: Of fewer programs, which model learns more is luck.
LEAST_TO_JUDGE = 500
EDGES = (0.005, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, 128.0)
LONG_S = 5e-3
LEAST_PROGRAMS = 50
MOST_POINTS = 600


@attrs.frozen
class Settings:
    """What is scored and what is trained.

    model: "default" for the one that comes with the package, or a checkpoint's path
    data: folder of measured pairs, "" for one beside the results; it is made if it has none, of
        so many programs and schedules
    scored: programs the model is scored on: "test", or "all" where none was in its training
    again: programs of those measured a second time
    seeds, systems: trained here, with so many epochs of steps of `batch` pairs
    """

    model: str
    data: str
    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(2))
    scored: str = attrs.field(validator=in_(("all", "test")))
    again: int = attrs.field(validator=ge(0))
    seeds: int = attrs.field(validator=ge(1))
    systems: list[str] = attrs.field(validator=deep_iterable(in_(SYSTEMS)))
    epochs: int = attrs.field(validator=ge(1))
    batch: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Scores of the model trained before, of a second measurement, and of models trained here."""
    from costmodel.experiments import pairs

    rows = pairs.labels(ctx, settings.data, settings.programs, settings.schedules)
    split = pairs.by_split(rows)
    scored = rows if settings.scored == "all" else split["test"]
    ctx.log.info(
        "%d pairs of %d programs; scored on %d of %d",
        *(len(rows), pairs.n_programs_of(rows), len(scored), pairs.n_programs_of(scored)),
    )
    features = _Features(split)
    _score_trained_before(ctx, settings.model, scored, features)
    _score_second_measurement(ctx, pairs.first_programs(scored, settings.again))
    _score_trained_here(ctx, settings, features)


class _Features:
    """Samples of the rows of a split, made once: they take longer than most of what follows."""

    def __init__(self, split: Mapping[str, Sequence[Row]]) -> None:
        self.split = split
        self._known: dict[tuple[str, str], Samples] = {}

    def __call__(self, name: str, representation: Representation = "compact") -> Samples:
        from costmodel.sample_sets import samples_of

        key = (name, representation)
        if key not in self._known:
            self._known[key] = samples_of(self.split[name], representation)
        return self._known[key]


def _score_trained_before(
    ctx: Context, path: str, scored: Sequence[Row], features: _Features
) -> None:
    from costmodel.baselines import Constant
    from costmodel.bootstrap import mape_ratio
    from costmodel.experiments.models import trained_before
    from costmodel.experiments.scores import record_scores
    from costmodel.metrics import score
    from costmodel.train import Samples

    model = trained_before(path)
    names = {row.split for row in scored}
    samples = Samples.joined([features(name, model.representation) for name in sorted(names)])
    predicted = model.predict_trees(samples.trees)[0]
    axes: dict[str, Any] = {"system": "recursive", "trained": "before"}
    found = record_scores(ctx, samples.speedups, predicted, samples.programs, CLAIMS, **axes)
    _record_bins(ctx, samples.speedups, predicted)
    _record_points(ctx, samples.speedups, predicted)
    constant = Constant.best_of(samples.speedups).predict_trees(samples.trees)
    best = record_scores(
        ctx, samples.speedups, constant, samples.programs, system="best_constant", trained="before"
    )
    low, high = mape_ratio(samples.speedups, constant, predicted, samples.programs)
    ctx.record(
        "costmodel.ours.mape_of_constant",
        "mape_ratio",
        best["mape"] / found["mape"],
        "x",
        low=low,
        high=high,
        timed=True,
    )
    long = Samples.of(
        [row for row in scored if (row.base_time_s or 0) > LONG_S], model.representation
    )
    validation = features("validation", model.representation)
    for part, claim in ((long, "mape_over_5ms"), (validation, "mape_validation")):
        if len(part):
            mape = score(part.speedups, model.predict_trees(part.trees)[0], part.programs).mape
            # A handful of programs says nothing of the paper's thousands: shown and not judged.
            is_judged = len(set(part.programs.tolist())) >= LEAST_PROGRAMS
            name = f"costmodel.sec.notebook_{claim}" if is_judged else None
            ctx.record(name, claim, mape, "%", timed=True, **axes)


def _record_bins(ctx: Context, measured: NDArray[Any], predicted: NDArray[Any]) -> None:
    """Error by measured speedup: MAPE weighs small ones most."""
    import itertools

    import numpy as np

    errors = 100 * np.abs(measured - predicted) / measured
    for low, high in itertools.pairwise(EDGES):
        inside = errors[(measured >= low) & ((measured < high) | (high == EDGES[-1]))]
        if len(inside):
            span: dict[str, Any] = {"speedup": f"{low:g} to {high:g}"}
            ctx.record(None, "mape_by_speedup", float(inside.mean()), "%", timed=True, **span)
            ctx.record(None, "pairs_by_speedup", len(inside), "", **span)


def _record_points(ctx: Context, measured: NDArray[Any], predicted: NDArray[Any]) -> None:
    import numpy as np

    n = len(measured)
    for place in np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(int)):
        ctx.record(
            None,
            "predicted",
            float(predicted[place]),
            "x",
            timed=True,
            measured=float(measured[place]),
        )


def _score_second_measurement(ctx: Context, rows: Sequence[Row]) -> None:
    """The error of labels, on a sample of those the model is scored on."""
    import numpy as np

    from costmodel.experiments import pairs
    from costmodel.experiments.scores import record_scores

    if not rows:
        return
    second = ctx.cell(lambda again: pairs.measured_again(rows).tolist(), again=len(rows))
    known = np.isfinite(second)
    record_scores(
        ctx,
        np.array([row.speedup for row in rows])[known],
        np.array(second)[known],
        np.array([row.program_hash for row in rows])[known],
        system="second measurement",
        trained="before",
    )


def _score_trained_here(ctx: Context, settings: Settings, features: _Features) -> None:
    from costmodel.experiments import models, pairs
    from costmodel.experiments.scores import record_scores

    n_programs = pairs.n_programs_of(features.split["train"])
    if n_programs < 2 or not features.split["test"]:
        ctx.log.warning("the set has too few programs to train on some and test on others")
        return
    train, test = features("train"), features("test")
    validation = features("validation") if features.split["validation"] else None

    def predict(system: str, seed: int) -> list[float]:
        found = models.predicted(
            system,
            train,
            validation,
            test,
            seed=seed,
            epochs=settings.epochs,
            batch=settings.batch,
        )
        return [float(value) for value in found]

    todo = [
        (system, seed)
        for system in settings.systems
        for seed in range(settings.seeds if system in NETWORKS else 1)
    ]
    for system, seed in ctx.progress(todo, "model"):
        try:
            values = ctx.cell(predict, system=system, seed=seed)
        except ImportError as absent:
            ctx.log.warning("%s", absent)
            continue
        record_scores(
            ctx,
            test.speedups,
            values,
            test.programs,
            _claims(system) if n_programs >= LEAST_TO_JUDGE else {},
            system=system,
            trained="here",
            seed=seed,
            programs=n_programs,
        )


def _claims(system: str) -> dict[str, Sequence[str]]:
    if system == "recursive":
        return {"mape": [*ORDERS.values()]}
    return {"mape": [ORDERS[system]]} if system in ORDERS else {}


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Predicted against measured, error by speedup, and the systems side by side."""
    from common.report.charts import bars, points

    seen = frame[frame["metric"] == "predicted"]
    mape = frame[(frame["metric"] == "mape") & frame["axis.system"].notna()]
    mape = mape.drop_duplicates(subset=["value", "axis.system", "axis.trained"])
    by_speedup = frame[frame["metric"] == "mape_by_speedup"]
    return [
        points(
            seen,
            "axis.measured",
            "Predicted against measured speedup",
            "A point is a schedule of a program that the model never saw; on the line the two "
            "agree.",
            diagonal=True,
            x_title="measured speedup",
            y_title="predicted speedup",
            log_x=True,
            log_y=True,
        ),
        bars(
            by_speedup,
            "axis.speedup",
            "Error by measured speedup",
            "Mean of |predicted / measured - 1| of the model trained before.",
            y_title="MAPE (%)",
        ),
        bars(
            mape.assign(**{"axis.kind": mape["axis.system"].astype(str)}),
            "axis.kind",
            "Error of models, constants and a second measurement",
            "Trained before: the model that comes with the package; trained here: on the training "
            "part of this set alone.",
            color="axis.trained",
            y_title="MAPE (%)",
            log_y=True,
        ),
    ]
