"""Multi-head attention with projections, ours beside torch's forms (table of attention times)."""

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
    from common.report.charts import Chart

NAME = "transformer_dm_mha"
PEERS = ("pytorch", "plain", "sdpa", "torch_compile")
STAGES = ("forward", "backward", "both")
FASTEST = "transformer_dm.ours.mha_fastest"
PAPER = "transformer_dm.tab.attention_speedup"


@attrs.frozen
class Settings:
    """Sizes of one attention, and whom ours is compared with.

    dropouts:  of the weights after the softmax;  precisions: of parameters and activations
    peers:     "pytorch" is nn.MultiheadAttention, "plain" product, softmax, dropout and product,
               "sdpa" torch's fused attention, "torch_compile" the plain one compiled
    mkl:       "unlocked" runs everything once more where MKL takes its fast kernels
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    dropouts: list[float] = attrs.field(validator=deep_iterable(shared.is_rate))
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    peers: list[str] = attrs.field(validator=shared.one_of(PEERS))
    stages: list[str] = attrs.field(validator=deep_iterable(in_(STAGES)))
    mkl: list[str] = attrs.field(validator=shared.one_of(shared.MKL))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare our attention with each peer, forward and backward, with and without dropout."""
    from transformer_dm.experiments import EXPERIMENTS

    for mkl in shared.in_each_process(settings, ctx, NAME, EXPERIMENTS):
        for precision in shared.usable(settings.precisions, ctx):
            for p in settings.dropouts:
                _measure(settings, ctx, precision, float(p), mkl)


def _measure(settings: Settings, ctx: Context, precision: str, p: float, mkl: str) -> None:
    from transformer_dm import peers

    size = LayerSize(settings.batch, settings.length, settings.heads, settings.head_size, width=1)
    problem = peers.make_problem(size, precision, p, ctx.torch_rng("attention"))
    ours = ("ours", "ours_stored")
    peers.assert_same_step(problem, peers.ATTENTION, (*ours, *settings.peers))
    for peer in settings.peers:
        made = {name: peers.ATTENTION[name](problem) for name in (*ours, peer)}
        for stage in settings.stages:
            calls: dict[str, Any] = {}
            for name, candidate in made.items():
                if stage == "backward" and candidate.make_backward is not None:
                    calls[name] = candidate.make_backward()
                elif stage != "backward":
                    calls[name] = candidate.step if stage == "both" else candidate.forward
            if peer not in calls:
                continue  # compiled: its graph is gone after one walk
            claim = [FASTEST] + [PAPER] * (peer == "pytorch" and p > 0 and stage != "both")
            axes: dict[str, Any] = {
                "batch": settings.batch, "length": settings.length, "d_model": size.d_model,
                "precision": precision, "dropout": p, "mkl": mkl, "stage": stage,
            }  # fmt: skip
            compared = ctx.compare(
                "speedup",
                calls,
                baseline=peer,
                verify=peers.same_shapes,  # values were compared without dropout, above
                claim=claim,
                halfwidth=settings.halfwidth,
                max_seconds=settings.max_seconds,
                **axes,
            )
            shared.record_limit(ctx, compared, _flops(size, stage), **axes)


def _flops(size: LayerSize, stage: str) -> float:
    n, rows = size.d_model, size.batch * size.length
    forward = 8.0 * rows * n * n + 4.0 * rows * size.length * n
    return forward * {"forward": 1, "backward": 2, "both": 3}[stage]


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ours over each peer, a chart a rate of dropout."""
    from common.report.charts import bars

    rows = shared.once(frame)
    rows = rows[(rows["metric"] == "speedup") & (rows["axis.system"] == "ours")]
    rows = rows.assign(
        setting=[
            f"{stage} {precision} {mkl}"
            for stage, precision, mkl in zip(
                rows["axis.stage"], rows["axis.precision"], rows["axis.mkl"], strict=True
            )
        ]
    )
    return [
        bars(
            part,
            "setting",
            f"Attention of ours over torch's, dropout {p:g}",
            "Time of each form of torch's over ours, projections included, same weights and input; "
            "MKL as it comes, or unlocked.",
            color="axis.baseline",
            y_title="peer time / our time",
        )
        for p, part in rows.groupby("axis.dropout", sort=False)
    ]
