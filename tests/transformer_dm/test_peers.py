"""The peers compute what ours does, and a wrong one is caught before it is timed."""

import attrs
import pytest
import torch

from transformer_dm import mkl, operator_pairs, peers
from transformer_dm.sizes import LayerSize

SIZE = LayerSize(batch=2, length=24, heads=4, head_size=16, width=96)
#: torch.compile takes half a minute, and has a slow test of its own.
QUICK_LAYERS = [name for name in peers.LAYERS if name != "torch_compile"]
QUICK_ATTENTION = [name for name in peers.ATTENTION if name != "torch_compile"]


@pytest.fixture(params=["fp32", "bf16"])
def problem(request):
    return peers.make_problem(SIZE, request.param, 0.1, torch.Generator().manual_seed(0))


def test_layers_make_the_same_step(problem):
    peers.assert_same_step(problem, peers.LAYERS, QUICK_LAYERS)


def test_attentions_make_the_same_step(problem):
    peers.assert_same_step(problem, peers.ATTENTION, QUICK_ATTENTION)


@pytest.mark.slow
@pytest.mark.parametrize("makers", [peers.LAYERS, peers.ATTENTION])
def test_compiled_peers_make_the_same_step(makers):
    small = peers.make_problem(SIZE, "fp32", 0.1, torch.Generator().manual_seed(0))
    peers.assert_same_step(small, makers, ["torch_compile"])
    assert makers["torch_compile"](small).make_backward is None


@pytest.mark.parametrize("is_finite", [True, False])
def test_a_wrong_candidate_is_caught(problem, is_finite):
    # In bf16 many gradients of so few are switched by rounding.
    off = 1.001 if problem.dtype is torch.float32 else 1.3
    factor = off if is_finite else torch.nan

    def wrong(problem):
        right = peers.our_layer(problem)
        return attrs.evolve(right, step=lambda: tuple(factor * part for part in right.step()))

    makers = {**peers.LAYERS, "wrong": wrong}
    with pytest.raises(AssertionError, match="wrong differs from pytorch"):
        peers.assert_same_step(problem, makers, ["wrong"])


@pytest.mark.parametrize(
    ("makers", "name"),
    [(peers.LAYERS, name) for name in QUICK_LAYERS]
    + [(peers.ATTENTION, name) for name in QUICK_ATTENTION],
)
def test_candidates_drop_and_leave_the_problem_untouched(makers, name):
    problem = peers.make_problem(SIZE, "fp32", 0.1, torch.Generator().manual_seed(0))
    before = [problem.x.clone(), *(value.clone() for value in problem.state.values())]
    candidate = makers[name](problem)
    first, second = candidate.step(), candidate.step()
    assert not torch.equal(first[0], second[0])  # masks of their own
    assert peers.same_shapes(first, second)
    assert candidate.forward().shape == problem.x.shape
    backward = candidate.make_backward()
    for one, other in zip(backward(), backward(), strict=True):
        assert torch.equal(one, other)  # one forward, so one mask
    after = [problem.x, *problem.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_one_seed_gives_one_problem():
    one, other = (
        peers.make_problem(SIZE, "fp32", 0.1, torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one.x, other.x)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


# ---- Rows of the operator table ----

ROWS = list(dict.fromkeys((*operator_pairs.ROWS, *operator_pairs.KERNELS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROWS)
def test_both_sides_of_a_row_agree(name, dtype):
    generator = torch.Generator().manual_seed(0)
    pairs = list(operator_pairs.make_pairs(SIZE, dtype, 0.0, [name], generator))
    assert [pair.stage for pair in pairs] == ["forward", "backward"][: len(pairs)]
    for pair in pairs:
        operator_pairs.assert_same(pair)
        assert pair.n_bytes > 0 or name == "mask"  # nothing is drawn where nothing is dropped
        assert (pair.flops > 0) == (pair.cls == "contraction")


def test_a_row_that_differs_is_named():
    generator = torch.Generator().manual_seed(0)
    pair, _ = operator_pairs.make_pairs(SIZE, torch.float32, 0.0, ["bdrln"], generator)
    wrong = attrs.evolve(pair, ours=lambda: tuple(part * 1.001 for part in pair.ours()))
    with pytest.raises(AssertionError, match="bdrln, forward"):
        operator_pairs.assert_same(wrong)


def test_rows_of_a_layer_hold_its_arithmetic():
    from transformer_dm.experiments.shared import layer_flops

    generator = torch.Generator().manual_seed(0)
    pairs = list(
        operator_pairs.make_pairs(SIZE, torch.float32, 0.1, operator_pairs.ROWS, generator)
    )
    for stage in ("forward", "backward"):
        assert sum(pair.flops for pair in pairs if pair.stage == stage) == layer_flops(SIZE, stage)
    assert layer_flops(SIZE, "both") == 3 * layer_flops(SIZE, "forward")


def test_an_unknown_row_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"qkv.*'softmax'"):
        list(operator_pairs.make_pairs(SIZE, torch.float32, 0.1, ["softmax"], torch.Generator()))


# ---- MKL unlocked ----


def test_this_process_is_not_unlocked_and_the_library_is_there():
    assert not mkl.is_unlocked()
    found = mkl.environment()["LD_PRELOAD"].split()
    assert found[0] == str(mkl.library())
    assert mkl.library().is_file()


def test_other_preloaded_libraries_stay(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libone.so:libtwo.so")
    assert mkl.environment()["LD_PRELOAD"].endswith(" libone.so:libtwo.so")
