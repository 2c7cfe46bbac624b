"""A step of the tensor train over a step of the dense table, by how many indices a bag holds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from ttrec.cardinalities import DATASETS
from ttrec.shapes import TTShape, suggest_shape

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.comparison import Comparison
    from common.report.charts import Chart
    from ttrec.peers import Problem

#: Where the README of the authors' code states its time, on its benchmark's table.
README_DIM, README_RANK, README_BATCH, README_POOLING = 64, 32, 512, 20


@attrs.frozen
class Settings:
    """One table of a data set, and the batches looked up in it.

    rows:      rows of a table with published factors;  ranks: of its cores
    batch:     bags in a batch;  poolings: indices in a bag
    exponents: of the Zipf law indices follow, 0 for uniform
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    dataset: str = attrs.field(validator=in_(("kaggle", "terabyte")))
    rows: int = attrs.field(validator=ge(1))
    ranks: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    batch: int = attrs.field(validator=ge(1))
    poolings: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    exponents: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare forward + backward + SGD with nn.EmbeddingBag and fbgemm on the expanded table."""
    shapes = {
        rank: suggest_shape(settings.rows, DATASETS[settings.dataset].dim, rank, preset="paper")
        for rank in settings.ranks
    }
    places = [(pooling, float(e)) for pooling in settings.poolings for e in settings.exponents]
    for rank in ctx.progress(settings.ranks, "rank"):
        found = {place: _run_cell(settings, ctx, shapes[rank], *place) for place in places}
        _record_gain(settings, ctx, rank, found)
    _record_lookup_time(settings, ctx)


def _run_cell(
    settings: Settings, ctx: Context, shape: TTShape, pooling: int, exponent: float
) -> "Comparison":
    from ttrec import peers

    problem = _draw(ctx, shape, settings.batch, pooling, exponent)
    dense = {name: make(problem).step for name, make in peers.DENSE.items()}
    # The speed of the dense table over ours is our time over the time of the dense table.
    return ctx.compare(
        "tt_over_dense_time",
        {"ours": peers.ours(problem).step, **dense},
        baseline="ours",
        subject="embedding_bag",
        verify=peers.assert_close,
        claim="ttrec.fig.pooling_gap",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        dataset=settings.dataset,
        rows=settings.rows,
        rank=shape.ranks[0],
        batch=settings.batch,
        pooling=pooling,
        exponent=exponent,
    )


def _record_gain(
    settings: Settings, ctx: Context, rank: int, found: "dict[tuple[int, float], Comparison]"
) -> None:
    """How much nearer to the dense table the most skewed, longest bags bring us."""
    first = found[min(settings.poolings), float(min(settings.exponents))]
    last = found[max(settings.poolings), float(max(settings.exponents))]
    for system in first:
        before, after = first[system], last[system]
        ctx.record(
            "ttrec.ours.pooling_gain" if system == "embedding_bag" else None,
            "pooling_gain",
            before.estimate / after.estimate,
            "x",
            # The ends of both intervals at their worst: wider than 95%.
            low=before.low / after.high,
            high=before.high / after.low,
            rank=rank,
            system=system,
        )


def _record_lookup_time(settings: Settings, ctx: Context) -> None:
    from ttrec import peers
    from ttrec.cost import step_work
    from ttrec.problems import benchmark_shape

    shape = benchmark_shape(README_DIM, README_RANK)
    problem = _draw(ctx, shape, README_BATCH, README_POOLING, 0.0)
    axes: dict[str, Any] = {
        "rows": shape.rows,
        "rank": README_RANK,
        "batch": README_BATCH,
        "pooling": README_POOLING,
        "exponent": 0.0,
    }
    compared = ctx.compare(
        "speedup",
        {"ours": peers.ours(problem).step, "published": peers.published(problem).step},
        baseline="published",
        verify=peers.assert_close,
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        **axes,
    )
    n = problem.indices.numel()
    flops, _ = step_work(shape, problem.indices.numpy(), README_BATCH)
    for system, seconds in (
        ("ours", compared["ours"].seconds),
        ("published", compared.baseline_seconds),
    ):
        claim = "ttrec.sec.lookup_time" if system == "ours" else None
        ctx.record(claim, "lookup_us", seconds / n * 1e6, "us", **axes, system=system)
        ctx.record(None, "useful_rate", flops / seconds / 1e9, "GFLOP/s", **axes, system=system)


def _draw(ctx: Context, shape: TTShape, batch: int, pooling: int, exponent: float) -> "Problem":
    from ttrec.problems import make_problem

    name = f"{shape.ranks}/{batch}/{pooling}/{exponent}"
    return make_problem(shape, batch, pooling, exponent, ctx.rng(name), ctx.torch_rng(name))


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Time of the tensor train over each dense table by pooling, a panel an index law."""
    from common.report.charts import bars, lines

    ratios = frame[frame["metric"] == "tt_over_dense_time"]
    law = [
        f"R={int(rank)}, " + (f"Zipf {exponent:g}" if exponent else "uniform")
        for rank, exponent in zip(ratios["axis.rank"], ratios["axis.exponent"], strict=True)
    ]
    found = []
    for name, rows in ratios.assign(law=law).groupby("axis.system", sort=False):
        found.append(
            lines(
                rows,
                "axis.pooling",
                f"TT step over a step of {name}",
                "Forward + backward + SGD on one CPU thread, one batch again and again, so rows of "
                "the dense table lie in the caches. Below 1 the tensor train is faster.",
                color="law",
                x_title="indices in a bag",
                y_title="our time / time of the dense table",
                log_x=True,
                log_y=True,
            )
        )
    times = frame[frame["metric"] == "lookup_us"]
    if len(times):
        claim = claims["ttrec.sec.lookup_time"]
        found.append(
            bars(
                times.assign(place="per lookup"),
                "place",
                "Time per lookup",
                f"Forward + backward + SGD at rank {README_RANK}, D={README_DIM}, {README_BATCH} "
                f"bags of {README_POOLING}, uniform, on one CPU thread. The authors state "
                f"{claim.paper} us on a GPU.",
                y_title="us",
            )
        )
    return found
