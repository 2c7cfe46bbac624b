"""The fused encoder layer as torch operators: forward and backward of the whole layer.

Rows are tokens, R = B L; N is the width of the layer, U of its hidden part, H heads of P = N / H.
All tensors are on the CPU, float32 or bfloat16, of one type. Between forward and backward stay
only: the input (or its normalisation, if that comes first), qkv, o, the logarithm of the softmax's
denominators, both normalised sums with their deviations, what the hidden part reads, its products
h before bias and activation, its result a unless recompute_activation, and one bit for every
element that dropout decided on. Plans with stored scores keep those as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from common import torch_ops
from common.gemm import gemm
from transformer_dm import masks, stored_scores
from transformer_dm.kernels import activation, attention, norm
from transformer_dm.options import Options

__all__ = [
    "PARAMETERS",
    "Saved",
    "backward",
    "encoder_backward",
    "encoder_forward",
    "forward",
    "run",
]

#: The order of parameters everywhere here, by their names in nn.TransformerEncoderLayer.
PARAMETERS = (
    *("self_attn.in_proj_weight", "self_attn.in_proj_bias"),
    *("self_attn.out_proj.weight", "self_attn.out_proj.bias"),
    *("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"),
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
)
Parameters = Sequence[Tensor | None]


class Saved(NamedTuple):
    """What forward leaves for backward; (0,) where there is nothing.

    first:  (R, N) input of the attention's projections if norm_first, else (0,): that is x
    qkv:    (B, L, 3, H, P); o (B, L, H, P)
    lse:    (B, H, L) float32 for plan "flash", else the softmax (B, H, L, L)
    dropped, attention_bits: with stored scores the softmax after dropout, and the mask's bits
    xhat, rstd: (R, N) and (R,) float32, the normalised sums; bits of the dropout before them
    y1:     (R, N) input of linear 1; h (R, U) its product without bias
    a:      (R, U) input of linear 2; bits of the dropout in it
    bits3:  of the dropout after linear 2
    """

    first: Tensor
    qkv: Tensor
    o: Tensor
    lse: Tensor
    dropped: Tensor
    attention_bits: Tensor
    xhat1: Tensor
    rstd1: Tensor
    bits1: Tensor
    y1: Tensor
    h: Tensor
    a: Tensor
    bits2: Tensor
    xhat2: Tensor
    rstd2: Tensor
    bits3: Tensor


def forward(
    x: Tensor,
    parameters: Parameters,
    key_mask: Tensor | None,
    mask: Tensor | None,
    options: Options,
    seed: int,
) -> tuple[Tensor, Saved]:
    """The layer's output (B, L, N), and what backward needs.

    x: (B, L, N) contiguous; masks as kernels.attention takes them
    """
    in_w, in_b, out_w, out_b, w1, b1, w2, b2, g1, beta1, g2, beta2 = parameters
    batch, length, n = x.shape
    eps1, eps2 = options.eps
    p_attention, p1, p2, p3 = options.rates
    backend = _backend(options)
    rows, nothing = x.view(-1, n), x.new_empty(0)

    first = rows
    if options.norm_first:
        first, xhat1, rstd1 = norm.layernorm_forward(rows, g1, beta1, eps1)
    if options.plan == "paper" and in_b is not None:
        qkv_rows = activation.bias_forward(_linear(first, in_w, None, backend), in_b)
    else:
        qkv_rows = _linear(first, in_w, in_b, backend)
    qkv = qkv_rows.view(batch, length, 3, options.heads, n // options.heads)
    dropped = attention_bits = nothing
    if options.plan == "flash":
        o, lse = attention.attention_forward(
            qkv, key_mask, mask, options.is_causal, p_attention, seed
        )
    else:
        o, lse, dropped, attention_bits = stored_scores.forward(
            qkv, key_mask, mask, options.is_causal, p_attention, seed, backend
        )
    z = _linear(o.view(-1, n), out_w, None, backend)
    if options.norm_first:
        y1, xhat2, rstd2, bits1, total = norm.bdrln_forward(
            z, out_b, rows, g2, beta2, p1, seed, 1, eps2, want_sum=True
        )
    else:
        y1, xhat1, rstd1, bits1, _ = norm.bdrln_forward(
            z, out_b, rows, g1, beta1, p1, seed, 1, eps1
        )
    h = _linear(y1, w1, None, backend)
    a, bits2 = activation.activation_forward(h, b1, options.activation, p2, seed, 2)
    z = _linear(a, w2, None, backend)
    if options.norm_first:
        assert total is not None
        y, bits3 = norm.dropout_residual_forward(z, b2, total, p3, seed, 3)
    else:
        y, xhat2, rstd2, bits3, _ = norm.bdrln_forward(z, b2, y1, g2, beta2, p3, seed, 3, eps2)
    saved = Saved(
        first=first if options.norm_first else nothing,
        qkv=qkv, o=o, lse=lse, dropped=dropped, attention_bits=attention_bits,
        xhat1=xhat1, rstd1=rstd1, bits1=bits1, y1=y1,
        h=h, a=nothing if options.recompute_activation else a, bits2=bits2,
        xhat2=xhat2, rstd2=rstd2, bits3=bits3,
    )  # fmt: skip
    return y.view(x.shape), saved


def backward(
    d_y: Tensor,
    x: Tensor,
    parameters: Parameters,
    saved: Saved,
    key_mask: Tensor | None,
    mask: Tensor | None,
    options: Options,
    seed: int,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x and of the parameters, in this order; None where `needs` is false.

    d_y: (B, L, N); all else as given to forward or returned by it
    """
    in_w, _, out_w, _, w1, b1, w2, _, g1, _, g2, _ = parameters
    assert in_w is not None
    assert out_w is not None
    assert w1 is not None
    assert w2 is not None
    n = x.shape[-1]
    p_attention, p1, p2, p3 = options.rates
    backend = _backend(options)
    norm_backward = _norm_backward_in_two if options.plan == "paper" else norm.bdrln_backward
    grads: list[Tensor | None] = [None] * len(needs)

    def put(which: int, gradient: Tensor) -> None:
        parameter = parameters[which - 1]
        if needs[which] and parameter is not None:
            grads[which] = gradient.to(parameter.dtype)

    def put_weight(which: int, d_out: Tensor, given: Tensor) -> None:
        if needs[which]:
            grads[which] = gemm(d_out.t(), given, backend=backend)

    d_y = d_y.reshape(-1, n).contiguous()
    # Where nothing is dropped d_z is d_residual itself, which is added to once d_z is used up.
    if options.norm_first:
        d_z, d_bias = norm.dropout_residual_backward(d_y, saved.bits3, p3)
    else:
        d_residual, d_z, d_gamma, d_beta, d_bias = norm_backward(
            d_y, None, None, saved.xhat2, saved.rstd2, g2, saved.bits3, p3
        )
        put(11, d_gamma)
        put(12, d_beta)
    put(8, d_bias)
    a = saved.a
    if options.recompute_activation:
        a, _ = activation.activation_forward(saved.h, b1, options.activation, p2, seed, 2)
    put_weight(7, d_z, a)
    d_a = gemm(d_z, w2, backend=backend)
    del a, d_z
    d_h, d_bias = activation.activation_backward(
        d_a, saved.h, b1, saved.bits2, options.activation, p2, in_place=True
    )
    put(6, d_bias)
    put_weight(5, d_h, saved.y1)
    if options.norm_first:
        d_y1 = gemm(d_h, w1, backend=backend)
        del d_a, d_h
        d_residual, d_z, d_gamma, d_beta, d_bias = norm_backward(
            d_y1, None, d_y, saved.xhat2, saved.rstd2, g2, saved.bits1, p1
        )
        put(11, d_gamma)
        put(12, d_beta)
    else:
        d_y1, d_y1_too = _sum_with_product(d_residual, d_h, w1, options)
        del d_a, d_h
        d_residual, d_z, d_gamma, d_beta, d_bias = norm_backward(
            d_y1, d_y1_too, None, saved.xhat1, saved.rstd1, g1, saved.bits1, p1
        )
        put(9, d_gamma)
        put(10, d_beta)
        del d_y1_too
    del d_y1
    put(4, d_bias)
    put_weight(3, d_z, saved.o.view(-1, n))
    d_o = gemm(d_z, out_w, backend=backend).view(saved.o.shape)
    del d_z
    if options.plan == "flash":
        d_qkv, d_bias = attention.attention_backward(
            d_o, saved.qkv, saved.o, saved.lse, key_mask, mask, options.is_causal, p_attention, seed
        )
        d_qkv_rows = d_qkv.view(-1, 3 * n)
    else:
        d_qkv = stored_scores.backward(
            d_o, saved.qkv, saved.lse, saved.dropped, saved.attention_bits, p_attention, backend
        )
        d_qkv_rows = d_qkv.view(-1, 3 * n)
        d_bias = activation.bias_gradient(d_qkv_rows)
    put(2, d_bias)
    if not options.norm_first:
        put_weight(1, d_qkv_rows, x.view(-1, n))
        if needs[0]:
            d_x, d_x_too = _sum_with_product(d_residual, d_qkv_rows, in_w, options)
            if d_x_too is not None:
                d_x = activation.residual_add(d_x_too, d_x)
            grads[0] = d_x.view(x.shape)
        return grads
    put_weight(1, d_qkv_rows, saved.first)
    if needs[0] or needs[9] or needs[10]:
        d_first = gemm(d_qkv_rows, in_w, backend=backend)
        d_x, d_gamma, d_beta = norm.layernorm_backward(
            d_first, d_residual, saved.xhat1, saved.rstd1, g1
        )
        put(9, d_gamma)
        put(10, d_beta)
        if needs[0]:
            grads[0] = d_x.view(x.shape)
    return grads


def _backend(options: Options) -> Literal["native", "auto"]:
    return "native" if options.is_deterministic else "auto"


def _linear(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, backend: Literal["native", "auto"]
) -> Tensor:
    assert weight is not None
    return gemm(x, weight.t(), bias=bias, backend=backend)


def _sum_with_product(
    onto: Tensor, d: Tensor, weight: Tensor, options: Options
) -> tuple[Tensor, Tensor | None]:
    """onto + d @ weight, written over `onto`; for plan "paper" two terms for a kernel to add."""
    if options.plan == "paper":
        return onto, gemm(d, weight, backend=_backend(options))
    return gemm(d, weight, out=onto, accumulate=True, backend=_backend(options)), None


def _norm_backward_in_two(
    d_y: Tensor,
    d_y_too: Tensor | None,
    d_total: Tensor | None,
    xhat: Tensor,
    rstd: Tensor,
    gamma: Tensor | None,
    bits: Tensor,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """norm.bdrln_backward by the kernels of the paper: BSB or EBSB, BLNRD, and BAOB.

    The paper sums the bias of linear 2 in EBSB, here it is a pass like BAOB's.
    """
    d_xhat, d_gamma, d_beta, _ = norm.backward_scale(d_y, d_y_too, xhat, gamma)
    if d_total is None:
        d_residual, d_z = norm.backward_normalize(d_xhat, xhat, rstd, bits, p)
        return d_residual, d_z, d_gamma, d_beta, activation.bias_gradient(d_z)
    # The paper has no layer that normalises first: its residual joins before the dropout.
    d_residual, _ = norm.backward_normalize(d_xhat, xhat, rstd, bits.new_empty(0), 0.0)
    d_residual = activation.residual_add(d_residual, d_total)
    d_z, d_bias = norm.dropout_residual_backward(d_residual, bits, p)
    return d_residual, d_z, d_gamma, d_beta, d_bias


# ---- The operators ----


def _options(
    plan: str,
    heads: int,
    activation: str,
    rates: Sequence[float],
    eps: Sequence[float],
    norm_first: bool,
    is_causal: bool,
    recompute_activation: bool,
    is_deterministic: bool,
) -> Options:
    return Options(
        plan, heads, activation, tuple(rates), tuple(eps), norm_first, is_causal,  # type: ignore[arg-type]  # checked before they became an operator's arguments
        recompute_activation, is_deterministic,
    )  # fmt: skip


def _as_arguments(options: Options) -> tuple[Any, ...]:
    return tuple(list(value) if isinstance(value, tuple) else value for value in options)


def _number(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed)


T = TypeVar("T")


def _all(present: Sequence[T]) -> list[T | None]:
    """One for each of PARAMETERS, from those of the weights alone or of weights and biases."""
    if len(present) == len(PARAMETERS):
        return list(present)
    return [x for weight in present for x in (weight, None)]


def _forward_operator(
    x: Tensor,
    present: list[Tensor],
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    seed: Tensor | None,
    *how: Any,
) -> tuple[Tensor, ...]:
    options = _options(*how)
    key_mask, mask = masks.canonical(src_mask, key_padding_mask, options.heads)
    y, saved = forward(x.contiguous(), _all(present), key_mask, mask, options, _number(seed))
    # Results of an operator may not share memory, not even none at all.
    return y, *(tensor if tensor.numel() else torch.empty_like(tensor) for tensor in saved)


def _backward_operator(
    d_y: Tensor,
    x: Tensor,
    present: list[Tensor],
    saved: list[Tensor],
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    seed: Tensor | None,
    needs: list[bool],
    *how: Any,
) -> list[Tensor]:
    options = _options(*how)
    key_mask, mask = masks.canonical(src_mask, key_padding_mask, options.heads)
    wanted = [needs[0], *(bool(needed) for needed in _all(needs[1:]))]
    d_x, *grads = backward(
        d_y, x.contiguous(), _all(present), Saved(*saved), key_mask, mask, options, _number(seed),
        wanted,
    )  # fmt: skip
    found = [d_x, *(grads if len(present) == len(grads) else grads[::2])]
    return [x.new_empty(0) if grad is None else grad for grad in found]


def _words(columns: Any) -> Any:
    return (columns + 127) // 128 * 4


def _fake_forward(
    x: Tensor,
    present: list[Tensor],
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    seed: Tensor | None,
    *how: Any,
) -> tuple[Tensor, ...]:
    options = _options(*how)
    batch, length, n = x.shape
    w1 = _all(present)[4]
    assert w1 is not None
    rows, u = batch * length, w1.shape[0]
    heads, size = options.heads, n // options.heads
    is_flash = options.plan == "flash"
    quantised = [round(rate * 2**16) for rate in options.rates]

    def empty(*shape: Any) -> Tensor:
        return x.new_empty(shape)

    def floats(*shape: Any) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    def bits(site: int, n_rows: Any, columns: Any) -> Tensor:
        shape = (n_rows, _words(columns)) if quantised[site] else (0,)
        return x.new_empty(shape, dtype=torch.int32)

    by_key = (batch, heads, length, length)
    saved = Saved(
        first=empty(rows, n) if options.norm_first else empty(0),
        qkv=empty(batch, length, 3, heads, size),
        o=empty(batch, length, heads, size),
        lse=floats(batch, heads, length) if is_flash else empty(*by_key),
        dropped=empty(*by_key) if not is_flash and quantised[0] else empty(0),
        attention_bits=empty(0) if is_flash else bits(0, batch * heads * length, length),
        xhat1=empty(rows, n),
        rstd1=floats(rows),
        bits1=bits(1, rows, n),
        y1=empty(rows, n),
        h=empty(rows, u),
        a=empty(0) if options.recompute_activation else empty(rows, u),
        bits2=bits(2, rows, u),
        xhat2=empty(rows, n),
        rstd2=floats(rows),
        bits3=bits(3, rows, n),
    )
    return empty(batch, length, n), *saved


def _fake_backward(
    d_y: Tensor,
    x: Tensor,
    present: list[Tensor],
    saved: list[Tensor],
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    seed: Tensor | None,
    needs: list[bool],
    *_: Any,
) -> list[Tensor]:
    return [
        x.new_empty(tensor.shape) if needed else x.new_empty(0)
        for tensor, needed in zip([x, *present], needs, strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, present, src_mask, key_padding_mask, seed, *ctx.how = inputs
    _, *saved = output
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)
    ctx.needs = [tensor.requires_grad for tensor in (x, *present)]
    ctx.save_for_backward(x, src_mask, key_padding_mask, seed, *saved, *present)


def _pull_back(ctx: Any, d_y: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rest = [None] * (3 + len(ctx.how))
    if d_y is None:
        return None, [None] * (len(ctx.needs) - 1), *rest
    x, src_mask, key_padding_mask, seed, *others = ctx.saved_tensors
    saved, present = others[: len(Saved._fields)], others[len(Saved._fields) :]
    grads = encoder_backward(
        d_y, x, present, saved, src_mask, key_padding_mask, seed, ctx.needs, *ctx.how
    )
    found = [grad if needed else None for grad, needed in zip(grads, ctx.needs, strict=True)]
    return found[0], found[1:], *rest


_TENSORS = "Tensor? src_mask, Tensor? key_padding_mask, Tensor? seed"
_HOW = (
    "str plan, int heads, str activation, float[] rates, float[] eps, bool norm_first, "
    "bool is_causal, bool recompute_activation, bool is_deterministic"
)
encoder_backward = torch_ops.register(
    "transformer_dm::encoder_backward",
    f"(Tensor d_y, Tensor x, Tensor[] present, Tensor[] saved, {_TENSORS}, bool[] needs, "
    f"{_HOW}) -> Tensor[]",
    _backward_operator,
    _fake_backward,
)
encoder_forward = torch_ops.register(
    "transformer_dm::encoder_forward",
    f"(Tensor x, Tensor[] present, {_TENSORS}, {_HOW}) -> "
    f"({', '.join(['Tensor'] * (1 + len(Saved._fields)))})",
    _forward_operator,
    _fake_forward,
    backward=_pull_back,
    setup_context=_save,
)


class _EagerLayer(torch.autograd.Function):
    """The operators without torch's dispatcher, which takes lists apart at every call."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        key_mask: Tensor | None,
        mask: Tensor | None,
        options: Options,
        seed: int,
        *parameters: Tensor | None,
    ) -> Tensor:
        with _no_autocast():
            y, saved = forward(x, parameters, key_mask, mask, options, seed)
        ctx.options, ctx.seed = options, seed
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, key_mask, mask, *parameters, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, *d_ys: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "the fused encoder layer has no second derivative (create_graph=True): use "
                'plan="unfused"'
            )
        nothing = (None,) * 4
        (d_y,) = d_ys
        if d_y is None:
            return (None, *nothing, *(None,) * len(PARAMETERS))
        x, key_mask, mask, *others = ctx.saved_tensors
        parameters, saved = others[: len(PARAMETERS)], Saved(*others[len(PARAMETERS) :])
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[5:]]
        with _no_autocast():
            d_x, *grads = backward(
                d_y, x, parameters, saved, key_mask, mask, ctx.options, ctx.seed, needs
            )
        return (d_x, *nothing, *grads)


def _no_autocast() -> contextlib.AbstractContextManager[None]:
    """Torch's products stay in the type of their operands. Entering costs, so only if needed."""
    if torch.is_autocast_enabled("cpu"):
        return torch.autocast("cpu", enabled=False)
    return contextlib.nullcontext()


def run(
    x: Tensor,
    parameters: Parameters,
    src_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    options: Options,
    seed: Tensor | None,
) -> Tensor:
    """The layer's output (B, L, N) with gradients: the operator where torch traces, else without.

    x: (B, L, N), not empty; parameters: those named by PARAMETERS, None for one left out
    masks: as nn.TransformerEncoderLayer takes them; seed: (), int64; None if nothing is dropped
    """
    if torch.compiler.is_compiling() or _is_traced(x, *parameters):
        out: Tensor = encoder_forward(
            x, [parameter for parameter in parameters if parameter is not None], src_mask,
            key_padding_mask, seed, *_as_arguments(options),
        )[0]  # fmt: skip
        return out
    key_mask, mask = masks.canonical(src_mask, key_padding_mask, options.heads)
    x = x.contiguous()
    if not torch.is_grad_enabled():
        with _no_autocast():
            return forward(x, parameters, key_mask, mask, options, _number(seed))[0]
    out = _EagerLayer.apply(  # type: ignore[no-untyped-call]  # torch's apply has no annotations
        x, key_mask, mask, options, _number(seed), *parameters
    )
    return out


def _is_traced(*tensors: Tensor | None) -> bool:
    """True if an operator is wanted rather than its result: fake tensors, or a dispatch mode."""
    return (
        any(type(t) not in (Tensor, torch.nn.Parameter, type(None)) for t in tensors)
        or torch._C._len_torch_dispatch_stack() > 0
    )
