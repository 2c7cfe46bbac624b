"""The tables and batches measurements run on: those of the authors' kernel benchmark."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ttrec.init import make_cores
from ttrec.shapes import TTShape, suggest_shape
from ttrec.synthetic import draw_indices

if TYPE_CHECKING:
    from ttrec.peers import Problem

#: Row factors of the authors' benchmark: 11 million rows.
BENCHMARK_P = (200, 220, 250)
#: So small that thousands of steps on one batch leave every number in its range.
LR = 1e-6


def benchmark_shape(dim: int, rank: int) -> TTShape:
    """11 million rows of 16 or 64 columns, factored as the paper's largest tables."""
    q = {16: (2, 2, 4), 64: (4, 4, 4), 128: (4, 4, 8)}[dim]
    return TTShape(int(np.prod(BENCHMARK_P)), dim, BENCHMARK_P, q, (rank, rank))


def kaggle_shape(rows: int, rank: int) -> TTShape:
    """A table of the Kaggle data set with its published factors."""
    return suggest_shape(rows, 16, rank, preset="paper")


def make_problem(
    shape: TTShape,
    batch: int,
    pooling: int,
    exponent: float,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> "Problem":
    """Draw cores, indices and the gradient of the output: `batch` bags of `pooling` indices.

    exponent: of the Zipf law the indices follow, 0 for uniform
    """
    from ttrec.peers import Problem

    return Problem(
        shape=shape,
        cores=tuple(make_cores(shape, generator=generator)),
        indices=torch.from_numpy(draw_indices(shape.rows, batch * pooling, exponent, rng)),
        bounds=torch.arange(batch + 1) * pooling,
        d_out=torch.randn(batch, shape.dim, generator=generator),
        lr=LR,
    )
