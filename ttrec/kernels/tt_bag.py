"""The native bag as torch operators: forward, backward, and backward with a fused optimizer.

A batch is (indices, offsets) as torch.nn.functional.embedding_bag takes them, one dtype for both,
contiguous; without offsets the indices are 2-D. Cores, gradients and outputs are float32 on the
CPU. Forward plans the batch (see tt_plan.h) and hands the plan to backward.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import torch_ops
from ttrec.kernels import kept, library, tt_eager
from ttrec.kernels.library import Kernels, desk, kernels_of
from ttrec.reference import bounds_error

MODES = ("sum", "mean", "max")
SUM, MEAN, MAX = range(3)
RULES = ("none", "sgd", "adagrad", "rowwise_adagrad")
STORES = ("auto", "keep", "recompute")
AUTO, KEEP, RECOMPUTE = range(3)
#: What a batch shares: bit 0 equal rows, bit 1 equal pairs of first digits. All but in experiments.
SHARE_ROWS, SHARE_PAIRS = 1, 2
SHARE_ALL = SHARE_ROWS | SHARE_PAIRS
# Words of a plan, see tt_plan.h; the last two are ours.
_DIGEST, _NUMBER = 7, 9
#: What `control` holds: steps taken, number of the forward that stepped last, and the optimizer's.
STEPS, STEPPED_BY, LR, EPS = range(4)


def batch_error(
    wrong: int, found: Sequence[int], n: int, n_rows: int, table: str = "the TT table"
) -> Exception:
    """The exception for a code of tt_plan."""
    position, value, before = (int(v) for v in found[:3])
    if wrong == 1:
        return IndexError(
            f"index of {table} must lie in 0..{n_rows - 1}, got {value} at position {position}"
        )
    if wrong == 2:
        return ValueError(f"offsets must start at 0, got {value}")
    if wrong in (3, 5):
        # An end beyond the indices is named where it stands.
        return bounds_error(
            *((position, value, before) if wrong == 3 else (position + 1, 0, value)), n
        )
    return ValueError(f"offsets must end at the {n} indices, got {value} at position {position}")


def _shape_of_batch(indices: Tensor, offsets: Tensor | None, has_last: bool) -> tuple[Any, Any]:
    """How many bags; the length of each if all agree, else whether the last offset is given."""
    if offsets is None:
        return indices.shape[0], indices.shape[1]
    return offsets.shape[0] - has_last, int(has_last)


class Planned(NamedTuple):
    """What forward leaves for backward.

    plan:    int32, see tt_plan.h;  digest: a number that tells plans apart
    scale:   1 / length of every bag in mode "mean", else None
    winners: (batch, D) int32, the position of every output in mode "max", else None
    """

    plan: Tensor
    digest: int
    scale: Tensor | None
    winners: Tensor | None


def kept_pairs(kernels: Kernels, n: int, store: int) -> int:
    """Pairs whose products there is room to keep; the rest is computed again."""
    if store == RECOMPUTE or not kernels.pair_floats:
        return 0
    return n if store == KEEP else min(n, library.KEPT_FLOATS // kernels.pair_floats)


def forward(
    cores: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    control: Tensor | None,
    has_last: bool,
    mode: int,
    n_rows: int,
    padding: int,
    needs_grad: bool,
    store: int,
    sharing: int,
    number: int,
) -> tuple[Tensor, Planned]:
    """Pool rows bag by bag: (batch, D), and what backward needs.

    Checks the batch first: IndexError for an index outside 0..n_rows-1, ValueError for offsets
    that do not start at 0, fall, or leave the batch.
    """
    kernels = kernels_of(tuple([core.shape for core in cores]))
    n, (batch, length) = indices.numel(), _shape_of_batch(indices, offsets, has_last)
    threads = library.threads_for(n)
    plan = torch.empty(library.plan_words(n, kernels.p), dtype=torch.int32)
    plan_at = plan.data_ptr()
    scale = torch.empty(batch) if mode == MEAN else None
    scale_at = 0 if scale is None else scale.data_ptr()
    work_at = desk.floats_at("work", library.work_floats(kernels, n, threads))
    wrong = kernels.plan(
        kernels.sizes_at,
        indices.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        n,
        batch,
        length,
        0,
        1 if indices.dtype is torch.int64 else 0,
        n_rows,
        padding,
        sharing,
        0 if control is None else control.data_ptr(),
        number,
        plan_at,
        work_at,
        scale_at,
        desk.found_at,
    )
    n_distinct, is_single, digest, _ = found = desk.found.tolist()
    if wrong:
        raise batch_error(wrong, found, n, n_rows)
    out = torch.empty(batch, kernels.dim)
    winners = torch.empty(batch, kernels.dim, dtype=torch.int32) if mode == MAX else None
    n_kept = kept_pairs(kernels, n, store) if needs_grad else 0
    products = kept.lend(n_kept * kernels.pair_floats) if n_kept else None
    is_direct = is_single and weights is None and winners is None
    kernels.forward(
        kernels.sizes_at,
        desk.cores_at(cores),
        plan_at,
        0 if weights is None else weights.data_ptr(),
        scale_at,
        0 if products is None else products.data_ptr(),
        n_kept,
        0 if is_direct else desk.floats_at("rows", n_distinct * kernels.dim),
        work_at,
        out.data_ptr(),
        0 if winners is None else winners.data_ptr(),
        n,
        batch,
        threads,
    )
    if products is not None:
        kept.put(plan_at, digest, cores, products, n_kept)
    return out, Planned(plan, digest, scale, winners)


def _run_backward(
    d_out: Tensor,
    cores: Sequence[Tensor],
    targets: Sequence[Tensor],
    planned: Planned,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    by_frequency: bool,
    rule: int,
    control: Tensor | None,
    allows_stale: bool,
) -> Tensor | None:
    """Gradients into targets, or a step of cores with states `targets`; returns d_weights."""
    kernels = kernels_of(tuple([core.shape for core in cores]))
    threads = library.threads_for(n)
    d_weights = torch.zeros(n) if needs_d_weights else None
    plan_at = planned.plan.data_ptr()
    products, n_kept = kept.take(plan_at, planned.digest, cores)
    d_out = d_out.contiguous()
    turn = kernels.backward(
        kernels.sizes_at,
        desk.cores_at(cores, targets or cores),
        plan_at,
        0 if weights is None else weights.data_ptr(),
        0 if planned.scale is None else planned.scale.data_ptr(),
        0 if planned.winners is None else planned.winners.data_ptr(),
        0 if products is None else products.data_ptr(),
        n_kept,
        d_out.data_ptr(),
        0 if d_weights is None else d_weights.data_ptr(),
        desk.floats_at("work", library.work_floats(kernels, n, threads)),
        n,
        1 if by_frequency else 0,
        rule,
        0 if control is None else control.data_ptr(),
        1 if allows_stale else 0,
        threads,
    )
    if products is not None:
        kept.reclaim(products)
    if turn:
        assert control is not None
        raise turn_error(turn == 1, int(control[STEPPED_BY]), int(planned.plan[_NUMBER]))
    if control is not None:
        # Autograd must notice the change.
        torch.autograd.graph.increment_version([*cores, *targets, control])
    return d_weights


def turn_error(is_second: bool, stepped_by: int, number: int) -> RuntimeError:
    """Why a fused backward may not step.

    is_second: its own step was taken already; else the forward numbered stepped_by came between
    """
    if is_second:
        return RuntimeError(
            "backward ran a second time through a fused TT bag, but the step was already "
            "applied; call forward again"
        )
    return RuntimeError(
        f"the backward of forward {stepped_by} has stepped the cores since forward {number}; "
        "run forward and backward in turn, look both batches up in one forward, or make the "
        'bag with stale="allow" to use the cores as they are now'
    )


def _forward_operator(
    cores: list[Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    anchor: Tensor | None,
    states: list[Tensor],
    control: Tensor | None,
    has_last: bool,
    mode: int,
    n_rows: int,
    padding: int,
    by_frequency: bool,
    rule: int,
    allows_stale: bool,
    *how: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, planned = forward(
        cores, indices, offsets, weights, control, has_last, mode, n_rows, padding, *how
    )
    return (
        out,
        planned.plan,
        torch.empty(0) if planned.scale is None else planned.scale,
        torch.empty(0, dtype=torch.int32) if planned.winners is None else planned.winners,
    )


def _planned(plan: Tensor, scale: Tensor, winners: Tensor) -> Planned:
    return Planned(
        plan,
        int(plan[_DIGEST]),
        scale if scale.numel() else None,
        winners if winners.numel() else None,
    )


def _backward_operator(
    d_out: Tensor,
    cores: list[Tensor],
    plan: Tensor,
    scale: Tensor,
    winners: Tensor,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    by_frequency: bool,
) -> list[Tensor]:
    """Dense gradients of the cores, and of the weights ((0,) unless wanted)."""
    d_cores = [torch.zeros_like(core) for core in cores]
    d_weights = _run_backward(
        d_out, cores, d_cores, _planned(plan, scale, winners), weights, n, needs_d_weights,
        by_frequency, 0, None, False,
    )  # fmt: skip
    return [*d_cores, torch.empty(0) if d_weights is None else d_weights]


def _backward_fused_operator(
    d_out: Tensor,
    cores: list[Tensor],
    states: list[Tensor],
    control: Tensor,
    plan: Tensor,
    scale: Tensor,
    winners: Tensor,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    by_frequency: bool,
    rule: int,
    allows_stale: bool,
) -> Tensor:
    """Step the cores with the optimizer `rule` names; returns the gradient of the weights.

    Raises RuntimeError if this forward's step was taken already, or another came in between.
    """
    d_weights = _run_backward(
        d_out, cores, states, _planned(plan, scale, winners), weights, n, needs_d_weights,
        by_frequency, rule, control, allows_stale,
    )  # fmt: skip
    return torch.empty(0) if d_weights is None else d_weights


def _fake_forward(
    cores: list[Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    anchor: Tensor | None,
    states: list[Tensor],
    control: Tensor | None,
    has_last: bool,
    mode: int,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dim, p = 1, [core.shape[0] for core in cores]
    for core in cores:
        dim *= core.shape[2]
    batch, _length = _shape_of_batch(indices, offsets, has_last)
    return (
        cores[0].new_empty(batch, dim),
        cores[0].new_empty(library.plan_words(indices.numel(), p), dtype=torch.int32),
        cores[0].new_empty(batch if mode == MEAN else 0),
        cores[0].new_empty((batch, dim) if mode == MAX else (0,), dtype=torch.int32),
    )


def _fake_backward(
    d_out: Tensor,
    cores: list[Tensor],
    plan: Tensor,
    scale: Tensor,
    winners: Tensor,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    by_frequency: bool,
) -> list[Tensor]:
    d_weights = d_out.new_empty(n if needs_d_weights else 0)
    return [*(torch.empty_like(core) for core in cores), d_weights]


def _fake_backward_fused(
    d_out: Tensor,
    cores: list[Tensor],
    states: list[Tensor],
    control: Tensor,
    plan: Tensor,
    scale: Tensor,
    winners: Tensor,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    *_: Any,
) -> Tensor:
    return d_out.new_empty(n if needs_d_weights else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    (
        cores, indices, _, weights, _, states, control, _, _, _, _, ctx.by_frequency, ctx.rule,
        ctx.allows_stale, *_,
    ) = inputs  # fmt: skip
    _, plan, scale, winners = output
    ctx.n, ctx.d, ctx.n_states = indices.numel(), len(cores), len(states)
    ctx.mark_non_differentiable(plan, scale, winners)
    ctx.set_materialize_grads(False)
    if ctx.rule:
        # Not saved the usual way: autograd would refuse stepped cores before we can say why.
        ctx.cores, ctx.states, ctx.control = cores, states, control
        ctx.save_for_backward(plan, scale, winners, weights)
    else:
        ctx.save_for_backward(plan, scale, winners, weights, *cores)


def _pull_back(ctx: Any, d_out: Tensor | None, *_: Any) -> tuple[Any, ...]:
    plan, scale, winners, weights, *cores = ctx.saved_tensors
    # A gradient or None for each input, lists as lists.
    grads: list[Any] = [None] * 18
    grads[0], grads[5] = [None] * ctx.d, [None] * ctx.n_states
    if d_out is None:
        return tuple(grads)
    needs_d_weights = weights is not None and ctx.needs_input_grad[3]
    if ctx.rule:
        d_weights = bag_backward_fused(
            d_out, ctx.cores, ctx.states, ctx.control, plan, scale, winners, weights, ctx.n,
            needs_d_weights, ctx.by_frequency, ctx.rule, ctx.allows_stale,
        )  # fmt: skip
    else:
        *grads[0], d_weights = bag_backward(
            d_out, cores, plan, scale, winners, weights, ctx.n, needs_d_weights, ctx.by_frequency
        )
    if needs_d_weights:
        grads[3] = d_weights
    return tuple(grads)


_PLANNED = "Tensor plan, Tensor scale, Tensor winners, Tensor? weights, SymInt n"
bag_backward = torch_ops.register(
    "ttrec::bag_backward",
    f"(Tensor d_out, Tensor[] cores, {_PLANNED}, bool needs_d_weights, bool by_frequency) "
    "-> Tensor[]",
    _backward_operator,
    _fake_backward,
)
bag_backward_fused = torch_ops.register(
    "ttrec::bag_backward_fused",
    f"(Tensor d_out, Tensor(a!)[] cores, Tensor(b!)[] states, Tensor(c!) control, {_PLANNED}, "
    "bool needs_d_weights, bool by_frequency, int rule, bool allows_stale) -> Tensor",
    _backward_fused_operator,
    _fake_backward_fused,
)
bag_forward = torch_ops.register(
    "ttrec::bag_forward",
    "(Tensor[] cores, Tensor indices, Tensor? offsets, Tensor? weights, Tensor? anchor, "
    "Tensor[] states, Tensor? control, bool has_last, int mode, int n_rows, int padding, "
    "bool by_frequency, int rule, bool allows_stale, bool needs_grad, int store, int sharing, "
    "int number) -> (Tensor, Tensor, Tensor, Tensor)",
    _forward_operator,
    _fake_forward,
    backward=_pull_back,
    setup_context=_save,
)


def pool(
    cores: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    anchor: Tensor | None,
    states: Sequence[Tensor],
    control: Tensor | None,
    has_last: bool,
    mode: int,
    n_rows: int,
    padding: int,
    by_frequency: bool,
    rule: int,
    allows_stale: bool,
    store: int,
    sharing: int,
    number: int,
) -> Tensor:
    """`forward` with gradients, (batch, D): the operator where torch traces, else without it."""
    options = (has_last, mode, n_rows, padding, by_frequency, rule, allows_stale)
    if not (torch.compiler.is_compiling() or tt_eager.is_traced(cores[0], indices)):
        kernels = kernels_of(tuple([core.shape for core in cores]))
        out = tt_eager.pool(
            tt_eager.table_at(kernels, *options, store, sharing), [*cores, *states], indices,
            offsets, weights, anchor, control, number,
        )  # fmt: skip
        if out is not None:
            return out
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (anchor, weights, *cores)
    )
    traced: Tensor = bag_forward(
        list(cores), indices, offsets, weights, anchor, list(states), control, *options,
        needs_grad, store, sharing, number,
    )[0]  # fmt: skip
    return traced
