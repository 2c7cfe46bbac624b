"""The native bag as torch operators: forward, backward, and backward with a fused optimizer.

A batch is (indices, offsets) as torch.nn.functional.embedding_bag takes them, one dtype for both,
contiguous; without offsets the indices are 2-D. Cores, gradients and outputs are float32 on the
CPU. Forward plans the batch (see tt_plan.h) and hands the plan to backward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import torch_ops
from ttrec.kernels import kept, library
from ttrec.kernels.library import Kernels, kernels_of, scratch
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


def _plan(
    kernels: Kernels,
    indices: Tensor,
    offsets: Tensor | None,
    has_last: bool,
    n_rows: int,
    padding: int,
    mode: int,
    sharing: int,
    control: Tensor | None,
    number: int,
) -> tuple[Tensor, Tensor, int, bool, int]:
    """Check and plan a batch.

    Returns the plan, the scales of bags, the number of distinct rows, whether all bags have one
    position, and the digest of the plan.
    """
    n = indices.numel()
    batch, length = _shape_of_batch(indices, offsets, has_last)
    plan = torch.empty(kernels.plan_words(kernels.sizes_at, n), dtype=torch.int32)
    scale = torch.empty(batch if mode == MEAN else 0)
    work = scratch("work", kernels.work_floats(kernels.sizes_at, n, 1))
    found = np.zeros(4, dtype=np.int64)
    wrong = kernels.plan(
        kernels.sizes_at,
        indices.data_ptr(),
        0 if offsets is None else offsets.data_ptr(),
        n,
        batch,
        length,
        int(indices.dtype is torch.int64),
        n_rows,
        padding,
        sharing,
        0 if control is None else control.data_ptr(),
        number,
        plan.data_ptr(),
        work.data_ptr(),
        scale.data_ptr(),
        found.ctypes.data,
    )
    if wrong:
        raise batch_error(wrong, found.tolist(), n, n_rows)
    n_distinct, is_single, digest, _ = found.tolist()
    return plan, scale, n_distinct, bool(is_single), digest


def _kept_pairs(kernels: Kernels, n: int, store: int) -> int:
    """Pairs whose products there is room to keep; the rest is computed again."""
    if store == RECOMPUTE:
        return 0
    return n if store == KEEP else min(n, library.KEPT_FLOATS // kernels.pair_floats)


def _addresses(*lists: Sequence[Tensor]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([t.data_ptr() for tensors in lists for t in tensors], dtype=np.int64)


def forward(
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
    needs_grad: bool,
    store: int,
    sharing: int,
    number: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool rows bag by bag: (batch, D), and plan, scales and winners for backward.

    Checks the batch first: IndexError for an index outside 0..n_rows-1, ValueError for offsets
    that do not start at 0, fall, or leave the batch.
    """
    kernels = kernels_of(tuple([core.shape for core in cores]))
    plan, scale, n_distinct, is_single, digest = _plan(
        kernels, indices, offsets, has_last, n_rows, padding, mode, sharing, control, number
    )
    n, (batch, _) = indices.numel(), _shape_of_batch(indices, offsets, has_last)
    threads = library.threads_for(n)
    out = torch.empty(batch, kernels.dim)
    winners = torch.empty((batch, kernels.dim) if mode == MAX else 0, dtype=torch.int32)
    n_kept = _kept_pairs(kernels, n, store) if needs_grad else 0
    products = kept.lend(n_kept * kernels.pair_floats) if n_kept else None
    is_direct = is_single and weights is None and mode != MAX
    kernels.forward(
        kernels.sizes_at,
        _addresses(cores).ctypes.data,
        plan.data_ptr(),
        0 if weights is None else weights.data_ptr(),
        scale.data_ptr() if mode == MEAN else 0,
        0 if products is None else products.data_ptr(),
        n_kept,
        0 if is_direct else scratch("rows", n_distinct * kernels.dim).data_ptr(),
        scratch("work", kernels.work_floats(kernels.sizes_at, n, threads)).data_ptr(),
        out.data_ptr(),
        winners.data_ptr() if mode == MAX else 0,
        n,
        batch,
        threads,
    )
    if products is not None:
        kept.put(plan.data_ptr(), digest, cores, products, n_kept)
    return out, plan, scale, winners


def _run_backward(
    d_out: Tensor,
    cores: Sequence[Tensor],
    targets: Sequence[Tensor],
    plan: Tensor,
    digest: int,
    scale: Tensor,
    winners: Tensor,
    weights: Tensor | None,
    n: int,
    needs_d_weights: bool,
    by_frequency: bool,
    rule: int,
    lr: float,
    eps: float,
) -> Tensor:
    """Gradients into targets, or a step of cores with states `targets`; returns d_weights."""
    kernels = kernels_of(tuple([core.shape for core in cores]))
    threads = library.threads_for(n)
    d_weights = torch.zeros(n if needs_d_weights else 0)
    products, n_kept = kept.take(plan.data_ptr(), digest, cores)
    d_out = d_out.contiguous()
    kernels.backward(
        kernels.sizes_at,
        _addresses(cores, targets or cores).ctypes.data,
        plan.data_ptr(),
        0 if weights is None else weights.data_ptr(),
        scale.data_ptr() if scale.numel() else 0,
        winners.data_ptr() if winners.numel() else 0,
        0 if products is None else products.data_ptr(),
        n_kept,
        d_out.data_ptr(),
        d_weights.data_ptr() if needs_d_weights else 0,
        scratch("work", kernels.work_floats(kernels.sizes_at, n, threads)).data_ptr(),
        n,
        int(by_frequency),
        rule,
        lr,
        eps,
        threads,
    )
    if products is not None:
        kept.reclaim(products)
    return d_weights


def backward(
    d_out: Tensor,
    cores: Sequence[Tensor],
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
    digest = int(plan[_DIGEST])
    d_weights = _run_backward(
        d_out, cores, d_cores, plan, digest, scale, winners, weights, n, needs_d_weights,
        by_frequency, RULES.index("none"), 0.0, 0.0,
    )  # fmt: skip
    return [*d_cores, d_weights]


def backward_fused(
    d_out: Tensor,
    cores: Sequence[Tensor],
    states: Sequence[Tensor],
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
    steps, stepped_by, lr, eps = control.tolist()
    digest, then, number = plan[_DIGEST : _NUMBER + 1].tolist()
    check_turn(steps, stepped_by, then, number, allows_stale)
    d_weights = _run_backward(
        d_out, cores, states, plan, digest, scale, winners, weights, n, needs_d_weights,
        by_frequency, rule, lr, eps,
    )  # fmt: skip
    control.numpy()[:LR] = steps + 1, number
    torch.autograd.graph.increment_version([*cores, *states])  # autograd must notice the change
    return d_weights


def check_turn(
    steps: float, stepped_by: float, then: float, number: float, allows_stale: bool
) -> None:
    """Raise RuntimeError unless a fused backward may step.

    steps, stepped_by: steps taken, and the number of the forward whose backward stepped last
    then, number:      steps taken at this backward's forward, and its number
    """
    if steps == then:
        return
    if stepped_by == number:
        raise RuntimeError(
            "backward ran a second time through a fused TT bag, but the step was already "
            "applied; call forward again"
        )
    if not allows_stale:
        raise RuntimeError(
            f"the backward of forward {int(stepped_by)} has stepped the cores since forward "
            f"{int(number)}; run forward and backward in turn, look both batches up in one "
            'forward, or make the bag with stale="allow" to use the cores as they are now'
        )


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
        cores[0].new_empty(plan_words(indices.numel(), p), dtype=torch.int32),
        cores[0].new_empty(batch if mode == MEAN else 0),
        cores[0].new_empty((batch, dim) if mode == MAX else (0,), dtype=torch.int32),
    )


def plan_words(n: Any, p: Sequence[int]) -> Any:
    """Plan::words of tt_plan.h, for sizes that may be symbols."""
    return 10 + 3 * n + 2 * (n + 1) + p[1] + 1 + n + (p[0] + p[1] + p[2] + 1) // 2 + 1


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
    backward,
    _fake_backward,
)
bag_backward_fused = torch_ops.register(
    "ttrec::bag_backward_fused",
    f"(Tensor d_out, Tensor(a!)[] cores, Tensor(b!)[] states, Tensor(c!) control, {_PLANNED}, "
    "bool needs_d_weights, bool by_frequency, int rule, bool allows_stale) -> Tensor",
    backward_fused,
    _fake_backward_fused,
)
bag_forward = torch_ops.register(
    "ttrec::bag_forward",
    "(Tensor[] cores, Tensor indices, Tensor? offsets, Tensor? weights, Tensor? anchor, "
    "Tensor[] states, Tensor? control, bool has_last, int mode, int n_rows, int padding, "
    "bool by_frequency, int rule, bool allows_stale, bool needs_grad, int store, int sharing, "
    "int number) -> (Tensor, Tensor, Tensor, Tensor)",
    forward,
    _fake_forward,
    backward=_pull_back,
    setup_context=_save,
)


class _EagerBag(torch.autograd.Function):
    """The operators without torch's dispatcher, which takes lists of tensors apart at every call.

    bag_forward costs some 150 us a step in Python alone, more than a small batch takes to compute.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor | None,
        weights: Tensor | None,
        states: Sequence[Tensor],
        control: Tensor | None,
        batch: tuple[Any, ...],
        options: tuple[Any, ...],
        *cores: Tensor,
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        indices, offsets = batch
        run: Callable[..., tuple[Tensor, ...]] = forward
        out, *planned = run(cores, indices, offsets, weights, None, states, control, *options)
        ctx.n, ctx.options, ctx.n_cores = indices.numel(), options, len(cores)
        if control is not None:
            ctx.cores, ctx.states, ctx.control = cores, states, control
            cores = ()
        ctx.save_for_backward(*planned, weights, *cores)
        return out

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, scale, winners, weights, *cores = ctx.saved_tensors
        nothing: tuple[Tensor | None, ...] = (None,) * (6 + ctx.n_cores)
        if d_outs[0] is None:
            return nothing
        _, _, _, _, by_frequency, rule, allows_stale, *_ = ctx.options
        needs_d_weights = weights is not None and ctx.needs_input_grad[1]
        planned = (plan, scale, winners, weights, ctx.n, needs_d_weights, by_frequency)
        if not cores:
            d_weights = backward_fused(
                d_outs[0], ctx.cores, ctx.states, ctx.control, *planned, rule, allows_stale
            )
            return None, d_weights if needs_d_weights else None, *nothing[2:]
        *d_cores, d_weights = backward(d_outs[0], cores, *planned)
        return None, d_weights if needs_d_weights else None, None, None, None, None, *d_cores


def pool(
    cores: Sequence[Tensor],
    indices: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    anchor: Tensor | None,
    states: Sequence[Tensor],
    control: Tensor | None,
    *options: Any,
) -> Tensor:
    """`forward` with gradients, (batch, D): the operator where torch traces, else without it."""
    if torch.compiler.is_compiling() or _is_traced(cores[0], indices):
        out: Tensor = bag_forward(
            list(cores), indices, offsets, weights, anchor, list(states), control, *options
        )[0]
        return out
    out = _EagerBag.apply(  # type: ignore[no-untyped-call]  # torch's apply has no annotations
        anchor, weights, states, control, (indices, offsets), options, *cores
    )
    return out


def _is_traced(*tensors: Tensor) -> bool:
    """True if an operator is wanted rather than its result: fake tensors, or a dispatch mode."""
    return (
        any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors)
        or torch._C._len_torch_dispatch_stack() > 0
    )
