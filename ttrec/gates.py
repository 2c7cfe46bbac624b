"""Speed floors of this package; see common.gates."""

from collections.abc import Callable
from functools import partial
from typing import Any

from common.floors import Floor
from common.gates import Gate

Sides = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]


def make_bag_step() -> Sides:
    """Training step of the native bag and of gather + bmm: R=32, 1024 uniform rows of 2.2 M."""
    from ttrec import problems

    return _sides(problems.kaggle_shape(2_202_608, 32), 1024, 1, 0.0, "torch_bmm")


def make_full_expansion() -> Sides:
    """Training step of the native bag and of T3nsor's whole table: R=32, 512 rows of 142,572."""
    from ttrec import problems

    return _sides(problems.kaggle_shape(142_572, 32), 512, 1, 0.0, "t3nsor")


def make_cell(dim: int, rank: int, batch: int, pooling: int, exponent: float, peer: str) -> Sides:
    """Training step of the native bag and of a peer on a cell of the benchmark table."""
    from ttrec import problems

    return _sides(problems.benchmark_shape(dim, rank), batch, pooling, exponent, peer)


def _sides(shape: Any, batch: int, pooling: int, exponent: float, peer: str) -> Sides:
    import numpy as np
    import torch

    from ttrec import peers, problems

    problem = problems.make_problem(
        shape, batch, pooling, exponent, np.random.default_rng(0), torch.Generator().manual_seed(0)
    )
    ours, theirs = peers.ours(problem).step, peers.TENSOR_TRAIN[peer](problem).step
    return ours, theirs, peers.assert_close


def size_ratio(dataset: str, rank: int) -> float:
    """Embedding parameters of a model over those with its seven largest tables compressed."""
    from ttrec.cardinalities import DATASETS
    from ttrec.shapes import model_ratio

    return model_ratio(DATASETS[dataset], 7, rank)


GATES = (
    # 3.5 to 3.9 with AVX-512, some 5 with AVX2, on busy two-core machines.
    Gate("ttrec_bag_step", make_bag_step, floor=2.4, claims=("ttrec.ours.torch_speedup",)),
    # 73 to 86 with AVX2.
    Gate(
        "ttrec_t3nsor",
        make_full_expansion,
        floor=51.0,
        claims=("ttrec.abstract.kernel_speedup",),
    ),
    # 1.9 with AVX2: what grouping on the middle digit is worth, with next to nothing shared.
    Gate(
        "ttrec_published_uniform",
        partial(make_cell, 16, 32, 4096, 1, 0.0, "published"),
        floor=1.3,
    ),
    # 5.6 with AVX2: what sharing rows and pairs is worth under a Zipf law.
    Gate("ttrec_published_zipf", partial(make_cell, 16, 32, 512, 20, 1.05, "published"), floor=3.9),
    # 29 to 33 with AVX2.
    Gate("ttrec_bmm_zipf", partial(make_cell, 16, 16, 512, 20, 1.05, "torch_bmm"), floor=20.0),
)
# As the abstracts have them; counted, so nothing is left to chance.
FLOORS = (
    Floor(
        "ttrec_kaggle",
        partial(size_ratio, "kaggle", 8),
        floor=221.0,
        claims=("ttrec.abstract.kaggle_ratio",),
    ),
    Floor(
        "ttrec_kaggle_arxiv",
        partial(size_ratio, "kaggle", 32),
        floor=117.0,
        claims=("ttrec.abstract.kaggle_ratio_arxiv",),
    ),
    Floor(
        "ttrec_terabyte",
        partial(size_ratio, "terabyte", 8),
        floor=112.0,
        claims=("ttrec.abstract.terabyte_ratio",),
    ),
)
