"""Load tree_add.cpp: a switch's sum in one pass over memory.

panama.wire.sums has the same function in numpy.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import native
from panama.wire.numbers import FORMATS, Format

Array = npt.NDArray[Any]
_SOURCE = Path(__file__).with_name("tree_add.cpp")


@functools.cache
def _functions() -> dict[str, Callable[..., None]]:
    library = native.build("panama_tree_add", [_SOURCE])
    return {
        name: library.function(
            f"void tree_add_{name}(const int64_t* rows, int64_t out, int64_t n_ports, int64_t n)"
        )
        for name in FORMATS
    }


@functools.cache
def available() -> bool:
    """True if the kernel can be compiled here; warns once if no compiler is found."""
    try:
        _functions()
    except native.CompilerNotFound as error:
        warnings.warn(
            f"sums of packets run on plain numpy, many times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def tree_add(rows: Sequence[Array], places: Sequence[int | None], format: Format) -> Array:
    """The heap's sum; rows[places[i]] is what port i contributes, None is nothing.

    rows: (n,) each, contiguous, of the format's dtype

    Raises CompilerNotFound.
    """
    out = np.empty(rows[0].shape, format.dtype)
    at = np.array([0 if p is None else rows[p].ctypes.data for p in places], dtype=np.int64)
    _functions()[format.name](at, out.ctypes.data, len(places), out.size)
    return out
