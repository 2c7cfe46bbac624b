"""Multi-head attention in plain torch, score by score as the equations say.

For any floating-point type and for autograd. Dropout masks are those of the kernels (philox.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transformer_dm import philox

__all__ = [
    "attention_backward",
    "attention_forward",
    "keep_mask",
    "softmax_dropout_backward",
    "softmax_dropout_forward",
]


def attention_forward(
    qkv: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """o (B, L, H, P) and lse (B, H, L), both of qkv's type; arguments as the kernel's."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, L, P) each
    scores = q @ k.transpose(-1, -2)
    scale = 1 / math.sqrt(qkv.shape[-1])
    _, dropped, _ = softmax_dropout_forward(scores, key_mask, mask, causal, scale, p, seed)
    lse = torch.logsumexp(_masked(scores * scale, key_mask, mask, causal), dim=-1)
    return (dropped @ v).transpose(1, 2), lse


def attention_backward(
    d_o: Tensor,
    qkv: Tensor,
    o: Tensor | None,
    lse: Tensor | None,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """d_qkv and d_bias (3 H P,) by autograd; o and lse, which the kernel wants, may be None."""
    del o, lse
    with torch.enable_grad():
        leaf = qkv.detach().requires_grad_()
        o, _ = attention_forward(leaf, key_mask, mask, causal, p, seed)
        (d_qkv,) = torch.autograd.grad(o, leaf, d_o)
    return d_qkv, d_qkv.sum(dim=(0, 1)).flatten()


def softmax_dropout_forward(
    scores: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """probabilities and dropped (B, H, L, L), and the kept elements as bool of that shape."""
    scores = _masked(scores * scale, key_mask, mask, causal)
    # A row of nothing but -inf has no softmax; zeros, with gradient zero, are what we define.
    is_empty = (scores == -math.inf).all(dim=-1, keepdim=True)
    probabilities = torch.softmax(scores.masked_fill(is_empty, 0), dim=-1).masked_fill(is_empty, 0)
    kept = keep_mask(scores.shape, p, seed)
    return probabilities, torch.where(kept, probabilities * philox.scale(p), 0), kept


def softmax_dropout_backward(
    d_dropped: Tensor, probabilities: Tensor, kept: Tensor, scale: float, p: float
) -> Tensor:
    """Gradient of the scores; `kept` as softmax_dropout_forward returns it."""
    d = torch.where(kept, d_dropped * philox.scale(p), 0)
    return scale * probabilities * (d - (d * probabilities).sum(dim=-1, keepdim=True))


def keep_mask(shape: tuple[int, ...], p: float, seed: int) -> Tensor:
    """Which of the scores (B, H, L, L) dropout keeps."""
    batch, heads, length, _ = shape
    kept = philox.keep_mask(batch * heads * length, length, p, seed, philox.ATTENTION)
    return torch.from_numpy(kept).reshape(shape)


def _masked(scores: Tensor, key_mask: Tensor | None, mask: Tensor | None, causal: bool) -> Tensor:
    batch, heads, length, _ = scores.shape
    if mask is not None:
        scores = scores + (mask if mask.dim() == 2 else mask.view(batch, heads, length, length))
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -math.inf)
    if causal:
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores
