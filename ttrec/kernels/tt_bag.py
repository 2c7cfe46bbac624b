"""Load tt_bag.cpp and give it torch's calling convention.

A batch is (indices, bounds): bag b holds positions bounds[b] to bounds[b+1] - 1. Cores, gradients
and outputs are float32 on the CPU; indices and bounds int64.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from common import native, torch_ops
from ttrec.reference import bounds_error

_SOURCE = Path(__file__).with_name("tt_bag.cpp")
#: Backward works in chunks of positions whose saved partial products take at most this many floats.
CHUNK_FLOATS = 2**24
#: Below this many positions a further thread costs more than it does.
POSITIONS_PER_THREAD = 64

_BATCH = "const int64_t* sizes, const int64_t* indices"
_WORK = (
    "const int64_t* owner, const int64_t* bounds, const float* weights, const float* dout, "
    "float* saved, float* scratch, int64_t* start, int64_t* order"
)


@attrs.frozen
class Kernels:
    """The entry points of the library for one number of cores."""

    check: Callable[..., int]
    scratch: Callable[..., int]
    saved: Callable[..., int]
    forward: Callable[..., None]
    backward: Callable[..., None]
    backward_sgd: Callable[..., None]


@functools.cache
def load(d: int) -> Kernels:
    """Compile (first use only) and load the kernels for d cores."""
    lib = native.build("tt_bag", [_SOURCE], openmp=True, defines={"TT_D": d})
    const_cores = ", ".join(f"const float* g{k}" for k in range(1, d + 1))
    cores = const_cores.replace("const ", "")
    d_cores = cores.replace(" g", " d")
    return Kernels(
        check=lib.function(
            "int64_t tt_bag_check(const int64_t* indices, const int64_t* bounds, int64_t n, "
            "int64_t batch, int64_t rows, int64_t* owner, int64_t* found)"
        ),
        scratch=lib.function("int64_t tt_bag_scratch(const int64_t* sizes)"),
        saved=lib.function("int64_t tt_bag_saved(const int64_t* sizes)"),
        forward=lib.function(
            f"void tt_bag_forward({const_cores}, {_BATCH}, const int64_t* bounds, "
            "const float* weights, float* scratch, float* out, int64_t batch, int64_t mean, "
            "int64_t threads)",
            optional=("weights",),
        ),
        backward=lib.function(
            f"void tt_bag_backward({const_cores}, {_BATCH}, {_WORK}, {d_cores}, "
            "float* d_weights, int64_t n, int64_t mean, int64_t threads)",
            optional=("weights", "d_weights"),
        ),
        backward_sgd=lib.function(
            f"void tt_bag_backward_sgd({cores}, {_BATCH}, {_WORK}, float* d_weights, int64_t n, "
            "int64_t mean, int64_t threads, float lr)",
            optional=("weights", "d_weights"),
        ),
    )


@functools.cache
def available() -> bool:
    """True if the kernels can be compiled here; warns once if no compiler is found."""
    try:
        load(3)
    except native.CompilerNotFound as error:
        warnings.warn(
            f"TT embedding bags run on plain torch, many times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


@attrs.frozen(eq=False)
class Plan:
    """What a call needs to know of the cores' shapes."""

    kernels: Kernels
    sizes: np.ndarray
    dim: int
    scratch: int
    saved: int
    largest_p: int


@functools.lru_cache(maxsize=1024)
def _plan(shapes: tuple[tuple[int, ...], ...]) -> Plan:
    kernels = load(len(shapes))
    p, _, q, r = zip(*shapes, strict=True)
    sizes = np.array([0, *p, *q, *r[:-1]], dtype=np.int64)
    return Plan(
        kernels,
        sizes,
        int(np.prod(q)),
        kernels.scratch(sizes),
        kernels.saved(sizes),
        max(p),
    )


def plan_of(cores: Sequence[Tensor]) -> Plan:
    """The plan for cores of these shapes, cached."""
    return _plan(tuple(tuple(core.shape) for core in cores))


def check(d: int, indices: Tensor, bounds: Tensor, n_rows: int) -> Tensor:
    """Check a batch and return the bag of every position, (n,) int64.

    Raises IndexError for an index outside 0..n_rows-1 and ValueError for bounds that do not start
    at 0, fall, or leave the batch.
    """
    n = indices.numel()
    owner = torch.empty(n, dtype=torch.int64)
    found = np.zeros(3, dtype=np.int64)
    wrong = load(d).check(indices, bounds, n, bounds.numel() - 1, n_rows, owner, found)
    if wrong:
        raise batch_error(wrong, [int(v) for v in found], n, n_rows)
    return owner


def batch_error(wrong: int, found: Sequence[int], n: int, n_rows: int) -> Exception:
    """The exception for a code of tt_bag_check."""
    position, value, before = found
    if wrong == 1:
        return IndexError(
            f"index of the TT table must lie in 0..{n_rows - 1}, got {value} at position {position}"
        )
    if wrong == 2:
        return ValueError(f"offsets must start at 0, got {value}")
    if wrong == 3:
        return bounds_error(position, value, before, n)
    return ValueError(f"offsets must end at the {n} indices, got {value} at position {position}")


def _threads(n: int) -> int:
    return max(1, min(torch.get_num_threads(), n // POSITIONS_PER_THREAD))


def forward(
    cores: Sequence[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
) -> Tensor:
    """Pool rows bag by bag, (batch, D); see `ttrec.reference.bag`. Checks the batch first."""
    plan = plan_of(cores)
    check(len(cores), indices, bounds, n_rows)
    batch, threads = bounds.numel() - 1, _threads(indices.numel())
    out = torch.empty(batch, plan.dim)
    scratch = torch.empty(threads * plan.scratch)
    plan.kernels.forward(
        *cores, plan.sizes, indices, bounds, weights, scratch, out, batch, int(is_mean), threads
    )
    return out


def backward(
    d_out: Tensor,
    cores: Sequence[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
    needs_d_weights: bool,
) -> tuple[list[Tensor], Tensor]:
    """Dense gradients of the cores, and of the weights ((0,) unless wanted)."""
    plan = plan_of(cores)
    owner = check(len(cores), indices, bounds, n_rows)
    n = indices.numel()
    d_cores = [torch.zeros_like(core) for core in cores]
    d_weights = torch.empty(n if needs_d_weights else 0)
    chunk = _chunk_length(plan)
    for i in range(0, n, chunk):
        part = slice(i, i + chunk)
        plan.kernels.backward(
            *cores,
            plan.sizes,
            *_work(plan, d_out, indices[part], owner[part], bounds, weights, part),
            *d_cores,
            d_weights[part] if needs_d_weights else None,
            indices[part].numel(),
            int(is_mean),
            _threads(n),
        )
    return d_cores, d_weights


def backward_sgd(
    d_out: Tensor,
    cores: Sequence[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
    needs_d_weights: bool,
    lr: float,
) -> Tensor:
    """Step the cores, core -= lr * gradient, and return the gradient of the weights.

    A batch too long for one chunk goes through dense gradients, with the same update.
    """
    plan = plan_of(cores)
    n = indices.numel()
    if n > _chunk_length(plan):
        d_cores, d_weights = backward(
            d_out, cores, indices, bounds, weights, is_mean, n_rows, needs_d_weights
        )
        for core, d_core in zip(cores, d_cores, strict=True):
            core.sub_(d_core, alpha=lr)
        return d_weights
    owner = check(len(cores), indices, bounds, n_rows)
    d_weights = torch.empty(n if needs_d_weights else 0)
    plan.kernels.backward_sgd(
        *cores,
        plan.sizes,
        *_work(plan, d_out, indices, owner, bounds, weights, slice(0, n)),
        d_weights if needs_d_weights else None,
        n,
        int(is_mean),
        _threads(n),
        lr,
    )
    torch.autograd.graph.increment_version(cores)  # autograd must notice the change
    return d_weights


def _chunk_length(plan: Plan) -> int:
    return max(1, CHUNK_FLOATS // plan.saved)


def _work(
    plan: Plan,
    d_out: Tensor,
    indices: Tensor,
    owner: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    part: slice,
) -> tuple[Tensor | None, ...]:
    """The arguments from indices to order that both backward entry points share."""
    n = indices.numel()
    return (
        indices,
        owner,
        bounds,
        None if weights is None else weights[part],
        d_out,
        torch.empty(n * plan.saved),
        torch.empty(_threads(n) * plan.scratch),
        torch.empty(plan.largest_p + 1, dtype=torch.int64),
        torch.empty(n, dtype=torch.int64),
    )


def _fake_forward(
    cores: list[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
) -> Tensor:
    dim = 1
    for core in cores:
        dim *= core.shape[2]
    return cores[0].new_empty(bounds.shape[0] - 1, dim)


def _bag_backward(
    d_out: Tensor,
    cores: list[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
) -> list[Tensor]:
    d_cores, d_weights = backward(
        d_out.contiguous(),
        cores,
        indices,
        bounds,
        weights,
        is_mean,
        n_rows,
        weights is not None,
    )
    return [*d_cores, d_weights]


def _fake_backward(
    d_out: Tensor,
    cores: list[Tensor],
    indices: Tensor,
    bounds: Tensor,
    weights: Tensor | None,
    is_mean: bool,
    n_rows: int,
) -> list[Tensor]:
    n = 0 if weights is None else indices.shape[0]
    return [*(torch.empty_like(core) for core in cores), d_out.new_empty(n)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    cores, indices, bounds, weights, ctx.is_mean, ctx.n_rows = inputs
    ctx.save_for_backward(indices, bounds, weights, *cores)


def _pull_back(ctx: Any, d_out: Tensor) -> tuple[list[Tensor] | Tensor | None, ...]:
    indices, bounds, weights, *cores = ctx.saved_tensors
    *d_cores, d_weights = bag_backward(
        d_out, cores, indices, bounds, weights, ctx.is_mean, ctx.n_rows
    )
    return d_cores, None, None, None if weights is None else d_weights, None, None


_BATCH_SCHEMA = "Tensor[] cores, Tensor indices, Tensor bounds, Tensor? weights"
bag_backward = torch_ops.register(
    "ttrec::bag_backward",
    f"(Tensor d_out, {_BATCH_SCHEMA}, bool is_mean, int n_rows) -> Tensor[]",
    _bag_backward,
    _fake_backward,
)
bag_forward = torch_ops.register(
    "ttrec::bag_forward",
    f"({_BATCH_SCHEMA}, bool is_mean, int n_rows) -> Tensor",
    forward,
    _fake_forward,
    backward=_pull_back,
    setup_context=_save,
)
