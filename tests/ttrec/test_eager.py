"""The native eager path: the same bits and the same words as the operators it stands in for."""

import copy
import functools
import gc
import threading

import pytest
import torch

from common import native
from ttrec.bag import TTEmbeddingBag
from ttrec.kernels import tt_eager
from ttrec.optim import SGD, Adagrad, RowwiseAdagrad

INDEX = torch.tensor([[3, 499, 3], [7, 3, 12], [499, 0, 1]])
D_OUT = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def by_operator(monkeypatch):
    """Makes bags take the operators, as where torch's headers are missing."""
    return lambda: monkeypatch.setattr(tt_eager, "_operator", lambda: None)


def steps(bag, weights, index=INDEX, n=3):
    """Everything n steps leave, and how they were taken."""
    found, names = [], set()
    for _ in range(n):
        given = None if weights is None else weights.clone().requires_grad_()
        out = bag(index, per_sample_weights=given)
        names.add(out.grad_fn.name())
        out.backward(D_OUT)
        found += [out.detach()] if given is None else [out.detach(), given.grad]
    found += [*bag.state_dict().values(), *(core.grad for core in bag.parameters())]
    return [tensor.clone() for tensor in found], names


@pytest.mark.parametrize("optimizer", [None, SGD(0.1), Adagrad(0.1), RowwiseAdagrad(0.1)])
@pytest.mark.parametrize("mode", ["sum", "mean", "max", "weighted"])
@pytest.mark.parametrize(("d", "store"), [(2, "auto"), (3, "auto"), (3, "recompute"), (5, "auto")])
def test_steps_equal_those_of_the_operators_bit_for_bit(optimizer, mode, d, store, by_operator):
    weights = torch.rand(3, 3) if mode == "weighted" else None
    eager = TTEmbeddingBag(
        500, 24, rank=2, d=d, mode="sum" if mode == "weighted" else mode, padding_idx=12,
        scale_grad_by_freq=mode != "max", optimizer=optimizer, store=store,
    )  # fmt: skip
    other = copy.deepcopy(eager)
    found, names = steps(eager, weights)
    assert names == {"TTBagBackward"}
    by_operator()
    wanted, names = steps(other, weights)
    assert "TTBagBackward" not in names
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("index", [INDEX.int(), INDEX.t(), INDEX[:, ::2], INDEX[:0]])
def test_batches_of_any_layout_are_taken(index, by_operator):
    bag = TTEmbeddingBag(500, 24, rank=2)
    out = bag(index)
    assert out.grad_fn.name() == "TTBagBackward"
    by_operator()
    assert torch.equal(out, bag(index))


@pytest.mark.parametrize("has_path", [True, False])
def test_refused_turns_are_worded_alike(has_path, by_operator):
    if not has_path:
        by_operator()
    bag = TTEmbeddingBag(500, 24, rank=2, optimizer=SGD(0.1))
    first, second = bag(INDEX), bag(INDEX)
    second.backward(D_OUT, retain_graph=True)
    with pytest.raises(RuntimeError) as stale:
        first.backward(D_OUT)
    with pytest.raises(RuntimeError) as again:
        second.backward(D_OUT)
    assert str(stale.value) == (
        "the backward of forward 2 has stepped the cores since forward 1; run forward and backward "
        "in turn, look both batches up in one forward, or make the bag with "
        'stale="allow" to use the cores as they are now'
    )
    assert str(again.value) == (
        "backward ran a second time through a fused TT bag, but the step was already applied; "
        "call forward again"
    )


@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
def test_freed_graph_is_refused_as_torch_words_it(optimizer):
    bag = TTEmbeddingBag(500, 24, rank=2, optimizer=optimizer)
    out = bag(INDEX)
    out.backward(D_OUT)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.backward(D_OUT)


def test_core_changed_between_forward_and_backward_is_noticed():
    bag = TTEmbeddingBag(500, 24, rank=2)
    out = bag(INDEX)
    with torch.no_grad():
        bag.core1.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(D_OUT)


def test_step_is_seen_by_autograd_as_a_change_of_the_cores():
    bag = TTEmbeddingBag(500, 24, rank=2, optimizer=Adagrad(0.1))
    before = [tensor._version for tensor in (*bag.cores, *bag.states, bag.control)]
    bag(INDEX).backward(D_OUT)
    after = [tensor._version for tensor in (*bag.cores, *bag.states, bag.control)]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_stale_backward_uses_the_cores_as_they_are(by_operator):
    eager = TTEmbeddingBag(500, 24, rank=2, optimizer=SGD(0.1), stale="allow")
    other = copy.deepcopy(eager)
    for bag in (eager, other):
        first, second = bag(INDEX), bag(INDEX)
        second.backward(D_OUT)
        first.backward(D_OUT)
        by_operator()
    for a, b in zip(eager.cores, other.cores, strict=True):
        assert torch.equal(a, b)


def test_second_backward_without_optimizer_gives_the_same_gradient():
    bag = TTEmbeddingBag(500, 24, rank=2)
    out = bag(INDEX)
    first, second = (torch.autograd.grad(out, bag.cores, D_OUT, retain_graph=True) for _ in "12")
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_frozen_core_gets_no_gradient():
    bag = TTEmbeddingBag(500, 24, rank=2)
    bag.core1.requires_grad_(False)
    bag(INDEX).backward(D_OUT)
    assert bag.core1.grad is None
    assert bag.core0.grad is not None


@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
def test_forward_without_gradients_leaves_no_graph(optimizer):
    bag = TTEmbeddingBag(500, 24, rank=2, optimizer=optimizer)
    wanted = bag(INDEX).detach()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = bag(INDEX.clone())
        assert out.grad_fn is None
        assert torch.equal(out, wanted)


def test_options_changed_after_construction_count():
    bag = TTEmbeddingBag(500, 24, rank=2)
    total = bag(INDEX)
    bag.mode = "mean"
    torch.testing.assert_close(bag(INDEX), total / 3)


def test_graph_outlives_its_module():
    bag = TTEmbeddingBag(500, 24, rank=2, optimizer=SGD(0.1))
    out, core = bag(INDEX), bag.core0
    before = core.clone()
    del bag
    gc.collect()
    out.backward(D_OUT)
    assert not torch.equal(core, before)


def test_threads_step_bags_of_their_own():
    bags = [TTEmbeddingBag(500, 24, rank=2, optimizer=SGD(1e-3)) for _ in range(4)]
    copies = copy.deepcopy(bags)
    threads = [threading.Thread(target=steps, args=(bag, None, INDEX, 50)) for bag in bags]
    for thread in threads:
        thread.start()
    for bag in copies:
        steps(bag, None, n=50)
    for thread in threads:
        thread.join()
    for bag, other in zip(bags, copies, strict=True):
        for a, b in zip(bag.cores, other.cores, strict=True):
            assert torch.equal(a, b)


def test_operators_serve_where_it_cannot_be_built(monkeypatch):
    def refuse(name, sources, **options):
        raise native.NativeBuildError(["c++"], "error: torch/library.h: No such file", sources[0])

    bag = TTEmbeddingBag(500, 24, rank=2)
    wanted = bag(INDEX)
    # Another cache: what this process has defined already cannot be defined again.
    monkeypatch.setattr(tt_eager, "_operator", functools.cache(tt_eager._operator.__wrapped__))
    monkeypatch.setattr(native, "build", refuse)
    with pytest.warns(
        RuntimeWarning, match=r"several times as long for small batches.*No such"
    ) as caught:
        found = [bag(INDEX), bag(INDEX)]
    assert len(caught) == 1
    assert torch.equal(found[1], wanted)
    assert found[1].grad_fn.name() != "TTBagBackward"
