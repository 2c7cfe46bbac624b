"""The experiment that describes what models learn from."""

import json
from types import SimpleNamespace

import attrs
import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel import checkpoints
from costmodel.experiments import EXPERIMENTS, dataset
from costmodel.shards import labels, read_rows
from tests.costmodel.small_pairs import write_pairs


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Records and frame of a run on a set with made-up times and a card made up as well."""
    folder = tmp_path_factory.mktemp("dataset")
    card = folder / "default.json"
    card.write_text(json.dumps({"data": {"pairs": 7, "quick": True, "by": "x"}, "mape": [1.5, 2]}))
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_dataset")
    data = write_pairs(folder / "set", 10, 4)
    settings = dataset.Settings(data=str(data), programs=10, schedules=4, draws=12)
    options = Options(results=folder / "results", isolate=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "DEFAULT", folder / "default.pt")
        outcome = run_one(Job(experiment, settings, options))
    assert outcome.status == "ok", outcome.error
    (run,) = Store(folder / "results").run_list()
    return run.records, Store(folder / "results").frame()


def test_the_card_of_the_set_becomes_records(found):
    records, _ = found
    pairs = {r.axes["split"]: r.value for r in records if r.metric == "pairs"}
    assert sum(pairs.values()) == 40
    values = {r.claim: r.value for r in records if r.claim}
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_dataset")
    assert set(values) == set(experiment.claims)
    assert values["costmodel.ours.wrong_results"] == 0
    assert values["costmodel.ours.identity_share"] == 25
    assert values["costmodel.ours.label_noise_median"] == pytest.approx(1.0)


def test_some_draws_are_legal_and_some_are_not(found):
    (legal,) = (r for r in found[0] if r.metric == "legal")
    assert 0 < legal.low < legal.value <= 100


def test_the_shipped_models_card_stands_beside_it(found):
    card = {r.axes["field"]: r.value for r in found[0] if r.metric == "card"}
    assert card == {"data.pairs": 7.0, "mape.0": 1.5, "mape.1": 2.0}


def test_speedups_and_noise_are_drawn(found):
    assert [len(c.to_svg()) > 1000 for c in dataset.charts(found[1], {})] == [True, True]


def test_the_interval_of_the_noise_is_one_of_its_median(tmp_path):
    """2000 independent values: far within the quartiles, wherever the least and greatest stand."""
    rows = labels(read_rows(write_pairs(tmp_path / "set", 10, 4)))
    noise = np.random.default_rng(0).exponential(size=2000)
    recorded = {}
    ctx = SimpleNamespace(record=lambda claim, metric, value, unit, **rest: recorded.setdefault(
        metric, (value, rest.get("low"), rest.get("high"))
    ))  # fmt: skip
    dataset._record_noise(ctx, [attrs.evolve(rows[0], noise=float(value)) for value in noise])
    middle, low, high = recorded["noise_median"]
    assert middle == pytest.approx(100 * np.median(noise))
    assert np.quantile(noise, 0.4) < low / 100 <= middle / 100 <= high / 100
    assert high / 100 < np.quantile(noise, 0.6)
