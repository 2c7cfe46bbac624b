"""The experiment on how the error falls with the training set."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, learning_curve, models
from tests.costmodel.small_pairs import write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_pairs(tmp_path_factory.mktemp("pairs") / "set", 10, 4))


def run(folder, data, points=(2, 3, 5), seeds=2):
    settings = learning_curve.Settings(
        data=data,
        programs=10,
        schedules=4,
        points=list(points),
        seeds=seeds,
        epochs=1,
        most_epochs=2,
        batch=16,
    )
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_learning_curve")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def made_up(exponent):
    """Predictions whose error is 100% times a power of the number of training programs."""
    seen = []

    def predicted(system, train, validation, test, **options):
        n = len(np.unique(train.programs))
        seen.append((n, options["epochs"], options["seed"]))
        return test.speedups * (1 + n**-exponent)

    return predicted, seen


def test_the_power_law_of_the_errors_is_found(tmp_path, data, monkeypatch):
    predicted, seen = made_up(0.5)
    monkeypatch.setattr(models, "predicted", predicted)
    monkeypatch.setattr(learning_curve, "LEAST_TO_JUDGE", 5)
    records, frame = run(tmp_path, data)
    # Fewer programs get more epochs, up to the most.
    assert set(seen) == {(n, e, s) for n, e in ((2, 2), (3, 2), (5, 1)) for s in (0, 1)}
    (exponent,) = (r for r in records if r.metric == "exponent")
    assert exponent.value == pytest.approx(0.5)
    needed = {r.axes["mape"]: r.value for r in records if r.metric == "programs_needed"}
    assert needed == pytest.approx({25.0: 16.0, 16.0: (100 / 16) ** 2})
    judged = [r for r in records if r.claim == learning_curve.CLAIM]
    assert {r.axes["programs"] for r in judged} == {2, 3, 5}
    assert len(learning_curve.charts(frame, {})[0].to_svg()) > 1000


def test_no_more_programs_are_used_than_there_are(tmp_path, data, monkeypatch):
    predicted, seen = made_up(0.0)
    monkeypatch.setattr(models, "predicted", predicted)
    records, _ = run(tmp_path, data, points=(2, 500, 900), seeds=1)
    assert [n for n, *_ in seen] == [2, 5]  # five of the ten are to train on
    assert not [r for r in records if r.claim or r.metric == "exponent"]


def test_a_model_is_trained_on_the_first_programs(tmp_path, data):
    records, _ = run(tmp_path, data, seeds=1)
    assert [r.axes["programs"] for r in records if r.metric == "mape"] == [2, 3, 5]
