"""Layer normalisation with its bias, dropout and residual: see transformer_dm.kernels.norm."""

from __future__ import annotations

from torch import Tensor

from transformer_dm import philox
from transformer_dm.reference import activation, masks


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
    """y, xhat, rstd (R,), the bits of the mask, and total = residual + dropout(x + bias)."""
    total, bits = dropout_residual_forward(x, bias, residual, p, seed, stream)
    y, xhat, rstd = layernorm_forward(total, gamma, beta, eps)
    return y, xhat, rstd, bits, total if want_sum else None


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
    """d_residual, dx, d_gamma, d_beta, d_bias."""
    d = dy if dy2 is None else dy + dy2
    d_residual, d_gamma, d_beta = layernorm_backward(d, d_total, xhat, rstd, gamma)
    dx, d_bias = dropout_residual_backward(d_residual, bits, p)
    return d_residual, dx, d_gamma, d_beta, d_bias


def layernorm_forward(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, xhat and rstd (R,)."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    xhat = centred * rstd
    y = xhat if gamma is None else xhat * gamma
    return y if beta is None else y + beta, xhat, rstd.reshape(-1)


def layernorm_backward(
    dy: Tensor, d_total: Tensor | None, xhat: Tensor, rstd: Tensor, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, d_gamma and d_beta."""
    g, d_gamma, d_beta, _ = backward_scale(dy, None, xhat, gamma)
    dx, _ = backward_normalize(g, xhat, rstd, xhat.new_empty(0), 0.0)
    return dx if d_total is None else dx + d_total, d_gamma, d_beta


def dropout_residual_forward(
    x: Tensor, bias: Tensor | None, residual: Tensor, p: float, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """residual + dropout(x + bias) and the bits of the mask."""
    return activation.elementwise_forward(x, bias, residual, None, p, seed, stream)


def dropout_residual_backward(d_total: Tensor, bits: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """dx and d_bias."""
    return activation.elementwise_backward(d_total, None, None, bits, None, p)


def backward_scale(
    dy: Tensor,
    dy2: Tensor | None,
    xhat: Tensor,
    gamma: Tensor | None,
    d_linear: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """d_xhat, d_gamma, d_beta, and the sum of d_linear if it is given."""
    d = dy if dy2 is None else dy + dy2
    d_bias = None if d_linear is None else activation.bias_gradient(d_linear)
    d_gamma, d_beta = activation.bias_gradient(d * xhat), activation.bias_gradient(d)
    return d if gamma is None else d * gamma, d_gamma, d_beta, d_bias


def backward_normalize(
    d_xhat: Tensor, xhat: Tensor, rstd: Tensor, bits: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """d_residual and dx."""
    slope = (d_xhat * xhat).mean(-1, keepdim=True)
    spread = rstd.reshape(*xhat.shape[:-1], 1)
    d_residual = spread * (d_xhat - d_xhat.mean(-1, keepdim=True) - xhat * slope)
    if philox.threshold(p) == 0:
        return d_residual, d_residual
    return d_residual, masks.apply(d_residual, bits, p)
