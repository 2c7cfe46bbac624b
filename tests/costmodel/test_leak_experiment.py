"""The control that trains on labels that say nothing."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, leak, models
from costmodel.train import Samples
from tests.costmodel.small_pairs import write_pairs
from tests.costmodel.trees import random_trees


def run(folder, data, labels):
    settings = leak.Settings(
        data=data, programs=10, schedules=4, train_on=4, labels=labels, epochs=1, batch=16
    )
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_leak")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_pairs(tmp_path_factory.mktemp("pairs") / "set", 10, 4))


def test_models_are_trained_on_each_kind_of_labels_and_scored_on_those_measured(
    tmp_path, data, monkeypatch
):
    trained = []

    def predicted(system, train, validation, test, **options):
        trained.append(train)
        return test.speedups

    monkeypatch.setattr(models, "predicted", predicted)
    monkeypatch.setattr(leak, "LEAST_TO_JUDGE", 2)
    records, frame = run(tmp_path, data, list(leak.LABELS))
    orders = {r.axes["system"]: r for r in records if r.metric == "spearman_per_program"}
    assert {system: r.claim for system, r in orders.items()} == {
        "labels measured": None,
        **{f"labels {labels}": claim for labels, claim in leak.CLAIMS.items()},
    }
    assert all(r.value == pytest.approx(1.0) for r in orders.values())
    plain, permuted, centred = trained
    assert len(np.unique(plain.programs)) == 4
    assert sorted(plain.speedups) == sorted(permuted.speedups)
    assert not np.array_equal(plain.speedups, permuted.speedups)
    assert not np.array_equal(permuted.speedups, centred.speedups)
    assert [len(chart.to_svg()) > 1000 for chart in leak.charts(frame, {})] == [True]


def test_nothing_is_trained_where_no_labels_are_named(tmp_path, data):
    records, frame = run(tmp_path, data, [])
    assert not records
    assert leak.charts(frame, {}) == []


def test_labels_change_places_within_their_program_only():
    programs = np.array([0, 1, 0, 1, 2, 0, 1, 0, 0])
    before = Samples(tuple(random_trees(9)), np.arange(1.0, 10.0), programs)
    permuted = leak.relabelled(before, "permuted", 3)
    centred = leak.relabelled(before, "permuted and centred", 3)
    assert leak.relabelled(before, "measured", 3) is before
    assert permuted.speedups.tolist() != before.speedups.tolist()
    for each in range(3):
        mine = programs == each
        assert sorted(permuted.speedups[mine]) == sorted(before.speedups[mine])
        ratio = permuted.speedups[mine] / centred.speedups[mine]
        np.testing.assert_allclose(ratio, np.exp(np.log(before.speedups[mine]).mean()))
