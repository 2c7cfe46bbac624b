"""Where eager torch spends its time, by class of operator (table of operator classes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from common.experiment import Context
from transformer_dm.experiments import shared
from transformer_dm.sizes import LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

SHARE = "transformer_dm.tab.runtime_share"
TIME = "transformer_dm.tab.class_time"
OURS = "transformer_dm.ours.contraction_time_share"
#: By the end of an operator's name in torch, less "_backward" and such; the rest moves data about.
CLASSES = {
    "contraction": ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"),
    "normalisation": ("softmax", "softmax_data", "layer_norm", "sum", "mean"),
    "elementwise": (
        "add", "sub", "mul", "div", "relu", "threshold", "gelu", "bernoulli", "dropout", "where",
        "masked_scale", "clamp_min", "neg", "sqrt", "rsqrt", "pow",
    ),
}  # fmt: skip


@attrs.frozen
class Settings:
    """One layer, and how often its training step is profiled.

    repeats: profiles, of whose shares the median counts; the interval is that of the median
    """

    batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    width: int = attrs.field(validator=ge(1))
    dropout: float = attrs.field(validator=shared.is_rate)
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    repeats: int = attrs.field(validator=ge(6))  # fewer give no 95% interval of a median

    @property
    def size(self) -> LayerSize:
        """Of the layer."""
        return LayerSize(self.batch, self.length, self.heads, self.head_size, self.width)


def run(settings: Settings, ctx: Context) -> None:
    """Profile torch's layer, forward and backward, and share its time out by class."""
    import numpy as np

    from common import paired
    from transformer_dm import peers

    for precision in shared.usable(settings.precisions, ctx):
        problem = peers.make_problem(settings.size, precision, settings.dropout, ctx.torch_rng("x"))
        step = peers.pytorch_layer(problem).step
        step()
        profiles = [profile(step) for _ in range(settings.repeats)]
        axes: dict[str, Any] = {
            "batch": settings.batch, "length": settings.length, "d_model": settings.size.d_model,
            "precision": precision, "system": "pytorch",
        }  # fmt: skip
        for cls in (*CLASSES, "movement"):
            times = np.array([found[cls] for found in profiles])
            totals = np.array([sum(found.values()) for found in profiles])
            time, low, high = paired.interval(times)
            where: dict[str, Any] = {**axes, "class": cls, "timed": True}
            ctx.record(TIME, "time_us", time, "us", low=low, high=high, **where)
            share, low, high = paired.interval(100 * times / totals)
            interval: dict[str, Any] = {"low": low, "high": high}
            ctx.record(SHARE, "runtime_share", share, "%", **interval, **where)
            if cls == "contraction" and precision == "bf16":
                ctx.record(OURS, "contraction_time_share", share, "%", **interval, **where)


def profile(step: Any) -> dict[str, float]:
    """Microseconds that one call spends in operators of each class, without those they call."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times = dict.fromkeys((*CLASSES, "movement"), 0.0)
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            times[class_of(event.key)] += float(event.self_cpu_time_total)
    return times


def class_of(name: str) -> str:
    """The class of torch's operator of that name; "movement" for copies, views and memory."""
    word = name.removeprefix("aten::").strip("_").removeprefix("native_")
    for end in ("_backward_data", "_backward", "_data"):
        word = word.removesuffix(end)
    word = word.strip("_")
    for cls, words in CLASSES.items():
        if word in words or (word.startswith("scaled_dot_product") and cls == "contraction"):
            return cls
    return "movement"


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Shares of the time by class beside the paper's, and beside the shares of the arithmetic."""
    from common.report.charts import bars, paper_rows

    rows = frame[frame["metric"] == "runtime_share"]
    return [
        bars(
            rows.drop_duplicates(subset=["axis.class", "axis.precision"]),
            "axis.class",
            "Where eager torch spends its time",
            "Share of a training step of one layer, one thread. Of the arithmetic 99.8% is in "
            "contractions. The paper's shares, recalled, are of a GPU with 16-bit floats; torch's "
            "copies, views and allocations are a class of their own here.",
            color="axis.precision",
            y_title="% of the time",
            paper=paper_rows(claims[SHARE]),
        )
    ]
