"""The experiment on how fast schedules are measured."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, batches, throughput

SETTINGS = throughput.Settings(programs=1, variants=2, rounds=1, passes=3, least_us=1.0)


def run(folder, settings=SETTINGS):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_throughput")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_both_ways_are_recorded_for_both_parts(tmp_path):
    _, frame = run(tmp_path)
    rates = frame[frame["metric"] == "schedules_per_second"]
    assert set(rates["axis.system"]) == {"batched", "one_by_one"}
    assert set(rates["axis.part"]) == {"compile", "all"}
    assert (rates["value"] > 0).all()
    assert len(throughput.charts(frame, {})[0].to_svg()) > 1000


def test_the_ratio_is_one_by_one_over_batched(tmp_path, monkeypatch):
    seconds = {"batched": 1.0, "one_by_one": 4.0}

    def made_up(settings, seed, number):
        return {
            way: [{part: {"cpu": s, "wall": 2 * s} for part in throughput.PARTS}] * 6
            for way, s in seconds.items()
        }

    monkeypatch.setattr(throughput, "_measure", made_up)
    records, _ = run(tmp_path)
    (judged,) = (r for r in records if r.claim == "costmodel.ours.batched_throughput")
    assert judged.value == pytest.approx(4.0)
    assert judged.axes == {"part": "all", "clock": "cpu"}


def test_every_round_compiles_anew_and_runs_every_text_as_often(monkeypatch):
    import costmodel.measure as m
    from costmodel import translation_unit

    batch = batches.draw(0, 2, seed=1, least_us=1.0)
    compiled, samples = [], {}

    def compile_batch(program, texts, **options):
        compiled.append(found := translation_unit_compile(program, texts, **options))
        return found

    def time_batch(program, baseline, variants, **options):
        found = timed(program, baseline, variants, **options)
        rows = (found.baseline, *found.variants)
        samples.setdefault(len(rows), []).append([row.passes for row in rows])
        return found

    translation_unit_compile, timed = translation_unit.compile_batch, m.time_batch
    monkeypatch.setattr(translation_unit, "compile_batch", compile_batch)
    monkeypatch.setattr(m, "time_batch", time_batch)
    for way in (throughput._batched, throughput.one_by_one):
        first = way(batch, 6)
        assert 0 < first["compile"]["wall"] < first["all"]["wall"]
        way(batch, 6)
    assert all(found.seconds > 0 for found in compiled)  # nothing came from the cache
    libraries = [e.library for found in compiled for e in found.entries]
    assert len(set(libraries)) == len(compiled) == 2 + 2 * 3
    assert samples == {3: [[18, 6, 6]] * 2, 1: [[6]] * 6}
    assert np.isfinite(first["all"]["cpu"])
