"""The encoder layer in plain torch, any floating type, with the dropout masks of the kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from common import torch_ops
from transformer_dm import masks, philox
from transformer_dm.options import Options

__all__ = ["dropout", "encoder_layer"]


def encoder_layer(
    src: Tensor,
    parameters: Sequence[Tensor | None],
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    options: Options,
    seed: Tensor | None,
) -> Tensor:
    """What the fused layer computes, (B, L, N), one torch operator after another.

    parameters: as transformer_dm.ops.run takes them; masks: as nn.TransformerEncoderLayer's
    seed: (), int64; None if nothing is dropped

    A query whose keys are all masked attends to nothing and gets zeros, where torch gives NaN.
    """
    in_w, in_b, out_w, out_b, w1, b1, w2, b2, g1, beta1, g2, beta2 = parameters
    assert in_w is not None
    assert out_w is not None
    assert w1 is not None
    assert w2 is not None
    n = src.shape[-1]
    act = functional.relu if options.activation == "relu" else functional.gelu
    _, after_attention, activation, after_linear2 = options.rates

    def attend(x: Tensor) -> Tensor:
        qkv = functional.linear(x, in_w, in_b)
        o = _attention(qkv, src_mask, key_padding_mask, options, seed)
        return dropout(functional.linear(o, out_w, out_b), after_attention, seed, 1)

    def feed_forward(x: Tensor) -> Tensor:
        hidden = dropout(act(functional.linear(x, w1, b1)), activation, seed, 2)
        return dropout(functional.linear(hidden, w2, b2), after_linear2, seed, 3)

    def norm(x: Tensor, which: int) -> Tensor:
        weight, bias = ((g1, beta1), (g2, beta2))[which]
        return functional.layer_norm(x, (n,), weight, bias, options.eps[which])

    if options.norm_first:
        x = src + attend(norm(src, 0))
        return x + feed_forward(norm(x, 1))
    x = norm(src + attend(src), 0)
    return norm(x + feed_forward(x), 1)


def _attention(
    qkv: Tensor,
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    options: Options,
    seed: Tensor | None,
) -> Tensor:
    batch, length, n = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    by_head = qkv.view(batch, length, 3, options.heads, n // options.heads)
    query, key, value = by_head.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, P) each
    scores = query @ key.transpose(-1, -2) / math.sqrt(n // options.heads)
    if src_mask is not None:
        by_query = masks.additive(src_mask, qkv.dtype)
        if by_query.dim() == 3:
            by_query = by_query.view(batch, options.heads, length, length)
        scores = scores + by_query
    if key_padding_mask is not None:
        scores = scores + masks.additive(key_padding_mask, qkv.dtype)[:, None, None, :]
    if options.is_causal:
        later = torch.ones(length, length, dtype=torch.bool, device=qkv.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    # A softmax over nothing is NaN, in its gradient too.
    is_empty = (scores == -torch.inf).all(-1, keepdim=True)
    probabilities = torch.softmax(scores.masked_fill(is_empty, 0.0), -1)
    probabilities = probabilities.masked_fill(is_empty, 0.0)
    dropped = dropout(probabilities, options.rates[0], seed, 0)
    return (dropped @ value).transpose(1, 2).reshape(batch, length, n)


def dropout(x: Tensor, p: float, seed: Tensor | None, stream: int) -> Tensor:
    """Zero what philox's mask of this seed and stream drops, scale what it keeps."""
    if not philox.threshold(p) or not x.numel():
        return x
    assert seed is not None
    columns = x.shape[-1]
    kept = keep_mask(seed, x.numel() // max(columns, 1), columns, p, stream)
    dropped: Tensor = x * (kept.view(x.shape).to(x) * philox.scale(p))
    return dropped


def _keep_mask(seed: Tensor, rows: int, columns: int, p: float, stream: int) -> Tensor:
    return torch.from_numpy(philox.keep_mask(rows, columns, p, int(seed), stream))


def _fake_keep_mask(seed: Tensor, rows: int, columns: int, p: float, stream: int) -> Tensor:
    return seed.new_empty((rows, columns), dtype=torch.bool)


keep_mask = torch_ops.register(
    "transformer_dm::keep_mask",
    "(Tensor seed, SymInt rows, SymInt columns, float p, int stream) -> Tensor",
    _keep_mask,
    _fake_keep_mask,
)
