"""Masks of dropout as bits, by philox.cpp."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from common import native
from transformer_dm import philox

_SOURCE = Path(__file__).with_name("philox.cpp")
_PROTOTYPE = (
    "void philox_keep_bits(int32_t* bits, int64_t rows, int64_t padded, uint64_t seed, "
    "uint32_t stream, uint32_t threshold, int64_t threads)"
)


@functools.cache
def _library(flags: tuple[str, ...] = ()) -> native.Library:
    return native.build("philox", [_SOURCE], openmp=True, flags=flags)


def keep_bits(
    rows: int, columns: int, p: float, seed: int, stream: int, padded: int | None = None
) -> Tensor:
    """The mask of philox.keep_mask: bit c % 32 of word c // 32 of a row is set if column c is kept.

    returns: (rows, padded / 32) int32. Bits beyond the columns are set at random.

    p may not round to 0 or 1 of 65536 levels: there is nothing to draw. Raises ValueError then.
    """
    padded = philox.padded_columns(columns) if padded is None else padded
    dropped = philox.threshold(p)
    if not 0 < dropped < 65536:
        raise ValueError(f"p must be further than 1/131072 from 0 and 1 to draw a mask, got {p}")
    bits = torch.empty((rows, padded // 32), dtype=torch.int32)
    _library().function(_PROTOTYPE)(
        bits, rows, padded, seed % 2**64, stream, dropped, torch.get_num_threads()
    )
    return bits
