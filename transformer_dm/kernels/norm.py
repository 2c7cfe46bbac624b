"""Layer normalisation fused with the bias, dropout and residual around it, by norm.cpp.

Tensors are contiguous, float32 or bfloat16 (T), of any number of dimensions; the last is a row of N
elements, the others together R rows. Statistics and gradients of parameters are float32. Nothing is
recorded for autograd. transformer_dm.reference.norm has the same functions in plain torch.

    total = residual + dropout(x + bias)
    xhat = (total - mean) * rstd,  rstd = 1 / sqrt(variance + eps)
    y = xhat * gamma + beta

seed and stream choose the mask (transformer_dm.philox). It is returned as bits for the backward:
(R, N rounded up to 128, / 32) int32, or empty, (0,), if p rounds to 0. Results have the same bits
for any number of threads.

Raise TypeError for other types and ValueError for shapes that do not fit.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from common import native
from transformer_dm import philox
from transformer_dm.kernels import activation
from transformer_dm.kernels.operands import (
    absent,
    bind,
    check_bits,
    check_shape,
    new_bits,
    new_like,
    or_absent,
    rows_and_columns,
)

__all__ = [
    "backward_normalize",
    "backward_scale",
    "bdrln_backward",
    "bdrln_forward",
    "dropout_residual_backward",
    "dropout_residual_forward",
    "layernorm_backward",
    "layernorm_forward",
]

_SOURCE = Path(__file__).with_name("norm.cpp")
_WORKSPACE = "int64_t norm_workspace(int64_t n_rows, int64_t columns, int64_t threads)"
_FORWARD = (
    "void norm_forward(const E* x, const E* bias, const E* residual, const E* gamma, "
    "const E* beta, E* y, E* xhat, float* rstd, int32_t* bits, E* total, float* workspace, "
    "int64_t n_rows, int64_t columns, float eps, float scale, uint64_t seed, uint32_t stream, "
    "uint32_t threshold, int64_t threads)"
)
_BACKWARD = (
    "void norm_backward(const E* dy, const E* dy2, const E* d_total, const E* xhat, "
    "const float* rstd, const E* gamma, const int32_t* bits, E* dr, E* dx, float* d_gamma, "
    "float* d_beta, float* d_bias, float* workspace, int64_t n_rows, int64_t columns, "
    "float scale, int64_t threads)"
)
_BACKWARD_SCALE = (
    "void norm_backward_scale(const E* dy, const E* dy2, const E* xhat, const E* gamma, "
    "const E* d_linear, E* g, float* d_gamma, float* d_beta, float* d_bias, float* workspace, "
    "int64_t n_rows, int64_t columns, int64_t threads)"
)
_BACKWARD_NORMALIZE = (
    "void norm_backward_normalize(const E* g, const E* xhat, const float* rstd, "
    "const int32_t* bits, E* dr, E* dx, int64_t n_rows, int64_t columns, float scale, "
    "int64_t threads)"
)
_NO_FLOATS = torch.empty(0)


@functools.cache
def _library(flags: tuple[str, ...] = ()) -> native.Library:
    return native.build("norm", [_SOURCE], openmp=True, flags=flags)


def _workspace(library: native.Library, n_rows: int, columns: int, threads: int) -> Tensor:
    return torch.empty(library.function(_WORKSPACE)(n_rows, columns, threads))


def bdrln_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    p: float,
    seed: int,
    stream: int,
    eps: float,
    want_sum: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Bias, dropout, residual and layer normalisation in one pass.

    x, residual: T; bias, gamma, beta: (N,) T

    returns y, xhat: T; rstd: (R,) float32; bits; total if want_sum, else None
    """
    check_shape("x", x, residual.shape)
    return _forward(x, bias, residual, gamma, beta, p, seed, stream, eps, want_sum)


def layernorm_forward(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation alone: y, xhat and rstd as of bdrln_forward with total = x."""
    y, xhat, rstd, _, _ = _forward(None, None, x, gamma, beta, 0.0, 0, 0, eps, False)
    return y, xhat, rstd


def _forward(
    x: Tensor | None,
    bias: Tensor | None,
    residual: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    p: float,
    seed: int,
    stream: int,
    eps: float,
    want_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    n_rows, columns = rows_and_columns("residual", residual)
    for name, parameter in (("bias", bias), ("gamma", gamma), ("beta", beta)):
        check_shape(name, parameter, (columns,))
    dropped, library, threads = philox.threshold(p), _library(), torch.get_num_threads()
    function = bind(library, _FORWARD, residual.dtype)
    y, xhat = new_like(residual), new_like(residual)
    total = new_like(residual) if want_sum else None
    rstd, bits = torch.empty(n_rows), new_bits(n_rows, columns, dropped)
    function(
        or_absent(x, residual),
        or_absent(bias, residual),
        residual,
        or_absent(gamma, residual),
        or_absent(beta, residual),
        y,
        xhat,
        rstd,
        bits,
        or_absent(total, residual),
        _workspace(library, n_rows, columns, threads),
        n_rows,
        columns,
        float(eps),
        philox.scale(p),
        seed % 2**64,
        stream,
        dropped,
        threads,
    )
    return y, xhat, rstd, bits, total


def bdrln_backward(
    dy: Tensor,
    dy2: Tensor | None,
    d_total: Tensor | None,
    xhat: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    bits: Tensor,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of bdrln_forward, in one pass.

    dy: T, the gradient of y; dy2: another part of it; d_total: a gradient that reaches total from
    elsewhere

    returns d_residual, dx: T; d_gamma, d_beta, d_bias: (N,) float32. Without dropout dx is
    d_residual, the same tensor.
    """
    n_rows, columns = rows_and_columns("dy", dy)
    scale = check_bits(bits, n_rows, columns, p)
    d_residual, d_gamma, d_beta = _new_gradients(dy, columns)
    dx = new_like(dy) if bits.numel() else None
    d_bias = torch.empty(columns)
    _backward(
        dy, dy2, d_total, xhat, rstd, gamma, bits, d_residual, dx, d_gamma, d_beta, d_bias, scale
    )
    # A mask of no rows is empty too, and then there is no need to tell the two apart.
    return d_residual, d_residual if dx is None else dx, d_gamma, d_beta, d_bias


def layernorm_backward(
    dy: Tensor, d_total: Tensor | None, xhat: Tensor, rstd: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of layernorm_forward; d_total is added to that of x.

    returns dx: T; d_gamma, d_beta: (N,) float32
    """
    _, columns = rows_and_columns("dy", dy)
    dx, d_gamma, d_beta = _new_gradients(dy, columns)
    bits = torch.empty(0, dtype=torch.int32)
    _backward(
        dy, None, d_total, xhat, rstd, gamma, bits, dx, None, d_gamma, d_beta, _NO_FLOATS, 1.0
    )
    return dx, d_gamma, d_beta


def _new_gradients(dy: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    return new_like(dy), torch.empty(columns), torch.empty(columns)


def _backward(
    dy: Tensor,
    dy2: Tensor | None,
    d_total: Tensor | None,
    xhat: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    bits: Tensor,
    d_residual: Tensor,
    dx: Tensor | None,
    d_gamma: Tensor,
    d_beta: Tensor,
    d_bias: Tensor,
    scale: float,
) -> None:
    n_rows, columns = rows_and_columns("dy", dy)
    for name, tensor in (("dy2", dy2), ("d_total", d_total), ("xhat", xhat)):
        check_shape(name, tensor, dy.shape)
    check_shape("rstd", rstd, (n_rows,))
    check_shape("gamma", gamma, (columns,))
    library, threads = _library(), torch.get_num_threads()
    bind(library, _BACKWARD, dy.dtype)(
        dy,
        or_absent(dy2, dy),
        or_absent(d_total, dy),
        xhat,
        rstd,
        or_absent(gamma, dy),
        bits,
        d_residual,
        or_absent(dx, dy),
        d_gamma,
        d_beta,
        d_bias,
        _workspace(library, n_rows, columns, threads),
        n_rows,
        columns,
        scale,
        threads,
    )


def dropout_residual_forward(
    x: Tensor, bias: Tensor | None, residual: Tensor, p: float, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """residual + dropout(x + bias) and the bits of the mask."""
    return activation.elementwise_forward(x, bias, residual, None, p, seed, stream)


def dropout_residual_backward(d_total: Tensor, bits: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The gradients of dropout_residual_forward: dx, T, and d_bias, (N,) float32.

    That of the residual is d_total; without dropout dx is d_total too, the same tensor.
    """
    if philox.threshold(p) == 0:
        return d_total, activation.bias_gradient(d_total)
    return activation.elementwise_backward(d_total, None, None, bits, None, p)


# ---- The halves of the backward, as the paper's set of kernels has them ----


def backward_scale(
    dy: Tensor,
    dy2: Tensor | None,
    xhat: Tensor,
    gamma: Tensor | None,
    d_linear: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Backward of the scale and shift (the paper's BSB; with dy2 and d_linear its EBSB).

    d_linear: gradient of a biased tensor whose sum over rows is wanted too

    returns d_xhat = (dy + dy2) * gamma: T; d_gamma, d_beta: (N,) float32; d_bias, float32, the sum
    of d_linear, or None without it
    """
    n_rows, columns = rows_and_columns("dy", dy)
    check_shape("dy2", dy2, dy.shape)
    check_shape("xhat", xhat, dy.shape)
    check_shape("gamma", gamma, (columns,))
    check_shape("d_linear", d_linear, dy.shape)
    d_xhat, d_gamma, d_beta = _new_gradients(dy, columns)
    d_bias = None if d_linear is None else torch.empty(columns)
    library, threads = _library(), torch.get_num_threads()
    bind(library, _BACKWARD_SCALE, dy.dtype)(
        dy,
        or_absent(dy2, dy),
        xhat,
        or_absent(gamma, dy),
        or_absent(d_linear, dy),
        d_xhat,
        d_gamma,
        d_beta,
        _NO_FLOATS if d_bias is None else d_bias,
        _workspace(library, n_rows, columns, threads),
        n_rows,
        columns,
        threads,
    )
    return d_xhat, d_gamma, d_beta, d_bias


def backward_normalize(
    d_xhat: Tensor, xhat: Tensor, rstd: Tensor, bits: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """Backward of the normalisation and of the dropout before it (the paper's BLNRD).

    returns d_residual and dx, both T; without dropout they are the same tensor
    """
    n_rows, columns = rows_and_columns("d_xhat", d_xhat)
    check_shape("xhat", xhat, d_xhat.shape)
    check_shape("rstd", rstd, (n_rows,))
    scale = check_bits(bits, n_rows, columns, p)
    d_residual = new_like(d_xhat)
    dx = new_like(d_xhat) if bits.numel() else None
    bind(_library(), _BACKWARD_NORMALIZE, d_xhat.dtype)(
        d_xhat,
        xhat,
        rstd,
        bits,
        d_residual,
        absent(d_xhat) if dx is None else dx,
        n_rows,
        columns,
        scale,
        torch.get_num_threads(),
    )
    return d_residual, d_residual if dx is None else dx
