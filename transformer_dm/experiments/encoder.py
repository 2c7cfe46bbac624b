"""Training step of an encoder layer: ours over torch's, eager and compiled (abstract: 1.30x)."""

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
    from transformer_dm.peers import Candidate, Problem

NAME = "transformer_dm_encoder"
PEERS = ("pytorch", "torch_compile")
PLANS = ("ours", "ours_stored", "paper_plan", "unfused")
STAGES = ("forward", "backward", "both")
CLAIM = "transformer_dm"


@attrs.frozen
class Settings:
    """One layer, how it computes, and whom it is compared with.

    dropouts:   rates, the same at all four sites;  precisions: of parameters and activations
    peers:      eager torch, and compiled;  plans: of ours beside "flash", over eager torch
    stages:     directions timed with dropout;  without it only both together are
    mkl:        "unlocked" runs everything once more where MKL takes its fast kernels
    halfwidth:  wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    width: int = attrs.field(validator=ge(1))
    dropouts: list[float] = attrs.field(validator=deep_iterable(shared.is_rate))
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    peers: list[str] = attrs.field(validator=shared.one_of(PEERS))
    plans: list[str] = attrs.field(validator=shared.one_of(PLANS[1:]))
    stages: list[str] = attrs.field(validator=deep_iterable(in_(STAGES)))
    mkl: list[str] = attrs.field(validator=shared.one_of(shared.MKL))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))

    @property
    def size(self) -> LayerSize:
        """Of the layer."""
        return LayerSize(self.batch, self.length, self.heads, self.head_size, self.width)


def run(settings: Settings, ctx: Context) -> None:
    """Compare at the paper's first size, or at a part of it."""
    measure(NAME, settings, ctx)


def measure(name: str, settings: Settings, ctx: Context) -> None:
    """Run the comparisons of the experiment `name`, here and where MKL is unlocked."""
    from transformer_dm.experiments import EXPERIMENTS

    for mkl in shared.in_each_process(settings, ctx, name, EXPERIMENTS):
        for precision in shared.usable(settings.precisions, ctx):
            for p in settings.dropouts:
                _measure_layer(name, settings, ctx, precision, float(p), mkl)


def _measure_layer(
    name: str, settings: Settings, ctx: Context, precision: str, p: float, mkl: str
) -> None:
    from transformer_dm import peers

    problem = peers.make_problem(settings.size, precision, p, ctx.torch_rng("layer"))
    names = ["ours", *(settings.plans if p else ()), *settings.peers]
    peers.assert_same_step(problem, peers.LAYERS, names)
    axes: dict[str, Any] = {
        "batch": settings.batch, "length": settings.length, "d_model": settings.size.d_model,
        "precision": precision, "dropout": p, "mkl": mkl,
    }  # fmt: skip
    made: dict[str, Candidate] = {}
    for peer in settings.peers:
        beside = ["ours", *(settings.plans if p and peer == "pytorch" else ())]
        for other in (*beside, peer):
            if other not in made:
                made[other] = peers.LAYERS[other](problem)
        for stage in settings.stages if p else ["both"]:
            _compare(name, settings, ctx, problem, made, (*beside, peer), stage, axes)


def _compare(
    name: str,
    settings: Settings,
    ctx: Context,
    problem: Problem,
    made: Mapping[str, Candidate],
    names: tuple[str, ...],
    stage: str,
    axes: Mapping[str, Any],
) -> None:
    from transformer_dm.peers import same_shapes

    peer = names[-1]
    calls: dict[str, Any] = {}
    for other in names:
        candidate = made[other]
        if stage == "backward":
            if candidate.make_backward is None:
                return  # compiled: its graph is gone after one walk
            calls[other] = candidate.make_backward()
        else:
            calls[other] = candidate.step if stage == "both" else candidate.forward
    compared = ctx.compare(
        "speedup",
        calls,
        baseline=peer,
        verify=same_shapes,  # values were compared without dropout, by assert_same_step
        claim=claims_of(name, axes, peer, stage),
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        stage=stage,
        **axes,
    )
    is_judged = stage == "both" and problem.p > 0 and name == NAME and axes["mkl"] == "stock"
    share = f"{CLAIM}.ours.peak_share_{axes['precision']}" if is_judged else None
    shared.record_limit(
        ctx,
        compared,
        shared.layer_flops(problem.size, stage),
        share if peer == "pytorch" else None,
        stage=stage,
        **axes,
    )


def claims_of(name: str, axes: Mapping[str, Any], peer: str, stage: str) -> list[str]:
    """The claims that speak of our plan "flash" at these axes."""
    precision, p, mkl = axes["precision"], axes["dropout"], axes["mkl"]
    is_eager, is_fp32, is_stock = peer == "pytorch", precision == "fp32", mkl == "stock"
    found = []
    if name != NAME:
        if p and stage == "both" and is_eager and is_fp32:
            # The paper's number beside both of ours; our own target speaks of torch as it comes.
            found = ["sec.readme_encoder_speedup_s2"] + ["ours.s2_over_eager"] * is_stock
    elif not p:
        if is_eager and is_fp32:
            found = ["ours.no_dropout" if is_stock else "ours.no_dropout_unlocked"]
    else:
        if is_eager and is_fp32:
            found.append("tab.encoder_speedup")
        if is_eager and stage == "both":
            found.append("abstract.encoder_speedup")
            if is_fp32:
                found.append("sec.readme_encoder_speedup_s1")
        if stage == "both" and (is_fp32 or is_stock):
            over = "eager" if is_eager else "compile"
            found.append(f"ours.{precision if is_stock else 'unlocked'}_over_{over}")
    return [f"{CLAIM}.{claim}" for claim in found]


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratios over each peer, a chart a precision, and the share of the peak."""
    from common.report.charts import bars

    found = []
    rows = shared.once(frame)
    rows = rows.assign(
        setting=[
            "" if p != p else f"{stage} p={p:g} {mkl}"
            for stage, p, mkl in zip(
                rows["axis.stage"] if "axis.stage" in rows else [None] * len(rows),
                rows["axis.dropout"].astype(float),
                rows["axis.mkl"],
                strict=True,
            )
        ]
    )  # fmt: skip
    ratios = rows[(rows["metric"] == "speedup") & (rows["axis.system"] != "torch_compile")]
    for keys, part in ratios.groupby(["axis.precision", "axis.baseline"], sort=False):
        precision, peer = map(str, keys)
        found.append(
            bars(
                part,
                "setting",
                f"Encoder layer over {peer}, {precision}",
                f"Time of {peer} over time of each, by stage, dropout p, and MKL as it comes or "
                "unlocked, where both sides have its fast products. The machine's limit is the "
                "same arithmetic at the measured peak.",
                y_title=f"{peer} time / time",
            )
        )
    shares = rows[rows["metric"] == "peak_share"]
    shares = shares[shares["axis.stage"] == "both"].drop_duplicates(
        subset=["setting", "axis.system", "axis.precision"]
    )
    for of_shares, part in shares.groupby("axis.precision", sort=False):
        found.append(
            bars(
                part,
                "setting",
                f"Share of the machine's peak, {of_shares}",
                "Arithmetic of the layer's products a second over the measured peak of one thread; "
                "all else the layer does counts as no work.",
                y_title="% of peak",
            )
        )
    return found
