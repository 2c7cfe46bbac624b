"""The experiment that sets searches by the model beside others on the paper's kernels."""

import attrs
import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, search_quality
from tests.costmodel.small_models import tiny_checkpoint

SETTINGS = search_quality.Settings(
    model="",
    kernels=["cvtcolor"],
    size="mini",
    max_gb=1.0,
    searches=list(search_quality.SEARCHES),
    budget_s=1.0,
    space="paper",
    beam=1,
    limit=2,
    samples=2,
    topk=1,
    passes=6,
)


def run(folder, settings):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_search_quality")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_every_search_is_set_beside_the_peers(tmp_path):
    model = str(tiny_checkpoint(tmp_path / "tiny.pt"))
    records, frame = run(tmp_path / "results", attrs.evolve(SETTINGS, model=model))
    systems = {r.axes["system"] for r in records}
    assert {*search_quality.SEARCHES, "gcc", "isl"} <= systems
    claims = {r.claim for r in records if r.claim}
    assert {
        "costmodel.fig.search_speedup_by_kernel",
        "costmodel.ours.model_over_execution",
        "costmodel.ours.model_over_execution_paper_steps",
    } <= claims
    assert len(search_quality.charts(frame, {})[0].to_svg()) > 1000


def test_means_are_over_the_best_of_a_group(tmp_path, monkeypatch):
    gains = {
        "cvtcolor": {
            "beam by model": 4.0,
            "beam by execution": 4.0,
            "beam by model on paper steps": 2.7,
            "beam by execution on paper steps": 3.0,
            "li2018": 2.0,
        },
        "mvt": {"beam by model": 1.0, "beam by execution": 2.0, "li2018": 1.0, "adams2019": 2.0},
        "heat2d": {"beam by model": 3.0},  # no Halide: left out of that mean
    }

    def made_up(kernel, settings, ctx):
        noise = np.linspace(-0.01, 0.01, 6)
        logs = {name: (np.log(gain) + noise).tolist() for name, gain in gains[kernel].items()}
        return {"speedups": logs, "absent": {}, "status": {}, "schedules": {}, "tried": {}}

    monkeypatch.setattr(search_quality, "_measured", made_up)
    records, _ = run(tmp_path, attrs.evolve(SETTINGS, kernels=list(gains)))
    found = {r.claim: r for r in records if r.claim}
    halide = found["costmodel.abstract.search_speedup"]
    assert halide.value == pytest.approx(1.0)  # of 2 and 0.5
    assert halide.axes["kernels"] == 2
    by_execution = found["costmodel.ours.search_speedup_by_execution"]
    assert by_execution.value == pytest.approx(2**0.5)  # of 2 and 1
    assert found["costmodel.ours.model_over_execution"].value == pytest.approx(0.5**0.5)
    own_steps = found["costmodel.ours.model_over_execution_paper_steps"]
    assert own_steps.value == pytest.approx(0.9)
    assert own_steps.axes["kernels"] == 1


def test_the_kernels_are_the_papers_ten():
    from costmodel import programs

    assert set(search_quality.PAPER) == set(programs.PAPER)
