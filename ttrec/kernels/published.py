"""Load published.cpp: the paper's algorithm in our microkernels, as a peer."""

import functools
from collections.abc import Callable

import attrs
import numpy as np
import torch
from torch import Tensor

from common import native
from ttrec.kernels import library
from ttrec.shapes import TTShape

#: Positions whose products run together in the authors' kernel.
SUB_BATCH = 1000

_CORES = "float* g1, float* g2, float* g3"
_BATCH = "const int64_t* indices, const int64_t* owner"


@attrs.frozen(eq=False)
class Published:
    """Forward and SGD step of a fixed table, all positions in sub-batches of `sub_batch`."""

    sizes: np.ndarray[tuple[int], np.dtype[np.int64]]
    sub_batch: int
    work: Tensor
    run_forward: Callable[..., None]
    run_step: Callable[..., None]

    def forward(self, cores: list[Tensor], indices: Tensor, owner: Tensor, batch: int) -> Tensor:
        """Sums over bags, (batch, D)."""
        out = torch.empty(batch, int(np.prod([core.shape[2] for core in cores])))
        self.run_forward(
            self.sizes, *cores, indices, owner, self.work, out, indices.numel(), batch,
            self.sub_batch,
        )  # fmt: skip
        return out

    def step(
        self, cores: list[Tensor], indices: Tensor, owner: Tensor, d_out: Tensor, lr: float
    ) -> None:
        """core -= lr * gradient."""
        self.run_step(
            self.sizes, *cores, indices, owner, d_out, self.work, indices.numel(), self.sub_batch,
            lr,
        )  # fmt: skip


@functools.cache
def _library(q: tuple[int, ...], rank: int) -> native.Library:
    defines: dict[str, object] = {f"TT_Q{k + 1}": factor for k, factor in enumerate(q)}
    defines |= {"TT_R1": rank, "TT_R2": rank}
    source = library.FOLDER / "published.cpp"
    return native.build("tt_published", [source], defines=defines)


def published(shape: TTShape, sub_batch: int = SUB_BATCH) -> Published:
    """The peer for a shape.

    Raises ValueError for a shape that gets no library of its own (see library.is_usual): the peer
    must have what ours has.
    """
    if not library.is_usual(shape.q, shape.ranks):
        raise ValueError(f"the published peer is built for usual shapes, got {shape}")
    built = _library(shape.q, shape.ranks[0])
    sizes = np.array([*shape.p, *shape.q, *shape.ranks], dtype=np.int64)
    floats = built.function("int64_t published_floats(const int64_t* sizes, int64_t sub_batch)")
    return Published(
        sizes,
        sub_batch,
        torch.empty(floats(sizes, sub_batch)),
        built.function(
            f"void published_forward(const int64_t* sizes, {_CORES.replace('float', 'const float')}"
            f", {_BATCH}, float* work, float* out, int64_t n, int64_t batch, int64_t sub_batch)"
        ),
        built.function(
            f"void published_step(const int64_t* sizes, {_CORES}, {_BATCH}, const float* d_out, "
            "float* work, int64_t n, int64_t sub_batch, float lr)"
        ),
    )
