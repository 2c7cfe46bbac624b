"""What sharing rows and pairs of digits within a batch, and keeping products, is worth."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from common.claims import Claim
    from common.report.charts import Chart
    from ttrec.peers import Candidate, Problem

#: Our bag with one thing switched off or forced, by the name the records carry; see `_variant`.
VARIANTS = ("rows_apart", "pairs_apart", "all_apart", "always_keep", "always_recompute")


@attrs.frozen
class Settings:
    """Batches of the authors' benchmark table, 11 million rows.

    dim, rank: of the table;  batch: bags in a batch;  poolings: indices in a bag
    exponents: of the Zipf law indices follow, 0 for uniform
    orders:    ids numbered by frequency, so that hot rows share digits, or at random
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    dim: int = attrs.field(validator=in_((16, 64, 128)))
    rank: int = attrs.field(validator=ge(8))
    batch: int = attrs.field(validator=ge(1))
    poolings: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    exponents: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    orders: list[str] = attrs.field(validator=deep_iterable(in_(("frequency", "random"))))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Count what batches share, and compare our step with its mechanisms on and off."""
    cells = [
        (pooling, order, float(exponent))
        for pooling in settings.poolings
        for order in settings.orders
        for exponent in settings.exponents
    ]
    for cell in ctx.progress(cells, "cell"):
        _run_cell(settings, ctx, *cell)


def _run_cell(settings: Settings, ctx: Context, pooling: int, order: str, exponent: float) -> None:
    from ttrec import peers, problems

    name = f"{pooling}/{order}/{exponent}"
    rng = ctx.rng(name)
    shape = problems.benchmark_shape(settings.dim, settings.rank)
    problem = problems.make_problem(
        shape, settings.batch, pooling, exponent, rng, ctx.torch_rng(name)
    )
    if order == "random":
        problem = attrs.evolve(problem, indices=renumber(problem.indices, shape.rows, rng))
    axes: dict[str, Any] = {
        "dim": settings.dim,
        "rank": settings.rank,
        "batch": settings.batch,
        "pooling": pooling,
        "order": order,
        "exponent": exponent,
    }
    n = problem.indices.numel()
    distinct_rows, distinct_pairs = count_distinct(problem)
    ctx.record(None, "rows_share", distinct_rows / n, "", **axes)
    ctx.record(None, "pairs_share", distinct_pairs / n, "", **axes)
    _assert_same_step(problem)
    # A pair at a time, so that each has the interval it is judged by.
    for variant in VARIANTS:
        ctx.compare(
            "mechanism_speedup",
            {"ours": peers.ours(problem).step, variant: _variant(problem, variant).step},
            baseline=variant,
            verify=peers.assert_close,
            claim="ttrec.ours.reuse_mechanism",
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            **axes,
        )
    # Another program: the paper's algorithm shares nothing, in loops written for that.
    ctx.compare(
        "sharing_speedup",
        {"ours": peers.ours(problem).step, "published": peers.published(problem).step},
        baseline="published",
        verify=peers.assert_close,
        claim="ttrec.ours.reuse_skew",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        **axes,
    )


def renumber(indices: "Tensor", rows: int, rng: "np.random.Generator") -> "Tensor":
    """The same indices with ids dealt out at random, (n,) int64: equal stay equal."""
    import torch

    distinct, inverse = torch.unique(indices, return_inverse=True)
    ids = torch.from_numpy(rng.choice(rows, distinct.numel(), replace=False))
    return ids[inverse]


def count_distinct(problem: "Problem") -> tuple[int, int]:
    """Distinct rows of a batch, and distinct pairs of first and second digit."""
    import torch

    pairs = problem.indices // problem.shape.p[-1]
    return torch.unique(problem.indices).numel(), torch.unique(pairs).numel()


def _variant(problem: "Problem", name: str) -> "Candidate":
    """Our bag without one of what it does."""
    from ttrec import peers
    from ttrec.kernels.tt_bag import SHARE_PAIRS, SHARE_ROWS

    if name == "always_keep":
        return peers.ours(problem, store="keep")
    if name == "always_recompute":
        return peers.ours(problem, store="recompute")
    left = {"rows_apart": SHARE_PAIRS, "pairs_apart": SHARE_ROWS, "all_apart": 0}
    return peers.ours(problem, sharing=left[name])


def _assert_same_step(problem: "Problem") -> None:
    """Raise AssertionError unless all variants agree before and after a step that can be seen."""
    import torch

    from ttrec import peers

    problem = attrs.evolve(problem, lr=0.1)
    touched = torch.unique(problem.indices)
    wanted = peers.ours(problem)
    out, rows = wanted.step(), wanted.rows(touched)
    for name in VARIANTS:
        candidate = _variant(problem, name)
        peers.assert_close(candidate.step(), out)
        peers.assert_close(candidate.rows(touched), rows)


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Shares of distinct rows and pairs, and the worth of each mechanism, by skew."""
    from common.report.charts import lines

    place = [
        f"{int(pooling)} indices a bag, ids "
        + ("by frequency" if order == "frequency" else "at random")
        for pooling, order in zip(frame["axis.pooling"], frame["axis.order"], strict=True)
    ]
    frame = frame.assign(place=place)
    shares = frame[frame["metric"].isin(("rows_share", "pairs_share"))]
    names = {"rows_share": "distinct rows", "pairs_share": "distinct pairs"}
    speeds = frame[frame["metric"].isin(("mechanism_speedup", "sharing_speedup"))]
    return [
        lines(
            shares.assign(**{"axis.system": shares["metric"].map(names)}),
            "axis.exponent",
            "What is left to compute in a batch",
            "Distinct rows, and distinct pairs of the first two digits, over indices in the batch.",
            x_title="Zipf exponent (0: uniform)",
            y_title="share of indices",
            column="place",
        ),
        lines(
            speeds,
            "axis.exponent",
            "What each mechanism is worth",
            "Time of forward + backward + SGD without it over time with it, on one CPU thread. "
            "rows_apart and pairs_apart compute equal rows or pairs one by one, all_apart both; "
            "always_keep and always_recompute force what is otherwise chosen by size; published "
            "is the paper's algorithm, which shares nothing.",
            color="axis.baseline",
            x_title="Zipf exponent (0: uniform)",
            y_title="time without / time with",
            log_y=True,
            column="place",
        ),
    ]
