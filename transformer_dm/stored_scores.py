"""Attention as matrix products around a softmax, its scores in memory: plans "ours" and "paper".

Each head of each sequence is one product on the stacked projections as they lie, rows 3 H P apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from common import large_tensors
from common.gemm import gemm
from transformer_dm.kernels.attention import softmax_dropout_backward, softmax_dropout_forward

__all__ = ["backward", "forward"]

Backend = Literal["native", "auto"]


def forward(
    qkv: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    is_causal: bool,
    p: float,
    seed: int,
    backend: Backend,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As kernels.attention.attention_forward; returns o, and for backward the softmax before and
    after dropout, (B, H, L, L) each, and the mask's bits. The second is (0,) if nothing is dropped.
    """
    batch, length, _, heads, size = qkv.shape
    scores = large_tensors.empty((batch, heads, length, length), qkv.dtype)
    for b, h in _heads(qkv):
        gemm(qkv[b, :, 0, h], qkv[b, :, 1, h].t(), out=scores[b, h], backend=backend)
    probabilities, dropped, bits = softmax_dropout_forward(
        scores, key_mask, mask, is_causal, 1 / math.sqrt(size), p, seed
    )
    o = large_tensors.empty((batch, length, heads, size), qkv.dtype)
    for b, h in _heads(qkv):
        gemm(dropped[b, h], qkv[b, :, 2, h], out=o[b, :, h], backend=backend)
    return o, probabilities, qkv.new_empty(0) if dropped is probabilities else dropped, bits


def backward(
    d_o: Tensor,
    qkv: Tensor,
    probabilities: Tensor,
    dropped: Tensor,
    bits: Tensor,
    p: float,
    backend: Backend,
) -> Tensor:
    """The gradient of qkv, from forward's results and d_o (B, L, H, P)."""
    size = qkv.shape[-1]
    if not dropped.numel():
        dropped = probabilities
    d_qkv = large_tensors.empty(qkv.shape, qkv.dtype)
    d_dropped = large_tensors.empty(probabilities.shape, qkv.dtype)
    for b, h in _heads(qkv):
        gemm(d_o[b, :, h], qkv[b, :, 2, h].t(), out=d_dropped[b, h], backend=backend)
        gemm(dropped[b, h].t(), d_o[b, :, h], out=d_qkv[b, :, 2, h], backend=backend)
    d_scores = softmax_dropout_backward(d_dropped, probabilities, bits, 1 / math.sqrt(size), p)
    for b, h in _heads(qkv):
        gemm(d_scores[b, h], qkv[b, :, 1, h], out=d_qkv[b, :, 0, h], backend=backend)
        gemm(d_scores[b, h].t(), qkv[b, :, 0, h], out=d_qkv[b, :, 1, h], backend=backend)
    return d_qkv


def _heads(qkv: Tensor) -> Iterator[tuple[int, int]]:
    return ((b, h) for b in range(qkv.shape[0]) for h in range(qkv.shape[3]))
