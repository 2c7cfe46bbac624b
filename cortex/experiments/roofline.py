"""Operational intensity and speed of TreeFC: one operator at a time, batched, fused (appendix)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context, Work
from cortex.cases import product_flops
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

ORDER = "cortex.sec.roofline_order"
LEVELS, INNER = 8, 127  # of a perfect tree of 128 leaves
MODELS = ("tree_fc", "tree_gru", "tree_lstm")


@attrs.frozen
class Settings:
    """models: on perfect trees, the first is TreeFC;  hidden, batches: their sizes

    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    models: list[str] = attrs.field(validator=shared.one_of(MODELS))
    hidden: int = attrs.field(validator=ge(16))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def flops(model: str, hidden: int, batch: int) -> float:
    """Arithmetic of the products and, for TreeFC, bias and ReLU of a batch of perfect trees."""
    small = 2 * hidden if model == "tree_fc" else 0
    return float(batch * INNER * (product_flops(model, hidden) + small))


def bytes_moved(hidden: int, batch: int) -> dict[str, float]:
    """Bytes TreeFC moves to and from memory or shared cache, by how it is run.

    eager: the weight read for every node. batched: the weight once a level, and every operator's
    operands. ours: the weight once, two states read and one written a node.
    """
    nodes = batch * INNER
    return {
        "eager": 4.0 * nodes * (2 * hidden**2 + 3 * hidden),
        "batched": 4.0 * ((LEVELS - 1) * 2 * hidden**2 + nodes * (4 + 3 + 2 + 2) * hidden),
        "ours": 4.0 * (2 * hidden**2 + 3 * nodes * hidden),
    }


def run(settings: Settings, ctx: Context) -> None:
    """Record intensities, and measure ours, level-batched and eager under the machine's roof."""
    from cortex import peers

    roof = ctx.roofline
    ctx.record(None, "fp32_peak", roof.fp32_gflops, "GFLOP/s", timed=True)
    ctx.record(None, "read_bandwidth", roof.read_gbs, "GB/s", timed=True)
    ctx.record(None, "l2_bandwidth", roof.l2_gbs, "GB/s", timed=True)
    cells = [(model, batch) for model in settings.models for batch in settings.batches]
    for model, batch in ctx.progress(cells, "cell"):
        case = shared.Case(model, "perfect", batch, settings.hidden)
        work = flops(model, settings.hidden, batch)
        moved = bytes_moved(settings.hidden, batch) if model == "tree_fc" else {}
        for system, n_bytes in moved.items():
            ctx.record(ORDER, "intensity", work / n_bytes, "flop/byte", **case.axes, system=system)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(f"{model}/{batch}"))
        net = shared.compiled(problem, "paper", ctx.threads)
        names = {"batched": "level_batched", "eager": "eager"}
        for system, name in names.items():
            if system == "eager" and not moved:
                continue
            found = ctx.compare(
                "speedup",
                {
                    "ours": batches.fresh(shared.roots_of(net, problem)),
                    system: batches.fresh(peers.make(name, problem)),
                },
                baseline=system,
                verify=shared.assert_close,
                halfwidth=settings.halfwidth,
                max_seconds=settings.max_seconds,
                work=Work(work, moved.get("ours", 0.0)),
                **case.axes,
            )
            if system == "batched":
                _record_rate(ctx, work, found["ours"].seconds, moved, "ours", case.axes)
            _record_rate(ctx, work, found.baseline_seconds, moved, system, case.axes)
        _record_peak_share(ctx, net, case, batches, work)


def _record_rate(
    ctx: Context,
    work: float,
    seconds: float,
    moved: dict[str, float],
    system: str,
    axes: dict[str, Any],
) -> None:
    intensity = {"intensity": work / moved[system]} if system in moved else {}
    ctx.record(
        None, "rate", work / seconds / 1e9, "GFLOP/s", timed=True, **axes, **intensity,
        system=system,
    )  # fmt: skip


def _record_peak_share(
    ctx: Context, net: Any, case: shared.Case, batches: shared.Batches, work: float
) -> None:
    """Arithmetic of the compiled kernel alone as a share of the peak, least of some calls."""
    import time

    numbered = [net.linearize(forest) for forest in batches.forests[:4]]
    least = float("inf")
    for _ in range(12):
        for one in numbered:
            start = time.perf_counter()
            net.run(one)
            least = min(least, time.perf_counter() - start)
    share = 100 * work / least / 1e9 / ctx.roofline.fp32_gflops
    # At batch 10 five of seven levels have 64 rows or more, and all but 2% of the nodes.
    claim = f"cortex.ours.peak_share_{case.model}" if case.batch >= 10 else None
    ctx.record(claim, "peak_share", share, "%", timed=True, **case.axes, system="ours")


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """TreeFC's points below this machine's roof."""
    from common.report.charts import bars, roofline

    work = frame[(frame["metric"] == "rate") & frame["axis.intensity"].notna()]
    shares = frame[frame["metric"] == "peak_share"]
    return [
        roofline(
            frame[frame["metric"].isin(("fp32_peak", "read_bandwidth", "l2_bandwidth"))],
            "TreeFC below the machine's roof",
            "Intensity by formula, speed from Python objects to root states, paper's schedule.",
            work=work,
        ),
        bars(
            shares.assign(batch=[f"batch {b:g}" for b in shares["axis.batch"]]),
            "axis.model",
            "Share of the peak",
            "Multiply-adds of the compiled call alone, without tables, over the FMA peak; the "
            "fastest of some calls. Levels near the root have few rows.",
            color="batch",
            y_title="% of peak",
        ),
    ]
