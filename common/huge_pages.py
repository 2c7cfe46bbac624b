"""Ask for huge pages under large new tensors: a first touch of small ones costs more than a kernel.

The allocator returns tensors of many megabytes to the system when they die, so each call of a layer
gets fresh pages, which the system fills with zeros at their first touch: 16 thousand interrupts for
64 MiB in pages of 4 KiB, 32 in huge ones.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import cast

from torch import Tensor

__all__ = ["advise"]

_HUGE = 2**21
#: Below two huge pages there may be none inside.
_LARGE = 2 * _HUGE


def advise(tensor: Tensor) -> Tensor:
    """The tensor itself, contiguous and just allocated; the huge pages inside it asked for.

    Only advice: without support, or where the system has no huge page left, nothing changes.
    """
    n_bytes = tensor.nbytes
    if n_bytes >= _LARGE:
        call = _madvise()
        if call is not None:
            start = tensor.data_ptr()
            first, last = -(-start // _HUGE) * _HUGE, (start + n_bytes) // _HUGE * _HUGE
            call(first, last - first, mmap.MADV_HUGEPAGE)
    return tensor


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return cast(Callable[[int, int, int], int], function)
