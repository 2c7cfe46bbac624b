"""The experiment on the labels' noise: what it records, and its verdicts on made-up errors."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, batches, noise
from costmodel.measure import Measured, Measurement

SETTINGS = noise.Settings(
    programs=2, variants=2, pairs=1, memories=["arena", "apart"], passes=[2, 2], least_us=1.0
)


def run(folder):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_noise")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def cell(errors, foreseen, load):
    names = [
        f"{memory} {clock} {estimator}"
        for memory in noise.MEMORIES
        for clock in noise.CLOCKS
        for estimator in noise.ESTIMATORS
    ]
    return {"errors": dict.fromkeys(names, errors), "noise": foreseen, "load": load}


def test_errors_of_every_clock_estimator_and_memory_are_recorded(tmp_path):
    _, frame = run(tmp_path)
    systems = {f"{c} {e}" for c in noise.CLOCKS for e in noise.ESTIMATORS}
    for metric in ("mape", "median_ape", "p95_ape"):
        rows = frame[frame["metric"] == metric]
        assert set(rows["axis.system"]) == systems
        assert set(rows["axis.memory"]) == {"arena", "apart"}
        assert (rows["value"] >= 0).all()
    charts = noise.charts(frame, {})
    assert [len(chart.to_svg()) > 1000 for chart in charts] == [True, True]


@pytest.mark.parametrize(("load", "judged"), [(0.1, True), (0.9, False)])
def test_a_busy_machine_is_shown_and_not_judged(tmp_path, monkeypatch, load, judged):
    cells = [cell([0.01, -0.02], [0.01, 0.001], load)] * 2
    monkeypatch.setattr(noise, "_measure", lambda settings, seed, number: cells[number])
    records, _ = run(tmp_path)
    claims = {r.claim: r.value for r in records if r.claim}
    assert ("costmodel.ours.noise_mape" in claims) is judged
    assert ("costmodel.ours.noise_median" in claims) is judged
    if judged:
        assert claims["costmodel.ours.noise_mape"] == pytest.approx(1.5)
    # 0.01 lies within three times 0.01, 0.02 not within three times 0.001.
    assert claims["costmodel.ours.noise_covered"] == pytest.approx(50.0)


def test_the_paired_estimate_is_not_misled_by_one_fast_pass():
    def taken(times, session, per_pass):
        samples = np.repeat(np.array(times), per_pass)[:, None] * np.ones(2)
        sessions = np.repeat(np.array(session), per_pass)
        return Measurement(
            "ok", 1.0, 1.0, 1.0, 0.0, len(samples), "cpu", 0.0, "", samples, sessions
        )

    # The machine is fast in one pass only, and the variant was already content with its passes.
    base = taken([2.0, 2.0, 2.0, 0.5], [0, 0, 1, 1], 3)
    found = Measured(base, (taken([1.0, 1.0, 1.0], [0, 0, 1], 1),), "exact", ())
    assert noise._speedups(found, "cpu", "paired") == pytest.approx([2.0])
    assert found.paired_speedups == pytest.approx([2.0])
    assert noise._speedups(found, "cpu", "min") == pytest.approx([0.5])


def test_load_of_others_leaves_out_our_own_time():
    import os

    cores = os.cpu_count() or 1
    # Ten seconds in which all cores together were busy for 6, 2 of these by us.
    assert noise._load((0, 0, 0), (10, 6, 2)) == pytest.approx(0.4 / cores)


def test_batches_are_programs_that_run_long_enough(monkeypatch):
    batch = batches.draw(0, 2, seed=1, least_us=1.0)
    assert len(set(batch.variants)) == 2
    assert batch == batches.draw(0, 2, seed=1, least_us=1.0)
    monkeypatch.setattr(batches, "MAX_DRAWS", 1)
    with pytest.raises(RuntimeError, match=r"runs for 1e\+09 us"):
        batches.draw(0, 2, seed=1, least_us=1e9)
