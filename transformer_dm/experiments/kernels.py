"""Each fused kernel beside its composition in torch, and how well it uses the memory (MUE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from transformer_dm.experiments import shared
from transformer_dm.sizes import LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.comparison import Comparison
    from common.report.charts import Chart
    from transformer_dm.operator_pairs import Pair

KERNELS = ("bdrln", "brd", "bgd", "sm", "attention", "mask")
#: Kernels with a target of our own; "bgd" stands for bias, activation and dropout.
TARGETS = {
    ("bdrln", "forward"): "bdrln_forward",
    ("bdrln", "backward"): "bdrln_backward",
    ("bgd", "forward"): "bad_forward",
    ("bgd", "backward"): "bad_backward",
    ("attention", "forward"): "attention_forward",
    ("attention", "backward"): "attention_backward",
    ("mask", "forward"): "mask",
}


@attrs.frozen
class Settings:
    """batch: for all kernels but attention and softmax, whose work grows with the square of length

    attention_batch: for those two;  kernels: "bdrln" bias + dropout + residual + layer
               normalisation, "brd" and "bgd" bias + ReLU or GELU + dropout, "sm" softmax + dropout,
               "attention" beside scaled_dot_product_attention, "mask" beside bernoulli_
    dropouts:  the rate timed; without dropout only attention is
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    batch: int = attrs.field(validator=ge(1))
    attention_batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    width: int = attrs.field(validator=ge(1))
    kernels: list[str] = attrs.field(validator=deep_iterable(in_(KERNELS)))
    dropouts: list[float] = attrs.field(validator=deep_iterable(shared.is_rate))
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare every kernel in both directions."""
    for precision in shared.usable(settings.precisions, ctx):
        for p in settings.dropouts:
            for name in ctx.progress(settings.kernels, f"kernel, {precision}, dropout {p:g}"):
                if p or name == "attention":
                    _measure(settings, ctx, name, precision, float(p))


def _measure(settings: Settings, ctx: Context, name: str, precision: str, p: float) -> None:
    from transformer_dm import operator_pairs
    from transformer_dm.peers import DTYPES

    batch = settings.attention_batch if name in ("attention", "sm") else settings.batch
    size = LayerSize(batch, settings.length, settings.heads, settings.head_size, settings.width)
    dtype = DTYPES[precision]
    # Values can agree only where nothing is dropped; fewer rows show a mistake as well.
    small = attrs.evolve(size, batch=1)
    for pair in operator_pairs.make_pairs(small, dtype, 0.0, [name], ctx.torch_rng(name)):
        operator_pairs.assert_same(pair)
    for pair in operator_pairs.make_pairs(size, dtype, p, [name], ctx.torch_rng(name)):
        target = TARGETS.get((name, pair.stage)) if p and precision == "fp32" else None
        axes: dict[str, Any] = {
            "kernel": name, "stage": pair.stage, "batch": batch, "length": settings.length,
            "precision": precision, "dropout": p,
        }  # fmt: skip
        compared = ctx.compare(
            "speedup",
            {"ours": pair.ours, "pytorch": pair.torch},
            baseline="pytorch",
            verify=None if name == "mask" else same_shapes,  # a mask of bits is of another shape
            claim=f"transformer_dm.ours.kernel_{target}" if target else None,
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            **axes,
        )
        record_mue(ctx, pair, compared, **axes)


def same_shapes(found: Any, wanted: Any) -> bool:
    """Masks differ, so shapes are all there is to compare."""
    return [tensor.shape for tensor in found] == [tensor.shape for tensor in wanted]


def record_mue(ctx: Context, pair: Pair, compared: Comparison, **axes: Any) -> None:
    """Memory usage efficiency of both sides: the same least traffic over the time of each.

    in_cache: all of it fits the last-level cache, so that more than 100% is no mistake
    """
    from common import machine
    from transformer_dm.mue import mue

    peak = ctx.roofline.memory_gbs * 1e9
    in_cache = pair.n_bytes < machine.last_level_cache_bytes()
    times = {"ours": compared["ours"].seconds, "pytorch": compared.baseline_seconds}
    for system, seconds in times.items():
        value = mue(pair.n_bytes, pair.n_bytes, seconds, 1, peak)
        ctx.record(
            None, "mue", value, "%", timed=True, **axes, system=system, in_cache=in_cache
        )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speedup over torch's composition, and MUE, by kernel."""
    from common.report.charts import bars

    rows = frame.assign(
        setting=[
            f"{kernel} {stage}" + (f", dropout {p:g}" if kernel == "attention" else "")
            for kernel, stage, p in zip(
                frame["axis.kernel"], frame["axis.stage"], frame["axis.dropout"], strict=True
            )
        ]
    )
    found = []
    for precision, part in rows.groupby("axis.precision", sort=False):
        found.append(
            bars(
                part[part["metric"] == "speedup"],
                "setting",
                f"Fused kernels over torch's composition, {precision}",
                "Time of torch's operators in the kernel's place over ours, one thread. Attention "
                "is held to scaled_dot_product_attention, the mask to bernoulli_.",
                y_title="torch time / our time",
                log_y=True,
            )
        )
        found.append(
            bars(
                part[part["metric"] == "mue"],
                "setting",
                f"Memory usage efficiency, {precision}",
                "The least traffic over the time, as a share of the best bandwidth measured. Above "
                "100% the tensors stayed in a cache.",
                y_title="MUE (%)",
            )
        )
    return found
