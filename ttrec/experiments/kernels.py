"""Speed of a training step: our bag beside T3nsor's expansion, gather + bmm, and dense tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context, Work
from ttrec.cardinalities import DATASETS
from ttrec.shapes import suggest_shape

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from ttrec.peers import Problem

#: What our speed over a peer is judged by: the paper's own peer, and one of the same form as ours.
CLAIM_OVER = {
    "t3nsor": "ttrec.abstract.kernel_speedup",
    "torch_bmm": "ttrec.ours.step_over_torch_bmm",
}
#: So small that thousands of steps on one batch leave every number in its range.
LR = 1e-6


@attrs.frozen
class Settings:
    """One table of a data set, and the batches looked up in it.

    rows:      rows of a table with published factors
    batches:   bags in a batch;  poolings: indices in a bag
    exponents: of the Zipf law indices follow, 0 for uniform
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    t3nsor_halfwidth, t3nsor_max_seconds: the same beside T3nsor's expansion, which is tens of times
        slower than ours: a fifth decides as well as a hundredth, much sooner
    """

    dataset: str = attrs.field(validator=in_(("kaggle", "terabyte")))
    rows: int = attrs.field(validator=ge(1))
    ranks: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    poolings: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    exponents: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))
    t3nsor_halfwidth: float = attrs.field(validator=gt(0))
    t3nsor_max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare forward + backward + SGD with every peer (abstract: 3x over the T3nsor library)."""
    cells = [
        (rank, batch, pooling, float(exponent))
        for rank in settings.ranks
        for batch in settings.batches
        for pooling in settings.poolings
        for exponent in settings.exponents
    ]
    for cell in ctx.progress(cells, "cell"):
        _run_cell(settings, ctx, *cell)


def _run_cell(
    settings: Settings, ctx: Context, rank: int, batch: int, pooling: int, exponent: float
) -> None:
    from ttrec import peers
    from ttrec.cost import step_work

    name = f"{rank}/{batch}/{pooling}/{exponent}"
    problem = make_problem(settings, ctx, name, rank, batch, pooling, exponent)
    # At the timed step size the update would vanish in the comparison of rows.
    peers.assert_same_step(attrs.evolve(problem, lr=0.1))
    work = Work(*step_work(problem.shape, problem.indices.numpy(), batch))
    axes: dict[str, Any] = {
        "dataset": settings.dataset,
        "rows": settings.rows,
        "rank": rank,
        "batch": batch,
        "pooling": pooling,
        "exponent": exponent,
    }
    # A pair at a time: a slow peer must not use up the rounds of a fast one.
    for baseline, make in (peers.TENSOR_TRAIN | peers.DENSE).items():
        if baseline == "ours":
            continue
        is_dense, is_t3nsor = baseline in peers.DENSE, baseline == "t3nsor"
        ctx.compare(
            "speedup",
            {"ours": peers.ours(problem).step, baseline: make(problem).step},
            baseline=baseline,
            verify=peers.assert_close,
            claim=CLAIM_OVER.get(baseline),
            halfwidth=settings.t3nsor_halfwidth if is_t3nsor else settings.halfwidth,
            max_seconds=settings.t3nsor_max_seconds if is_t3nsor else settings.max_seconds,
            # A dense table does other work, so the limit of the chain says nothing of it.
            work=None if is_dense else work,
            **axes,
        )


def make_problem(
    settings: Settings,
    ctx: Context,
    name: str,
    rank: int,
    batch: int,
    pooling: int,
    exponent: float,
) -> "Problem":
    """Draw the cores, the indices and the gradient of one cell."""
    import torch

    from ttrec.init import make_cores
    from ttrec.peers import Problem
    from ttrec.synthetic import draw_indices

    dim = DATASETS[settings.dataset].dim
    shape = suggest_shape(settings.rows, dim, rank, preset="paper")
    rng, generator = ctx.rng(name), ctx.torch_rng(name)
    return Problem(
        shape=shape,
        cores=tuple(make_cores(shape, generator=generator)),
        indices=torch.from_numpy(draw_indices(shape.rows, batch * pooling, exponent, rng)),
        bounds=torch.arange(batch + 1) * pooling,
        d_out=torch.randn(batch, dim, generator=generator),
        lr=LR,
    )


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Speedup over T3nsor beside the paper's, over the other peers, and share of the roofline."""
    from common.report.charts import bars, paper_rows

    rows = frame.assign(setting=_settings_of(frame))
    speedups = rows[(rows["metric"] == "speedup") & (rows["axis.system"] == "ours")]
    over_t3nsor = speedups[speedups["axis.baseline"] == "t3nsor"]
    paper = paper_rows(claims["ttrec.abstract.kernel_speedup"])
    found = [
        bars(
            over_t3nsor,
            "setting",
            "TT step over T3nsor's full expansion",
            "Forward + backward + SGD on one CPU thread. The paper's 3x is between GPU programs.",
            log_y=True,
            paper=paper.merge(over_t3nsor[["setting"]].drop_duplicates(), how="cross"),
        ),
        bars(
            speedups[speedups["axis.baseline"] != "t3nsor"],
            "setting",
            "TT step over other peers",
            "Time of the peer over ours. torch_bmm holds the same tensor train; embedding_bag and "
            "fbgemm hold the whole dense table.",
            color="axis.baseline",
            y_title="peer time / our time",
            log_y=True,
        ),
    ]
    shares = rows[rows["fraction_of_roofline"].notna()]
    shares = shares.assign(value=shares["fraction_of_roofline"], low=None, high=None, unit="")
    shares = shares.drop_duplicates(["setting", "axis.system"])
    if len(shares):
        found.append(
            bars(
                shares,
                "setting",
                "Share of the machine's limit",
                "Useful work of the batch's distinct digit prefixes at this speed, over the "
                "smaller of peak arithmetic and bandwidth times intensity.",
                y_title="fraction of roofline",
            )
        )
    return found


def _settings_of(frame: "pd.DataFrame") -> list[str]:
    columns = (frame[f"axis.{name}"] for name in ("rank", "batch", "pooling", "exponent"))
    return [
        f"R={int(rank)}, B={int(batch)}x{int(pooling)}, "
        + (f"Zipf {exponent:g}" if exponent else "uniform")
        for rank, batch, pooling, exponent in zip(*columns, strict=True)
    ]
