"""Projections of queries, keys and values: apart, two stacked, all stacked (algebraic fusion)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from transformer_dm.experiments import shared

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from common.claims import Claim
    from common.report.charts import Chart

PAPER = "transformer_dm.tab.qkv_stacking"
OURS = "transformer_dm.ours.qkv_stacking"
GEMMS = ("aten", "auto")
#: How many of the three weights each product holds.
STACKS = {"separate": (1, 1, 1), "qk": (2, 1), "qkv": (3,)}


@attrs.frozen
class Settings:
    """batch x length rows of width d_model.

    gemms:     "aten" is torch's product, "auto" the fastest of all back ends on each shape
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    d_model: int = attrs.field(validator=ge(1))
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    gemms: list[str] = attrs.field(validator=deep_iterable(in_(GEMMS)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare the three ways, forward and backward, with torch's products and with ours."""
    for precision in shared.usable(settings.precisions, ctx):
        for gemm in settings.gemms:
            _measure(settings, ctx, precision, gemm)


def _measure(settings: Settings, ctx: Context, precision: str, backend: str) -> None:
    import torch

    from transformer_dm.peers import DTYPES

    n, rows = settings.d_model, settings.batch * settings.length
    draw = ctx.torch_rng(f"qkv {precision}")
    dtype = DTYPES[precision]
    x = torch.randn(rows, n, generator=draw).to(dtype)
    weight = (torch.randn(3 * n, n, generator=draw) * n**-0.5).to(dtype)
    d_y = torch.randn(rows, 3 * n, generator=draw).to(dtype)
    ways = {name: make_way(x, weight, d_y, stack, backend) for name, stack in STACKS.items()}
    for i, stage in enumerate(("forward", "backward")):
        axes: dict[str, Any] = {
            "batch": settings.batch, "length": settings.length, "precision": precision,
            "gemm": backend, "stage": stage,
        }  # fmt: skip
        compared = ctx.compare(
            "speedup",
            {name: way[i] for name, way in ways.items()},
            baseline="separate",
            verify=(same_forward, same_backward)[i],
            claim=OURS,
            subject="qkv",
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            **axes,
        )
        base = compared.baseline_seconds * 1e6
        ctx.record(PAPER, "time_us", base, "us", timed=True, **axes, system="separate")
        for name, found in compared.items():
            # By the paired ratio to the one time above, whose own spread is common to all.
            ctx.record(
                PAPER, "time_us", base / found.estimate, "us", low=base / found.high,
                high=base / found.low, timed=True, **axes, system=name,
            )  # fmt: skip


def make_way(
    x: Tensor, weight: Tensor, d_y: Tensor, stack: tuple[int, ...], backend: Any
) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """Forward and backward with so many of the three weights in each product.

    x: (R, N); weight: (3 N, N); d_y: (R, 3 N)
    Forward gives the parts of the output, backward dx and the parts of the weight's gradient.
    """
    import torch

    from common.gemm import gemm

    sizes = [k * x.shape[1] for k in stack]
    weights = [part.contiguous() for part in torch.split(weight, sizes)]
    # Products that stand alone have gradients that stand alone; making them is not timed.
    parts = [part.contiguous() for part in torch.split(d_y, sizes, 1)]

    def forward() -> list[Tensor]:
        return [gemm(x, part.t(), backend=backend) for part in weights]

    def backward() -> list[Tensor]:
        d_x = gemm(parts[0], weights[0], backend=backend)
        for d, part in zip(parts[1:], weights[1:], strict=True):
            gemm(d, part, out=d_x, accumulate=True, backend=backend)
        return [d_x, *(gemm(d.t(), x, backend=backend) for d in parts)]

    return forward, backward


def same_forward(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether two ways give the same output, however it is cut."""
    import torch

    return _is_close(torch.cat(found, 1), torch.cat(wanted, 1))


def same_backward(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether two ways give the same gradients, however they are cut."""
    import torch

    whole = [(torch.cat(ways[1:]), ways[0]) for ways in (found, wanted)]
    return all(_is_close(a, b) for a, b in zip(*whole, strict=True))


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    import torch

    error = (found.double() - wanted.double()).norm() / wanted.double().norm()
    # Sums of at most some thousand products; in bfloat16 dx is rounded at every part.
    return float(error) <= (1e-5 if wanted.dtype is torch.float32 else 0.02)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Time of each way, a chart a direction, the paper's beside."""
    from common.report.charts import bars

    rows = frame[frame["metric"] == "time_us"]
    rows = rows.assign(
        setting=[
            f"{system}, {precision}"
            for system, precision in zip(rows["axis.system"], rows["axis.precision"], strict=True)
        ]
    )
    points = claims[PAPER].points
    found = []
    for stage, part in rows.groupby("axis.stage", sort=False):
        ratios = {
            str(point.axes["system"]): point.value
            for point in points
            if point.axes["stage"] == stage
        }
        apart = ratios["separate"]
        assert isinstance(apart, float)
        theirs = ", ".join(
            f"{name} {apart / value:.2f}x"
            for name, value in ratios.items()
            if name != "separate" and isinstance(value, float)
        )
        found.append(
            bars(
                part,
                "setting",
                f"Projections of queries, keys and values, {stage}",
                "Time on one thread, with torch's products (aten) and with the fastest of all back "
                f"ends (auto). Recalled of the paper, over separate ones: {theirs}.",
                color="axis.gemm",
                y_title="us",
            )
        )
    return found
