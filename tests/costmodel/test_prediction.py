"""The evaluator that asks a model."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

from costmodel import prediction, search
from costmodel.ensemble import Ensemble
from costmodel.errors import UnsupportedProgram
from costmodel.model import CostModel, ModelConfig
from costmodel.prediction import Prediction
from costmodel.schedule import apply
from tests.costmodel.nests import matmul
from tests.costmodel.test_features import deep

SMALL = ModelConfig(comp_widths=(16,), embedding=8, merge_width=8, head_widths=(8,))


def ensemble(n: int = 2) -> Ensemble:
    members = []
    for seed in range(n):
        torch.manual_seed(seed)
        members.append(CostModel(SMALL).eval())
    return Ensemble(tuple(members))


def test_scores_are_the_models_and_the_program_as_written_is_1() -> None:
    model, program = ensemble(), matmul(64)
    scheduled = [apply(program, text) for text in ("unroll(S0, 4)", "", "tile(S0, 0, 32, 32)")]
    evaluate = Prediction(model)
    found = evaluate(scheduled)
    wanted, _ = model.predict(scheduled)
    assert found[1] == 1.0 != wanted[1]
    np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], rtol=1e-6)
    assert evaluate.n_scored == 2
    assert evaluate([]).shape == (0,)


def test_schedules_beside_their_program_are_predicted_as_well() -> None:
    model, program = ensemble(), matmul(64)
    texts = ["", "unroll(S0, 4)"]
    wanted = model.predict([apply(program, text) for text in texts])
    for found, each in zip(model.predict(program, texts), wanted, strict=True):
        np.testing.assert_array_equal(found, each)
    with pytest.raises(TypeError, match="needs the schedules"):
        model.predict(program)  # type: ignore[call-overload]


def test_a_level_of_a_search_is_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    forward = CostModel.forward

    def counted(self: CostModel, batch: object) -> torch.Tensor:
        batches.append(batch)
        return forward(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(CostModel, "forward", counted)
    levels: list[object] = []
    found = search.beam_search(
        matmul(64),
        Prediction(ensemble(1)),
        space="paper",
        key=search.by_nest,
        report=levels.append,
    )
    assert len(found.tried) > 5 * len(levels)
    assert len(batches) == len(levels)


def test_caution_takes_off_what_members_disagree_by() -> None:
    model, scheduled = ensemble(), [apply(matmul(64), "unroll(S0, 4)")]
    mean, spread = model.predict(scheduled)
    assert spread[0] > 0
    found = Prediction(model, caution=2.0)(scheduled)
    np.testing.assert_allclose(found, mean * np.exp(-2 * spread), rtol=1e-6)
    alone = Prediction(ensemble(1), caution=2.0)(scheduled)
    np.testing.assert_allclose(alone, ensemble(1).predict(scheduled)[0], rtol=1e-6)


def test_a_nest_without_room_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(scheduled: object, representation: str) -> object:
        if "tile" in str(scheduled.schedule):  # type: ignore[attr-defined]
            raise UnsupportedProgram("17 loops")
        return featurize(scheduled, representation)  # type: ignore[arg-type]

    featurize = prediction.featurize
    monkeypatch.setattr(prediction, "featurize", refuse)
    scheduled = [apply(matmul(64), text) for text in ("tile(S0, 0, 32, 32)", "unroll(S0, 4)")]
    found = Prediction(ensemble())(scheduled)
    assert found[0] == 0 < found[1]


def test_a_program_without_room_is_refused() -> None:
    with pytest.raises(UnsupportedProgram, match="at most 7 loops"):
        Prediction(ensemble())([apply(deep(8))])


def test_one_model_is_an_ensemble_of_one() -> None:
    model = CostModel(attrs.evolve(SMALL, embedding=4))
    assert prediction.loaded(model).members == (model,)
    several = ensemble()
    assert prediction.loaded(several) is several
