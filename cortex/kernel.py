"""A generated program as native code: built once a content, called with addresses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from cortex.codegen_c import Source
from cortex.errors import BackendError
from cortex.forest import FloatArray, IntArray
from cortex.linearize import Linear

_HEADERS = Path(__file__).parent / "kernels"
_LINE = 64  # bytes of a cache line, and of the widest vector
_PACK = "int64_t pack(const int64_t* sources, float* weights)"
_RUN = (
    "int64_t run(const int32_t* linear, const float* features, const float* weights, "
    "float* workspace, int64_t capacity, float* roots, float* kept, int64_t threads, "
    "int64_t alone)"
)
#: Operations below which a run takes one thread: about 100 us of one core.
LEAST_WORK = 6_000_000


@attrs.frozen(eq=False)
class Block:
    """Floats at an address that is a multiple of a cache line."""

    memory: FloatArray
    address: int
    size: int


def block(size: int) -> Block:
    """Memory for `size` floats, not initialised."""
    memory: npt.NDArray[np.float32] = np.empty(size + _LINE // 4, np.float32)
    start = memory.ctypes.data
    return Block(memory, start + -start % _LINE, size)


class Kernel:
    """Native code of a program, its packed weights, and workspace for calls.

    Calls from several Python threads at once are safe: each takes workspace of its own.
    """

    def __init__(self, source: Source, threads: int, name: str) -> None:
        from common import native

        try:
            self.library = native.build_source(
                f"cortex_{name}",
                source.text,
                language="c++",
                openmp=True,
                include_dirs=[_HEADERS],
            )
        except native.CompilerNotFound as error:
            raise BackendError(
                f"backend 'c' compiles for this machine, but {error}; "
                "or use backend='interp', which is slow"
            ) from None
        self._pack: Any = self.library.function(_PACK).raw
        self._run: Any = self.library.function(_RUN, optional=("features", "roots", "kept")).raw
        self._source = source
        self.threads = threads
        self.alone = -(-LEAST_WORK // source.cost) if threads > 1 else 0
        self._weights = block(0)
        self._free: list[Block] = []

    @property
    def weight_bytes(self) -> int:
        """Memory of weights, tables and panels."""
        return self._weights.size * 4

    def pack(self, arrays: Mapping[str, FloatArray]) -> None:
        """Take these parameters and tables from the next run on."""
        # Views of lower rank are as good: only addresses matter.
        held = [np.ascontiguousarray(arrays[name], np.float32) for name in self._source.params]
        sources = np.array([a.ctypes.data for a in held], np.int64)
        weights = block(self._pack(0, 0))
        self._pack(sources.ctypes.data, weights.address)
        self._weights = weights

    def run(self, linear: Linear, roots: int, kept: int) -> int:
        """Compute; roots, kept: addresses of the results. Returns bytes of workspace."""
        memory = linear.memory if linear.memory.size else pack_linear(linear)
        features = 0 if linear.features is None else linear.features.ctypes.data
        weights = self._weights
        try:
            work = self._free.pop()
        except IndexError:
            work = block(0)
        address: int = memory.__array_interface__["data"][0]
        while needed := self._run(
            address,
            features,
            weights.address,
            work.address,
            work.size,
            roots,
            kept,
            self.threads,
            self.alone,
        ):
            work = block(needed)
        self._free.append(work)
        return work.size * 4


def pack_linear(linear: Linear) -> IntArray:
    """The one array that native code reads, of a structure numbered in Python."""
    arity = -1 if linear.child is None else len(linear.child)
    kinds = 0 if linear.kind_ptr is None else linear.kind_ptr.shape[1] - 1
    edges = 0 if linear.child_at is None else len(linear.child_at)
    sizes = [linear.n_nodes, linear.n_leaves, linear.n_levels, edges, arity, kinds]
    parts = [
        np.array([*sizes, len(linear.id_of), linear.n_roots], np.int32),
        linear.order,
        linear.id_of,
        linear.level_ptr,
        linear.kind_ptr,
        linear.child,
        linear.child_ptr,
        linear.child_at,
        linear.token,
        linear.roots,
        linear.block_ptr,
        linear.super_ptr,
    ]
    return np.concatenate([p.ravel() for p in parts if p is not None])
