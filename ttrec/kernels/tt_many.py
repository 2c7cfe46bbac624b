"""Several tables in one native call: the jobs of tt_many.cpp, filled for a batch at a time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from common import native
from ttrec.kernels import library, tt_bag
from ttrec.kernels.library import desk, kernels_of

_WORDS = (
    "plan_fn", "forward_fn", "backward_fn", "sizes", "cores", "indices", "offsets", "n", "batch",
    "length", "origin", "is_wide", "n_rows", "padding", "sharing", "control", "number", "plan",
    "scale", "weights", "kept", "n_kept", "out", "winners", "d_out", "d_weights", "by_frequency",
    "rule", "allows_stale", "threads", "found",
)  # fmt: skip
_AT = {name: i for i, name in enumerate(_WORDS)}


@attrs.frozen(eq=False)
class _Library:
    plan: Callable[..., int]
    forward: Callable[..., None]
    backward: Callable[..., int]


@functools.cache
def _load() -> _Library:
    source = library.FOLDER / "tt_many.cpp"
    built = native.build(source.stem, [source])
    assert built.function("int64_t tt_many_words()")() == len(_WORDS)
    return _Library(
        built.function(
            "int64_t tt_many_plan(int64_t* jobs, int64_t n_jobs, float* work, int64_t* codes)"
        ).raw,
        built.function(
            "void tt_many_forward(const int64_t* jobs, int64_t n_jobs, float* rows, float* work)"
        ).raw,
        built.function(
            "int64_t tt_many_backward(const int64_t* jobs, int64_t n_jobs, float* work)"
        ).raw,
    )


@attrs.frozen(eq=False)
class Table:
    """What is fixed about one table of a collection; numbers as ttrec::bag_forward takes them."""

    name: str
    cores: Sequence[Tensor]
    states: Sequence[Tensor]
    control: Tensor | None
    mode: int
    n_rows: int
    padding: int
    by_frequency: bool
    rule: int
    allows_stale: bool
    store: int


class Call:
    """One forward of all tables, and what its backward needs."""

    def __init__(self, tables: Sequence[Table], number: int) -> None:
        self.tables = tables
        self.number = number
        self.kernels = [kernels_of(tuple([core.shape for core in t.cores])) for t in tables]
        self.jobs = np.zeros((len(tables), len(_WORDS)), dtype=np.int64)
        self.held: list[Any] = []  # memory the jobs point into

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor,
        cuts: Sequence[int],
        batch: int,
        weights: Tensor | None,
        needs_grad: bool,
    ) -> list[Tensor]:
        """Pool every table, (batch, D_t) each. cuts[t] .. cuts[t + 1] are the indices of table t.

        Raises IndexError naming the table, and ValueError for bad offsets, before any table is
        looked at.
        """
        native_calls, jobs, item = _load(), self.jobs, indices.element_size()
        n_of = [cuts[t + 1] - cuts[t] for t in range(len(self.tables))]
        threads = library.threads_for(max(n_of, default=0))
        words = [library.plan_words(n, k.p) + 1 for n, k in zip(n_of, self.kernels, strict=True)]
        plans = torch.empty(sum(words), dtype=torch.int32)
        found = np.zeros((len(self.tables), 4), dtype=np.int64)
        codes = np.zeros(len(self.tables), dtype=np.int64)
        outs = [torch.empty(batch, k.dim) for k in self.kernels]
        plan_at, word = plans.data_ptr(), 0
        pairs = [
            tt_bag.kept_pairs(k, n, t.store) if needs_grad else 0
            for t, k, n in zip(self.tables, self.kernels, n_of, strict=True)
        ]
        kept = [torch.empty(m * k.pair_floats) for m, k in zip(pairs, self.kernels, strict=True)]
        for t, (table, kernels, job) in enumerate(
            zip(self.tables, self.kernels, jobs, strict=True)
        ):
            addresses = np.array([c.data_ptr() for c in table.cores], dtype=np.int64)
            scale = torch.empty(batch) if table.mode == tt_bag.MEAN else None
            winners = (
                torch.empty(batch, kernels.dim, dtype=torch.int32)
                if table.mode == tt_bag.MAX
                else None
            )
            self.held += [addresses, scale, winners]
            job[:] = (
                *kernels.addresses[:3], kernels.sizes_at, addresses.ctypes.data,
                indices.data_ptr() + cuts[t] * item, offsets.data_ptr() + t * batch * item,
                n_of[t], batch, 1, cuts[t], item == 8, table.n_rows, table.padding,
                tt_bag.SHARE_ALL, _address(table.control), self.number, plan_at + 4 * word,
                _address(scale), 0 if weights is None else weights.data_ptr() + 4 * cuts[t],
                kept[t].data_ptr(), pairs[t], outs[t].data_ptr(), _address(winners), 0, 0,
                table.by_frequency, table.rule, table.allows_stale, threads,
                found.ctypes.data + 32 * t,
            )  # fmt: skip
            word += words[t]
        self.held += [plans, kept, found, weights]
        rows = max((n * k.dim for n, k in zip(n_of, self.kernels, strict=True)), default=0)
        work_at = desk.floats_at("work", self._work_floats(n_of, threads))
        wrong = native_calls.plan(jobs.ctypes.data, len(jobs), work_at, codes.ctypes.data)
        if wrong:
            t = wrong - 1
            raise tt_bag.batch_error(
                int(codes[t]), found[t].tolist(), n_of[t], self.tables[t].n_rows,
                f"table {self.tables[t].name!r}",
            )  # fmt: skip
        native_calls.forward(jobs.ctypes.data, len(jobs), desk.floats_at("rows", rows), work_at)
        self.n_of, self.threads = n_of, threads
        return outs

    def backward(
        self, d_outs: Sequence[Tensor | None], needs_d_weights: bool
    ) -> tuple[list[list[Tensor]], Tensor | None]:
        """Gradients of every table's cores, none with a fused optimizer; and of the weights."""
        n = sum(self.n_of)
        d_weights = torch.zeros(n) if needs_d_weights else None
        d_cores, first = [], 0
        for t, (table, job) in enumerate(zip(self.tables, self.jobs, strict=True)):
            given = d_outs[t]
            d_out = torch.zeros(job[_AT["batch"]], self.kernels[t].dim) if given is None else given
            d_out = d_out.contiguous()
            targets = table.states if table.rule else [torch.zeros_like(c) for c in table.cores]
            addresses = np.array(
                [c.data_ptr() for c in (*table.cores, *(targets or table.cores))], dtype=np.int64
            )
            job[_AT["cores"]] = addresses.ctypes.data
            job[_AT["d_out"]] = d_out.data_ptr()
            job[_AT["d_weights"]] = 0 if d_weights is None else d_weights.data_ptr() + 4 * first
            first += self.n_of[t]
            self.held += [addresses, d_out]
            d_cores.append([] if table.rule else list(targets))
        turn = _load().backward(
            self.jobs.ctypes.data,
            len(self.jobs),
            desk.floats_at("work", self._work_floats(self.n_of, self.threads)),
        )
        if turn:
            control = self.tables[0].control
            assert control is not None
            raise tt_bag.turn_error(turn == 1, int(control[tt_bag.STEPPED_BY]), self.number)
        for table in self.tables:
            if table.control is not None:
                torch.autograd.graph.increment_version([*table.cores, *table.states])
        return d_cores, d_weights

    def _work_floats(self, n_of: Sequence[int], threads: int) -> int:
        return max(
            (library.work_floats(k, n, threads) for k, n in zip(self.kernels, n_of, strict=True)),
            default=0,
        )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class CollectionBag(torch.autograd.Function):
    """All tables forward and all backward, a native call each; one more makes the plans."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor | None,
        weights: Tensor | None,
        call: Call,
        batch: tuple[Any, ...],
        *cores: Tensor,
    ) -> tuple[Tensor, ...]:
        indices, offsets, cuts, n_bags, needs_grad = batch
        ctx.call = call
        ctx.set_materialize_grads(False)
        return tuple(call.forward(indices, offsets, cuts, n_bags, weights, needs_grad))

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor | None) -> tuple[Tensor | None, ...]:
        d_cores, d_weights = ctx.call.backward(d_outs, ctx.needs_input_grad[1])
        return None, d_weights, None, None, *(d for of_table in d_cores for d in of_table)
