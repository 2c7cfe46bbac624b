"""A bag on plain torch whose backward steps the cores, for dtypes and devices without kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ttrec import reference
from ttrec.kernels import tt_bag
from ttrec.reference import Mode


class _FusedBag(torch.autograd.Function):
    """A bag whose backward steps the cores in place and returns no gradient for them."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        weights: Tensor | None,
        cores: list[Tensor],
        states: list[Tensor],
        control: Tensor,
        number: int,
        indices: Tensor,
        bounds: Tensor,
        mode: Mode,
        padding_idx: int | None,
        by_frequency: bool,
        rule: int,
        allows_stale: bool,
    ) -> Tensor:
        ctx.cores, ctx.states, ctx.control = cores, states, control
        ctx.batch = (mode, padding_idx, by_frequency)
        ctx.rule, ctx.allows_stale, ctx.number = rule, allows_stale, number
        ctx.then = float(control[tt_bag.STEPS])
        ctx.save_for_backward(indices, bounds, weights)
        return reference.bag(cores, indices, bounds, mode, weights, padding_idx, by_frequency)

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        steps, stepped_by, lr, eps = ctx.control.tolist()
        if steps != ctx.then and (stepped_by == ctx.number or not ctx.allows_stale):
            raise tt_bag.turn_error(stepped_by == ctx.number, int(stepped_by), ctx.number)
        indices, bounds, weights = ctx.saved_tensors
        needs_d_weights = ctx.needs_input_grad[1]
        mode, padding_idx, by_frequency = ctx.batch
        with torch.enable_grad():
            leaves = [core.detach().requires_grad_() for core in ctx.cores]
            leaf = None if weights is None else weights.detach().requires_grad_(needs_d_weights)
            out = reference.bag(leaves, indices, bounds, mode, leaf, padding_idx, by_frequency)
            wanted = [*leaves, leaf] if leaf is not None and needs_d_weights else leaves
            grads = torch.autograd.grad(out, wanted, d_outs[0])
        for k, (core, grad) in enumerate(zip(ctx.cores, grads, strict=False)):
            step(core, grad, ctx.states[k] if ctx.states else None, ctx.rule, lr, eps)
        ctx.control[tt_bag.STEPS] += 1
        ctx.control[tt_bag.STEPPED_BY] = ctx.number
        return None, grads[-1] if needs_d_weights else None, *([None] * 11)


def step(
    core: Tensor, grad: Tensor, state: Tensor | None, rule: int, lr: float, eps: float
) -> None:
    """Apply one optimizer step to a core: see ttrec.optim for the rules."""
    name = tt_bag.RULES[rule]
    if name == "sgd":
        core.sub_(grad, alpha=lr)
        return
    assert state is not None
    if name == "adagrad":
        state.addcmul_(grad, grad)
        core.addcdiv_(grad, state.sqrt().add_(eps), value=-lr)
        return
    # Slices without gradient stay: 0 / (sqrt(0) + 0) must not become NaN.
    touched = grad.flatten(1).abs().amax(1) > 0
    state += grad.square().flatten(1).mean(1)
    rate = lr / (state.sqrt() + eps)
    rate = torch.where(touched, rate, 0.0)
    core.sub_(grad * rate.reshape(-1, *[1] * (core.dim() - 1)))


def bag(anchor: Tensor, weights: Tensor | None, *arguments: Sequence[Tensor] | Any) -> Tensor:
    """Pool, and step on backward; arguments as `_FusedBag.forward`."""
    out: Tensor = _FusedBag.apply(anchor, weights, *arguments)  # type: ignore[no-untyped-call]  # torch's apply has no annotations
    return out
