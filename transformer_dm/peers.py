"""Training steps of our encoder layer and attention and of their live peers, all of one signature.

A candidate computes forward, and forward with backward, of the same module with the same weights on
the same input. `assert_same_step` holds them to one another with dropout off, where all must agree;
with dropout each draws masks of its own. DeepSpeed and cuDNN need CUDA, TensorFlow is not run.

Names: "ours" is plan "flash"; "ours_stored" and "paper_plan" are plans "ours" and "paper",
"unfused" is plain torch in our layer; "pytorch" is torch's own module, "torch_compile" the same
compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.gemm import gemm
from transformer_dm import stored_scores
from transformer_dm.kernels import activation, attention
from transformer_dm.layer import EncoderLayer
from transformer_dm.options import Activation, Plan
from transformer_dm.sizes import LayerSize

__all__ = [
    "ATTENTION",
    "DTYPES",
    "LAYERS",
    "PLANS_OF",
    "Candidate",
    "Problem",
    "assert_same_step",
    "make_problem",
    "same_shapes",
]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Norm-relative distance of two right answers, and how often a ReLU's argument rounds across 0 and
#: switches a whole gradient on or off: in float32 a share of 1.4e-7 of arguments (measured, as are
#: the 6e-7 of their size that they differ by), in bfloat16 a few of 2^9.
_ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 0.03}
_SWITCHED = {torch.float32: 1.4e-7, torch.bfloat16: 0.004}
#: Our candidates by the plan they run.
PLANS_OF: dict[str, Plan] = {
    "ours": "flash",
    "ours_stored": "ours",
    "paper_plan": "paper",
    "unfused": "unfused",
}


@attrs.frozen(eq=False)
class Problem:
    """One layer and one batch, shared by all candidates; nobody writes to its tensors.

    p:     dropout at every site
    state: parameters by their names in nn.TransformerEncoderLayer
    x, d_y: (B, L, N) input, and gradient of the output
    """

    size: LayerSize
    p: float
    activation: Activation
    state: Mapping[str, Tensor]
    x: Tensor
    d_y: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and activations."""
        return self.x.dtype


@attrs.frozen(eq=False)
class Candidate:
    """A module in training.

    forward: the output, with what backward needs kept
    step:    the output and the gradients of input and parameters
    make_backward: a function that computes the gradients again and again after one forward; None
             where a graph can be walked once only
    """

    forward: Callable[[], Tensor]
    step: Callable[[], tuple[Tensor, ...]]
    make_backward: Callable[[], Callable[[], tuple[Tensor, ...]]] | None


def make_problem(
    size: LayerSize,
    precision: str,
    p: float,
    generator: torch.Generator,
    activation: Activation = "relu",
) -> Problem:
    """A layer as torch initialises it, and a batch of normal numbers; precision of DTYPES."""
    dtype = DTYPES[precision]
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        layer = nn.TransformerEncoderLayer(size.d_model, size.heads, size.width)
    state = {name: value.detach().to(dtype) for name, value in layer.named_parameters()}
    shape = (size.batch, size.length, size.d_model)
    x, d_y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return Problem(size, p, activation, state, x, d_y)


def _torch_layer(problem: Problem) -> nn.TransformerEncoderLayer:
    size = problem.size
    layer = nn.TransformerEncoderLayer(
        size.d_model,
        size.heads,
        size.width,
        problem.p,
        problem.activation,
        batch_first=True,
        dtype=problem.dtype,
    )
    layer.load_state_dict(dict(problem.state))
    return layer


def _candidate(
    call: Callable[[Tensor], Tensor],
    parameters: Iterable[tuple[str, Tensor]],
    problem: Problem,
    *,
    walks_once: bool = False,
) -> Candidate:
    """call: of a tensor that requires a gradient; parameters: named, taken in order of names."""
    x = problem.x.clone().requires_grad_()
    leaves = [x, *(parameter for _, parameter in sorted(parameters))]

    def step() -> tuple[Tensor, ...]:
        y = call(x)
        return (y.detach(), *torch.autograd.grad(y, leaves, problem.d_y))

    def make_backward() -> Callable[[], tuple[Tensor, ...]]:
        y = call(x)
        return lambda: torch.autograd.grad(y, leaves, problem.d_y, retain_graph=True)

    return Candidate(lambda: call(x), step, None if walks_once else make_backward)


# ---- The whole layer ----


def pytorch_layer(problem: Problem) -> Candidate:
    """nn.TransformerEncoderLayer, as users run it."""
    layer = _torch_layer(problem)
    return _candidate(layer, layer.named_parameters(), problem)


def compiled_layer(problem: Problem) -> Candidate:
    """nn.TransformerEncoderLayer under torch.compile."""
    layer = _torch_layer(problem)
    call = torch.compile(layer, dynamic=False)
    return _candidate(call, layer.named_parameters(), problem, walks_once=True)


def our_layer(problem: Problem, plan: Plan = "flash") -> Candidate:
    """EncoderLayer of one plan."""
    layer = EncoderLayer.from_torch(_torch_layer(problem), plan=plan)
    return _candidate(layer, layer.named_parameters(), problem)


def _by_plan(plan: Plan) -> Callable[[Problem], Candidate]:
    return lambda problem: our_layer(problem, plan)


#: By name.
LAYERS: dict[str, Callable[[Problem], Candidate]] = {
    "pytorch": pytorch_layer,
    "torch_compile": compiled_layer,
    **{name: _by_plan(plan) for name, plan in PLANS_OF.items()},
}


# ---- Multi-head attention with its projections ----


def _projections(problem: Problem) -> dict[str, Tensor]:
    names = {name: name.removeprefix("self_attn.") for name in problem.state}
    return {
        short: problem.state[name].clone().requires_grad_()
        for name, short in names.items()
        if name.startswith("self_attn.")
    }


def pytorch_attention(problem: Problem) -> Candidate:
    """nn.MultiheadAttention without weights returned, as nn.TransformerEncoderLayer calls it."""
    size = problem.size
    module = nn.MultiheadAttention(
        size.d_model, size.heads, problem.p, batch_first=True, dtype=problem.dtype
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(problem.state[f"self_attn.{name}"])
    return _candidate(
        lambda x: module(x, x, x, need_weights=False)[0], module.named_parameters(), problem
    )


def sdpa_attention(problem: Problem) -> Candidate:
    """Projections around scaled_dot_product_attention, which a CPU fuses only without dropout."""
    return _functional_attention(
        problem,
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, dropout_p=problem.p),
    )


def plain_attention(problem: Problem) -> Candidate:
    """Projections around product, softmax, dropout and product."""
    return _functional_attention(problem, _plain(problem.p))


def compiled_attention(problem: Problem) -> Candidate:
    """plain_attention under torch.compile."""
    return _functional_attention(problem, _plain(problem.p), is_compiled=True)


def _plain(p: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return functional.dropout(torch.softmax(scores, -1), p) @ v

    return attend


def _functional_attention(
    problem: Problem,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    is_compiled: bool = False,
) -> Candidate:
    weights, size = _projections(problem), problem.size
    in_w, in_b = weights["in_proj_weight"], weights["in_proj_bias"]
    out_w, out_b = weights["out_proj.weight"], weights["out_proj.bias"]

    def call(x: Tensor, in_w: Tensor, in_b: Tensor, out_w: Tensor, out_b: Tensor) -> Tensor:
        qkv = functional.linear(x, in_w, in_b)
        by_head = qkv.view(size.batch, size.length, 3, size.heads, size.head_size)
        o = attend(*by_head.permute(2, 0, 3, 1, 4).unbind(0))  # (B, H, L, P)
        return functional.linear(o.transpose(1, 2).reshape(x.shape), out_w, out_b)

    run: Callable[..., Tensor] = torch.compile(call, dynamic=False) if is_compiled else call
    return _candidate(
        lambda x: run(x, in_w, in_b, out_w, out_b), weights.items(), problem, walks_once=is_compiled
    )


class _OurAttention(torch.autograd.Function):
    """Projections by our products, attention by our kernels, as the layer puts them together."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        in_w: Tensor,
        in_b: Tensor,
        out_w: Tensor,
        out_b: Tensor,
        how: tuple[int, float, bool],
    ) -> Tensor:
        heads, p, is_flash = how
        batch, length, n = x.shape
        rows = x.view(-1, n)
        qkv = gemm(rows, in_w.t(), bias=in_b, backend="auto")
        qkv = qkv.view(batch, length, 3, heads, n // heads)
        seed = int(torch.randint(2**62, ())) if p else 0
        if is_flash:
            o, *kept = attention.attention_forward(qkv, None, None, False, p, seed)
        else:
            o, *kept = stored_scores.forward(qkv, None, None, False, p, seed, "auto")
        y = gemm(o.view(-1, n), out_w.t(), bias=out_b, backend="auto")
        ctx.save_for_backward(x, in_w, out_w, qkv, o, *kept)
        ctx.how = p, is_flash, seed
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *d_ys: Tensor) -> tuple[Tensor | None, ...]:
        x, in_w, out_w, qkv, o, *kept = ctx.saved_tensors
        p, is_flash, seed = ctx.how
        n = x.shape[-1]
        d_y = d_ys[0].reshape(-1, n)
        d_out_w = gemm(d_y.t(), o.view(-1, n), backend="auto")
        d_o = gemm(d_y, out_w, backend="auto").view(o.shape)
        if is_flash:
            d_qkv, d_in_b = attention.attention_backward(
                d_o, qkv, o, kept[0], None, None, False, p, seed
            )
            d_rows = d_qkv.view(-1, 3 * n)
        else:
            softmax, dropped, bits = kept
            d_qkv = stored_scores.backward(d_o, qkv, softmax, dropped, bits, p, "auto")
            d_rows = d_qkv.view(-1, 3 * n)
            d_in_b = activation.bias_gradient(d_rows)
        d_in_w = gemm(d_rows.t(), x.view(-1, n), backend="auto")
        d_x = gemm(d_rows, in_w, backend="auto").view(x.shape)
        d_out_b = activation.bias_gradient(d_y)
        return d_x, d_in_w, d_in_b.to(x.dtype), d_out_w, d_out_b.to(x.dtype), None


def our_attention(problem: Problem, *, is_flash: bool = True) -> Candidate:
    """Our products and kernels; is_flash=False stores the scores, as plan "ours" does."""
    weights = _projections(problem)
    given = [weights[f"{stem}{kind}"] for stem in ("in_proj_", "out_proj.")
             for kind in ("weight", "bias")]  # fmt: skip
    how = problem.size.heads, problem.p, is_flash

    def call(x: Tensor) -> Tensor:
        y: Tensor = _OurAttention.apply(x, *given, how)  # type: ignore[no-untyped-call]  # torch's apply has no annotations
        return y

    return _candidate(call, weights.items(), problem)


#: By name.
ATTENTION: dict[str, Callable[[Problem], Candidate]] = {
    "pytorch": pytorch_attention,
    "plain": plain_attention,
    "sdpa": sdpa_attention,
    "torch_compile": compiled_attention,
    "ours": our_attention,
    "ours_stored": lambda problem: our_attention(problem, is_flash=False),
}


# ---- Are they the same? ----


def assert_same_step(
    problem: Problem,
    makers: Mapping[str, Callable[[Problem], Candidate]],
    names: Iterable[str],
    baseline: str = "pytorch",
) -> None:
    """Raise AssertionError naming a candidate whose step differs from the baseline's at dropout 0.

    Output and every gradient are compared, by the norm of their difference.
    """
    limit = _tolerance(problem)
    still = attrs.evolve(problem, p=0.0)
    wanted = makers[baseline](still).step()
    for name in names:
        if name == baseline:
            continue
        found = makers[name](still).step()
        assert len(found) == len(wanted), f"{name} has {len(found)} results, not {len(wanted)}"
        for i, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            assert ours.shape == theirs.shape, f"{name}: result {i} is {tuple(ours.shape)}"
            scale = theirs.double().norm().clamp_min(1e-30)
            error = float((ours.double() - theirs.double()).norm() / scale)
            # A NaN must not pass.
            assert error <= limit, (
                f"{name} differs from {baseline} by {error:.2e} of the norm of result {i}"
            )


def _tolerance(problem: Problem) -> float:
    """Distance that two right answers exceed once in some thousand problems.

    Switches are rare and apart, so their number has a Poisson distribution. Half of all arguments
    pass their gradient on; one switched is as large as one of those.
    """
    n = problem.x.shape[0] * problem.x.shape[1] * problem.size.width
    expected = n * _SWITCHED[problem.dtype]
    most = math.ceil(expected + 3 * math.sqrt(expected)) if expected > 1e-3 else 0
    return _ROUNDING[problem.dtype] + math.sqrt(2 * most / n)


def same_shapes(found: Tensor | tuple[Tensor, ...], wanted: Tensor | tuple[Tensor, ...]) -> bool:
    """All there is to check of results whose masks differ; every element must be finite."""
    one, other = ((given,) if isinstance(given, Tensor) else given for given in (found, wanted))
    return [tensor.shape for tensor in one] == [tensor.shape for tensor in other] and all(
        bool(torch.isfinite(tensor).all()) for tensor in one
    )
