"""What of the description and of the loss an accurate model owes its accuracy to (ablation).

The same recursive model, trained and tested on the same pairs: the paper's description of a
program, the compact one, and of that only what describes the program after its transformations;
MAPE, the error of logarithms and a loss of ranks, whose predictions rank schedules and are no
speedups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, in_

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.features import Tree
    from costmodel.train import Samples

REPRESENTATIONS = ("paper", "compact", "transformed")
LOSSES = ("mape", "log", "ndcg")


@attrs.frozen
class Settings:
    """data, programs, schedules: as of costmodel_accuracy;  train_on: at most so many programs.

    representations: with the first loss;  losses: with the first representation;  none: nothing
    is trained
    """

    data: str
    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(2))
    train_on: int = attrs.field(validator=ge(2))
    representations: list[str] = attrs.field(validator=deep_iterable(in_(REPRESENTATIONS)))
    losses: list[str] = attrs.field(validator=deep_iterable(in_(LOSSES)))
    epochs: int = attrs.field(validator=ge(1))
    batch: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Scores of each representation and of each loss."""
    from costmodel.experiments import models, pairs
    from costmodel.experiments.scores import record_scores
    from costmodel.sample_sets import samples_of

    if not settings.representations or not settings.losses:
        ctx.log.info("nothing to compare: that takes the full profile")
        return
    rows = pairs.labels(ctx, settings.data, settings.programs, settings.schedules)
    split = pairs.by_split(rows)
    split["train"] = pairs.first_programs(split["train"], settings.train_on)

    def samples(representation: str) -> dict[str, Samples]:
        is_part = representation == "transformed"
        read: Any = "compact" if is_part else representation
        found = {name: samples_of(part, read) for name, part in split.items()}
        return {n: _without_original(part) for n, part in found.items()} if is_part else found

    def predicted(representation: str, loss: str) -> dict[str, Any]:
        parts = samples(representation)
        values = models.predicted(
            "recursive",
            parts["train"],
            parts["validation"] if len(parts["validation"]) else None,
            parts["test"],
            seed=0,
            epochs=settings.epochs,
            batch=settings.batch,
            loss=cast("Any", loss),
            representation="paper" if representation == "paper" else "compact",
        )
        test = parts["test"]
        return {
            "predicted": [float(value) for value in values],
            "measured": test.speedups.tolist(),
            "program": test.programs.tolist(),
        }

    todo = [(name, settings.losses[0]) for name in settings.representations]
    todo += [(settings.representations[0], name) for name in settings.losses[1:]]
    for representation, loss in ctx.progress(todo, "model"):
        cell = ctx.cell(predicted, representation=representation, loss=loss)
        record_scores(
            ctx,
            cell["measured"],
            cell["predicted"],
            cell["program"],
            system=f"{representation}, {loss}",
            representation=representation,
            loss=loss,
        )


def _without_original(samples: Samples) -> Samples:
    """Compact vectors with nothing of the loops as the program is written."""
    from costmodel.compact_vector import LOOPS, NEST

    def masked(tree: Tree) -> Tree:
        comps = tree.comps.copy()
        comps[:, LOOPS:NEST] = 0
        return attrs.evolve(tree, comps=comps)

    return attrs.evolve(samples, trees=tuple(masked(tree) for tree in samples.trees))


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Error and order of each."""
    from common.report.charts import bars

    if "axis.representation" not in frame or not (frame["metric"] == "mape").any():
        return []
    return [
        bars(
            frame[frame["metric"] == metric],
            "axis.system",
            title,
            "One training set and one test set of other programs.",
            color="axis.representation",
            y_title=y_title,
        )
        for metric, title, y_title in (
            ("mape", "Error by description and loss", "MAPE (%)"),
            ("spearman_per_program", "Order by description and loss", "rank correlation"),
        )
    ]
