"""The experiment on what a search saves by asking a model."""

import attrs
import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, search_time
from tests.costmodel.small_models import tiny_checkpoint

SETTINGS = search_time.Settings(
    model="",
    kernels=["cvtcolor"],
    size="mini",
    space="paper",
    beam=1,
    limit=2,
    samples=2,
    topk=1,
    one_by_one=2,
)


def run(folder, settings):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_search_time")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_searches_are_timed_on_the_same_candidates(tmp_path, monkeypatch):
    from costmodel import execution, prediction

    asked, ran = [], []

    class Seen(prediction.Prediction):
        def __call__(self, scheduled):
            asked.extend(str(s.schedule) for s in scheduled)
            return super().__call__(scheduled)

    class Ran(execution.Execution):
        def __call__(self, scheduled):
            ran.extend(str(s.schedule) for s in scheduled)
            return super().__call__(scheduled)

    monkeypatch.setattr(prediction, "Prediction", Seen)
    monkeypatch.setattr(execution, "Execution", Ran)
    model = str(tiny_checkpoint(tmp_path / "tiny.pt"))
    records, frame = run(tmp_path / "results", attrs.evolve(SETTINGS, model=model))
    (count,) = (int(r.value) for r in records if r.metric == "candidates")
    assert count > 2
    # The plain program warms both up.
    assert ran[1 : 1 + count] == asked[1 : 1 + count]
    seconds = {
        r.axes["system"]: r.value
        for r in records
        if r.metric == "seconds" and r.axes["clock"] == "cpu"
    }
    assert len(seconds) == 4
    assert min(seconds.values()) > 0
    assert len(search_time.charts(frame, {})[0].to_svg()) > 1000


def test_ratios_are_of_execution_over_the_model(tmp_path, monkeypatch):
    def made_up(kernel, settings, ctx):
        scale = {"mvt": 1.0, "heat2d": 2.0, "blur": 4.0}[kernel]
        seconds = {
            "beam by model": 1.0,
            "beam by execution, batched": 10.0 * scale,
            "beam by execution, one by one": 100.0 * scale,
            "tree search": 5.0,
        }
        both = {name: {"cpu": s, "wall": 3 * s} for name, s in seconds.items()}
        return {"candidates": 7, "seconds": both}

    monkeypatch.setattr(search_time, "_measured", made_up)
    records, _ = run(tmp_path, attrs.evolve(SETTINGS, kernels=["mvt", "heat2d", "blur"]))
    found = {r.claim: r.value for r in records if r.claim}
    assert found["costmodel.ours.search_time_batched"] == pytest.approx(20.0)
    assert found["costmodel.tab.search_time_beam"] == pytest.approx(200.0)
    assert found["costmodel.ours.search_time_unbatched"] == pytest.approx(200.0)
    assert found["costmodel.tab.search_time_tree_search"] == pytest.approx(40.0)
    assert np.isfinite([r.value for r in records]).all()


def test_an_empty_cache_is_one_for_the_block_only(tmp_path, monkeypatch):
    from common.cache_folder import cache_folder

    monkeypatch.setenv("MLSYS21_CACHE", str(tmp_path / "kept"))
    with search_time._empty_cache(tmp_path / "empty"):
        assert cache_folder() == tmp_path / "empty"
    assert cache_folder() == tmp_path / "kept"
