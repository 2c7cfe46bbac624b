"""The experiment on training at tiny settings: what it records, and its charts."""

import numpy as np
import pytest

pytest.importorskip("torch")

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from panama import training
from panama.experiments import EXPERIMENTS, accuracy

SETTINGS = accuracy.Settings(
    ranks=3, model="cnn", pictures=["digits"], steps=8, batch=4, rate=0.1,
    timed_ranks=3, timed_width=16, timed_batch=2, timed_ways=["fp32", "int32"], seconds=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "panama_accuracy")
    folder = tmp_path_factory.mktemp("accuracy")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    return Store(folder).frame()


@pytest.mark.slow
def test_gaps_and_speeds_carry_their_claims(frame):
    for metric, system, claim in (
        ("loss_gap", "fp32", "panama.abstract.accuracy"),
        ("step_speed", "fp32", "panama.ours.hook_step"),
    ):
        (row,) = frame[(frame["metric"] == metric) & (frame["axis.system"] == system)].to_dict(
            "records"
        )
        found = claims.find(row["claim"])
        assert (found.id, found.metric, found.unit) == (claim, row["metric"], row["unit"])
    gaps = frame[frame["metric"] == "loss_gap"].set_index("axis.system")["value"]
    assert gaps["fp32"] < 1e-4
    # Below the rounding of a loss in float, which of two gaps is the smaller is chance.
    assert gaps["fp32"] <= max(gaps["int32"], 2.0**-23)
    assert gaps["int32"] < gaps["bf16"] < 0.1


@pytest.mark.slow
def test_charts_draw_losses_and_steps(frame):
    drawn = accuracy.charts(frame, claims.load("panama"))
    assert len(drawn) == 2
    assert all(chart.to_svg().startswith("<svg") for chart in drawn)


def test_gradients_count_as_alike_within_the_roundings_of_bf16():
    stock = [np.array([1.0, -2.0])] * 2
    assert accuracy.alike([np.array([1.01, -2.0])] * 2, stock)
    assert not accuracy.alike([np.array([1.1, -2.0])] * 2, stock)
    assert not accuracy.alike([stock[0], np.array([1.0, 2.0])], stock)


def test_the_timed_model_has_the_parameters_it_is_said_to_have():
    assert training.parameters(2048) == 10_512_394


@pytest.mark.parametrize("name", training.MODELS)
def test_models_take_the_pictures(name):
    from panama import lessons

    x, _ = lessons.draw("digits", 3, seed=0)
    assert training._model(name)(x).shape == (3, lessons.CLASSES)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="model must be one of mlp, cnn, got 'rnn'"):
        training._model("rnn")
