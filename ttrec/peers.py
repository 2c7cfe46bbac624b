"""Training steps of our bag and of its live peers, each behind one function of the same signature.

A step is forward + backward + SGD on a fixed batch, pooled by sum. The candidates of TENSOR_TRAIN
hold the same tensor train and make the same update; `embedding_bag` and `fbgemm` hold the
expanded table, where rows move on their own. What only a peer needs is imported when it is used.
FBTT-Embedding, EL-Rec and EcoRec need CUDA and cannot run on a CPU; `published` stands for the
algorithm of the first.
"""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from common.extras import require
from ttrec import reference
from ttrec.bag import Store, TTEmbeddingBag
from ttrec.kernels import tt_bag
from ttrec.kernels.published import SUB_BATCH, Published
from ttrec.kernels.published import published as load_published
from ttrec.optim import SGD
from ttrec.shapes import TTShape


@attrs.frozen(eq=False)
class Problem:
    """One table and one batch, shared by all candidates; nobody writes to its tensors.

    cores:   initial cores of `shape`
    indices: (n,) int64;  bounds: (batch + 1,) int64;  d_out: (batch, D) gradient of the output
    """

    shape: TTShape
    cores: tuple[Tensor, ...]
    indices: Tensor
    bounds: Tensor
    d_out: Tensor
    lr: float


@attrs.frozen(eq=False)
class Candidate:
    """A model in training.

    step: take one step and return the pooled rows from before it, (batch, D)
    rows: table rows as they are now, (n, D)
    forward: pooled rows without gradients, where that is a case of its own
    """

    step: Callable[[], Tensor]
    rows: Callable[[Tensor], Tensor]
    forward: Callable[[], Tensor] | None = None


def ours(problem: Problem, *, sharing: int = tt_bag.SHARE_ALL, store: Store = "auto") -> Candidate:
    """TTEmbeddingBag with fused SGD.

    sharing: what a batch shares, SHARE_ROWS and SHARE_PAIRS of ttrec.kernels.tt_bag
    """
    shape = problem.shape
    bag = TTEmbeddingBag(
        shape.rows,
        shape.dim,
        shape=shape,
        include_last_offset=True,
        optimizer=SGD(problem.lr),
        store=store,
    )
    bag.sharing = sharing
    for core, initial in zip(bag.cores, problem.cores, strict=True):
        core.copy_(initial)

    def step() -> Tensor:
        out: Tensor = bag(problem.indices, problem.bounds)
        torch.autograd.backward(out, problem.d_out)
        return out.detach()

    def forward() -> Tensor:
        with torch.no_grad():
            pooled: Tensor = bag(problem.indices, problem.bounds)
        return pooled

    return Candidate(step, bag.weight_rows, forward)


def published(problem: Problem, sub_batch: int = SUB_BATCH) -> Candidate:
    """The paper's algorithm in our microkernels: every position runs its own chain.

    Raises ValueError for a shape too unusual to have kernels of its own.
    """
    return _published(problem, load_published(problem.shape, sub_batch))


def nothing_shared(problem: Problem) -> Candidate:
    """Our kernel with everything it shares within a batch switched off."""
    return published(problem, sub_batch=1)


def _published(problem: Problem, kernels: Published) -> Candidate:
    cores = [core.clone() for core in problem.cores]
    lengths = torch.diff(problem.bounds)
    owner = torch.repeat_interleave(torch.arange(lengths.numel()), lengths)
    anchor = torch.empty(0, requires_grad=True)

    def forward() -> Tensor:
        return kernels.forward(cores, problem.indices, owner, lengths.numel())

    class Bag(torch.autograd.Function):
        """Through autograd, as every candidate; the step itself is taken in backward."""

        @staticmethod
        def forward(ctx: Any, anchor: Tensor) -> Tensor:
            return forward()

        @staticmethod
        def backward(ctx: Any, *d_outs: Tensor) -> None:
            kernels.step(cores, problem.indices, owner, d_outs[0], problem.lr)

    def step() -> Tensor:
        out: Tensor = Bag.apply(anchor)  # type: ignore[no-untyped-call]  # torch's apply has no annotations
        torch.autograd.backward(out, problem.d_out)
        return out.detach()

    return Candidate(step, lambda index: reference.rows(cores, index), forward)


def torch_bmm(problem: Problem) -> Candidate:
    """The chain by gather and batched product, torch autograd and torch.optim.SGD."""
    return _autograd_candidate(problem, lambda cores: _pooled_by_bmm(problem, cores))


def torch_compiled(problem: Problem) -> Candidate:
    """`torch_bmm` with forward and backward compiled by torch.compile."""
    pooled = torch.compile(lambda *cores: _pooled_by_bmm(problem, list(cores)), fullgraph=True)
    return _autograd_candidate(problem, lambda cores: pooled(*cores))


def t3nsor_gather(problem: Problem) -> Candidate:
    """T3nsor's gather path: the slices of each row by index, multiplied one core after another."""

    def pooled(cores: list[Tensor]) -> Tensor:
        digits = reference.digits(problem.indices, problem.shape.p)
        # (n, q1, r1), then (n, q1 q2, r2), ...; T3nsor multiplies by einsum over gathered cores.
        product = cores[0][digits[0]][:, 0]
        for core, digit in zip(cores[1:], digits[1:], strict=True):
            product = torch.einsum("nqa,najb->nqjb", product, core[digit]).flatten(1, 2)
        return _sum_bags(problem, product[:, :, 0])

    return _autograd_candidate(problem, pooled)


def _pooled_by_bmm(problem: Problem, cores: list[Tensor]) -> Tensor:
    digits = reference.digits(problem.indices, problem.shape.p)
    return _sum_bags(problem, reference.chain(cores, digits))


def _sum_bags(problem: Problem, rows: Tensor) -> Tensor:
    lengths = torch.diff(problem.bounds)
    if rows.shape[0] == lengths.numel():  # bags of one
        return rows
    owner = torch.repeat_interleave(
        torch.arange(lengths.numel()), lengths, output_size=rows.shape[0]
    )
    return torch.zeros_like(problem.d_out).index_add(0, owner, rows)


def t3nsor(problem: Problem) -> Candidate:
    """T3nsor's default layer: expand the whole table, then look rows up in it; autograd and SGD."""

    def pooled(cores: list[Tensor]) -> Tensor:
        return torch.nn.functional.embedding_bag(
            problem.indices,
            reference.full(cores),
            problem.bounds,
            mode="sum",
            include_last_offset=True,
        )

    return _autograd_candidate(problem, pooled)


def embedding_bag(problem: Problem, table: Tensor | None = None) -> Candidate:
    """The dense table as nn.EmbeddingBag with sparse gradients and torch.optim.SGD.

    table: (rows, D), stepped in place; by default the problem's own, expanded
    """
    bag = torch.nn.EmbeddingBag.from_pretrained(
        _expanded(problem) if table is None else table,
        freeze=False,
        mode="sum",
        sparse=True,
        include_last_offset=True,
    )
    optimizer = torch.optim.SGD(bag.parameters(), lr=problem.lr)

    def step() -> Tensor:
        optimizer.zero_grad()
        out: Tensor = bag(problem.indices, problem.bounds)
        torch.autograd.backward(out, problem.d_out)
        optimizer.step()
        return out.detach()

    return Candidate(step, lambda index: bag.weight.detach()[index])


def fbgemm(problem: Problem) -> Candidate:
    """The dense table in fbgemm's table-batched CPU embedding, with its fused SGD.

    Raises MissingExtra with the pip line if fbgemm is not installed.
    """
    table = fbgemm_table(problem.shape, problem.lr)
    weight: Tensor = table.split_embedding_weights()[0]
    weight.data.copy_(_expanded(problem))
    return fbgemm_with(problem, table)


def fbgemm_table(shape: TTShape, lr: float) -> Any:
    """One dense table of fbgemm with fused SGD, its values not set."""
    root = "fbgemm_gpu.split_table_batched_embeddings_ops"
    training = require(f"{root}_training", "ttrec", "the fbgemm peer")
    common = require(f"{root}_common", "ttrec", "the fbgemm peer")
    config = require("fbgemm_gpu.split_embedding_configs", "ttrec", "the fbgemm peer")
    return training.SplitTableBatchedEmbeddingBagsCodegen(
        [(shape.rows, shape.dim, common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)],
        optimizer=config.EmbOptimType.EXACT_SGD,
        learning_rate=lr,
        pooling_mode=common.PoolingMode.SUM,
    )


def fbgemm_with(problem: Problem, table: Any) -> Candidate:
    """Steps of a table from `fbgemm_table`, with the values it has."""
    weight: Tensor = table.split_embedding_weights()[0]

    def step() -> Tensor:
        out: Tensor = table(problem.indices, problem.bounds)
        torch.autograd.backward(out, problem.d_out)
        return out.detach()

    return Candidate(step, lambda index: weight.detach()[index])


#: Candidates that hold the tensor train, and those that hold the dense table.
TENSOR_TRAIN: dict[str, Callable[[Problem], Candidate]] = {
    "ours": ours,
    "published": published,
    "nothing_shared": nothing_shared,
    "torch_bmm": torch_bmm,
    "torch_compiled": torch_compiled,
    "t3nsor_gather": t3nsor_gather,
    "t3nsor": t3nsor,
}
DENSE: dict[str, Callable[[Problem], Candidate]] = {
    "embedding_bag": embedding_bag,
    "fbgemm": fbgemm,
}


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Raise AssertionError unless two results agree to float32 accuracy of the chain products."""
    # Sums of up to some thousand products in other orders: 2e-5 of the largest entry.
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * scale)


def assert_same_step(problem: Problem, names: Iterable[str] = TENSOR_TRAIN) -> None:
    """Raise AssertionError unless the tensor-train candidates agree before and after one step."""
    touched = torch.unique(problem.indices)
    wanted = ours(problem)
    out = wanted.step()
    rows = wanted.rows(touched)
    for name in names:
        candidate = TENSOR_TRAIN[name](problem)
        assert_close(candidate.step(), out)
        assert_close(candidate.rows(touched), rows)


def _autograd_candidate(problem: Problem, pooled: Callable[[list[Tensor]], Tensor]) -> Candidate:
    cores = [core.clone().requires_grad_() for core in problem.cores]
    optimizer = torch.optim.SGD(cores, lr=problem.lr)

    def step() -> Tensor:
        optimizer.zero_grad()
        out = pooled(cores)
        torch.autograd.backward(out, problem.d_out)
        optimizer.step()
        return out.detach()

    def forward() -> Tensor:
        with torch.no_grad():
            return pooled(cores)

    return Candidate(
        step, lambda index: reference.rows([c.detach() for c in cores], index), forward
    )


def _expanded(problem: Problem) -> Tensor:
    return reference.full(problem.cores, problem.shape.rows).contiguous()
