"""Multi-head attention with dropout in one kernel, which never stores the scores.

    o, lse = attention_forward(qkv, key_mask, mask, causal, p, seed)
    d_qkv, d_bias = attention_backward(d_o, qkv, o, lse, key_mask, mask, causal, p, seed)

attention.cpp has the equations and layouts, reference/attention.py the plain version. Memory grows
with the length, not its square; which elements are dropped is computed again in backward
(philox.py, stream ATTENTION). All results have the same bits for any number of threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from common import large_tensors, native
from transformer_dm import philox

__all__ = [
    "attention_backward",
    "attention_forward",
    "softmax_dropout_backward",
    "softmax_dropout_forward",
]

_SOURCE = Path(__file__).with_name("attention.cpp")
_ENTRIES = {torch.float32: ("fp32", "float"), torch.bfloat16: ("bf16", "uint16_t")}
_LEVELS = 2**16

_SIZES = "int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t how"
_DROPOUT = "int64_t threshold, float scale, int64_t seed, int64_t threads"
_PROTOTYPES = {
    "forward": (
        "void attention_forward_{}(const {}* qkv, const uint8_t* keys, const float* mask, {}* o, "
        f"float* lse, float* workspace, {_SIZES}, {_DROPOUT})"
    ),
    "backward": (
        "void attention_backward_{}(const {}* d_o, const {}* qkv, const {}* o, const float* lse, "
        "const uint8_t* keys, const float* mask, {}* d_qkv, float* d_bias, float* sums, "
        f"float* workspace, {_SIZES}, {_DROPOUT})"
    ),
    "softmax_forward": (
        "void softmax_forward_{}(const {}* scores, const uint8_t* keys, const float* mask, "
        "{}* probabilities, {}* dropped, uint32_t* bits, float* workspace, int64_t batch, "
        f"int64_t length, int64_t heads, int64_t how, float factor, {_DROPOUT})"
    ),
    "softmax_backward": (
        "void softmax_backward_{}(const {}* d_dropped, const {}* probabilities, "
        "const uint32_t* bits, {}* d_scores, int64_t n, int64_t length, float factor, "
        "float scale, int64_t threads)"
    ),
}


def attention_forward(
    qkv: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(P) + masks), dropped out with probability p, times V.

    qkv: (B, L, 3, H, P) float32 or bfloat16; key_mask: (B, L) bool, True = may be attended to
    mask: (L, L) or (B H, L, L) float32, added to the scores; causal: no key after its query
    returns: o (B, L, H, P) of qkv's type, and lse (B, H, L) float32, the logarithm of the sum of
    the exponentials before dropout

    A query with no key left gets o = 0 and lse = -inf. NaN spreads to all it has a part in.

    Raises TypeError or ValueError naming the tensor that does not fit.
    """
    _check(qkv, key_mask, mask)
    batch, length, _, heads, size = qkv.shape
    threshold = philox.threshold(p)
    o = large_tensors.empty((batch, length, heads, size), qkv.dtype)
    lse = torch.empty((batch, heads, length), dtype=torch.float32)
    if qkv.numel() == 0:
        return o.zero_(), lse.zero_()
    qkv, key_mask, mask = qkv.contiguous(), _contiguous(key_mask), _contiguous(mask)
    threads = min(torch.get_num_threads(), batch * heads)
    _function("forward", qkv.dtype)(
        qkv.data_ptr(),
        _address(key_mask),
        _address(mask),
        o.data_ptr(),
        lse.data_ptr(),
        _workspace(threads * _floats(False, qkv, mask)),
        batch,
        length,
        heads,
        size,
        _how(causal, mask),
        threshold % _LEVELS,
        philox.scale(p),
        _signed(seed),
        threads,
    )
    return o, lse


def attention_backward(
    d_o: Tensor,
    qkv: Tensor,
    o: Tensor,
    lse: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv and of a bias added to it, from attention_forward's arguments and results.

    d_o: (B, L, H, P) of qkv's type
    returns: d_qkv (B, L, 3, H, P) of qkv's type, and d_bias (3 H P,) float32, the sum of d_qkv over
    all tokens before it is rounded to that type, in a fixed order

    Raises as attention_forward does.
    """
    _check(qkv, key_mask, mask)
    batch, length, _, heads, size = qkv.shape
    _check_like("d_o", d_o, (batch, length, heads, size), qkv.dtype)
    _check_like("o", o, (batch, length, heads, size), qkv.dtype)
    _check_like("lse", lse, (batch, heads, length), torch.float32)
    threshold = philox.threshold(p)
    n = 3 * heads * size
    if qkv.numel() == 0 or threshold == _LEVELS:
        return torch.zeros_like(qkv, memory_format=torch.contiguous_format), torch.zeros(n)
    d_qkv = large_tensors.empty(qkv.shape, qkv.dtype)
    d_bias = torch.empty(n)
    sums = torch.empty(batch, n)
    d_o, qkv, o, lse = d_o.contiguous(), qkv.contiguous(), o.contiguous(), lse.contiguous()
    key_mask, mask = _contiguous(key_mask), _contiguous(mask)
    threads = min(torch.get_num_threads(), batch * heads)
    _function("backward", qkv.dtype)(
        d_o.data_ptr(),
        qkv.data_ptr(),
        o.data_ptr(),
        lse.data_ptr(),
        _address(key_mask),
        _address(mask),
        d_qkv.data_ptr(),
        d_bias.data_ptr(),
        sums.data_ptr(),
        _workspace(threads * _floats(True, qkv, mask)),
        batch,
        length,
        heads,
        size,
        _how(causal, mask),
        threshold,
        philox.scale(p),
        _signed(seed),
        threads,
    )
    return d_qkv, d_bias


def softmax_dropout_forward(
    scores: Tensor,
    key_mask: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    p: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """softmax(scale * scores + masks) over the keys, and the same dropped out, for stored scores.

    scores: (B, H, L, L) float32 or bfloat16; the masks as in attention_forward
    returns: probabilities and dropped, of scores' type and shape, and the mask's bits
    (B H L, padded / 32) int32. If p rounds to 0, dropped is probabilities and bits (0,).

    The mask is that of attention_forward. Raises as it does.
    """
    _check_scores("scores", scores)
    batch, heads, length, _ = scores.shape
    _check_masks(key_mask, mask, batch, heads, length)
    threshold = philox.threshold(p)
    probabilities = large_tensors.empty(scores.shape, scores.dtype)
    words = philox.padded_columns(length) // 32
    rows = batch * heads * length
    bits = torch.empty((rows, words) if threshold else 0, dtype=torch.int32)
    drops = 0 < threshold < _LEVELS
    dropped = large_tensors.empty(scores.shape, scores.dtype) if drops else probabilities
    if threshold == _LEVELS:
        dropped, bits = torch.zeros_like(probabilities), bits.zero_()
    if scores.numel():
        scores, key_mask, mask = scores.contiguous(), _contiguous(key_mask), _contiguous(mask)
        threads = min(torch.get_num_threads(), rows)
        _function("softmax_forward", scores.dtype)(
            scores.data_ptr(),
            _address(key_mask),
            _address(mask),
            probabilities.data_ptr(),
            dropped.data_ptr(),
            bits.data_ptr(),
            _workspace(threads * (length + 32)),
            batch,
            length,
            heads,
            _how(causal, mask),
            scale,
            threshold % _LEVELS,
            philox.scale(p),
            _signed(seed),
            threads,
        )
    return probabilities, dropped, bits


def softmax_dropout_backward(
    d_dropped: Tensor, probabilities: Tensor, bits: Tensor, scale: float, p: float
) -> Tensor:
    """Gradient of the scores of softmax_dropout_forward, of their type.

    d_dropped, probabilities: (B, H, L, L)

    Raises as attention_forward does.
    """
    _check_scores("probabilities", probabilities)
    _check_like("d_dropped", d_dropped, tuple(probabilities.shape), probabilities.dtype)
    batch, heads, length, _ = probabilities.shape
    threshold = philox.threshold(p)
    rows = batch * heads * length
    words = philox.padded_columns(length) // 32
    _check_like("bits", bits, (rows, words) if threshold else (0,), torch.int32)
    if threshold == _LEVELS:
        return torch.zeros_like(probabilities, memory_format=torch.contiguous_format)
    d_scores = large_tensors.empty(probabilities.shape, probabilities.dtype)
    if probabilities.numel():
        d_dropped, probabilities = d_dropped.contiguous(), probabilities.contiguous()
        bits = bits.contiguous()
        _function("softmax_backward", probabilities.dtype)(
            d_dropped.data_ptr(),
            probabilities.data_ptr(),
            bits.data_ptr() if threshold else 0,
            d_scores.data_ptr(),
            rows,
            length,
            scale,
            philox.scale(p),
            min(torch.get_num_threads(), rows),
        )
    return d_scores


# ---- Checks ----


def _check(qkv: Tensor, key_mask: Tensor | None, mask: Tensor | None) -> None:
    if qkv.dim() != 5 or qkv.shape[2] != 3:
        raise ValueError(f"qkv must have shape (B, L, 3, H, P), got {tuple(qkv.shape)}")
    _check_element("qkv", qkv)
    batch, length, _, heads, _ = qkv.shape
    _check_masks(key_mask, mask, batch, heads, length)


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.dim() != 4 or scores.shape[2] != scores.shape[3]:
        raise ValueError(f"{name} must have shape (B, H, L, L), got {tuple(scores.shape)}")
    _check_element(name, scores)


def _check_element(name: str, x: Tensor) -> None:
    if x.dtype not in _ENTRIES:
        raise TypeError(
            f"{name} must be float32 or bfloat16, got {x.dtype}: convert it, or use "
            "transformer_dm.reference.attention for others"
        )
    if not x.is_cpu:
        raise TypeError(f"{name} must be on the CPU, got {x.device}")


def _check_masks(
    key_mask: Tensor | None, mask: Tensor | None, batch: int, heads: int, length: int
) -> None:
    if key_mask is not None:
        _check_like("key_mask", key_mask, (batch, length), torch.bool)
    if mask is not None:
        if mask.dim() not in (2, 3):
            raise ValueError(
                f"mask must have shape {(length, length)} or {(batch * heads, length, length)}, "
                f"got {tuple(mask.shape)}"
            )
        shape = (length, length) if mask.dim() == 2 else (batch * heads, length, length)
        _check_like("mask", mask, shape, torch.float32)


def _check_like(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if x.dtype is not dtype or not x.is_cpu:
        raise TypeError(f"{name} must be {dtype} on the CPU, got {x.dtype} on {x.device}")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")


# ---- The library and its memory ----


@functools.cache
def _library(flags: tuple[str, ...] = ()) -> native.Library:
    return native.build("attention", [_SOURCE], openmp=True, flags=flags)


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """A kernel that takes addresses and numbers; its arguments are checked above."""
    entry, element = _ENTRIES[dtype]
    text = _PROTOTYPES[name].replace("{}*", f"{element}*").replace("{}", entry)
    raw = _library().function(text).raw

    def call(*arguments: object) -> None:
        *_, threads = arguments
        if cast(int, threads) > 1:
            native.openmp.ran_parallel_region[0] = True
        raw(*arguments)

    return call


class _Memory(threading.local):
    """One thread's workspace, which grows to the largest asked for."""

    def __init__(self) -> None:
        self.block = torch.empty(0)


_memory = _Memory()


@functools.lru_cache(maxsize=1024)
def _workspace_size(
    is_backward: bool, dtype: torch.dtype, length: int, heads: int, size: int, has_mask: bool
) -> int:
    ask = _library().function(
        "int64_t attention_workspace_size(int64_t is_backward, int64_t is_bf16, int64_t length, "
        "int64_t heads, int64_t size, int64_t has_mask)"
    )
    return cast(int, ask(is_backward, dtype is torch.bfloat16, length, heads, size, has_mask))


def _floats(is_backward: bool, qkv: Tensor, mask: Tensor | None) -> int:
    _, length, _, heads, size = qkv.shape
    return _workspace_size(is_backward, qkv.dtype, length, heads, size, mask is not None)


def _workspace(floats: int) -> int:
    """Address of a cache line from which on as many float32 are free to use."""
    if _memory.block.numel() < floats + 16:
        _memory.block = torch.empty(0)  # give the old one back first
        _memory.block = torch.empty(floats + 16)
    address = _memory.block.data_ptr()
    return address + -address % 64


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _how(causal: bool, mask: Tensor | None) -> int:
    return int(causal) + 2 * int(mask is not None and mask.dim() == 3)


def _signed(seed: int) -> int:
    """The low 64 bits as an int64."""
    return (seed + 2**63) % 2**64 - 2**63
