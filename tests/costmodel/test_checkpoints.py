"""Checkpoints come back as they were, without running code; wrong ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from costmodel import checkpoints
from costmodel.baselines import FeedForward, FlatLSTM
from costmodel.checkpoints import load_model
from costmodel.ensemble import Ensemble
from costmodel.errors import CheckpointMismatch
from costmodel.model import CostModel, ModelConfig
from costmodel.predictor import Predictor
from tests.costmodel.trees import program_trees, random_trees

SMALL = ModelConfig(comp_widths=(32,), embedding=16, merge_width=24, head_widths=(16,))
MODELS = (CostModel, FlatLSTM, FeedForward)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(kind: type[Predictor] = CostModel) -> Predictor:
    torch.manual_seed(0)
    return kind(SMALL).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_a_checkpoint_comes_back(kind: type[Predictor], tmp_path: Path) -> None:
    model, trees = small(kind), random_trees(10)
    model.fit_scaling(trees)
    model.save(tmp_path / "model.pt")
    back = kind.load(tmp_path / "model.pt")
    assert back.config == model.config
    np.testing.assert_array_equal(back.predict_trees(trees), model.predict_trees(trees))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_checkpoint_of_other_features_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    small().save(path)
    with pytest.raises(CheckpointMismatch, match="kind 'recursive', and 'flat_lstm'"):
        FlatLSTM.load(path)
    now = checkpoints.FEATURE_VERSION
    told = f"features of version {now}, and these are version 99"
    monkeypatch.setattr(checkpoints, "FEATURE_VERSION", 99)
    with pytest.raises(CheckpointMismatch, match=told):
        CostModel.load(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "model.pt"
    small().save(whole)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(3)}, other)
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    empty = tmp_path / "empty.pt"
    empty.touch()
    for path in (cut, other, text, empty):
        with pytest.raises(CheckpointMismatch, match=f"{path.name} is not a checkpoint"):
            CostModel.load(path)
    with pytest.raises(FileNotFoundError):
        CostModel.load(tmp_path / "absent.pt")


def members(n: int = 3, config: ModelConfig = SMALL) -> tuple[CostModel, ...]:
    found = []
    for seed in range(n):
        torch.manual_seed(seed)
        found.append(CostModel(config).eval())
    for model in found:
        model.fit_scaling(random_trees(20, seed=5))
    return tuple(found)


def test_an_ensemble_comes_back_with_mean_and_spread(tmp_path: Path) -> None:
    trees, ensemble = random_trees(12), Ensemble(members())
    ensemble.save(tmp_path / "model.pt", "float32")
    for back in (load_model(tmp_path / "model.pt"), CostModel.load(tmp_path / "model.pt")):
        assert isinstance(back, Ensemble)
        assert len(back.members) == 3
        for found, wanted in zip(
            back.predict_trees(trees), ensemble.predict_trees(trees), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_three_models_with_float16_weights_fit_and_predict_the_same(tmp_path: Path) -> None:
    """Widths as trained, on programs as they are; at the limit of what the package may hold."""
    trees = program_trees(12, 4)
    ensemble = Ensemble(members(3, checkpoints.THREE_FIT))
    for model in ensemble.members:
        model.fit_scaling(trees)
        # As far apart as trained predictions are: right after their drawing all are near 1.
        with torch.no_grad():
            model.head[-1].weight.mul_(20)
    path = tmp_path / "model.pt"
    ensemble.save(path, "float16")
    assert path.stat().st_size <= checkpoints.LIMIT_BYTES
    (before, _), (after, _) = (m.predict_trees(trees) for m in (ensemble, load_model(path)))
    assert before.max() / before.min() > 3
    np.testing.assert_allclose(after, before, rtol=0.01)
    assert not np.array_equal(after, before)


def test_scales_are_not_rounded_to_what_float16_holds(tmp_path: Path) -> None:
    (model,) = members(1)
    model.scale_loops.mean[0] = 1e6 + 1
    model.save(tmp_path / "model.pt", "float16")
    back = load_model(tmp_path / "model.pt").members[0]
    assert back.scale_loops.mean[0] == 1e6 + 1
    assert next(back.parameters()).dtype == torch.float32


def test_one_model_says_nothing_of_its_own_doubt(tmp_path: Path) -> None:
    (model,) = members(1)
    model.save(tmp_path / "model.pt")
    mean, spread = load_model(tmp_path / "model.pt").predict_trees(random_trees(3))
    np.testing.assert_allclose(mean, model.predict_trees(random_trees(3)), rtol=1e-6)
    assert np.isnan(spread).all()


def test_members_of_unequal_sizes_are_refused(tmp_path: Path) -> None:
    other = CostModel(attrs.evolve(SMALL, embedding=8))
    with pytest.raises(ValueError, match="one kind and one ModelConfig"):
        checkpoints.save([*members(1), other], tmp_path / "model.pt")


class Loud:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of a checkpoint ran",))


def test_code_in_a_file_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    torch.save({"kind": "recursive", "feature_version": 1, "members": Loud()}, path)
    with pytest.raises(CheckpointMismatch, match="not a checkpoint"):
        load_model(path)
    assert capsys.readouterr().out == ""
    torch.load(path, weights_only=False)  # what was in it would have run
    assert "ran" in capsys.readouterr().out


def test_weights_of_other_sizes_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    members(1)[0].save(path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "config": {**content["config"], "embedding": 8}}, path)
    with pytest.raises(CheckpointMismatch, match="is not a checkpoint"):
        load_model(path)
    torch.save({**content, "config": {**content["config"], "colour": 8}}, path)
    with pytest.raises(CheckpointMismatch, match="colour"):
        load_model(path)
    torch.save({**content, "kind": "oracle"}, path)
    with pytest.raises(CheckpointMismatch, match="'oracle', and those known are feed_forward"):
        load_model(path)


def test_where_no_model_is_the_way_to_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT", tmp_path / "default.pt")
    with pytest.raises(FileNotFoundError, match=r"no trained model comes .* costmodel train"):
        load_model()
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: train one"):
        load_model(tmp_path / "absent.pt")
    members(1)[0].save(tmp_path / "default.pt")
    assert isinstance(CostModel.load("default"), CostModel)
