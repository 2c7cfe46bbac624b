"""TTEmbeddingBag against float64 autograd, nn.EmbeddingBag and torch.optim.SGD."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ttrec import reference
from ttrec.bag import TTEmbeddingBag, tt_embedding_bag
from ttrec.kernels import library
from ttrec.optim import SGD
from ttrec.shapes import TTShape, max_useful_ranks

# Five products of up to 64 terms round by about sqrt(5 * 64) * 2^-24 = 1.1e-6 of the largest entry.
FORWARD, UPDATE = 2e-6, 5e-6


def error(found, wanted):
    """Largest difference relative to the largest entry wanted."""
    if wanted.numel() == 0 or float(wanted.abs().max()) == 0:
        return float(found.abs().max()) if found.numel() else 0.0
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def random_cores(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) for s in shape.core_shapes]


def bounds_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@st.composite
def problems(draw):
    """Shapes of 2 to 5 cores with ones and primes, unequal ranks, and ragged batches."""
    d = draw(st.integers(2, 5))
    p = draw(st.lists(st.integers(1, 7), min_size=d, max_size=d))
    q = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=d, max_size=d))
    ranks = [draw(st.integers(1, min(top, 17))) for top in max_useful_ranks(p, q)]
    rows = draw(st.integers(1, torch.Size(p).numel()))
    dim = torch.Size(q).numel()
    lengths = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 9]), max_size=12))
    n = sum(lengths)
    # Few distinct rows, so that duplicates within and across bags are the rule.
    index = draw(st.lists(st.integers(0, min(rows, 5) - 1), min_size=n, max_size=n))
    return TTShape(rows, dim, tuple(p), tuple(q), tuple(ranks)), lengths, index


@settings(deadline=None, max_examples=80)
@given(
    problem=problems(),
    mode=st.sampled_from(["sum", "mean", "max"]),
    is_weighted=st.booleans(),
    has_padding=st.booleans(),
    by_frequency=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    store=st.sampled_from(["auto", "keep", "recompute"]),
    seed=st.integers(0, 1000),
)
def test_native_outputs_and_gradients_equal_float64(
    problem, mode, is_weighted, has_padding, by_frequency, dtype, store, seed
):
    shape, lengths, index = problem
    cores = random_cores(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    index, bounds = torch.tensor(index, dtype=dtype), bounds_of(lengths)
    has_weights = is_weighted and mode == "sum"
    weights = torch.rand(len(index), generator=generator) if has_weights else None
    d_out = torch.randn(len(lengths), shape.dim, generator=generator)
    padding = 0 if has_padding else None
    by_frequency = by_frequency and mode != "max"

    ours = [c.clone().requires_grad_() for c in cores]
    our_weights = weights.clone().requires_grad_() if has_weights else None
    out = tt_embedding_bag(
        index,
        ours,
        bounds.to(dtype),
        n_rows=shape.rows,
        mode=mode,
        per_sample_weights=our_weights,
        include_last_offset=True,
        padding_idx=padding,
        scale_grad_by_freq=by_frequency,
        store=store,
    )
    out.backward(d_out)

    def oracle(cores, weights, d_out):
        exact = [c.double().requires_grad_() for c in cores]
        given = weights.double().requires_grad_() if has_weights else None
        pooled = reference.bag(exact, index.long(), bounds, mode, given, padding, by_frequency)
        pooled.backward(d_out.double())
        found = [pooled.detach(), *(c.grad for c in exact), *([given.grad] if has_weights else [])]
        return [torch.zeros(1) if f is None else f for f in found]

    wanted = oracle(cores, weights, d_out)
    # Tiny tables may cancel to almost nothing; rounding is relative to the terms of the sums, and
    # those of the same problem with all signs plus.
    terms = oracle([c.abs() for c in cores], weights, d_out.abs())
    found = [out.detach(), *(c.grad for c in ours), *([our_weights.grad] if has_weights else [])]
    for k, (ours_k, exact, size) in enumerate(zip(found, wanted, terms, strict=True)):
        assert float((ours_k.double() - exact).abs().max() if exact.numel() else 0) <= (
            FORWARD if k == 0 else UPDATE
        ) * float(size.abs().max() if size.numel() else 0)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("q", [(2, 2, 4), (4, 4, 4), (1, 3, 5)])
@pytest.mark.parametrize("rank", [1, 7, 8, 15, 16, 17, 32, 64])
def test_usual_ranks_and_widths_equal_float64(rank, q, mode):
    dim = q[0] * q[1] * q[2]
    p = (70, 70, 70)
    shape = TTShape(300_000, dim, p, q, (rank, rank))
    cores = random_cores(shape, 0)
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, shape.rows, (150,), generator=generator)
    bounds = bounds_of([3] * 50)
    d_out = torch.randn(50, dim, generator=generator)
    ours = [c.clone().requires_grad_() for c in cores]
    exact = [c.double().requires_grad_() for c in cores]
    out = tt_embedding_bag(index.view(50, 3), ours, n_rows=shape.rows, mode=mode)
    wanted = reference.bag(exact, index, bounds, mode)
    out.backward(d_out)
    wanted.backward(d_out.double())
    assert error(out.detach(), wanted.detach()) <= FORWARD
    assert all(error(a.grad, b.grad) <= UPDATE for a, b in zip(ours, exact, strict=True))


def test_digits_and_positions_beyond_64_bits_equal_float64():
    # Three digits of 16 bits and positions of 17: keys of the plan are wider than 64 bits.
    p = (60_000, 60_001, 60_003)
    shape = TTShape(60_000 * 60_001 * 60_003, 2, p, (1, 2, 1), (1, 2))
    cores = random_cores(shape, 0)
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, shape.rows, (70_000,), generator=generator)
    # Neighbours differ in one digit alone, or in none.
    index[1::5] = index[::5]
    index[2::5] = (index[::5] + 1).clamp(max=shape.rows - 1)
    index[3::5] = (index[::5] + p[2]).clamp(max=shape.rows - 1)
    index[4::5] = (index[::5] + p[1] * p[2]).clamp(max=shape.rows - 1)
    d_out = torch.randn(len(index), 2, generator=generator)
    ours = [c.clone().requires_grad_() for c in cores]
    exact = [c.double().requires_grad_() for c in cores]
    out = tt_embedding_bag(index.view(-1, 1), ours, n_rows=shape.rows)
    wanted = reference.bag(exact, index, torch.arange(len(index) + 1), "sum")
    out.backward(d_out)
    wanted.backward(d_out.double())
    assert error(out.detach(), wanted.detach()) <= FORWARD
    assert all(error(a.grad, b.grad) <= UPDATE for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("has_last", [False, True])
def test_drop_in_for_nn_embedding_bag(mode, has_last):
    ours = TTEmbeddingBag(500, 12, rank=6, mode=mode, include_last_offset=has_last, target_var=1.0)
    theirs = torch.nn.EmbeddingBag.from_pretrained(
        ours.full_weight().detach(), mode=mode, include_last_offset=has_last
    )
    index = torch.randint(0, 500, (40,), generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0, 0, 7, 7, 30, 40] if has_last else [0, 0, 7, 7, 30])
    for arguments in (
        {"input": index, "offsets": offsets},
        {"input": index.int(), "offsets": offsets.int()},
        {"input": index.view(10, 4)},
    ):
        found, wanted = ours(**arguments), theirs(**arguments)
        assert found.shape == wanted.shape
        assert error(found.detach(), wanted.double()) <= FORWARD


def test_per_sample_weights_as_nn_embedding_bag():
    ours = TTEmbeddingBag(500, 12, rank=6, target_var=1.0)
    index = torch.randint(0, 500, (10, 4), generator=torch.Generator().manual_seed(0))
    found_weights = torch.rand(10, 4).requires_grad_()
    weights = found_weights.detach().clone().requires_grad_()
    table = ours.full_weight().detach()
    found = ours(index, per_sample_weights=found_weights)
    wanted = functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert error(found.detach(), wanted.detach().double()) <= FORWARD
    assert error(found_weights.grad, weights.grad.double()) <= UPDATE


@pytest.mark.parametrize("d", [2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_fused_sgd_equals_torch_sgd_for_20_steps(d, mode):
    torch.manual_seed(0)
    plain = TTEmbeddingBag(900, 24, rank=4, d=d, mode=mode, target_var=1.0)
    fused = TTEmbeddingBag(900, 24, rank=4, d=d, mode=mode, optimizer=SGD(0.05))
    for core, initial in zip(fused.cores, plain.cores, strict=True):
        core.copy_(initial.detach())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        index = torch.randint(0, 900, (32, 3), generator=generator)
        target = torch.randn(32, 24, generator=generator)
        optimizer.zero_grad()
        losses = [functional.mse_loss(bag(index), target) for bag in (plain, fused)]
        for loss in losses:
            loss.backward()
        optimizer.step()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for core, wanted in zip(fused.cores, plain.cores, strict=True):
        assert error(core, wanted.detach().double()) <= UPDATE
    assert not list(fused.parameters())


@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_results_are_bitwise_equal_for_any_thread_count(optimizer, mode):
    index = torch.randint(0, 300, (400, 5), generator=torch.Generator().manual_seed(0))
    d_out = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            bag = TTEmbeddingBag(8000, 16, rank=16, mode=mode, optimizer=optimizer)
            out = bag(index)
            out.backward(d_out)
            state = [core.grad if optimizer is None else core for core in bag.cores]
            results.append([out.detach(), *state])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for found, wanted in zip(other, results[0], strict=True):
            assert torch.equal(found, wanted)


def test_permuting_whole_bags_permutes_outputs():
    bag = TTEmbeddingBag(500, 8, rank=4)
    index = torch.randint(0, 500, (20, 3), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(bag(index[order]), bag(index)[order])


@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
def test_empty_batches_give_zeros_and_change_nothing(optimizer):
    bag = TTEmbeddingBag(500, 8, rank=4, optimizer=optimizer)
    before = copy.deepcopy(bag.state_dict())
    out = bag(torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(out, torch.zeros(3, 8))
    out.sum().backward()
    assert bag(torch.empty(0, 4, dtype=torch.int64)).shape == (0, 8)
    # nn.EmbeddingBag fails on bags of length 0 in a 2-D input; there is no reason to.
    assert torch.equal(bag(torch.empty(5, 0, dtype=torch.int64)), torch.zeros(5, 8))
    for name, core in bag.state_dict().items():
        assert torch.equal(core, before[name])
    if optimizer is None:
        assert all(int(core.grad.count_nonzero()) == 0 for core in bag.cores)


@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
def test_float64_modules_run_on_torch_with_the_same_result(optimizer):
    single = TTEmbeddingBag(500, 8, rank=4, optimizer=optimizer, target_var=1.0)
    double = copy.deepcopy(single).double()
    index = torch.randint(0, 500, (20, 3), generator=torch.Generator().manual_seed(0))
    outs = [bag(index) for bag in (single, double)]
    assert outs[1].dtype == torch.float64
    for out in outs:
        out.square().sum().backward()
    assert error(outs[0].detach(), outs[1].detach()) <= FORWARD
    for a, b in zip(single.cores, double.cores, strict=True):
        found, wanted = (a, b) if optimizer else (a.grad, b.grad)
        assert error(found, wanted.detach()) <= UPDATE


BAD = [
    ((torch.tensor([[0, 500]]),), IndexError, r"0\.\.499, got 500 at position 1"),
    ((torch.tensor([[3, 4], [-1, 7]]),), IndexError, r"got -1 at position 2"),
    ((torch.tensor([[0.0]]),), TypeError, r"input must be int32 or int64, got torch.float32"),
    ((torch.tensor([[True]]),), TypeError, r"got torch.bool"),
    ((torch.tensor([0]),), ValueError, r"1-D input needs offsets"),
    ((torch.tensor([[0]]), torch.tensor([0])), ValueError, r"offsets must be None"),
    ((torch.tensor(0), torch.tensor([0])), ValueError, r"1-D or 2-D"),
    ((torch.tensor([0]), torch.tensor([[0]])), ValueError, r"offsets must be 1-D"),
    ((torch.tensor([0]), torch.tensor([0.0])), TypeError, r"offsets must be int32 or int64"),
    ((torch.tensor([1, 2]), torch.tensor([1])), ValueError, r"start at 0, got 1"),
    ((torch.arange(4), torch.tensor([0, 3, 2])), ValueError, r"got 2 at position 2 after 3"),
    ((torch.arange(4), torch.tensor([0, 5])), ValueError, r"exceed the 4 indices, got 5 at posi"),
    (
        (torch.tensor([[0, 1]]), None, torch.ones(1, 3)),
        ValueError,
        r"input's shape \(1, 2\), got torch.float32 of shape \(1, 3\)",
    ),
    (
        (torch.tensor([[0, 1]]), None, torch.ones(1, 2, dtype=torch.float64)),
        ValueError,
        r"must be torch.float32",
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), BAD)
@pytest.mark.parametrize("optimizer", [None, SGD(0.1)])
def test_bad_input_is_named_and_nothing_is_updated(arguments, kind, words, optimizer):
    bag = TTEmbeddingBag(500, 8, rank=4, optimizer=optimizer)
    before = [core.detach().clone() for core in bag.cores]
    with pytest.raises(kind, match=words):
        bag(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(bag.cores, before, strict=True))


@pytest.mark.parametrize(("arguments", "kind", "words"), BAD)
def test_torch_path_refuses_the_same_input_in_the_same_words(arguments, kind, words):
    if len(arguments) == 3:
        arguments = (*arguments[:2], arguments[2].to(torch.float16))
        words = r"per_sample_weights must be torch.float64"
    with pytest.raises(kind, match=words):
        TTEmbeddingBag(500, 8, rank=4).double()(*arguments)


def test_last_offset_must_be_the_number_of_indices():
    bag = TTEmbeddingBag(500, 8, rank=4, include_last_offset=True)
    with pytest.raises(ValueError, match=r"end at the 4 indices, got 3 at position 2"):
        bag(torch.arange(4), torch.tensor([0, 2, 3]))
    with pytest.raises(ValueError, match="at least one entry"):
        bag(torch.arange(4), torch.empty(0, dtype=torch.int64))


def test_weights_with_mean_are_not_implemented_as_in_torch():
    bag = TTEmbeddingBag(500, 8, rank=4, mode="mean")
    with pytest.raises(NotImplementedError, match=r"need mode='sum', got mode='mean'"):
        bag(torch.tensor([[0]]), per_sample_weights=torch.ones(1, 1))


def test_second_backward_through_a_fused_bag_is_refused():
    bag = TTEmbeddingBag(500, 8, rank=4, optimizer=SGD(0.1))
    out = bag(torch.tensor([[1, 2]])).sum()
    out.backward(retain_graph=True)
    after_one = [core.clone() for core in bag.cores]
    with pytest.raises(RuntimeError, match="step was already applied"):
        out.backward()
    assert all(torch.equal(a, b) for a, b in zip(bag.cores, after_one, strict=True))


def test_backward_after_another_step_names_the_forward_that_stepped():
    bag = TTEmbeddingBag(500, 8, rank=4, optimizer=SGD(0.1))
    first, second = bag(torch.tensor([[1, 2]])).sum(), bag(torch.tensor([[3]])).sum()
    second.backward()
    with pytest.raises(RuntimeError, match=r"backward of forward 2 has stepped .* forward 1"):
        first.backward()


def test_set_lr_changes_the_next_step():
    bag = TTEmbeddingBag(500, 8, rank=4, optimizer=SGD(0.1))
    bag.set_lr(0.0)
    before = [core.clone() for core in bag.cores]
    bag(torch.tensor([[1, 2]])).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(bag.cores, before, strict=True))
    with pytest.raises(ValueError, match="optimizer=None"):
        TTEmbeddingBag(500, 8, rank=4).set_lr(0.1)
    with pytest.raises(ValueError, match="lr must be finite and at least 0"):
        bag.set_lr(float("nan"))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"mode": "median"}, ValueError, "'sum', 'mean', 'max', got 'median'"),
        ({"store": "never"}, ValueError, "store must be one of 'auto'"),
        ({"backend": "cuda"}, ValueError, "backend must be one of"),
        ({"stale": "ok"}, ValueError, "stale must be one of"),
        ({"padding_idx": 500}, ValueError, r"-500\.\.499, the rows of the table, got 500"),
        ({"mode": "max", "scale_grad_by_freq": True}, ValueError, "no meaning with mode='max'"),
        ({"rank": 0}, ValueError, "rank must be at least 1"),
        ({"rank": 10_000}, ValueError, "largest useful ones"),
        ({"ranks": (2,)}, ValueError, "need 2 ranks, got 1"),
        ({"optimizer": 0.1}, TypeError, r"None, ttrec.SGD, .*got 0.1"),
        (
            {"shape": TTShape(499, 8, (8, 8, 8), (2, 2, 2), (2, 2))},
            ValueError,
            "500 rows by 8, got 499 by 8",
        ),
        (
            {"shape": TTShape(500, 8, (8, 8, 8), (2, 2, 2), (2, 2)), "ranks": (2, 2)},
            ValueError,
            "not both",
        ),
        ({"max_norm": 1.0}, NotImplementedError, "rows of a tensor train share"),
    ],
)
def test_wrong_constructions_are_refused(arguments, kind, words):
    with pytest.raises(kind, match=words):
        TTEmbeddingBag(500, 8, **({"rank": 4} | arguments))


def test_state_dict_and_deepcopy_carry_the_cores():
    for optimizer in (None, SGD(0.1)):
        bag = TTEmbeddingBag(500, 8, rank=4, optimizer=optimizer)
        assert list(bag.state_dict()) == ["core0", "core1", "core2"]
        other = TTEmbeddingBag(500, 8, rank=4, optimizer=optimizer)
        other.load_state_dict(bag.state_dict())
        index = torch.arange(8).view(2, 4)
        assert torch.equal(other(index), bag(index))
        copied = copy.deepcopy(bag)
        copied(index).sum().backward()
        assert torch.equal(other(index), bag(index))


def test_repr_tells_sizes_and_ratio():
    text = repr(TTEmbeddingBag(10_131_227, 16, rank=2))
    assert "10131227, 16, p=(217, 217, 217), q=(2, 2, 4), ranks=(2, 2)" in text
    assert "x smaller)" in text


def test_missing_compiler_falls_back_to_torch_with_one_warning(monkeypatch):
    def no_compiler(q, ranks):
        raise library.native.CompilerNotFound("C++", "c++")

    bag = TTEmbeddingBag(500, 8, rank=4)
    index = torch.arange(8).view(2, 4)
    wanted = bag(index)
    library.available.cache_clear()
    monkeypatch.setattr(library, "load", no_compiler)
    try:
        with pytest.warns(
            RuntimeWarning, match=r"plain torch.*no compiler for C\+\+ found"
        ) as caught:
            found = [bag(index), bag(index)]
        assert len(caught) == 1
        with pytest.raises(RuntimeError, match=r"backend='cpu' needs .*no compiler for C\+\+"):
            TTEmbeddingBag(500, 8, rank=4, backend="cpu")
    finally:
        library.available.cache_clear()
    assert error(found[1].detach(), wanted.detach().double()) <= FORWARD
