"""Gradients as packets carry them and back, in one pass where there is a compiler.

Each function gives the bits of panama.wire, which is what runs without one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from panama import wire
from panama.kernels import convert, tree_add

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


def encode(x: Float32, out: Array, exponent: int) -> None:
    """x (n,) as out's dtype says: uint16 is bf16, int32 fixed point in units of 2**exponent.

    Raises TypeError for a dtype that is no packet's.
    """
    format = wire.format_of(out.dtype).name
    if format == "fp32":
        out[:] = x
    elif not tree_add.available():
        out[:] = wire.to_bf16(x) if format == "bf16" else wire.to_fixed(x, exponent)
    elif format == "bf16":
        convert.functions()["to_bf16"](x, out, x.size)
    else:
        convert.functions()["to_fixed"](x, out, x.size, 2.0**-exponent)


def decode(q: Array, out: Float32, exponent: int, divisor: int) -> None:
    """out (n,) = the numbers q means, divided: the mean over so many workers."""
    format = wire.format_of(q.dtype).name
    if format == "fp32":
        np.divide(q, np.float32(divisor), out=out)
    elif not tree_add.available():
        wide = wire.from_bf16(q) if format == "bf16" else wire.from_fixed(q, exponent)
        np.divide(wide, np.float32(divisor), out=out)
    elif format == "bf16":
        convert.functions()["from_bf16"](q, out, q.size, float(divisor))
    else:
        convert.functions()["from_fixed"](q, out, q.size, 2.0**exponent, float(divisor))


def exponent_of(x: Float32, workers: int) -> int | None:
    """wire.scale_exponent, or None if x holds NaN or an infinity, which have no fixed point."""
    if tree_add.available():
        most = np.empty(1, np.float32)
        convert.functions()["largest"](x, most, x.size)
        x = most
    if not math.isfinite(float(np.abs(x).max(initial=0.0))):
        return None
    return wire.scale_exponent(x, workers)
