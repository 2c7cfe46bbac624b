"""Large new tensors whose memory is kept when they die, as a GPU's caching allocator does.

The C allocator returns blocks of many megabytes to the system, so each step of a layer gets fresh
pages, and the system fills them with zeros at their first touch: a tenth of a training step whose
hidden part takes 64 MB. Here such a block waits for the next tensor of about its size, and lies in
huge pages where the system has them: 32 first touches for 64 MiB instead of 16 thousand.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["empty", "is_large", "kept_bytes", "not_kept", "release"]

_HUGE = 2**21
#: Smaller ones the C allocator keeps by itself.
_LARGE = 2 * _HUGE
#: A kept block serves a tensor if this part of it at most is left over.
_SLACK = 0.25

_keeps = contextvars.ContextVar("common.large_tensors.keeps", default=True)


def is_large(n_bytes: int) -> bool:
    """Whether a tensor of so many bytes gets memory that is kept."""
    return n_bytes >= _LARGE


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor with any values; its storage cannot be resized if it is large."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < _LARGE or not _keeps.get():
        return torch.empty(shape, dtype=dtype)
    block = _take(-(-n_bytes // _HUGE) * _HUGE)
    # The storage holds the view, and the view's end is the storage's.
    view = memoryview(block)
    weakref.finalize(view, _returned.append, block).atexit = False
    count, first = n_bytes // dtype.itemsize, _first(block)
    return torch.frombuffer(view, dtype=dtype, count=count, offset=first).view(shape)


def kept_bytes() -> int:
    """Bytes that wait for a tensor."""
    with _lock:
        _collect()
        return sum(map(len, _kept))


def release() -> None:
    """Give what waits back to the system, as torch.cuda.empty_cache() does."""
    with _lock:
        _collect()
        _kept.clear()


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """Take large tensors from torch's allocator for a while, where a profiler can see them.

    Holds for this thread or task.
    """
    token = _keeps.set(False)
    try:
        yield
    finally:
        _keeps.reset(token)


_lock = threading.Lock()
_kept: list[mmap.mmap] = []  # longest unused first
# A tensor may die in any thread, and while this one holds the lock: so its end only appends.
_returned: deque[mmap.mmap] = deque()


def _collect() -> None:
    """Move what tensors gave back to what is kept, and drop the longest unused beyond the limit."""
    while _returned:
        _kept.append(_returned.popleft())
    total = sum(map(len, _kept))
    while total > _limit():
        total -= len(_kept.pop(0))


def _limit() -> int:
    """Most bytes that are kept: an eighth of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8


def _take(size: int) -> mmap.mmap:
    """A block in which `size` bytes follow a border between huge pages."""
    whole = size + _HUGE
    with _lock:
        _collect()
        fitting = [
            (len(block), -place)
            for place, block in enumerate(_kept)
            if whole <= len(block) <= whole / (1 - _SLACK)
        ]
        if fitting:
            return _kept.pop(-min(fitting)[1])  # of equal ones the last used, still in caches
    block = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # only advice: a system may not have them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _first(block: mmap.mmap) -> int:
    """Offset of the first border between huge pages."""
    return -torch.frombuffer(block, dtype=torch.uint8).data_ptr() % _HUGE
