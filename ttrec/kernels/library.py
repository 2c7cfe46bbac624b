"""Compile and load the kernels for the shape of a table, and lend them scratch memory."""

import functools
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from common import native
from ttrec.shapes import TTShape

FOLDER = Path(__file__).parent
#: Beyond these a library of one's own is not worth its seconds of compilation.
LARGEST_RANK, LARGEST_Q, SMALLEST_DIM = 128, 16, 16
#: Floats of partial products forward keeps for backward with store="auto": 4 MB.
KEPT_FLOATS = 2**20
#: Below this many positions a further thread costs more than it does.
POSITIONS_PER_THREAD = 512

_PROTOTYPES = {
    "work_floats": "int64_t tt_work_floats(const int64_t* sizes, int64_t n, int64_t threads)",
    "pair_floats": "int64_t tt_pair_floats(const int64_t* sizes)",
    "address": "int64_t tt_address(int64_t which)",
    "plan": (
        "int64_t tt_plan(const int64_t* sizes, const int64_t* indices, const int64_t* offsets, "
        "int64_t n, int64_t batch, int64_t has_last_or_length, int64_t origin, int64_t is_wide, "
        "int64_t rows, int64_t padding, int64_t sharing, const double* control, int64_t number, "
        "int32_t* plan, float* work, float* scale, int64_t* found)"
    ),
    "forward": (
        "void tt_forward(const int64_t* sizes, const int64_t* cores, int32_t* plan, "
        "const float* weights, const float* scale, float* kept, int64_t n_kept, float* rows, "
        "float* work, float* out, int32_t* winners, int64_t n, int64_t batch, int64_t threads)"
    ),
    "backward": (
        "int64_t tt_backward(const int64_t* sizes, const int64_t* cores, int32_t* plan, "
        "const float* weights, const float* scale, const int32_t* winners, float* kept, "
        "int64_t n_kept, const float* d_out, float* d_weights, float* work, int64_t n, "
        "int64_t by_frequency, int64_t rule, double* control, int64_t allows_stale, "
        "int64_t threads)"
    ),
}


@attrs.frozen(eq=False)
class Kernels:
    """The entry points for cores of one shape, and what they need to know of it.

    Entry points take addresses and numbers and check nothing; see the sources for what they do.

    sizes:       p, q and the inner ranks, (3 d - 1,) int64
    pair_floats: floats of the partial products of one pair of first digits; 0 if none are kept
    addresses:   of plan, forward, backward, work_floats and plan_words
    """

    sizes: np.ndarray[tuple[int], np.dtype[np.int64]]
    d: int
    dim: int
    p: tuple[int, ...]
    pair_floats: int
    sizes_at: int
    addresses: tuple[int, ...]
    work_floats: Callable[..., int]
    plan: Callable[..., int]
    forward: Callable[..., None]
    backward: Callable[..., int]


def is_usual(q: Sequence[int], ranks: Sequence[int]) -> bool:
    """True if a table of this shape gets a library of its own, rather than the one for all."""
    return (
        len(q) == 3
        and math.prod(q) >= SMALLEST_DIM
        and all(factor & (factor - 1) == 0 and factor <= LARGEST_Q for factor in q)
        and ranks[0] == ranks[1]
        and ranks[0] % 8 == 0
        and ranks[0] <= LARGEST_RANK
    )


def plan_words(n: Any, p: Sequence[int]) -> Any:
    """int32 words of the plan of n positions, as the sources count them; n may be a symbol."""
    d = len(p)
    if d == 3:
        return 10 + 3 * n + 2 * (n + 1) + p[1] + 1 + n + (p[0] + p[1] + p[2] + 1) // 2 + 1
    return 10 + d + 4 * n + 1 + d * (4 * n + 1)


@functools.cache
def load(q: tuple[int, ...], ranks: tuple[int, ...]) -> native.Library:
    """Compile (first use only) and load the library for tables with these factors and ranks.

    One shape always runs the same library, so that results repeat bit for bit.
    """
    if len(q) != 3:
        source = FOLDER / "tt_trie.cpp"
        return native.build(source.stem, [source], openmp=True, defines={"TT_D": len(q)})
    defines: dict[str, object] = {}
    if is_usual(q, ranks):
        defines = {f"TT_Q{k + 1}": factor for k, factor in enumerate(q)}
        defines |= {f"TT_R{k + 1}": rank for k, rank in enumerate(ranks)}
    source = FOLDER / "tt_three.cpp"
    return native.build(source.stem, [source], openmp=True, defines=defines)


@functools.lru_cache(maxsize=4096)
def kernels_of(shapes: tuple[torch.Size, ...]) -> Kernels:
    """The kernels for cores of these shapes, (p_k, r_{k-1}, q_k, r_k) each."""
    p, _, q, r = zip(*shapes, strict=True)
    library = load(q, r[:-1])
    functions = {name: library.function(text).raw for name, text in _PROTOTYPES.items()}
    sizes = np.array([*p, *q, *r[:-1]], dtype=np.int64)
    pair_floats = functions.pop("pair_floats")(sizes.ctypes.data)
    address = functions.pop("address")
    addresses = tuple(address(which) for which in range(5))
    return Kernels(
        sizes, len(p), math.prod(q), p, pair_floats, sizes.ctypes.data, addresses, **functions
    )


@functools.lru_cache(maxsize=4096)
def kernels_for(shape: TTShape) -> Kernels:
    """The kernels for the cores of a table."""
    return kernels_of(tuple(torch.Size(core) for core in shape.core_shapes))


@functools.cache
def available() -> bool:
    """True if the kernels can be compiled here; warns once if no compiler is found."""
    try:
        load((2, 2, 2), (1, 1))
    except native.CompilerNotFound as error:
        warnings.warn(
            f"TT embedding bags run on plain torch, many times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def require() -> None:
    """Raise RuntimeError naming the compiler tried if the kernels cannot be compiled here."""
    try:
        load((2, 2, 2), (1, 1))
    except native.CompilerNotFound as error:
        raise RuntimeError(f"backend='cpu' needs the native kernels: {error}") from error


def workspace_bytes(kernels: Kernels, n: int, n_distinct: int, threads: int = 1) -> int:
    """Bytes a batch of n positions with so many distinct rows takes, besides kept products.

    The plan, the scratch of planning and of the kernels, and the distinct rows before pooling.
    """
    words: int = plan_words(n, kernels.p)
    return 4 * (words + work_floats(kernels, n, threads) + n_distinct * kernels.dim)


def threads_for(n: int) -> int:
    """Threads worth starting for n positions."""
    return max(1, min(torch.get_num_threads(), n // POSITIONS_PER_THREAD))


class _Desk(threading.local):
    """Memory a thread reuses from call to call; addresses are kept, as asking for them takes long.

    found:     what tt_plan reports, (4,) int64
    addresses: of cores and states, (16,) int64
    """

    def __init__(self) -> None:
        self._blocks: dict[str, tuple[Tensor, int, int]] = {}
        self.found = np.zeros(4, dtype=np.int64)
        self.found_at: int = self.found.ctypes.data
        self.addresses = np.zeros(16, dtype=np.int64)
        self.addresses_at: int = self.addresses.ctypes.data

    def floats_at(self, name: str, n: int) -> int:
        """Address of at least n float32, whose content is nobody's."""
        _, address, held = self._blocks.get(name, (None, 0, -1))
        if held < n:
            # A half more than asked, so that slowly growing batches do not each allocate anew.
            block = torch.empty(n + n // 2 + 16)
            address = block.data_ptr()
            self._blocks[name] = (block, address, block.numel())
        return address

    def cores_at(self, *lists: Sequence[Tensor]) -> int:
        """Address of a list of the tensors' addresses."""
        pointers = [tensor.data_ptr() for tensors in lists for tensor in tensors]
        self.addresses[: len(pointers)] = pointers
        return self.addresses_at


desk = _Desk()


@functools.lru_cache(maxsize=4096)
def work_floats(kernels: Kernels, n: int, threads: int) -> int:
    """Floats of scratch a batch of n positions needs."""
    return kernels.work_floats(kernels.sizes_at, n, threads)
