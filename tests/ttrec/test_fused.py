"""Fused optimizers against torch.optim and their own formulas, states included."""

import pytest
import torch
from torch.nn import functional

from ttrec.bag import TTEmbeddingBag
from ttrec.optim import SGD, Adagrad, RowwiseAdagrad

ROWS, DIM = 900, 24
# g / (sqrt(s) + eps) turns by 1 / eps times what g is off by; gradients here are about as large as
# this eps, so that rounding stays what it is in the gradients.
LR, EPS = 0.05, 0.05
#: Relative to the largest entry: 5e-6 a step, as for SGD, and steps follow each other.
NEAR = 2e-5


def pair(optimizer, d=3, mode="sum", **options):
    """A bag with dense gradients, and one with a fused optimizer and equal cores."""
    torch.manual_seed(0)
    plain = TTEmbeddingBag(ROWS, DIM, rank=4, d=d, mode=mode, target_var=1.0)
    fused = TTEmbeddingBag(ROWS, DIM, rank=4, d=d, mode=mode, optimizer=optimizer, **options)
    copy(plain, fused)
    return plain, fused


def copy(source, target):
    for core, initial in zip(target.cores, source.cores, strict=True):
        core.data.copy_(initial.data)


def batches(n):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        yield (
            torch.randint(0, ROWS, (32, 3), generator=generator),
            torch.randn(32, DIM, generator=generator),
        )


def loss_of(bag, index, target):
    return functional.mse_loss(bag(index), target)


def assert_near(found, wanted):
    assert float((found - wanted).abs().max()) <= NEAR * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("d", "mode", "backend"),
    [
        *((d, mode, "auto") for d in (2, 3, 4, 5) for mode in ("sum", "mean", "max")),
        # Plain torch knows no number of cores by itself.
        *((3, mode, "torch") for mode in ("sum", "mean", "max")),
    ],
)
def test_fused_adagrad_equals_torch_adagrad_for_20_steps(d, mode, backend):
    plain, fused = pair(Adagrad(LR, EPS), d, mode, backend=backend)
    theirs = torch.optim.Adagrad(plain.parameters(), lr=LR, eps=EPS)
    for index, target in batches(20):
        theirs.zero_grad()
        losses = [loss_of(bag, index, target) for bag in (plain, fused)]
        for loss in losses:
            loss.backward()
        theirs.step()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for core, wanted in zip(fused.cores, plain.cores, strict=True):
        assert_near(core, wanted.detach())
    for state, core in zip(fused.states, plain.cores, strict=True):
        assert_near(state, theirs.state[core]["sum"])


@pytest.mark.parametrize(
    ("d", "backend"), [(2, "auto"), (3, "auto"), (4, "auto"), (5, "auto"), (3, "torch")]
)
def test_rowwise_adagrad_is_its_formula_for_20_steps(d, backend):
    plain, fused = pair(RowwiseAdagrad(LR, EPS), d, backend=backend)
    states = [torch.zeros(core.shape[0], dtype=torch.float64) for core in plain.cores]
    for index, target in batches(20):
        plain.zero_grad()
        for bag in (plain, fused):
            loss_of(bag, index, target).backward()
        with torch.no_grad():
            for core, state in zip(plain.cores, states, strict=True):
                state += core.grad.double().square().mean((1, 2, 3))
                rate = (LR / (state.sqrt() + EPS)).view(-1, 1, 1, 1)
                core -= (rate * core.grad).float()
    for core, wanted in zip(fused.cores, plain.cores, strict=True):
        assert_near(core, wanted.detach())
    for state, wanted in zip(fused.states, states, strict=True):
        assert state.shape == wanted.shape
        assert_near(state.double(), wanted)


@pytest.mark.parametrize("optimizer", [SGD(LR), Adagrad(LR, EPS), RowwiseAdagrad(LR, EPS)])
def test_slices_no_index_touches_are_left_alone(optimizer):
    _, fused = pair(optimizer)
    before = [core.clone() for core in fused.cores]
    fused(torch.tensor([[0, 1, 2]])).sum().backward()
    assert not torch.equal(fused.cores[0][0], before[0][0])
    for k in range(2):  # rows 0, 1 and 2 share their first two digits
        assert torch.equal(fused.cores[k][1:], before[k][1:])
    assert torch.equal(fused.cores[2][3:], before[2][3:])


@pytest.mark.parametrize("optimizer", [None, SGD(LR), Adagrad(LR, EPS), RowwiseAdagrad(LR, EPS)])
@pytest.mark.parametrize("d", [3, 4])
def test_kept_and_recomputed_products_give_the_same_bits(optimizer, d):
    index = torch.randint(0, ROWS, (400, 5), generator=torch.Generator().manual_seed(0))
    d_out = torch.randn(400, DIM, generator=torch.Generator().manual_seed(1))
    results = []
    for store in ("keep", "recompute", "auto"):
        _, bag = pair(optimizer, d, store=store)
        out = bag(index)
        out.backward(d_out)
        tensors = [*bag.cores, *bag.states] if optimizer else [c.grad for c in bag.cores]
        results.append([out.detach(), *(t.detach().clone() for t in tensors)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("optimizer", [Adagrad(LR, EPS), RowwiseAdagrad(LR, EPS)])
@pytest.mark.parametrize("d", [3, 4])
def test_states_are_bitwise_equal_for_any_thread_count(optimizer, d):
    index = torch.randint(0, ROWS, (700, 5), generator=torch.Generator().manual_seed(0))
    d_out = torch.randn(700, DIM, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            _, bag = pair(optimizer, d)
            for _ in range(2):
                bag(index).backward(d_out)
            results.append([t.clone() for t in (*bag.cores, *bag.states)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
