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
    "void philox_keep_bits(int32_t* bits, uint64_t first, int64_t groups, uint64_t seed, "
    "uint32_t stream, uint32_t threshold, int64_t threads)"
)


@functools.cache
def _library(flags: tuple[str, ...] = ()) -> native.Library:
    return native.build("philox", [_SOURCE], openmp=True, flags=flags)


def keep_bits(
    rows: int, columns: int, p: float, seed: int, stream: int, padded: int | None = None
) -> Tensor:
    """The mask of philox.keep_mask: bit c % 32 of word c // 32 of a row is set if column c is kept.

    returns: (rows, padded / 32) int32; bits beyond the columns belong to no element. Where p rounds
    to 0 nothing is drawn and the result is empty, (0,).

    Raises ValueError as threshold does.
    """
    padded = philox.padded_columns(columns) if padded is None else padded
    dropped = philox.threshold(p)
    if dropped == 0:
        return torch.empty(0, dtype=torch.int32)
    bits = torch.empty((rows, padded // 32), dtype=torch.int32)
    _library().function(_PROTOTYPE)(
        bits,
        0,
        rows * padded // philox.GROUP,
        seed % 2**64,
        stream,
        dropped,
        torch.get_num_threads(),
    )
    return bits
