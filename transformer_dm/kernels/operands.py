"""What the native kernels take: tensors of one type and the shapes that go together."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from common import large_tensors, native
from common.native import NativeFunction
from transformer_dm import philox

#: Type of elements: the ending of an entry point's name, and what C calls the type.
_TYPES = {torch.float32: ("fp32", "float"), torch.bfloat16: ("bf16", "uint16_t")}
_ABSENT = {dtype: torch.empty(0, dtype=dtype) for dtype in _TYPES}
_NO_BITS = torch.empty(0, dtype=torch.int32)


def bind(library: native.Library, prototype: str, dtype: torch.dtype) -> NativeFunction:
    """The entry point for elements of `dtype`.

    prototype: its name without the ending; pointers to elements are written E*

    Raises TypeError for a type no kernel has.
    """
    if dtype not in _TYPES:
        raise TypeError(
            f"kernels take float32 and bfloat16, got {dtype}: convert, or use "
            "transformer_dm.reference"
        )
    text, carried = _spell(prototype, dtype)
    return library.function(text, dtypes=carried)


@functools.cache
def _spell(prototype: str, dtype: torch.dtype) -> tuple[str, dict[str, str]]:
    suffix, ctype = _TYPES[dtype]
    names = re.findall(r"\bE\* (\w+)", prototype)
    carried = {} if dtype is torch.float32 else dict.fromkeys(names, "bfloat16")
    name, parenthesis, parameters = prototype.partition("(")
    return f"{name}_{suffix}{parenthesis}" + re.sub(r"\bE\*", f"{ctype}*", parameters), carried


def absent(like: Tensor) -> Tensor:
    """An operand that is not there: C sees NULL."""
    return _ABSENT[like.dtype]


def or_absent(tensor: Tensor | None, like: Tensor) -> Tensor:
    return _ABSENT[like.dtype] if tensor is None else tensor


def new_like(x: Tensor) -> Tensor:
    """A new tensor of x's shape and type for a kernel to fill."""
    return large_tensors.empty(x.shape, x.dtype)


def rows_and_columns(name: str, x: Tensor) -> tuple[int, int]:
    """(number of rows, length of a row): the last dimension is a row.

    Raises ValueError if there is none, or nothing in it.
    """
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must have rows of at least one element, got {tuple(x.shape)}")
    return x.numel() // x.shape[-1], x.shape[-1]


def check_shape(name: str, tensor: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless the tensor, if there is one, has this shape."""
    if tensor is not None and tensor.shape != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")


def check_bits(bits: Tensor, n_rows: int, columns: int, p: float) -> float:
    """The factor of what dropout keeps.

    Raises ValueError if the mask is not of that many rows and columns, or p not a probability.
    """
    drops = philox.threshold(p) > 0
    wanted = (n_rows, philox.padded_columns(columns) // 32) if drops else (0,)
    if bits.shape != wanted:
        raise ValueError(
            f"bits of {n_rows} rows of {columns} with p={p} must have shape {wanted}, "
            f"got {tuple(bits.shape)}"
        )
    return philox.scale(p)


def new_bits(n_rows: int, columns: int, dropped: int) -> Tensor:
    """Memory for a mask, or the empty tensor if nothing is dropped."""
    if dropped == 0:
        return _NO_BITS.clone()
    return torch.empty((n_rows, philox.padded_columns(columns) // 32), dtype=torch.int32)
