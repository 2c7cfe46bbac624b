"""Which elements dropout keeps: random bits by position, from a counter instead of a stream.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011,
doi:10.1145/2063384.2063405) turns a counter and a key into four 32-bit words with no state between
calls. So any kernel, in any order and on any number of threads, finds the same bit for the same
element, and a backward may compute the mask again instead of reading it.

The key is the 64-bit seed, low word first. Element e of a tensor, counted row by row as if rows
were padded to a multiple of 128, is in group g = e // 128 at place r = e % 128; it owns half
r % 2 (0 is the low 16 bits) of word r // 32 of the counter (c mod 2^32, c div 2^32, stream, 0),
c = 16 g + (r % 32) // 2. It is kept if that 16-bit number is at least T = round(65536 p). One
group is what sixteen lanes of a vector compute at once, in the order they compute it.

kernels/philox.h is the same in C++.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "ACTIVATION",
    "AFTER_ATTENTION",
    "AFTER_LINEAR2",
    "ATTENTION",
    "GROUP",
    "draw_seed",
    "keep_mask",
    "padded_columns",
    "philox4x32",
    "scale",
    "threshold",
]

#: Streams: which dropout of a layer a counter belongs to.
ATTENTION, AFTER_ATTENTION, ACTIVATION, AFTER_LINEAR2 = range(4)
#: Elements one vector of counters decides; rows are padded to a multiple of it.
GROUP = 128

_LEVELS = 2**16
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Philox4x32-10 of every counter.

    counter: (n, 4); key: (2,); returns (n, 4)
    """
    # In 64 bits, where a product of two words fits.
    x0, x1, x2, x3 = counter.astype(np.uint64).T
    keys = [int(word) for word in key]
    for _ in range(_ROUNDS):
        first, second = x0 * np.uint64(_MULTIPLIERS[0]), x2 * np.uint64(_MULTIPLIERS[1])
        x0 = (second >> _HALF) ^ x1 ^ np.uint64(keys[0])
        x1 = second & _LOW
        x2 = (first >> _HALF) ^ x3 ^ np.uint64(keys[1])
        x3 = first & _LOW
        keys = [(k + step) % 2**32 for k, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack([x0, x1, x2, x3], axis=1).astype(np.uint32)


def threshold(p: float) -> int:
    """Of 65536 equally likely values, how many drop an element: round(65536 p).

    0 is no dropout at all, 65536 drops everything. Raises ValueError unless 0 <= p <= 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout must be a probability from 0 to 1, got {p}")
    return round(_LEVELS * p)


def scale(p: float) -> float:
    """What kept elements are multiplied by, so that dropout keeps the mean: 65536 / (65536 - T).

    0 if nothing is kept. Raises as threshold does.
    """
    dropped = threshold(p)
    return 0.0 if dropped == _LEVELS else _LEVELS / (_LEVELS - dropped)


def padded_columns(columns: int) -> int:
    """Columns rounded up to whole groups."""
    return -(-columns // GROUP) * GROUP


def keep_mask(
    shape_rows: int,
    columns: int,
    p: float,
    seed: int,
    stream: int,
    padded: int | None = None,
) -> NDArray[np.bool_]:
    """True where dropout keeps an element, (shape_rows, columns).

    seed: its low 64 bits count; padded: distance of rows in element numbers, a multiple of 128,
    by default the least that holds the columns

    Raises ValueError for a p out of range or a padded that does not fit.
    """
    dropped = threshold(p)
    padded = padded_columns(columns) if padded is None else padded
    if padded % GROUP or padded < columns:
        raise ValueError(
            f"padded must be a multiple of {GROUP} of at least {columns} columns, got {padded}"
        )
    if dropped in (0, _LEVELS):
        return np.full((shape_rows, columns), dropped == 0)
    c = np.arange(shape_rows * padded // 8, dtype=np.uint64)  # 16 counters for 128 elements
    counter = np.stack(
        [c & _LOW, c >> _HALF, np.full_like(c, stream), np.zeros_like(c)], axis=1
    ).astype(np.uint32)
    key = np.array([seed % 2**32, (seed >> 32) % 2**32], dtype=np.uint32)
    words = philox4x32(counter, key).reshape(-1, 16, 4)  # (group, lane, word)
    halves = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1)
    by_element = halves.transpose(0, 2, 1, 3).reshape(shape_rows, padded)  # group, word, lane, half
    kept: NDArray[np.bool_] = by_element[:, :columns] >= dropped
    return kept


def draw_seed() -> int:
    """A seed from torch's default CPU generator, so that torch.manual_seed decides the masks."""
    return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))
