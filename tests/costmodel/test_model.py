"""Models: batching changes nothing, checkpoints come back, wrong ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from costmodel.baselines import Constant, FeedForward, FlatLSTM, GradientBoosting
from costmodel.ensemble import Ensemble
from costmodel.features import Representation
from costmodel.model import CostModel, ModelConfig
from costmodel.predictor import Predictor
from costmodel.random_programs import random_program
from costmodel.schedule import apply
from costmodel.tree_batch import Forest, collate, collate_shared
from tests.costmodel.trees import program_trees, random_trees

SMALL = ModelConfig(comp_widths=(32,), embedding=16, merge_width=24, head_widths=(16,))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MODELS = (CostModel, FlatLSTM, FeedForward)


def small(kind: type[Predictor] = CostModel, **changes: Any) -> Predictor:
    torch.manual_seed(0)
    return kind(attrs.evolve(SMALL, **changes)).eval()


@pytest.mark.parametrize("representation", ["paper", "compact"])
@pytest.mark.parametrize("head", ["exp", "relu"])
def test_batching_by_height_equals_the_recursion(representation: Representation, head: str) -> None:
    model = small(representation=representation, head=head)
    assert isinstance(model, CostModel)
    trees = random_trees(40, 1, representation)
    assert len({tree.shape for tree in trees}) > 20
    weights = torch.randn(len(trees), generator=torch.Generator().manual_seed(2))

    together = model(collate(trees))
    torch.autograd.backward((together * weights).sum())
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    apart = torch.stack([model.recursive(tree) for tree in trees])
    torch.autograd.backward((apart * weights).sum())

    assert len(set(apart.tolist())) > (20 if head == "exp" else 1)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    for name, p in model.named_parameters():
        grad = gradients[name]
        assert grad is not None
        assert p.grad is not None
        assert p.grad.abs().max() > 0, f"{name} has no part in the result"
        # Sums of some hundred terms in another order: relative to the largest of the parameter.
        scale = float(p.grad.abs().max())
        torch.testing.assert_close(grad / scale, p.grad / scale, rtol=0, atol=1e-5)


def test_batching_trees_of_programs_equals_the_recursion() -> None:
    model = CostModel().eval()
    trees = program_trees(6, 4)
    model.fit_scaling(trees)
    with torch.inference_mode():
        apart = torch.stack([model.recursive(tree) for tree in trees])
    np.testing.assert_allclose(model.predict_trees(trees), apart.numpy(), rtol=1e-5)


def test_parts_that_trees_share_are_computed_once_and_change_nothing() -> None:
    model = small()
    trees = [*program_trees(4, 5), *random_trees(6)]
    model.fit_scaling(trees)
    again = [*trees, *trees[::-1]]
    batch, whole = collate_shared(again), collate(again)
    assert len(batch) == len(whole) == len(again)
    assert len(batch.comps) < 0.5 * len(whole.comps)
    assert len(batch.loops) <= 0.5 * len(whole.loops)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch), model(whole), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model.predict_trees(trees), [model.recursive(t).item() for t in trees], rtol=1e-5
    )


@pytest.mark.parametrize("kind", MODELS)
def test_neither_order_nor_size_of_the_batch_matters(kind: type[Predictor]) -> None:
    model, trees = small(kind), random_trees(30, 3)
    expected = model.predict_trees(trees)
    order = np.random.default_rng(4).permutation(len(trees))
    np.testing.assert_allclose(
        model.predict_trees([trees[i] for i in order]), expected[order], rtol=1e-5
    )
    np.testing.assert_allclose(model.predict_trees(trees, batch=7), expected, rtol=1e-5)
    assert len(np.unique(expected)) == len(trees)
    assert (expected > 0).all()


def test_an_ensemble_gives_the_geometric_mean_and_the_spread() -> None:
    trees = random_trees(5)
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(CostModel(SMALL).eval())
    mean, spread = Ensemble(tuple(members)).predict_trees(trees)
    each = np.array([member.predict_trees(trees) for member in members])
    np.testing.assert_allclose(mean, each.prod(axis=0) ** (1 / 3), rtol=1e-5)
    np.testing.assert_allclose(spread, np.log(each).std(axis=0), rtol=1e-5)
    assert (spread > 0).all()
    with pytest.raises(ValueError, match="one representation"):
        Ensemble((*members, CostModel(attrs.evolve(SMALL, representation="paper"))))


def test_schedules_are_predicted_as_their_trees() -> None:
    program = random_program(0, "small")
    model = small()
    scheduled = [apply(program), apply(program, "unroll(S0, 4)")]
    first, second = model.predict(scheduled)
    assert first != second


def test_constants() -> None:
    y = np.array([0.1, 0.2, 1.0, 1.1, 5.0])
    assert Constant.median_of(y).value == 1.0
    best = Constant.best_of(y).value
    grid = np.linspace(0.05, 6, 2000)
    errors = np.abs(y[None] - grid[:, None]) / y
    assert np.mean(np.abs(y - best) / y) <= errors.mean(axis=1).min() + 1e-12
    assert Constant(2.0).predict_trees(random_trees(3)).tolist() == [2.0] * 3


def test_gradient_boosting_learns_a_feature() -> None:
    trees = random_trees(400)
    y = np.exp(np.array([tree.comps.mean(axis=0)[0] for tree in trees], dtype=np.float64))
    # Threads that wait for each other on a busy machine take minutes.
    with threadpool_limits(1):
        model = GradientBoosting(iterations=30).fit(trees[:300], y[:300])
        predicted = model.predict_trees(trees[300:])
    ours = np.mean(np.abs(np.log(predicted / y[300:])))
    constant = np.mean(np.abs(np.log(np.median(y[:300]) / y[300:])))
    assert ours < 0.5 * constant


def test_a_batch_picked_from_a_forest_is_that_of_the_trees() -> None:
    trees = [*random_trees(30, 7), *program_trees(3, 4)]
    forest = Forest.of(trees)
    chosen = np.random.default_rng(8).permutation(len(trees))[:17]
    picked, expected = forest.pick(chosen).batch(), collate([trees[i] for i in chosen])
    for name in ("loops", "comps", "roots", "comp_tree", "loop_tree"):
        torch.testing.assert_close(getattr(picked, name), getattr(expected, name), rtol=0, atol=0)
    assert len(picked.levels) == len(expected.levels)
    model = small()
    with torch.inference_mode():
        torch.testing.assert_close(model(picked), model(expected), rtol=0, atol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_features_that_never_varied_in_training_have_no_say(kind: type[Predictor]) -> None:
    trees = random_trees(40, 9)
    constant = np.random.default_rng(1).permutation(trees[0].comps.shape[1])[:300]
    for tree in trees:
        tree.comps[:, constant] = 2.5
    model = small(kind)
    model.fit_scaling(trees)
    before = model.predict_trees(trees)
    for tree in trees:
        tree.comps[:, constant[:10]] = -7
    np.testing.assert_array_equal(model.predict_trees(trees), before)
    varying = np.setdiff1d(np.arange(trees[0].comps.shape[1]), constant)
    for tree in trees:
        tree.comps[:, varying[:10]] += 1
    assert (model.predict_trees(trees) != before).all()
