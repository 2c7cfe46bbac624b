"""Activation, bias, dropout and residual: the element-wise operators, by activation.cpp.

Tensors, masks, errors and threads are as in transformer_dm.kernels.norm; transformer_dm.reference
has the same functions in plain torch.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from common import native
from transformer_dm import philox
from transformer_dm.kernels.operands import (
    bind,
    check_bits,
    check_shape,
    new_bits,
    new_like,
    or_absent,
    rows_and_columns,
)

__all__ = [
    "Activation",
    "activation_backward",
    "activation_forward",
    "bias_forward",
    "bias_gradient",
    "dropout_backward",
    "dropout_forward",
    "elementwise_backward",
    "elementwise_forward",
    "residual_add",
]

Activation = Literal["relu", "gelu"]

_SOURCE = Path(__file__).with_name("activation.cpp")
_CODES: dict[str | None, int] = {
    None: 0,
    **{name: 1 + i for i, name in enumerate(get_args(Activation))},
}
_WORKSPACE = "int64_t activation_workspace(int64_t n_rows, int64_t columns)"
_FORWARD = (
    "void activation_forward(const E* x, const E* bias, const E* residual, E* out, int32_t* bits, "
    "float* workspace, int64_t n_rows, int64_t columns, int64_t activation, float scale, "
    "uint64_t seed, uint32_t stream, uint32_t threshold, int64_t threads)"
)
_BACKWARD = (
    "void activation_backward(const E* d, const E* x, const E* bias, const int32_t* bits, E* dx, "
    "float* d_bias, float* workspace, int64_t n_rows, int64_t columns, int64_t activation, "
    "float scale, int64_t threads)"
)
_ADD = "void activation_add(const E* x, const E* y, E* out, int64_t n, int64_t threads)"
_NO_BITS = torch.empty(0, dtype=torch.int32)
_NO_FLOATS = torch.empty(0)


@functools.cache
def _library(flags: tuple[str, ...] = ()) -> native.Library:
    return native.build("activation", [_SOURCE], openmp=True, flags=flags)


def _workspace(library: native.Library, n_rows: int, columns: int) -> Tensor:
    return torch.empty(library.function(_WORKSPACE)(n_rows, columns))


def _code(activation: str | None) -> int:
    code = _CODES.get(activation)
    if code is None:
        raise ValueError(f"activation must be relu or gelu, got {activation!r}")
    return code


def activation_forward(
    h: Tensor, bias: Tensor | None, activation: Activation, p: float, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """dropout(activation(h + bias)), T, and the bits of the mask. GELU is the exact, erf form."""
    _refuse_none(activation)
    return elementwise_forward(h, bias, None, activation, p, seed, stream)


def activation_backward(
    da: Tensor,
    h: Tensor,
    bias: Tensor | None,
    bits: Tensor,
    activation: Activation,
    p: float,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients of activation_forward: dh, T, and d_bias, (columns,) float32.

    in_place: write dh into da, and return that
    """
    _refuse_none(activation)
    return elementwise_backward(da, h, bias, bits, activation, p, in_place)


def _refuse_none(activation: str | None) -> None:
    if activation is None:
        raise ValueError(
            "activation must be relu or gelu, got None: use dropout_forward without one"
        )


def bias_forward(x: Tensor, bias: Tensor) -> Tensor:
    """x + bias (the paper's AIB with the three biases in one)."""
    return elementwise_forward(x, bias, None, None, 0.0, 0, 0)[0]


def bias_gradient(d: Tensor) -> Tensor:
    """Sum over rows, (columns,) float32 (the paper's BAOB and BAIB)."""
    return _backward(d, None, None, _NO_BITS, None, 1.0, None, wants_bias=True)


def residual_add(x: Tensor, y: Tensor) -> Tensor:
    """x + y (the paper's BEI)."""
    check_shape("y", y, x.shape)
    out = new_like(x)
    bind(_library(), _ADD, x.dtype)(x, y, out, x.numel(), torch.get_num_threads())
    return out


def dropout_forward(x: Tensor, p: float, seed: int, stream: int) -> tuple[Tensor, Tensor]:
    """dropout(x) and the bits of its mask."""
    return elementwise_forward(x, None, None, None, p, seed, stream)


def dropout_backward(d: Tensor, bits: Tensor, p: float) -> Tensor:
    """The gradient of x of dropout_forward."""
    n_rows, columns = rows_and_columns("d", d)
    scale, dx = check_bits(bits, n_rows, columns, p), new_like(d)
    _backward(d, None, None, bits, None, scale, dx, wants_bias=False)
    return dx


# ---- What they all are ----


def elementwise_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: Activation | None,
    p: float,
    seed: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    """residual + dropout(activation(x + bias)), T, and the bits of the mask.

    Any of the three may be None, and p = 0 leaves dropout out.
    """
    n_rows, columns = rows_and_columns("x", x)
    check_shape("bias", bias, (columns,))
    check_shape("residual", residual, x.shape)
    code, dropped, library = _code(activation), philox.threshold(p), _library()
    function = bind(library, _FORWARD, x.dtype)
    out, bits = new_like(x), new_bits(n_rows, columns, dropped)
    function(
        x,
        or_absent(bias, x),
        or_absent(residual, x),
        out,
        bits,
        _workspace(library, 0, columns),
        n_rows,
        columns,
        code,
        philox.scale(p),
        seed % 2**64,
        stream,
        dropped,
        torch.get_num_threads(),
    )
    return out, bits


def elementwise_backward(
    d: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    bits: Tensor,
    activation: Activation | None,
    p: float,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients of elementwise_forward: dx, T, and d_bias, (columns,) float32.

    x: may be None without an activation
    """
    n_rows, columns = rows_and_columns("d", d)
    scale = check_bits(bits, n_rows, columns, p)
    dx = d if in_place else new_like(d)
    return dx, _backward(d, x, bias, bits, activation, scale, dx, wants_bias=True)


def _backward(
    d: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    bits: Tensor,
    activation: Activation | None,
    scale: float,
    dx: Tensor | None,
    *,
    wants_bias: bool,
) -> Tensor:
    n_rows, columns = rows_and_columns("d", d)
    check_shape("h", x, d.shape)
    check_shape("bias", bias, (columns,))
    code, library = _code(activation), _library()
    d_bias = torch.empty(columns) if wants_bias else _NO_FLOATS
    bind(library, _BACKWARD, d.dtype)(
        d,
        or_absent(x, d),
        or_absent(bias, d),
        bits,
        or_absent(dx, d),
        d_bias,
        _workspace(library, n_rows, columns),
        n_rows,
        columns,
        code,
        scale,
        torch.get_num_threads(),
    )
    return d_bias
