"""Unrolling the recursion by depth (ablation figure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

MODELS = {"TreeRNN": "cortex.fig.unroll_treernn", "TreeLSTM": "cortex.fig.unroll_treelstm"}


@attrs.frozen
class Settings:
    """models: of cortex.models;  depths: how often the recursion is inlined, 1 first

    batch trees of kind `data` at this hidden size
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    models: list[str] = attrs.field(validator=shared.one_of(MODELS))
    depths: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    data: list[str] = attrs.field(validator=deep_iterable(in_(("perfect", "sst"))))
    batch: int = attrs.field(validator=ge(1))
    hidden: int = attrs.field(validator=ge(16))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare every depth with the recursion as it stands, under the paper's schedule."""
    import cortex
    from cortex.experiments.variants import net_of
    from cortex.schedule import Schedule

    for model in ctx.progress(settings.models, "model"):
        for data in settings.data:
            case = shared.Case("tree_lstm", data, settings.batch, settings.hidden)
            batches = shared.Batches(case, ctx.rng(data))
            base = net_of(model, case, Schedule.paper(), ctx.threads)
            for depth in settings.depths:
                try:
                    net = net_of(model, case, Schedule.paper().unroll(depth), ctx.threads)
                except cortex.ScheduleError as refused:
                    ctx.log.warning("%s, depth %d is left out: %s", model, depth, refused)
                    continue
                ctx.compare(
                    "speedup",
                    {"unrolled": batches.fresh(net), "plain": batches.fresh(base)},
                    baseline="plain",
                    verify=shared.assert_close,
                    claim=MODELS[model],
                    subject="unrolled",
                    halfwidth=settings.halfwidth,
                    max_seconds=settings.max_seconds,
                    model=model,
                    data=data,
                    batch=settings.batch,
                    hidden=settings.hidden,
                    depth=depth,
                )


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speed over no unrolling by depth."""
    from common.report.charts import lines

    rows = frame[frame["metric"] == "speedup"]
    return [
        lines(
            rows.assign(
                place=[
                    f"{m}, {d}" for m, d in zip(rows["axis.model"], rows["axis.data"], strict=True)
                ]
            ),
            "axis.depth",
            "Unrolling the recursion",
            "Speed over depth 1. The paper, on a GPU, recalled: TreeRNN gains, TreeLSTM loses.",
            color="place",
            x_title="depth",
            y_title="time at depth 1 / time",
        )
    ]
