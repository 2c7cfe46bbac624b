"""Speed of a training step: our bag beside the published algorithm, torch forms and T3nsor."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, matches_re

from common.experiment import Context, Work

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from ttrec.peers import Problem

#: Peers that hold the same tensor train, and may stand in the grid.
PEERS = ("published", "nothing_shared", "torch_bmm", "torch_compiled", "t3nsor_gather")
#: Rows of the tables with a target of our own over T3nsor's expansion.
OVER_T3NSOR = {142_572: "143k", 2_202_608: "2m"}
#: Our own targets on the peak's share: (fewest positions, rank) of uniform batches.
PEAK_BATCH, SMALL_BATCH, PEAK_RANK = 4096, 512, 32
#: (columns, rank) with a target of our own on step time over fbgemm's.
FBGEMM_TARGETS = ((16, 16), (16, 32), (64, 16), (64, 32))


@attrs.frozen
class Settings:
    """The grid of the authors' benchmark table (11 million rows), and tables T3nsor expands.

    dims, ranks: of the table;  exponents: of the Zipf law of indices, 0 for uniform
    batches:   "512x20" is 512 bags of 20 indices
    peers:     of the grid, besides ours;  dense: systems that hold the whole table, beside them
    expanded:  rows of Kaggle tables for the comparison with T3nsor's default layer
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    t3nsor_halfwidth, t3nsor_max_seconds: the same for T3nsor, hundreds of times slower than ours:
               a wide interval decides as well, much sooner
    """

    dims: list[int] = attrs.field(validator=deep_iterable(in_((16, 64, 128))))
    ranks: list[int] = attrs.field(validator=deep_iterable(ge(8)))
    batches: list[str] = attrs.field(validator=deep_iterable(matches_re(r"[1-9]\d*x[1-9]\d*")))
    exponents: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    peers: list[str] = attrs.field(validator=deep_iterable(in_(PEERS)))
    dense: list[str] = attrs.field(validator=deep_iterable(in_(("embedding_bag", "fbgemm"))))
    expanded: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))
    t3nsor_halfwidth: float = attrs.field(validator=gt(0))
    t3nsor_max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare forward + backward + SGD with every peer (abstract: 3x over the T3nsor library)."""
    from ttrec import problems

    for rows in ctx.progress(settings.expanded, "expanded table"):
        problem = problems.make_problem(
            problems.kaggle_shape(rows, PEAK_RANK),
            512,
            1,
            0.0,
            ctx.rng(f"expanded {rows}"),
            ctx.torch_rng(f"expanded {rows}"),
        )
        _over_t3nsor(settings, ctx, problem)
    cells = [
        (dim, rank, int(batch.split("x")[0]), int(batch.split("x")[1]), float(exponent))
        for dim in settings.dims
        for rank in settings.ranks
        for batch in settings.batches
        for exponent in settings.exponents
    ]
    over_torch: list[float] = []
    tables: dict[tuple[str, int], Any] = {}
    for cell in ctx.progress(cells, "cell"):
        over_torch += _run_cell(settings, ctx, tables, *cell)
    if over_torch:
        mean = math.exp(sum(math.log(value) for value in over_torch) / len(over_torch))
        ctx.record("ttrec.ours.torch_mean", "speedup_mean", mean, "x", baseline="torch_bmm")


def _over_t3nsor(settings: Settings, ctx: Context, problem: "Problem") -> None:
    from ttrec import peers

    peers.assert_same_step(attrs.evolve(problem, lr=0.1), ["t3nsor"])
    made = {"ours": peers.ours(problem).step, "t3nsor": peers.t3nsor(problem).step}
    comparison = ctx.compare(
        "speedup",
        made,
        baseline="t3nsor",
        verify=peers.assert_close,
        claim="ttrec.abstract.kernel_speedup",
        halfwidth=settings.t3nsor_halfwidth,
        max_seconds=settings.t3nsor_max_seconds,
        rows=problem.shape.rows,
        dim=problem.shape.dim,
        rank=problem.shape.ranks[0],
        batch=512,
        pooling=1,
        exponent=0.0,
        part="step",
    )
    if problem.shape.rows in OVER_T3NSOR:
        ours = comparison["ours"]
        ctx.record(
            f"ttrec.ours.t3nsor_{OVER_T3NSOR[problem.shape.rows]}",
            "t3nsor_speedup",
            ours.estimate,
            "x",
            low=ours.low,
            high=ours.high,
            rows=problem.shape.rows,
        )


def _run_cell(
    settings: Settings,
    ctx: Context,
    tables: dict[tuple[str, int], Any],
    dim: int,
    rank: int,
    batch: int,
    pooling: int,
    exponent: float,
) -> list[float]:
    """Measure one cell; returns the speedup over torch_bmm, if that is a peer."""
    from ttrec import peers, problems
    from ttrec.cost import step_work

    name = f"{dim}/{rank}/{batch}/{pooling}/{exponent}"
    problem = problems.make_problem(
        problems.benchmark_shape(dim, rank), batch, pooling, exponent, ctx.rng(name),
        ctx.torch_rng(name),
    )  # fmt: skip
    # At the timed step size the update would vanish in the comparison of rows.
    peers.assert_same_step(attrs.evolve(problem, lr=0.1), settings.peers)
    work = Work(*step_work(problem.shape, problem.indices.numpy(), batch))
    axes: dict[str, Any] = {
        "rows": problem.shape.rows, "dim": dim, "rank": rank, "batch": batch, "pooling": pooling,
        "exponent": exponent,
    }  # fmt: skip
    found = []
    # A pair at a time: a slow peer must not use up the rounds of a fast one.
    for peer in settings.peers:
        ours, theirs = peers.ours(problem), peers.TENSOR_TRAIN[peer](problem)
        comparison = ctx.compare(
            "speedup",
            {"ours": ours.step, peer: theirs.step},
            baseline=peer,
            verify=peers.assert_close,
            claim=_claim(peer, batch * pooling, exponent),
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            work=work,
            part="step",
            **axes,
        )
        if peer == "torch_bmm":
            found.append(comparison["ours"].estimate)
        if peer == "published":
            _record_share(ctx, comparison["ours"].seconds_min, work.flops, axes)
            _compare_forward(settings, ctx, problem, axes)
    if {"published", "nothing_shared"} <= set(settings.peers):
        _compare_published(settings, ctx, problem, axes)
    for system in settings.dense:
        _compare_dense(settings, ctx, tables, system, problem, axes)
    return found


def _claim(peer: str, positions: int, exponent: float) -> str | None:
    if peer == "torch_bmm":
        return "ttrec.ours.torch_speedup"
    if peer != "published":
        return None
    if exponent == 0:
        return "ttrec.ours.published_uniform"
    if positions >= 10_000:
        return "ttrec.ours.published_zipf_10k"
    return "ttrec.ours.published_zipf_4096" if positions >= PEAK_BATCH else None


def _record_share(ctx: Context, seconds: float, flops: float, axes: dict[str, Any]) -> None:
    """Useful operations a second as a share of the FMA peak, fastest sample."""
    claim = None
    if axes["exponent"] == 0 and axes["rank"] >= PEAK_RANK:
        positions = axes["batch"] * axes["pooling"]
        if positions >= PEAK_BATCH:
            claim = "ttrec.ours.peak_share"
        elif positions == SMALL_BATCH:
            claim = "ttrec.ours.peak_share_small"
    share = flops / seconds / 1e9 / ctx.roofline.fp32_gflops
    ctx.record(claim, "peak_share", 100 * share, "%", **axes, system="ours")


def _compare_forward(
    settings: Settings, ctx: Context, problem: "Problem", axes: dict[str, Any]
) -> None:
    from ttrec import peers

    ours, theirs = peers.ours(problem), peers.published(problem)
    assert ours.forward is not None
    assert theirs.forward is not None
    ctx.compare(
        "speedup",
        {"ours": ours.forward, "published": theirs.forward},
        baseline="published",
        verify=peers.assert_close,
        claim="ttrec.ours.published_forward",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        part="forward",
        **axes,
    )


def _compare_published(
    settings: Settings, ctx: Context, problem: "Problem", axes: dict[str, Any]
) -> None:
    """Is the published peer as strong as our kernel with nothing shared?"""
    from ttrec import peers

    ctx.compare(
        "time_ratio",
        {
            "nothing_shared": peers.nothing_shared(problem).step,
            "published": peers.published(problem).step,
        },
        baseline="published",
        verify=peers.assert_close,
        claim="ttrec.ours.published_is_strong",
        subject="nothing_shared",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        **axes,
    )


def _compare_dense(
    settings: Settings,
    ctx: Context,
    tables: dict[tuple[str, int], Any],
    system: str,
    problem: "Problem",
    axes: dict[str, Any],
) -> None:
    """Our step time over that of a dense table, which holds values of its own."""
    import torch

    from ttrec import peers

    shape = problem.shape
    if (system, shape.dim) not in tables:
        tables.clear()  # a dense table takes 0.7 GB at 16 columns: one at a time
        if system == "fbgemm":
            table = peers.fbgemm_table(shape, problem.lr)
            table.split_embedding_weights()[0].data.uniform_(-1e-3, 1e-3)
        else:
            table = torch.empty(shape.rows, shape.dim).uniform_(-1e-3, 1e-3)
        tables[system, shape.dim] = table
    make = peers.fbgemm_with if system == "fbgemm" else peers.embedding_bag
    is_claimed = system == "fbgemm" and (shape.dim, shape.ranks[0]) in FBGEMM_TARGETS
    # The speed of the dense table over ours is our time over its time.
    ctx.compare(
        "tt_over_dense_time",
        {"ours": peers.ours(problem).step, system: make(problem, tables[system, shape.dim]).step},
        baseline="ours",
        # Tables of different values: there is nothing to agree on but the shape.
        verify=lambda a, b: a.shape == b.shape,
        claim=f"ttrec.ours.fbgemm_d{shape.dim}_r{shape.ranks[0]}" if is_claimed else None,
        subject=system,
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        **axes,
    )


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Speedup over T3nsor beside the paper's, over the other peers, and share of the peak."""
    from common.report.charts import bars, paper_rows

    rows = frame.assign(setting=_settings_of(frame))
    speedups = rows[(rows["metric"] == "speedup") & (rows["axis.system"] == "ours")]
    found = []
    over_t3nsor = speedups[speedups["axis.baseline"] == "t3nsor"]
    if len(over_t3nsor):
        over_t3nsor = over_t3nsor.assign(
            setting=[f"{int(n):,} rows" for n in over_t3nsor["axis.rows"]]
        )
        paper = paper_rows(claims["ttrec.abstract.kernel_speedup"])
        found.append(
            bars(
                over_t3nsor,
                "setting",
                "TT step over T3nsor's full expansion",
                "Forward + backward + SGD on one CPU thread, 512 lookups, rank 32. The paper's 3x "
                "is between GPU programs.",
                log_y=True,
                paper=paper.merge(over_t3nsor[["setting"]].drop_duplicates(), how="cross"),
            )
        )
    grid = speedups[speedups["axis.baseline"] != "t3nsor"]
    for part, text in (("step", "Forward + backward + SGD"), ("forward", "Forward alone")):
        shown = grid[grid["axis.part"] == part]
        for dim in shown["axis.dim"].unique():
            of_dim = shown[shown["axis.dim"] == dim]
            found.append(
                bars(
                    of_dim,
                    "setting",
                    f"TT {part} over other peers, D={int(dim)}",
                    f"{text}: time of the peer over ours, all with the same tensor train.",
                    color="axis.baseline",
                    y_title="peer time / our time",
                    log_y=True,
                )
            )
    dense = rows[rows["metric"] == "tt_over_dense_time"]
    if len(dense):
        found.append(
            bars(
                dense.assign(kind=[f"{s}, D={int(d)}" for s, d in _pairs(dense)]),
                "setting",
                "TT step time over a dense table's",
                "Below 1 the compressed table is the faster. The dense one has 11 million rows.",
                color="kind",
                y_title="our time / dense time",
                log_y=True,
            )
        )
    shares = rows[rows["metric"] == "peak_share"]
    if len(shares):
        found.append(
            bars(
                shares,
                "setting",
                "Share of the machine's peak",
                "Operations of the batch's distinct prefixes a second, in the fastest sample, over "
                "the measured FMA peak.",
                color="axis.dim",
                y_title="% of peak",
            )
        )
    return found


def _pairs(rows: "pd.DataFrame") -> "zip[tuple[Any, Any]]":
    return zip(rows["axis.system"], rows["axis.dim"], strict=True)


def _settings_of(frame: "pd.DataFrame") -> list[str]:
    names = ("rank", "batch", "pooling", "exponent")
    columns = [frame[f"axis.{name}"].to_numpy(float, na_value=math.nan) for name in names]
    return [
        ""
        if math.isnan(rank)
        else f"R={int(rank)}, B={int(batch)}x{int(pooling)}, "
        + (f"Zipf {exponent:g}" if exponent else "uniform")
        for rank, batch, pooling, exponent in zip(*columns, strict=True)
    ]
