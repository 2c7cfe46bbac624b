"""The sums of section 3.6 in plain numpy, on bit patterns: what the hardware must give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
FORMATS = {"fp32": 0, "bf16": 1, "int32": 2}  # as the parameter FMT of the hardware

_SIGN = np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_NAN = np.uint32(0x7FC00000)


def flush(x: Words) -> Words:
    """Subnormals to zero of their sign, every NaN to 7fc00000."""
    flushed = np.where(x & _EXPONENT == 0, x & _SIGN, x)
    return np.where(x & ~_SIGN > _EXPONENT, _NAN, flushed)


def add_fp32(a: Words, b: Words) -> Words:
    """Sum of the numbers whose bits are a and b, rounded to nearest even; subnormals are zero."""
    with np.errstate(all="ignore"):
        total = flush(a).view(np.float32) + flush(b).view(np.float32)
    return flush(total.view(np.uint32))


def add_int32(a: Words, b: Words) -> Words:
    """Sum of two's complement numbers; beyond the range the nearest end of it."""
    total = a.view(np.int32).astype(np.int64) + b.view(np.int32)
    return np.clip(total, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint32)


def round_bf16(x: Words) -> NDArray[np.uint16]:
    """The nearest bf16 of fp32 bits, ties to even; NaN to 7fc0."""
    wide = x.astype(np.uint64)
    rounded = (wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(x & ~_SIGN > _EXPONENT, np.uint64(0x7FC0), rounded).astype(np.uint16)


def tree_add(data: Words, member: NDArray[np.bool_], fmt: str = "fp32") -> Words:
    """Sum over the ports in heap order: port i is node P-1+i, node k = node 2k+1 + node 2k+2.

    data:   (beats, ports, words) bits; for bf16 each word is two numbers, the first one low
    member: (beats, ports); others contribute -0.0, for int32 0
    returns (beats, words)
    """
    ports = data.shape[1]
    if fmt == "bf16":
        halves = np.ascontiguousarray(data).view(np.uint16)
        data = halves.astype(np.uint32) << np.uint32(16)
    absent = np.uint32(0) if fmt == "int32" else _SIGN
    add = add_int32 if fmt == "int32" else add_fp32
    node = [data[:, 0]] * (ports - 1)
    node += [np.where(member[:, i, None], data[:, i], absent) for i in range(ports)]
    for k in range(ports - 2, -1, -1):
        node[k] = add(node[2 * k + 1], node[2 * k + 2])
    if fmt == "bf16":
        return np.ascontiguousarray(round_bf16(node[0])).view(np.uint32)
    return node[0]
