"""Moving the recursion's boundary inside the body (ablation figure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from cortex.schedule import Partition

MODELS = {
    "TreeGRU": "cortex.fig.refactor_treegru",
    "SimpleTreeGRU": "cortex.fig.refactor_simple_treegru",
}
#: What a thread owns of a level.
PARTITIONS: tuple[Partition, ...] = ("row", "column")


@attrs.frozen
class Settings:
    """models: of cortex.models, on perfect trees;  batches, hidden: their sizes

    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    models: list[str] = attrs.field(validator=shared.one_of(MODELS))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    hidden: int = attrs.field(validator=ge(16))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare with and without, in percent of the latency; count the barriers of a level.

    Rows shared out among threads need one barrier a level whatever the model. Columns shared out
    need one before each product that depends on another: these are what refactoring saves.
    """
    import cortex
    from cortex.experiments.variants import net_of
    from cortex.schedule import Schedule

    plain = Schedule.paper()
    for model in ctx.progress(settings.models, "model"):
        for partition in PARTITIONS:
            _record_barriers(ctx, model, settings.hidden, partition)
        for batch in settings.batches:
            case = shared.Case("tree_gru", "perfect", batch, settings.hidden)
            batches = shared.Batches(case, ctx.rng(f"{batch}"))
            try:
                moved = net_of(model, case, plain.refactor("Uh"), ctx.threads)
            except cortex.ScheduleError as refused:
                ctx.log.warning("%s is left out: %s", model, refused)
                continue
            found = ctx.compare(
                "speedup",
                {
                    "refactored": batches.fresh(moved),
                    "plain": batches.fresh(net_of(model, case, plain, ctx.threads)),
                },
                baseline="plain",
                verify=shared.assert_close,
                subject="refactored",
                halfwidth=settings.halfwidth,
                max_seconds=settings.max_seconds,
                model=model,
                batch=batch,
                hidden=settings.hidden,
            )["refactored"]
            # A gain of 25% takes a fifth off the time: time before over time after, less one.
            ctx.record(
                MODELS[model], "latency_gain", 100 * (found.estimate - 1), "%",
                low=100 * (found.low - 1), high=100 * (found.high - 1), timed=True,
                model=model, batch=batch, hidden=settings.hidden, system="ours",
            )  # fmt: skip


def _record_barriers(ctx: Context, model: str, hidden: int, partition: Partition) -> None:
    """Barriers each thread meets in a level, without and with refactoring."""
    import cortex
    from cortex import models, ra
    from cortex.cases import VOCAB
    from cortex.lower import lower
    from cortex.lower.barriers import barriers_a_pass
    from cortex.schedule import Schedule

    traced = ra.trace(getattr(models, model)(hidden, VOCAB))
    plain = Schedule.paper().partition(partition)
    for system, schedule in (("plain", plain), ("refactored", plain.refactor("Uh"))):
        try:
            program = lower(traced, schedule).program
        except cortex.ScheduleError as refused:
            ctx.log.warning("barriers of %s are left out: %s", model, refused)
            return
        ctx.record(
            None, "barriers", float(barriers_a_pass(program)), "barriers", model=model,
            hidden=hidden, partition=partition, system=system,
        )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Gain by model, beside what is recalled of the paper; barriers of a level."""
    from common.report.charts import bars

    rows = frame[frame["metric"] == "latency_gain"]
    counts = frame[frame["metric"] == "barriers"]
    return [
        bars(
            rows.assign(batch=[f"batch {b:g}" for b in rows["axis.batch"]]),
            "axis.model",
            "Recursive refactoring",
            "Time without over time with it, less one, on perfect trees. The paper, on a GPU, "
            "recalled: about nothing for TreeGRU, 25% for the simplified one.",
            color="batch",
            y_title="gain in %",
        ),
        bars(
            counts.assign(
                setting=[
                    f"{m}, {p}s shared out"
                    for m, p in zip(counts["axis.model"], counts["axis.partition"], strict=True)
                ]
            ),
            "setting",
            "Barriers a level",
            "How often threads wait for one another in each level of the trees.",
            color="axis.system",
            y_title="barriers",
        ),
    ]
