"""The time to prove a schedule legal and to write its C."""

import statistics

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, legality


@pytest.mark.bench
def test_our_part_of_proof_and_code_is_no_more_than_that_of_isl():
    """Milliseconds are the processor's affair: `costmodel_legality` judges those."""
    found = legality.times(20, 4, seed=0)
    whole, own = found["legality and code"], found["isl's syntax tree"]
    assert len(whole) == 80
    assert statistics.median(np.array(whole) / np.array(own)) <= 2.0


def test_every_part_is_recorded_with_its_claim(tmp_path, monkeypatch):
    made_up = {part: [0.001 * n] * 8 for n, part in enumerate(legality.PARTS, 1)}
    monkeypatch.setattr(legality, "times", lambda *_: made_up)
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_legality")
    settings = legality.Settings(programs=2, schedules=4)
    outcome = run_one(Job(experiment, settings, Options(results=tmp_path, isolate=False)))
    assert outcome.status == "ok", outcome.error
    frame = Store(tmp_path).frame()
    assert dict(zip(frame["axis.part"], frame["value"], strict=True)) == {
        "legality": 1.0,
        "legality and code": 2.0,
        "isl's syntax tree": 3.0,
    }
    assert set(frame["claim"].dropna()) == set(filter(None, legality.PARTS.values()))
    assert len(legality.charts(frame, {})[0].to_svg()) > 1000
