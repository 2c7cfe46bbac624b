"""The three number formats of packets, bit for bit, in numpy.

fp32:  IEEE addition, round to nearest even. Subnormals become zero of the same sign before and
       after every addition, every NaN becomes 0x7fc00000.
bf16:  the upper half of an fp32. Widened exactly, added as fp32, rounded to nearest even where a
       sum leaves a switch. Arrays of it are its bits, uint16, as numpy has no such type.
int32: fixed point, value = integer * 2**exponent, addition saturates. All workers take one
       exponent, agreed on before the message.
"""

import math
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
UInt16 = npt.NDArray[np.uint16]

NAN_FP32 = 0x7FC00000
NAN_BF16 = 0x7FC0
_EXPONENT = np.uint32(0x7F800000)
_SIGN = np.uint32(0x80000000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@attrs.frozen
class Format:
    """One number format.

    code: in the header;  dtype: of arrays;  identity: what a port without a child contributes
    """

    name: str
    code: int
    dtype: np.dtype[Any]
    identity: float

    @property
    def element_bytes(self) -> int:
        return self.dtype.itemsize


FORMATS = {
    "fp32": Format("fp32", 0, np.dtype(np.float32), -0.0),
    "bf16": Format("bf16", 1, np.dtype(np.uint16), -0.0),
    "int32": Format("int32", 2, np.dtype(np.int32), 0.0),
}
_BY_DTYPE = {format.dtype: format for format in FORMATS.values()}


def format_of(dtype: npt.DTypeLike) -> Format:
    """The format of arrays of a dtype. Raises TypeError naming any other dtype."""
    found = _BY_DTYPE.get(np.dtype(dtype))
    if found is None:
        raise TypeError(
            "payloads are float32, int32 or uint16 (the bits of bfloat16), "
            f"got {np.dtype(dtype)}: convert it first"
        )
    return found


def canonical(x: Float32) -> Float32:
    """x with subnormals as zeros of their sign and every NaN as 0x7fc00000."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    bits = np.where(bits & _EXPONENT == 0, bits & _SIGN, bits)
    bits = np.where(bits & _MAGNITUDE > _EXPONENT, np.uint32(NAN_FP32), bits)
    return bits.view(np.float32)


def add(a: Array, b: Array) -> Array:
    """What one adder gives, element by element: float32 by the rules of fp32, int32 saturating.

    (bf16 is added as float32.) Raises TypeError for other or unequal dtypes.
    """
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.int32):
        raise TypeError(f"adders take two float32 or two int32, got {a.dtype} and {b.dtype}")
    if a.dtype == np.int32:
        limits = np.iinfo(np.int32)
        return np.clip(a.astype(np.int64) + b, limits.min, limits.max).astype(np.int32)
    with np.errstate(all="ignore"):
        return canonical(canonical(a) + canonical(b))


def from_bf16(bits: UInt16) -> Float32:
    """The exact float32 of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: Float32) -> UInt16:
    """float32 to bfloat16 bits, to nearest even; subnormals to signed zero, NaN to 0x7fc0."""
    bits = canonical(x).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    # A NaN is canonical here, its lower half zero: it stays what it is.
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def scale_exponent(x: Float32, workers: int) -> int:
    """The smallest exponent at which no sum of `workers` arrays as large as x saturates.

    The workers agree on the largest of theirs. It fits the header's last field, and is -182 where
    all are zero. Raises ValueError for NaN and infinities, which fixed point does not have.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    largest = float(np.max(np.abs(x), initial=0.0))
    if not math.isfinite(largest):
        raise ValueError(
            "int32 needs finite values, got NaN or infinity: skip this step, or send fp32"
        )
    least = -149 - 33  # of the smallest positive float32, with room for one worker
    if largest == 0.0:
        return least
    # |x| < 2**e, and of the 31 bits below the sign the number of workers takes some.
    return max(least, math.frexp(largest)[1] - 30 + (workers - 1).bit_length())


def to_fixed(x: Float32, exponent: int) -> Int32:
    """x / 2**exponent, to nearest even, saturating. Raises ValueError for NaN."""
    scaled = np.ldexp(x.astype(np.float64), -exponent)
    if np.isnan(scaled).any():
        raise ValueError("int32 has no NaN: skip this step, or send fp32")
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(scaled), limits.min, limits.max).astype(np.int32)


def from_fixed(q: Int32, exponent: int) -> Float32:
    """q * 2**exponent, to the nearest float32."""
    return np.ldexp(q.astype(np.float64), exponent).astype(np.float32)
