"""Training learns what there is to learn, and refuses what there is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from costmodel.baselines import FeedForward, FlatLSTM
from costmodel.ensemble_training import train_ensemble
from costmodel.errors import DatasetError
from costmodel.model import CostModel, ModelConfig
from costmodel.predictor import Predictor
from costmodel.train import Samples, TrainConfig, _batches, evaluate, train
from tests.costmodel.small_pairs import write_pairs
from tests.costmodel.trees import program_trees, random_trees

SMALL = ModelConfig(comp_widths=(64,), embedding=32, merge_width=32, head_widths=(32,), dropout=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def labelled(n_programs: int = 16, n_schedules: int = 4) -> Samples:
    """Real trees with speedups drawn at random, which only memory can give back."""
    trees = program_trees(n_programs, n_schedules)
    rng = np.random.default_rng(0)
    speedups = np.exp(rng.normal(size=len(trees)))
    return Samples(tuple(trees), speedups, np.arange(len(trees)) // n_schedules)


@pytest.mark.slow
def test_sixty_four_pairs_are_learned_by_heart() -> None:
    samples = labelled()
    assert len(samples) == 64
    torch.manual_seed(0)
    model = CostModel(attrs.evolve(SMALL, comp_widths=(128,), embedding=64))
    before = CostModel(SMALL)
    before.fit_scaling(samples.trees)
    assert evaluate(before, samples).mape > 30
    # All pairs in each batch: a fifth of the time that batches of 8 take for as many epochs.
    config = TrainConfig(epochs=200, batch=64, max_rate=4e-3, weight_decay=0.0, warm_up=0.5)
    epochs = train(model, samples, config)
    assert len(epochs) == 200
    assert evaluate(model, samples).mape < 3


@pytest.mark.parametrize("kind", [CostModel, FlatLSTM, FeedForward])
@pytest.mark.parametrize("loss", ["mape", "log", "ndcg"])
def test_every_model_learns_by_every_loss(kind: type[Predictor], loss: str) -> None:
    trees = random_trees(96)
    signal = np.array([tree.loops[tree.root, 0] + tree.comps[:, 0].sum() for tree in trees])
    samples = Samples(tuple(trees), np.exp(0.5 * signal), np.arange(96) // 8)
    torch.manual_seed(0)
    model = kind(SMALL)
    model.fit_scaling(trees)
    before = evaluate(model, samples)
    config = TrainConfig(loss=loss, epochs=40, batch=16, max_rate=3e-3)  # type: ignore[arg-type]
    epochs = train(model, samples, config)
    after = evaluate(model, samples)
    own = [epoch.loss for epoch in epochs if epoch.loss_name == loss]
    assert own[-1] < own[0]
    assert after.ndcg > before.ndcg
    assert after.spearman_per_program > 0.7
    if loss != "ndcg":
        assert after.mape < 0.6 * before.mape


def test_the_same_seed_trains_the_same_model() -> None:
    samples = labelled(4, 3)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        model = CostModel(attrs.evolve(SMALL, dropout=0.2))
        train(model, samples, TrainConfig(epochs=3, batch=5))
        found.append(model.predict_trees(samples.trees))
    np.testing.assert_array_equal(found[0], found[1])


def test_the_weights_of_the_best_epoch_stay() -> None:
    samples, other = labelled(6, 4), labelled(3, 4)
    torch.manual_seed(0)
    model = CostModel(SMALL)
    epochs = train(model, samples, TrainConfig(epochs=12, batch=8, max_rate=1e-2), validation=other)
    seen = [epoch.validation.mape for epoch in epochs if epoch.validation]
    assert len(seen) == 12
    assert evaluate(model, other).mape == pytest.approx(min(seen), rel=1e-6)


@pytest.mark.parametrize("loss", ["mape", "ndcg"])
def test_every_sample_is_in_one_batch(loss: str) -> None:
    programs = np.array([0, 1, 0, 2, 2, 2, 1, 3])
    samples = Samples(tuple(random_trees(8)), np.arange(1.0, 9.0), programs)
    config = TrainConfig(loss=loss, batch=3)  # type: ignore[arg-type]
    batches = list(_batches(samples, config, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(8))
    if loss == "ndcg":
        for batch in batches:
            for number in programs[batch]:
                assert set(np.flatnonzero(programs == number)) <= set(batch.tolist())


def test_too_little_to_learn_from_is_refused() -> None:
    trees = tuple(random_trees(3))
    one = Samples(trees, np.array([1.0, 2.0, 3.0]), np.zeros(3, dtype=np.int64))
    same = Samples(trees, np.ones(3), np.arange(3))
    none = Samples((), np.empty(0), np.empty(0, dtype=np.int64))
    for samples, message in (
        (one, "at least 2 programs, got 3 of 1"),
        (none, "at least 2 programs, got 0 of 0"),
        (same, "at least 2 different speedups, and all 3 are 1"),
    ):
        with pytest.raises(DatasetError, match=message):
            train(CostModel(SMALL), samples)


def test_members_trained_side_by_side_are_those_trained_one_by_one(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", 12, 4)
    found, told = [], []
    for jobs in (1, 2):
        epochs: list[tuple[int, int]] = []
        ensemble, card = train_ensemble(
            folder,
            members=2,
            seed=7,
            sizes=attrs.evolve(SMALL, dropout=0.1),
            config=TrainConfig(epochs=3),
            jobs=jobs,
            report=lambda member, epoch, to=epochs: to.append((member, epoch.number)),  # type: ignore[misc]
        )
        assert card.members == 2
        found.append([member.state_dict() for member in ensemble.members])
        told.append(sorted(epochs))
    assert told[0] == told[1] == [(member, epoch) for member in range(2) for epoch in range(3)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    first, second = found[0]
    assert not torch.equal(first["head.0.weight"], second["head.0.weight"])
