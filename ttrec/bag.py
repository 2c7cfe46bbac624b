"""TTEmbeddingBag: an nn.EmbeddingBag whose table is a tensor train."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ttrec import fused_torch, reference
from ttrec.batch import bounds_of, read_batch
from ttrec.init import Init, make_cores
from ttrec.kernels import library, tt_bag, tt_eager
from ttrec.optim import SGD, Adagrad, Optimizer, RowwiseAdagrad
from ttrec.reference import Mode
from ttrec.shapes import TTShape, suggest_shape

Store = Literal["auto", "keep", "recompute"]
Backend = Literal["auto", "cpu", "torch"]
RULES = {type(None): 0, SGD: 1, Adagrad: 2, RowwiseAdagrad: 3}


def tt_embedding_bag(
    input: Tensor,
    cores: Sequence[Tensor],
    offsets: Tensor | None = None,
    *,
    n_rows: int,
    mode: Mode = "sum",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    store: Store = "auto",
    backend: Backend = "auto",
) -> Tensor:
    """Look up and pool rows of a tensor-train table, (batch, D). Differentiable in the cores.

    input, offsets, per_sample_weights, include_last_offset, padding_idx, scale_grad_by_freq:
              as torch.nn.functional.embedding_bag
    cores[k]: (p_k, r_{k-1}, q_k, r_k); float32 on the CPU runs natively, all else on plain torch
    n_rows:   indices must lie below this, which may be less than prod(p)
    store, backend: see TTEmbeddingBag

    Raises IndexError for an index out of range, TypeError for indices that are not int32 or int64,
    ValueError for bad offsets or weights.
    """
    indices, offsets, weights = read_batch(
        input, offsets, per_sample_weights, mode, include_last_offset, cores[0]
    )
    padding = check_padding(padding_idx, n_rows)
    _check_frequency(mode, scale_grad_by_freq)
    if is_native(cores, backend):
        return tt_bag.pool(
            cores, indices, offsets, weights, None, [], None, include_last_offset,
            tt_bag.MODES.index(mode), n_rows, padding, scale_grad_by_freq, 0, False,
            tt_bag.STORES.index(store), tt_bag.SHARE_ALL, 0,
        )  # fmt: skip
    bounds, indices = bounds_of(indices, offsets, include_last_offset), indices.reshape(-1)
    reference.check_batch(indices, bounds, n_rows)
    return reference.bag(
        cores, indices, bounds, mode, weights, None if padding < 0 else padding, scale_grad_by_freq
    )


class TTEmbeddingBag(nn.Module):
    """Drop-in for nn.EmbeddingBag that stores d small cores instead of the table.

    num_embeddings, embedding_dim: the table it stands for
    rank, ranks, d: one rank for all boundaries (default 32), or the d - 1 ranks; d cores
    shape:          factors and ranks chosen by hand, instead of rank, ranks and d
    mode:           "sum", "mean" or "max"
    padding_idx:    an index that counts as absent: it adds nothing and has no gradient
    include_last_offset: offsets hold batch + 1 entries, the last the number of indices
    scale_grad_by_freq:  divide the gradient of a row by how often the batch holds it
    init, target_var:    see ttrec.init
    optimizer:      None: cores are Parameters with dense gradients. SGD, Adagrad, RowwiseAdagrad:
                    cores are buffers and backward steps them; they return no gradient
    store:          whether forward keeps partial products for backward: "keep", "recompute", or
                    "auto", up to 4 MB of them; results are the same, bit for bit
    backend:        "cpu" native kernels, "torch" plain torch, "auto" the first that can
    stale:          a fused backward after another step "raise"s, or with "allow" uses the cores as
                    they are by then

    Raises ValueError for sizes TTShape refuses and for a shape that stands for another table,
    NotImplementedError for max_norm.
    """

    num_embeddings: int
    embedding_dim: int
    shape: TTShape
    mode: Mode
    include_last_offset: bool
    optimizer: Optimizer | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rank: int = 32,
        ranks: Sequence[int] | None = None,
        shape: TTShape | None = None,
        d: int = 3,
        mode: Mode = "sum",
        padding_idx: int | None = None,
        include_last_offset: bool = False,
        scale_grad_by_freq: bool = False,
        max_norm: float | None = None,
        init: Init = "sampled_gaussian",
        target_var: float | None = None,
        optimizer: Optimizer | None = None,
        store: Store = "auto",
        backend: Backend = "auto",
        stale: Literal["raise", "allow"] = "raise",
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check_choice("mode", mode, get_args(Mode))
        _check_choice("store", store, get_args(Store))
        _check_choice("backend", backend, get_args(Backend))
        _check_choice("stale", stale, ("raise", "allow"))
        if max_norm is not None:
            raise NotImplementedError(
                "max_norm rescales single rows, but the rows of a tensor train share their "
                "parameters; clip the gradient, or leave max_norm out"
            )
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be None, ttrec.SGD, ttrec.Adagrad or ttrec.RowwiseAdagrad, "
                f"got {optimizer!r}"
            )
        _check_frequency(mode, scale_grad_by_freq)
        if backend == "cpu":
            library.require()
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
        self.include_last_offset, self.scale_grad_by_freq = include_last_offset, scale_grad_by_freq
        self.store, self.backend, self.stale = store, backend, stale
        self._padding = check_padding(padding_idx, num_embeddings)
        self.padding_idx = None if padding_idx is None else self._padding
        self._core_names = tuple(f"core{k}" for k in range(shape.d))
        for k, core in enumerate(make_cores(shape, init, target_var=target_var, dtype=dtype)):
            core = core.to(device)
            if optimizer is None:
                self.register_parameter(f"core{k}", nn.Parameter(core))
                continue
            self.register_buffer(f"core{k}", core)
            if isinstance(optimizer, Adagrad):
                self.register_buffer(f"state{k}", torch.zeros_like(core))
            elif isinstance(optimizer, RowwiseAdagrad):
                self.register_buffer(f"state{k}", core.new_zeros(core.shape[0]))
        # Autograd records nothing for buffers and integer indices; this gives backward an edge.
        self._anchor = torch.empty(0, requires_grad=True)
        # Steps taken, number of the forward that stepped last, lr, eps: see tt_optimizer.h.
        self.control = _control_of(optimizer)
        #: What a batch shares, see ttrec.kernels.tt_bag; less than all only to measure its worth.
        self.sharing = tt_bag.SHARE_ALL
        # In a list: modules take long to set an attribute.
        self._n_forwards = [0]

    @property
    def cores(self) -> list[Tensor]:
        """The d cores, core k of shape (p_k, r_{k-1}, q_k, r_k)."""
        held = self._parameters if self.optimizer is None else self._buffers
        return [held[name] for name in self._core_names]  # type: ignore[misc]  # never None

    @property
    def states(self) -> list[Tensor]:
        """State of the fused optimizer, one tensor a core; none for SGD."""
        if not isinstance(self.optimizer, Adagrad | RowwiseAdagrad):
            return []
        return [getattr(self, f"state{k}") for k in range(self.shape.d)]

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
        cores = self.cores
        is_fused = self.optimizer is not None
        is_eager = not torch.compiler.is_compiling()
        if is_eager and self._may_be_native(cores[0]):
            # As most batches come, without reading them here first.
            out = tt_eager.pool(
                tt_eager.table_at(library.kernels_for(self.shape), *self._options()),
                [*cores, *self.states] if is_fused else cores, input, offsets, per_sample_weights,
                self._anchor if is_fused else None, self.control if is_fused else None,
                self._n_forwards[0] + 1,
            )  # fmt: skip
            if out is not None:
                self._n_forwards[0] += 1
                return out
        indices, offsets, weights = read_batch(
            input, offsets, per_sample_weights, self.mode, self.include_last_offset, cores[0]
        )
        if is_eager:
            self._n_forwards[0] += 1
        if is_native(cores, self.backend):
            return tt_bag.pool(
                cores, indices, offsets, weights, self._anchor if is_fused else None, self.states,
                self.control if is_fused else None, *self._options(), self._n_forwards[0],
            )  # fmt: skip
        bounds = bounds_of(indices, offsets, self.include_last_offset)
        indices = indices.reshape(-1)
        reference.check_batch(indices, bounds, self.num_embeddings)
        if self.optimizer is None:
            return reference.bag(
                cores, indices, bounds, self.mode, weights, self.padding_idx,
                self.scale_grad_by_freq,
            )  # fmt: skip
        return fused_torch.bag(
            self._anchor, weights, cores, self.states, self.control, self._n_forwards[0], indices,
            bounds, self.mode, self.padding_idx, self.scale_grad_by_freq,
            RULES[type(self.optimizer)], self.stale == "allow",
        )  # fmt: skip

    def _may_be_native(self, core: Tensor) -> bool:
        """What costs nothing of `is_native`; the kernels' caller checks the rest."""
        return (
            self.backend != "torch"
            and core.dtype is torch.float32
            and core.is_cpu
            and library.available()
        )

    def _options(self) -> tuple[bool, int, int, int, bool, int, bool, int, int]:
        """What `tt_bag.pool` takes last, but for the number of the forward."""
        return (
            self.include_last_offset, tt_bag.MODES.index(self.mode), self.num_embeddings,
            self._padding, self.scale_grad_by_freq, RULES[type(self.optimizer)],
            self.stale == "allow", tt_bag.STORES.index(self.store), self.sharing,
        )  # fmt: skip

    def set_lr(self, lr: float) -> None:
        """Change the step size of the fused optimizer; ValueError if there is none."""
        if self.optimizer is None:
            raise ValueError(
                "set_lr needs a fused optimizer; this bag was made with optimizer=None"
            )
        self.optimizer = type(self.optimizer)(
            lr, *([] if isinstance(self.optimizer, SGD) else [self.optimizer.eps])
        )
        self.control[tt_bag.LR] = self.optimizer.lr

    def weight_rows(self, index: Tensor) -> Tensor:
        """Rows of the table, (n, D), differentiable when the cores are Parameters."""
        reference.check_index(index, self.num_embeddings)
        return reference.rows(self.cores, index)

    def full_weight(self) -> Tensor:
        """The whole table, (num_embeddings, D). Takes the memory this module exists to save."""
        return reference.full(self.cores, self.num_embeddings)

    def weight_chunks(self, chunk: int = 2**16) -> Iterator[Tensor]:
        """The whole table in order, `chunk` rows at a time, without gradients."""
        with torch.no_grad():
            for first in range(0, self.num_embeddings, chunk):
                last = min(first + chunk, self.num_embeddings)
                yield self.weight_rows(torch.arange(first, last, device=self.cores[0].device))

    def expansion_error(self, dense: Tensor) -> float:
        """Relative error of the table against a dense one: ||TT - dense|| / ||dense||.

        Raises ValueError unless dense is (num_embeddings, embedding_dim).
        """
        wanted = (self.num_embeddings, self.embedding_dim)
        if tuple(dense.shape) != wanted:
            raise ValueError(f"dense must have shape {wanted}, got {tuple(dense.shape)}")
        first, squares, total = 0, 0.0, 0.0
        for rows in self.weight_chunks():
            part = dense[first : first + len(rows)].double()
            squares += float((rows.double() - part).square().sum())
            total += float(part.square().sum())
            first += len(rows)
        return float((squares / total) ** 0.5) if total else float(squares > 0)

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

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        wrong = self._differences(state_dict, prefix)
        if wrong:  # all at once, and nothing copied
            error_msgs.append(f"{prefix or 'bag'}: {'; '.join(wrong)}".replace(".:", ":"))
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _differences(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        found = [state_dict.get(f"{prefix}core{k}") for k in range(self.shape.d + 1)]
        shapes = [tuple(core.shape) for core in found if core is not None]
        if not shapes or any(len(shape) != 4 for shape in shapes):
            return []  # torch says what is missing
        p, _, q, r = zip(*shapes, strict=True)
        return [
            f"{name} is {there} in the checkpoint, {here} here"
            for name, there, here in (
                ("p", p, self.shape.p),
                ("q", q, self.shape.q),
                ("ranks", r[:-1], self.shape.ranks),
            )
            if there != here
        ]


class TTEmbedding(TTEmbeddingBag):
    """Drop-in for nn.Embedding that stores d small cores instead of the table.

    Arguments as TTEmbeddingBag, without those that speak of bags. Rows of padding_idx are zeros.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, **options: Any) -> None:
        for name in ("mode", "include_last_offset"):
            if name in options:
                raise TypeError(f"TTEmbedding has no bags and takes no {name}; use TTEmbeddingBag")
        super().__init__(num_embeddings, embedding_dim, **options)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # one argument, as nn.Embedding
        """Look rows up: (*input.shape, D)."""
        out = super().forward(input.reshape(-1, 1))
        return out.reshape(*input.shape, self.embedding_dim)


def check_padding(padding_idx: int | None, n_rows: int) -> int:
    """padding_idx counted from 0, or -1 for none; ValueError outside -n_rows..n_rows-1."""
    if padding_idx is None:
        return -1
    if not -n_rows <= padding_idx < n_rows:
        raise ValueError(
            f"padding_idx must lie in -{n_rows}..{n_rows - 1}, the rows of the table, "
            f"got {padding_idx}"
        )
    return padding_idx % n_rows


def is_native(cores: Sequence[Tensor], backend: Backend = "auto") -> bool:
    """True if these cores run in the native kernels. ValueError if backend="cpu" asks in vain."""
    if backend == "torch":
        return False
    can = all(
        core.dtype == torch.float32 and core.is_cpu and core.is_contiguous() for core in cores
    )
    if backend == "cpu" and not can:
        core = cores[0]
        raise ValueError(
            f"backend='cpu' needs contiguous float32 cores on the CPU, got {core.dtype} on "
            f"{core.device}; use backend='auto'"
        )
    return can and (torch.compiler.is_compiling() or library.available())


def _control_of(optimizer: Optimizer | None) -> Tensor:
    lr = 0.0 if optimizer is None else optimizer.lr
    eps = getattr(optimizer, "eps", 0.0)
    return torch.tensor([0.0, 0.0, lr, eps], dtype=torch.float64)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_frequency(mode: Mode, scale_grad_by_freq: bool) -> None:
    if scale_grad_by_freq and mode == "max":
        raise ValueError("scale_grad_by_freq has no meaning with mode='max', as in torch")
