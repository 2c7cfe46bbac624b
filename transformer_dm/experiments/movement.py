"""How many words fusing saves, by what is counted and by what is fused (abstract: 22.91%)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, in_

from common.experiment import Context
from transformer_dm.sizes import SIZES, LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from transformer_dm.fusion import FusionPlan
    from transformer_dm.graph import DataflowGraph

PAPER_SIZE = "S1"
#: Plans as charts name them, in the order drawn. The authors' kernel stores the argument of the
#: activation, which the plan adds up again from what the contraction wrote.
PLANS = {
    "paper_stored": "their kernels, argument stored",
    "paper": "their kernels",
    "ours": "ours",
    "flash": "ours, flash attention",
}


@attrs.frozen
class Settings:
    """sizes: of the layer, by the paper's names;  lengths: of sequences, in the layer of S1."""

    sizes: list[str] = attrs.field(validator=deep_iterable(in_(tuple(SIZES))))
    lengths: list[int] = attrs.field(validator=deep_iterable(ge(1)))


def run(settings: Settings, ctx: Context) -> None:
    """Count words before and after each plan, under every convention."""
    for name in ctx.progress(settings.sizes, "size"):
        found = _record_size(ctx, SIZES[name], size=name)
        if name == PAPER_SIZE:
            _record_band(ctx, found)
            _record_kernels(ctx, SIZES[name])
    for length in ctx.progress(settings.lengths, "length"):
        _record_size(ctx, attrs.evolve(SIZES[PAPER_SIZE], length=length), length=length)


def _plans(graph: DataflowGraph) -> dict[str, FusionPlan]:
    from transformer_dm.fusion import PAPER, named_plan, plan

    stored = {"paper_stored": plan(graph, attrs.evolve(PAPER, recompute_bias=False))}
    return stored | {name: named_plan(graph, name) for name in ("paper", "ours", "flash")}


def _record_size(ctx: Context, layer: LayerSize, **where: Any) -> dict[tuple[str, str], float]:
    """Reduction of the whole layer by (convention, plan)."""
    from transformer_dm.describe import encoder_graph
    from transformer_dm.fusion import unfused
    from transformer_dm.volume import CONVENTIONS, reduction

    graph = encoder_graph(*attrs.astuple(layer))
    plans = _plans(graph)
    found: dict[tuple[str, str], float] = {}
    for convention in CONVENTIONS:
        before = unfused(graph, convention)
        axes: dict[str, Any] = {"convention": convention, **where}
        ctx.record(None, "words", before.words(convention) / 1e6, "Mword", plan="none", **axes)
        for name, made in plans.items():
            after = made.words(convention)
            ctx.record(None, "words", after / 1e6, "Mword", plan=name, **axes)
            saved = found[convention, name] = reduction(before.words(convention), after)
            is_bar = name == "flash" and where.get("size") == PAPER_SIZE
            claim = "transformer_dm.ours.movement_reduction" if is_bar else None
            ctx.record(claim, "movement_reduction", saved, "%", part="layer", plan=name, **axes)
            rest = reduction(*(p.words(convention, contractions=False) for p in (before, made)))
            axes_of_rest = {"part": "without contractions", "plan": name, **axes}
            ctx.record(None, "movement_reduction", rest, "%", **axes_of_rest)
    return found


def _record_band(ctx: Context, found: Mapping[tuple[str, str], float]) -> None:
    """The paper's number beside all that its kernels save, from one convention to another."""
    from common.claims import find

    claim = find("transformer_dm.abstract.movement_reduction")
    published = claim.paper
    assert isinstance(published, float)
    theirs = {convention: value for (convention, plan), value in found.items() if plan == "paper"}
    closest = min(theirs, key=lambda convention: abs(theirs[convention] - published))
    ctx.log.info(
        "their kernels save %.2f%% to %.2f%%; closest to %.2f%% is convention %s with %.2f%%",
        min(theirs.values()),
        max(theirs.values()),
        published,
        closest,
        theirs[closest],
    )
    ctx.record(
        claim.id,
        "movement_reduction",
        theirs[closest],
        "%",
        low=min(theirs.values()),
        high=max(theirs.values()),
        plan="paper",
        part="band",
        convention=closest,
        size=PAPER_SIZE,
    )


def _record_kernels(ctx: Context, layer: LayerSize) -> None:
    """How many fused kernels the paper's rule finds, and of how many kinds."""
    from transformer_dm.describe import encoder_graph
    from transformer_dm.fusion import KERNEL_NAMES, named_plan

    made = named_plan(encoder_graph(*attrs.astuple(layer)), "paper")
    names = [k.name for k in made.kernels if frozenset(k.ops) in KERNEL_NAMES]
    for count, value in (("instances", len(names)), ("kinds", len(set(names)))):
        axes: dict[str, Any] = {"count": count, "size": PAPER_SIZE}
        ctx.record("transformer_dm.tab.fused_kernels", "fused_kernels", value, "kernels", **axes)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Bars by convention and plan with the paper's line, a chart a size; curves over lengths."""
    from common.report.charts import bars, lines

    claim = claims["transformer_dm.abstract.movement_reduction"]
    kept = frame[(frame["metric"] == "movement_reduction") & (frame["axis.part"] == "layer")]
    kept = kept.assign(plan=kept["axis.plan"].map(PLANS))
    found = []
    for name, rows in _having(kept, "axis.size").groupby("axis.size", sort=False):
        chart = bars(
            rows,
            "axis.convention",
            f"Words no longer moved, {name}",
            "A training step of one layer, by what is counted before fusing and by what is fused. "
            f"The line is the paper's {claim.paper}%, at S1; it does not say how it counts.",
            color="plan",
            y_title="words saved (%)",
        )
        found.append(_with_line(chart, claim))
    lengths = _having(kept, "axis.length")
    if len(lengths):
        found.append(
            lines(
                lengths[lengths["axis.convention"] == "framework"],
                "axis.length",
                "Words no longer moved, by length of the sequences",
                "The layer of S1 under convention framework. Scores grow with the square of the "
                "length; only flash attention keeps them out of memory.",
                color="plan",
                x_title="length",
                y_title="words saved (%)",
                log_x=True,
            )
        )
    return found


def _having(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.dropna(subset=[column]) if column in rows.columns else rows.iloc[:0]


def _with_line(chart: Chart, claim: Claim) -> Chart:
    """The chart with a dashed line at the paper's value."""
    once: dict[str, Any] = {"values": [{}]}
    line = {
        "data": once,
        "mark": {"type": "rule", "strokeDash": [6, 3], "strokeWidth": 1.5, "color": "#1c2530"},
        "encoding": {"x": {"datum": claim.paper}},
    }
    label = {
        "data": once,
        "mark": {"type": "text", "align": "left", "dx": 4, "baseline": "top", "fontSize": 11},
        "encoding": {
            "x": {"datum": claim.paper},
            "y": {"value": 0},
            "text": {"value": f"paper {claim.paper}%"},
        },
    }
    spec = {**chart.spec, "layer": [*chart.spec["layer"], line, label]}
    return attrs.evolve(chart, spec=spec)
