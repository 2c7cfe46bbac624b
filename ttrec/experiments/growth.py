"""How time and memory grow: with the rows of the table, down to one index, with the batch."""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, matches_re

from common.experiment import Context
from ttrec.shapes import TTShape, suggest_shape

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: Batch of the comparison over rows: enough that no fixed cost hides what grows.
ROWS_BATCH = 2048
#: Compressed tables of the models whose cores are drawn.
MODEL_TABLES = (3, 5, 7)


@attrs.frozen
class Settings:
    """rank, dim: of the tables compared.

    virtual_rows: of two tables whose batches touch equally many slices
    batches:      sizes down to one index, ours beside gather + bmm in torch
    workspaces:   "512x20" batches whose workspace is set beside its ceiling, at every dim and rank
    model_rank:   of the Terabyte models whose cores are drawn
    """

    dim: int = attrs.field(validator=in_((16, 64, 128)))
    rank: int = attrs.field(validator=ge(8))
    virtual_rows: list[int] = attrs.field(validator=deep_iterable(ge(1000)))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    exponents: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    workspaces: list[str] = attrs.field(validator=deep_iterable(matches_re(r"[1-9]\d*x[1-9]\d*")))
    workspace_dims: list[int] = attrs.field(validator=deep_iterable(in_((16, 64, 128))))
    workspace_ranks: list[int] = attrs.field(validator=deep_iterable(ge(8)))
    model_rank: int = attrs.field(validator=ge(1))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Time over rows and over small batches, workspace over its ceiling, seconds to draw cores."""
    _over_rows(settings, ctx)
    for batch in ctx.progress(settings.batches, "batch"):
        _small(settings, ctx, batch)
    for cell in settings.workspaces:
        bags, pooling = (int(part) for part in cell.split("x"))
        for dim in settings.workspace_dims:
            for rank in settings.workspace_ranks:
                for exponent in settings.exponents:
                    _workspace(ctx, dim, rank, bags, pooling, float(exponent))
    for tables in MODEL_TABLES:
        _draw_model(settings, ctx, tables)


def _over_rows(settings: Settings, ctx: Context) -> None:
    """A batch that touches the same digits of a table of many rows and of one of few."""
    import torch

    from ttrec import peers, problems

    few, many = sorted(settings.virtual_rows)[0], sorted(settings.virtual_rows)[-1]
    shapes = {rows: suggest_shape(rows, settings.dim, settings.rank) for rows in (few, many)}
    small = shapes[few]
    digits = [ctx.rng("digits").integers(0, p, ROWS_BATCH) for p in small.p]
    made = {}
    for rows, shape in shapes.items():
        index = (digits[0] * shape.p[1] + digits[1]) * shape.p[2] + digits[2]
        problem = problems.make_problem(
            shape, ROWS_BATCH, 1, 0.0, ctx.rng("unused"), ctx.torch_rng("cores")
        )
        # The last rows of the smaller table may be missing where its factors exceed its rows.
        indices = torch.from_numpy(index).clamp(max=shape.rows - 1)
        made[rows] = peers.ours(attrs.evolve(problem, indices=indices)).step
    ctx.compare(
        "rows_time_ratio",
        {"many": made[many], "few": made[few]},
        baseline="many",
        # Tables of different values: there is nothing to agree on but the shape.
        verify=lambda a, b: a.shape == b.shape,
        claim="ttrec.ours.rows_time",
        subject="few",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        rows=many,
        rows_of_baseline=few,
        dim=settings.dim,
        rank=settings.rank,
        batch=ROWS_BATCH,
    )


def _small(settings: Settings, ctx: Context, batch: int) -> None:
    from ttrec import peers, problems

    shape = problems.benchmark_shape(settings.dim, settings.rank)
    problem = problems.make_problem(
        shape, batch, 1, 0.0, ctx.rng(f"small {batch}"), ctx.torch_rng(f"small {batch}")
    )
    peers.assert_same_step(attrs.evolve(problem, lr=0.1), ["torch_bmm"])
    ctx.compare(
        "small_speedup",
        {"ours": peers.ours(problem).step, "torch_bmm": peers.torch_bmm(problem).step},
        baseline="torch_bmm",
        verify=peers.assert_close,
        claim="ttrec.ours.small_batches",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        dim=settings.dim,
        rank=settings.rank,
        batch=batch,
    )


def workspace_ceiling(shape: TTShape, n: int, n_distinct: int, threads: int = 1) -> int:
    """Most bytes a batch may take besides kept products.

    16 a position, 8 + 4 D a distinct row, a megabyte a thread, and the partial gradients of the
    outer cores: one buffer of both for every 2048 positions, at most 8.
    """
    outer = math.prod(shape.core_shapes[0]) + math.prod(shape.core_shapes[2])
    buffers = min(max(n // 2048, 1), 8)
    return 16 * n + (8 + 4 * shape.dim) * n_distinct + 2**20 * threads + 4 * buffers * outer


def _workspace(ctx: Context, dim: int, rank: int, bags: int, pooling: int, exponent: float) -> None:
    import numpy as np

    from ttrec import problems
    from ttrec.kernels import library
    from ttrec.synthetic import draw_indices

    shape, n = problems.benchmark_shape(dim, rank), bags * pooling
    index = draw_indices(shape.rows, n, exponent, ctx.rng(f"workspace {n} {exponent}"))
    n_distinct = np.unique(index).size
    used = library.workspace_bytes(library.kernels_of(tuple(shape.core_shapes)), n, n_distinct)
    ctx.record(
        "ttrec.ours.workspace",
        "workspace_share",
        used / workspace_ceiling(shape, n, n_distinct),
        "x",
        dim=dim,
        rank=rank,
        batch=bags,
        pooling=pooling,
        exponent=exponent,
    )


def _draw_model(settings: Settings, ctx: Context, tables: int) -> None:
    """Processor seconds to draw the cores of a model's compressed tables by the default rule."""
    from ttrec.cardinalities import DATASETS
    from ttrec.init import make_cores

    data = DATASETS["terabyte"]
    largest = sorted(data.rows, reverse=True)[:tables]
    started, entries = time.process_time(), 0
    for rows in largest:
        shape = suggest_shape(rows, data.dim, settings.model_rank, preset="paper")
        cores = make_cores(shape, generator=ctx.torch_rng(f"model {rows}"))
        entries += sum(core.numel() for core in cores)
    seconds = time.process_time() - started
    axes: dict[str, Any] = {"tables": tables, "rank": settings.model_rank, "entries": entries}
    ctx.record("ttrec.ours.init_seconds", "init_seconds", seconds, "s", **axes)


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Speedup at small batches and share of the workspace's ceiling."""
    from common.report.charts import bars, lines

    found = []
    small = frame[(frame["metric"] == "small_speedup") & (frame["axis.system"] == "ours")]
    if len(small):
        found.append(
            lines(
                small,
                "axis.batch",
                "Small batches over gather + bmm in torch",
                "Forward + backward + SGD, one index a bag: time of torch over ours.",
                y_title="speedup",
                log_x=True,
            )
        )
    shares = frame[frame["metric"] == "workspace_share"]
    if len(shares):
        names = [
            f"{int(batch)}x{int(pooling)}, " + (f"Zipf {exponent:g}" if exponent else "uniform")
            for batch, pooling, exponent in zip(
                shares["axis.batch"], shares["axis.pooling"], shares["axis.exponent"], strict=True
            )
        ]
        kinds = [
            f"D={int(dim)}, R={int(rank)}"
            for dim, rank in zip(shares["axis.dim"], shares["axis.rank"], strict=True)
        ]
        found.append(
            bars(
                shares.assign(batch=names, kind=kinds),
                "batch",
                "Workspace over its ceiling",
                "Bytes of plan, scratch and rows over 16 N + (8 + 4 D) U + 1 MB + partial "
                "gradients.",
                color="kind",
                y_title="share of the ceiling",
            )
        )
    return found
