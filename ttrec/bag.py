"""TTEmbeddingBag: an nn.EmbeddingBag whose table is a tensor train."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ttrec import reference
from ttrec.init import Init, make_cores
from ttrec.kernels import tt_bag
from ttrec.optim import SGD
from ttrec.reference import Mode
from ttrec.shapes import TTShape, suggest_shape


def tt_embedding_bag(
    input: Tensor,
    cores: Sequence[Tensor],
    offsets: Tensor | None = None,
    *,
    n_rows: int,
    mode: Mode = "sum",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
) -> Tensor:
    """Look up and pool rows of a tensor-train table, (batch, D). Differentiable in the cores.

    input, offsets, per_sample_weights, include_last_offset: as torch.nn.functional.embedding_bag
    cores[k]: (p_k, r_{k-1}, q_k, r_k); float32 on the CPU runs natively, all else on plain torch
    n_rows:   indices must lie below this, which may be less than prod(p)

    Raises IndexError for an index out of range, TypeError for indices that are not int32 or int64,
    ValueError for bad offsets or weights.
    """
    indices, bounds, weights = read_batch(
        input, offsets, per_sample_weights, mode, include_last_offset, cores[0].dtype
    )
    if _is_native(cores):
        out: Tensor = tt_bag.bag_forward(
            list(cores), indices, bounds, weights, mode == "mean", n_rows
        )
        return out
    reference.check_batch(indices, bounds, n_rows)
    return reference.bag(cores, indices, bounds, mode, weights)


class TTEmbeddingBag(nn.Module):
    """Drop-in for nn.EmbeddingBag that stores d small cores instead of the table.

    num_embeddings, embedding_dim: the table it stands for
    rank, ranks, d: one rank for all boundaries (default 32), or the d - 1 ranks; d cores
    shape:          factors and ranks chosen by hand, instead of rank, ranks and d
    mode:           "sum" or "mean"
    include_last_offset: offsets hold batch + 1 entries, the last the number of indices
    init, target_var:    see ttrec.init
    optimizer:      None: cores are Parameters with dense gradients. SGD(lr): cores are buffers and
                    backward steps them; they return no gradient

    Raises ValueError for sizes TTShape refuses and for a shape that stands for another table.
    """

    num_embeddings: int
    embedding_dim: int
    shape: TTShape
    mode: Mode
    include_last_offset: bool
    optimizer: SGD | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rank: int = 32,
        ranks: Sequence[int] | None = None,
        shape: TTShape | None = None,
        d: int = 3,
        mode: Literal["sum", "mean"] = "sum",
        include_last_offset: bool = False,
        init: Init = "sampled_gaussian",
        target_var: float | None = None,
        optimizer: SGD | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode must be 'sum' or 'mean', got {mode!r}")
        if optimizer is not None and not isinstance(optimizer, SGD):
            raise TypeError(f"optimizer must be None or ttrec.SGD(lr), got {optimizer!r}")
        if shape is None:
            shape = suggest_shape(
                num_embeddings, embedding_dim, rank if ranks is None else ranks, d
            )
        elif ranks is not None:
            raise ValueError("shape holds the ranks already; give shape or ranks, not both")
        elif (shape.rows, shape.dim) != (num_embeddings, embedding_dim):
            raise ValueError(
                f"shape must stand for {num_embeddings} rows by {embedding_dim}, "
                f"got {shape.rows} by {shape.dim}"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.shape, self.mode, self.optimizer = shape, mode, optimizer
        self.include_last_offset = include_last_offset
        for k, core in enumerate(make_cores(shape, init, target_var=target_var)):
            if optimizer is None:
                self.register_parameter(f"core{k}", nn.Parameter(core))
            else:
                self.register_buffer(f"core{k}", core)
        # Autograd records nothing for buffers and integer indices; this gives backward an edge.
        self._anchor = torch.empty(0, requires_grad=True)
        self._n_forwards = self._n_steps = self._stepped_by = 0

    @property
    def cores(self) -> list[Tensor]:
        """The d cores, core k of shape (p_k, r_{k-1}, q_k, r_k)."""
        return [getattr(self, f"core{k}") for k in range(self.shape.d)]

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Look up and pool, (batch, D); arguments and errors as `tt_embedding_bag`.

        With a fused optimizer, backward steps the cores; a second backward through the same
        output, or one after another step, raises RuntimeError.
        """
        if self.optimizer is None:
            return tt_embedding_bag(
                input,
                self.cores,
                offsets,
                n_rows=self.num_embeddings,
                mode=self.mode,
                per_sample_weights=per_sample_weights,
                include_last_offset=self.include_last_offset,
            )
        indices, bounds, weights = read_batch(
            input,
            offsets,
            per_sample_weights,
            self.mode,
            self.include_last_offset,
            self.cores[0].dtype,
        )
        return _FusedBag.apply(self._anchor, weights, self, indices, bounds)  # type: ignore[no-untyped-call,no-any-return]  # torch's apply has no annotations

    def set_lr(self, lr: float) -> None:
        """Change the step size of the fused optimizer; ValueError if there is none."""
        if self.optimizer is None:
            raise ValueError(
                "set_lr needs a fused optimizer; this bag was made with optimizer=None"
            )
        self.optimizer = SGD(lr)

    def weight_rows(self, index: Tensor) -> Tensor:
        """Rows of the table, (n, D), differentiable when the cores are Parameters."""
        reference.check_index(index, self.num_embeddings)
        return reference.rows(self.cores, index)

    def full_weight(self) -> Tensor:
        """The whole table, (num_embeddings, D). Takes the memory this module exists to save."""
        return reference.full(self.cores, self.num_embeddings)

    def extra_repr(self) -> str:
        """Sizes, factors and what they save."""
        s = self.shape
        return (
            f"{s.rows}, {s.dim}, p={s.p}, q={s.q}, ranks={s.ranks}, mode={self.mode!r}, "
            f"params={s.params} ({s.ratio:.0f}x smaller)"
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "TTEmbeddingBag":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no annotations here
        self._anchor = torch.empty(0, requires_grad=True)
        return self


class _FusedBag(torch.autograd.Function):
    """A bag whose backward steps the cores in place and returns no gradient for them."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        weights: Tensor | None,
        bag: TTEmbeddingBag,
        indices: Tensor,
        bounds: Tensor,
    ) -> Tensor:
        bag._n_forwards += 1
        ctx.bag, ctx.number, ctx.n_steps, ctx.is_done = bag, bag._n_forwards, bag._n_steps, False
        ctx.save_for_backward(indices, bounds, weights)
        cores = bag.cores
        if _is_native(cores):
            return tt_bag.forward(
                cores, indices, bounds, weights, bag.mode == "mean", bag.num_embeddings
            )
        reference.check_batch(indices, bounds, bag.num_embeddings)
        return reference.bag(cores, indices, bounds, bag.mode, weights)

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        bag: TTEmbeddingBag = ctx.bag
        if ctx.is_done:
            raise RuntimeError(
                "backward ran a second time through a fused TT bag, but the step was already "
                "applied; call forward again"
            )
        if bag._n_steps != ctx.n_steps:
            raise RuntimeError(
                f"the backward of forward {bag._stepped_by} has stepped the cores since forward "
                f"{ctx.number}; run forward and backward in turn, or look both batches up in one "
                "forward"
            )
        indices, bounds, weights = ctx.saved_tensors
        d_weights = _step(bag, d_outs[0], indices, bounds, weights, ctx.needs_input_grad[1])
        ctx.is_done = True
        bag._n_steps += 1
        bag._stepped_by = ctx.number
        return None, d_weights, None, None, None


def _step(
    bag: TTEmbeddingBag,
    d_out: Tensor,
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    needs_d_weights: bool,
) -> Tensor | None:
    """Apply the fused optimizer; returns the gradient of the weights if it is wanted."""
    assert bag.optimizer is not None
    lr, cores = bag.optimizer.lr, bag.cores
    if _is_native(cores):
        d_weights = tt_bag.backward_sgd(
            d_out.contiguous(),
            cores,
            indices,
            bounds,
            weights,
            bag.mode == "mean",
            bag.num_embeddings,
            needs_d_weights,
            lr,
        )
        return d_weights if needs_d_weights else None
    with torch.enable_grad():
        leaves = [core.detach().requires_grad_() for core in cores]
        leaf = None if weights is None else weights.detach().requires_grad_(needs_d_weights)
        out = reference.bag(leaves, indices, bounds, bag.mode, leaf)
        wanted = [*leaves, leaf] if leaf is not None and needs_d_weights else leaves
        grads = torch.autograd.grad(out, wanted, d_out)
    for core, d_core in zip(cores, grads[: len(cores)], strict=True):
        core.sub_(d_core, alpha=lr)
    return grads[-1] if needs_d_weights else None


def read_batch(
    input: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
    mode: Mode,
    include_last_offset: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring the arguments of an embedding bag to one form: indices, bounds, weights.

    Returns indices (n,) and bounds (batch + 1,), int64 and contiguous, and weights (n,) or None.
    Values are not looked at; shapes, dtypes and combinations are.
    """
    _check_integer(input, "input")
    if input.dim() == 2:
        if offsets is not None:
            raise ValueError("a 2-D input has its bags as rows; offsets must be None then")
        batch, length = input.shape
        bounds = torch.arange(batch + 1, device=input.device) * length
    elif input.dim() == 1:
        if offsets is None:
            raise ValueError("a 1-D input needs offsets, the start of every bag, got None")
        _check_integer(offsets, "offsets")
        if offsets.dim() != 1:
            raise ValueError(f"offsets must be 1-D, got shape {tuple(offsets.shape)}")
        bounds = offsets.to(device=input.device, dtype=torch.int64)
        if not include_last_offset:
            bounds = torch.cat((bounds, bounds.new_tensor([input.numel()])))
        elif bounds.numel() == 0:
            raise ValueError("with include_last_offset, offsets must hold at least one entry")
    else:
        raise ValueError(f"input must be 1-D or 2-D, got shape {tuple(input.shape)}")
    weights = per_sample_weights
    if weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"per_sample_weights need mode='sum', got mode={mode!r}")
        if weights.shape != input.shape or weights.dtype != dtype:
            raise ValueError(
                f"per_sample_weights must be {dtype} of input's shape {tuple(input.shape)}, "
                f"got {weights.dtype} of shape {tuple(weights.shape)}"
            )
        weights = weights.reshape(-1).contiguous()
    return input.reshape(-1).to(torch.int64).contiguous(), bounds.contiguous(), weights


def _check_integer(tensor: Tensor, name: str) -> None:
    if tensor.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be int32 or int64, got {tensor.dtype}")


def _is_native(cores: Sequence[Tensor]) -> bool:
    return (
        all(core.dtype == torch.float32 and core.is_cpu and core.is_contiguous() for core in cores)
        and tt_bag.available()
    )
