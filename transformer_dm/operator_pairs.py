"""Operators and fused kernels of a training step, each beside what torch runs in its place.

A row holds the same work on the same tensors by both: the rows of the paper's operator table, with
the fused kernels of plan "ours", and attention as one kernel of plan "flash". Backward rows of
torch walk a recorded graph, ours get what their forward left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from common.gemm import gemm
from transformer_dm.graph import Class
from transformer_dm.kernels import activation, attention, norm, philox
from transformer_dm.options import Activation
from transformer_dm.sizes import LayerSize

__all__ = ["KERNELS", "ROWS", "Pair", "assert_same", "make_pairs"]

Stage = Literal["forward", "backward"]
Results = tuple[Tensor, ...]

#: The rows of the operator table: names, and how many of each a layer has.
ROWS = {
    "qkv": 1, "qkt": 1, "sm": 1, "gamma": 1, "out": 1, "bdrln": 2, "lin1": 1, "brd": 1, "lin2": 1,
}  # fmt: skip
#: Fused kernels that are compared for themselves. "bgd" is "brd" with GELU; "attention" is held to
#: torch's scaled_dot_product_attention; "mask" draws dropout's mask for the hidden part.
KERNELS = ("bdrln", "brd", "bgd", "sm", "attention", "mask")
_SEED, _EPS = 12345, 1e-5
#: Norm-relative distance between two right answers; see peers.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


@attrs.frozen(eq=False)
class Pair:
    """One row, in one direction.

    ours, torch: give the same tensors, but for the mask of their dropout
    flops:  of contractions, 0 elsewhere
    n_bytes: of all that any implementation reads and writes, each once: the Q of MUE
    """

    name: str
    stage: Stage
    cls: Class
    ours: Callable[[], Results]
    torch: Callable[[], Results]
    flops: float
    n_bytes: float


def make_pairs(
    size: LayerSize,
    dtype: torch.dtype,
    p: float,
    names: Iterable[str],
    generator: torch.Generator,
    stages: Sequence[Stage] = ("forward", "backward"),
) -> Iterable[Pair]:
    """Pairs of the named rows, one row's tensors in memory at a time."""
    for name in names:
        yield from (pair for pair in _make(name, size, dtype, p, generator) if pair.stage in stages)


def _make(
    name: str, size: LayerSize, dtype: torch.dtype, p: float, generator: torch.Generator
) -> list[Pair]:
    n, width, rows = size.d_model, size.width, size.batch * size.length

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    by_head = (size.batch, size.heads, size.length)
    match name:
        case "qkv" | "out" | "lin1" | "lin2":
            inner, columns = {
                "qkv": (n, 3 * n), "out": (n, n), "lin1": (n, width), "lin2": (width, n),
            }[name]  # fmt: skip
            weight = draw(columns, inner, scale=inner**-0.5)
            bias = draw(columns) if name == "qkv" else None
            return _linear(name, draw(rows, inner), weight, bias, draw(rows, columns))
        case "qkt":
            q, k = (draw(*by_head, size.head_size) for _ in range(2))
            return _by_head(name, q, k.transpose(-1, -2), draw(*by_head, size.length))
        case "gamma":
            weights, v = draw(*by_head, size.length), draw(*by_head, size.head_size)
            return _by_head(name, weights, v, draw(*by_head, size.head_size))
        case "sm":
            return _softmax(draw(*by_head, size.length, scale=8.0), draw(*by_head, size.length), p)
        case "bdrln":
            x, residual, d_y = (draw(rows, n) for _ in range(3))
            beta, gamma, shift = (draw(n) for _ in range(3))
            return _bdrln(x, residual, d_y, shift, gamma, beta, p)
        case "brd" | "bgd":
            which: Activation = "relu" if name == "brd" else "gelu"
            return _bad(name, which, draw(rows, width), draw(width), draw(rows, width), p)
        case "attention":
            shape = (size.batch, size.length, 3, size.heads, size.head_size)
            return _attention(draw(*shape), draw(*shape[:2], *shape[3:]), p)
        case "mask":
            return [_mask(rows, width, dtype, p)]
    raise ValueError(f"a row is one of {', '.join((*ROWS, *KERNELS))}, got {name!r}")


# ---- Contractions ----


def _linear(name: str, x: Tensor, weight: Tensor, bias: Tensor | None, d_y: Tensor) -> list[Pair]:
    flops = 2.0 * x.shape[0] * weight.numel()

    def ours() -> Results:
        return (gemm(x, weight.t(), bias=bias, backend="auto"),)

    def ours_backward() -> Results:
        return gemm(d_y, weight, backend="auto"), gemm(d_y.t(), x, backend="auto")

    given = [x, weight, d_y] if bias is None else [x, weight, d_y, bias]
    n_bytes = _n_bytes(given)
    return [
        Pair(name, "forward", "contraction", ours, lambda: (functional.linear(x, weight, bias),),
             flops, n_bytes),
        Pair(name, "backward", "contraction", ours_backward, lambda: (d_y @ weight, d_y.t() @ x),
             2 * flops, _n_bytes([d_y, weight, x]) + _n_bytes([x, weight])),
    ]  # fmt: skip


def _by_head(name: str, a: Tensor, b: Tensor, d_c: Tensor) -> list[Pair]:
    """c = a @ b for each head: torch in one call, ours a product a head."""
    flops = 2.0 * a.numel() * b.shape[-1]

    def products(left: Tensor, right: Tensor) -> Tensor:
        out = left.new_empty(*left.shape[:-1], right.shape[-1])
        for i in range(left.shape[0]):
            for j in range(left.shape[1]):
                gemm(left[i, j], right[i, j], out=out[i, j], backend="auto")
        return out

    def ours_backward() -> Results:
        return products(d_c, b.transpose(-1, -2)), products(a.transpose(-1, -2), d_c)

    def torch_backward() -> Results:
        return d_c @ b.transpose(-1, -2), a.transpose(-1, -2) @ d_c

    n_bytes = _n_bytes([a, b, d_c])
    return [
        Pair(name, "forward", "contraction", lambda: (products(a, b),), lambda: (a @ b,),
             flops, n_bytes),
        Pair(name, "backward", "contraction", ours_backward, torch_backward,
             2 * flops, n_bytes + _n_bytes([a, b])),
    ]  # fmt: skip


# ---- Fused kernels ----


def _recorded(
    forward: Callable[..., Tensor], given: Sequence[Tensor], d_y: Tensor
) -> tuple[Callable[[], Results], Callable[[], Results]]:
    """Torch's two directions: a forward that keeps what backward needs, and backward alone."""
    leaves = [tensor.detach().requires_grad_() for tensor in given]
    graph: list[Tensor] = []

    def backward() -> Results:
        if not graph:
            graph.append(forward(*leaves))
        return torch.autograd.grad(graph[0], leaves, d_y, retain_graph=True)

    return lambda: (forward(*leaves).detach(),), backward


def _both(
    name: str,
    cls: Class,
    ours: tuple[Callable[[], Results], Callable[[], Results]],
    torch_: tuple[Callable[[], Results], Callable[[], Results]],
    n_bytes: tuple[float, float],
    flops: tuple[float, float] = (0.0, 0.0),
) -> list[Pair]:
    stages: tuple[Stage, Stage] = ("forward", "backward")
    return [
        Pair(name, stage, cls, ours[i], torch_[i], flops[i], n_bytes[i])
        for i, stage in enumerate(stages)
    ]


def _bdrln(
    x: Tensor, residual: Tensor, d_y: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, p: float
) -> list[Pair]:
    def composed(x: Tensor, bias: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        total = residual + functional.dropout(x + bias, p)
        return functional.layer_norm(total, gamma.shape, gamma, beta, _EPS)

    def forward() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        return norm.bdrln_forward(x, bias, residual, gamma, beta, p, _SEED, 1, _EPS)

    y, xhat, rstd, bits, _ = forward()

    def backward() -> Results:
        d_residual, d_x, d_gamma, d_beta, d_bias = norm.bdrln_backward(
            d_y, None, None, xhat, rstd, gamma, bits, p
        )
        return d_x, d_bias, d_residual, d_gamma, d_beta

    moved = (
        _n_bytes([x, bias, residual, gamma, beta, y, xhat, rstd, bits]),
        _n_bytes([d_y, xhat, rstd, gamma, bits, *set(backward())]),
    )
    return _both(
        "bdrln",
        "normalisation",
        (lambda: (forward()[0],), backward),
        _recorded(composed, (x, bias, residual, gamma, beta), d_y),
        moved,
    )


def _bad(
    name: str, which: Activation, h: Tensor, bias: Tensor, d_a: Tensor, p: float
) -> list[Pair]:
    act = functional.relu if which == "relu" else functional.gelu
    a, bits = activation.activation_forward(h, bias, which, p, _SEED, 2)

    def forward() -> Results:
        return (activation.activation_forward(h, bias, which, p, _SEED, 2)[0],)

    def backward() -> Results:
        return activation.activation_backward(d_a, h, bias, bits, which, p)

    return _both(
        name,
        "elementwise",
        (forward, backward),
        _recorded(lambda h, bias: functional.dropout(act(h + bias), p), (h, bias), d_a),
        (_n_bytes([h, bias, a, bits]), _n_bytes([d_a, h, bias, bits, *backward()])),
    )


def _softmax(scores: Tensor, d_dropped: Tensor, p: float) -> list[Pair]:
    scale = 0.125
    how: tuple[Any, ...] = (None, None, False, scale, p, _SEED)
    probabilities, dropped, bits = attention.softmax_dropout_forward(scores, *how)

    def forward() -> Results:
        return (attention.softmax_dropout_forward(scores, *how)[1],)

    def backward() -> Results:
        return (attention.softmax_dropout_backward(d_dropped, probabilities, bits, scale, p),)

    kept = [probabilities] if dropped is probabilities else [probabilities, dropped]
    return _both(
        "sm",
        "normalisation",
        (forward, backward),
        _recorded(
            lambda scores: functional.dropout(torch.softmax(scale * scores, -1), p),
            (scores,),
            d_dropped,
        ),
        (_n_bytes([scores, *kept, bits]), _n_bytes([d_dropped, probabilities, bits, scores])),
    )


def _attention(qkv: Tensor, d_o: Tensor, p: float) -> list[Pair]:
    batch, length, _, heads, size = qkv.shape
    how: tuple[Any, ...] = (None, None, False, p, _SEED)
    o, lse = attention.attention_forward(qkv, *how)

    def composed(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        found = functional.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return found.transpose(1, 2)

    def backward() -> Results:
        return (attention.attention_backward(d_o, qkv, o, lse, *how)[0],)

    flops = 4.0 * batch * heads * length * length * size
    return _both(
        "attention",
        "contraction",
        (lambda: (attention.attention_forward(qkv, *how)[0],), backward),
        _recorded(composed, (qkv,), d_o),
        (_n_bytes([qkv, o, lse]), _n_bytes([d_o, qkv, o, lse, qkv])),
        (flops, 2 * flops),  # what is computed again for the scores does not count as work
    )


def _mask(rows: int, columns: int, dtype: torch.dtype, p: float) -> Pair:
    def ours() -> Results:
        return (philox.keep_bits(rows, columns, p, _SEED, 2),)

    def peer() -> Results:
        return (torch.empty(rows, columns, dtype=dtype).bernoulli_(1 - p),)

    return Pair("mask", "forward", "elementwise", ours, peer, 0.0, _n_bytes(ours()))


def _n_bytes(tensors: Iterable[Tensor]) -> float:
    return float(sum(tensor.nbytes for tensor in tensors))


def assert_same(pair: Pair) -> None:
    """Raise AssertionError naming the row if the two sides differ; for pairs made with p = 0."""
    if pair.name == "mask":
        return
    for ours, theirs in zip(pair.ours(), pair.torch(), strict=True):
        assert ours.shape == theirs.shape, f"{pair.name}, {pair.stage}: shapes differ"
        scale = theirs.double().norm().clamp_min(1e-30)
        error = float((ours.double() - theirs.double()).norm() / scale)
        limit = _TOLERANCE[theirs.dtype]
        assert error <= limit, f"{pair.name}, {pair.stage}: differs by {error:.2e} of the norm"
