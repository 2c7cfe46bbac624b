"""The ablation of descriptions and losses."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.compact_vector import LOOPS, NEST
from costmodel.experiments import EXPERIMENTS, models, representation
from tests.costmodel.small_pairs import write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_pairs(tmp_path_factory.mktemp("pairs") / "set", 10, 4))


def run(folder, data, representations, losses):
    settings = representation.Settings(
        data=data,
        programs=10,
        schedules=4,
        train_on=4,
        representations=representations,
        losses=losses,
        epochs=1,
        batch=16,
    )
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_representation")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_one_thing_changes_at_a_time(tmp_path, data, monkeypatch):
    seen = []

    def predicted(system, train, validation, test, **options):
        widths = {tree.comps.shape[1] for tree in (*train.trees, *test.trees)}
        is_masked = all((tree.comps[:, LOOPS:NEST] == 0).all() for tree in test.trees)
        n_programs = len(np.unique(train.programs))
        seen.append((options["representation"], options["loss"], len(widths), is_masked))
        assert n_programs == 4
        return test.speedups

    monkeypatch.setattr(models, "predicted", predicted)
    records, frame = run(tmp_path, data, ["compact", "paper", "transformed"], ["mape", "ndcg"])
    assert seen == [
        ("compact", "mape", 1, False),
        ("paper", "mape", 1, False),
        ("compact", "mape", 1, True),
        ("compact", "ndcg", 1, False),
    ]
    systems = {r.axes["system"] for r in records}
    assert systems == {"compact, mape", "paper, mape", "transformed, mape", "compact, ndcg"}
    charts = representation.charts(frame, {})
    assert [len(chart.to_svg()) > 1000 for chart in charts] == [True, True]


def test_a_model_is_trained_on_each(tmp_path, data):
    records, _ = run(tmp_path, data, ["paper", "transformed"], ["log"])
    assert {r.axes["system"] for r in records} == {"paper, log", "transformed, log"}


def test_the_quick_profile_trains_nothing(tmp_path):
    records, frame = run(tmp_path, "", [], [])
    assert not records
    assert representation.charts(frame, {}) == []
