"""Activation, bias, dropout and residual: see transformer_dm.kernels.activation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformer_dm.kernels.activation import Activation
from transformer_dm.reference import masks


def activation_forward(
    h: Tensor, bias: Tensor | None, activation: Activation, p: float, seed: int, stream: int
) -> tuple[Tensor, Tensor]:
    """dropout(activation(h + bias)) and the bits of the mask."""
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
    """dh and d_bias."""
    return elementwise_backward(da, h, bias, bits, activation, p, in_place)


def bias_forward(x: Tensor, bias: Tensor) -> Tensor:
    """x + bias."""
    return x + bias


def bias_gradient(d: Tensor) -> Tensor:
    """Sum over rows, (columns,)."""
    return d.reshape(-1, d.shape[-1]).sum(0)


def residual_add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


def dropout_forward(x: Tensor, p: float, seed: int, stream: int) -> tuple[Tensor, Tensor]:
    """dropout(x) and the bits of the mask."""
    return elementwise_forward(x, None, None, None, p, seed, stream)


def dropout_backward(d: Tensor, bits: Tensor, p: float) -> Tensor:
    """dx."""
    return masks.apply(d, bits, p)


def elementwise_forward(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: Activation | None,
    p: float,
    seed: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    """residual + dropout(activation(x + bias)) and the bits of the mask."""
    columns = x.shape[-1]
    out = x if bias is None else x + bias
    if activation is not None:
        out = torch.relu(out) if activation == "relu" else torch.nn.functional.gelu(out)
    bits = masks.draw_bits(x.numel() // columns, columns, p, seed, stream)
    out = masks.apply(out, bits, p)
    return out if residual is None else residual + out, bits


def elementwise_backward(
    d: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    bits: Tensor,
    activation: Activation | None,
    p: float,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """dx and d_bias."""
    dx = masks.apply(d, bits, p)
    if activation is not None and x is not None:
        z = x if bias is None else x + bias
        dx = torch.where(z <= 0, 0, dx) if activation == "relu" else dx * _gelu_slope(z)
    dx = d.copy_(dx) if in_place else dx
    return dx, bias_gradient(dx)


def _gelu_slope(x: Tensor) -> Tensor:
    below = 0.5 * torch.erfc(-x / math.sqrt(2))
    # Beyond 50 it is 0 in float64 too, and infinity times 0 would not be.
    near = x.clamp(-50, 50)
    return below + near * torch.exp(-0.5 * near.square()) / math.sqrt(2 * math.pi)
