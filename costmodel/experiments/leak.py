"""Whether anything but the schedule tells a model what a schedule is worth (a control).

The same model is trained on the labels as measured, on labels that changed places within each
program, and on those divided by their program's mean besides. A model of the second kind can still
learn which programs are fast or slow on the whole, and if their schedules differ in kind from other
programs', some of that order is seen within a program too. One of the third kind can learn nothing
that is true of a program it never saw, unless the data leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, in_

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.train import Samples

CLAIMS = {
    "permuted": "costmodel.ours.no_leak",
    "permuted and centred": "costmodel.ours.no_leak_centred",
}
LABELS = ("measured", *CLAIMS)
#: Of fewer programs to test on, an order is luck.
LEAST_TO_JUDGE = 200


@attrs.frozen
class Settings:
    """data, programs, schedules: as of costmodel_accuracy;  train_on: at most so many programs.

    labels: what is trained on, none for nothing;  epochs, batch: of training
    """

    data: str
    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(2))
    train_on: int = attrs.field(validator=ge(2))
    labels: list[str] = attrs.field(validator=deep_iterable(in_(LABELS)))
    epochs: int = attrs.field(validator=ge(1))
    batch: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Scores on the labels as measured of the test programs, after training on each kind."""
    from costmodel.experiments import models, pairs
    from costmodel.experiments.scores import record_scores
    from costmodel.sample_sets import samples_of

    if not settings.labels:
        ctx.log.info("nothing to train: that takes the full profile")
        return
    rows = pairs.labels(ctx, settings.data, settings.programs, settings.schedules)
    split = pairs.by_split(rows)
    if pairs.n_programs_of(split["train"]) < 2 or not split["test"]:
        raise ValueError(
            f"this control needs programs to train on and others to test on, and the "
            f"{pairs.n_programs_of(rows)} of this set do not give both: raise programs"
        )
    train = samples_of(pairs.first_programs(split["train"], settings.train_on))
    test = samples_of(split["test"])
    n_tested = pairs.n_programs_of(split["test"])

    def predicted(labels: str) -> list[float]:
        values = models.predicted(
            "recursive",
            relabelled(train, labels, seed=0),
            None,
            test,
            seed=0,
            epochs=settings.epochs,
            batch=settings.batch,
        )
        return [float(value) for value in values]

    for labels in ctx.progress(settings.labels, "model"):
        is_judged = labels in CLAIMS and n_tested >= LEAST_TO_JUDGE
        record_scores(
            ctx,
            test.speedups,
            ctx.cell(predicted, labels=labels),
            test.programs,
            {"spearman_per_program": [CLAIMS[labels]]} if is_judged else {},
            system=f"labels {labels}",
        )


def relabelled(samples: Samples, labels: str, seed: int) -> Samples:
    """The same samples with the labels named, one of LABELS."""
    import numpy as np

    if labels == "measured":
        return samples
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(samples)), samples.programs))
    speedups = np.empty_like(samples.speedups)
    speedups[np.argsort(samples.programs, kind="stable")] = samples.speedups[order]
    if labels == "permuted and centred":
        _, program = np.unique(samples.programs, return_inverse=True)
        logs = np.log(speedups)
        speedups = np.exp(logs - (np.bincount(program, logs) / np.bincount(program))[program])
    return attrs.evolve(samples, speedups=speedups)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The order that is left."""
    from common.report.charts import bars

    if "axis.system" not in frame:
        return []
    return [
        bars(
            frame[frame["metric"] == "spearman_per_program"],
            "axis.system",
            "Order within unseen programs, by the labels trained on",
            "Rank correlation with what was measured, mean over the test programs.",
            y_title="rank correlation",
        )
    ]
