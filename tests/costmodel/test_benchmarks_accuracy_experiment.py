"""The experiment on predictions for real kernels."""

import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, benchmarks_accuracy
from tests.costmodel.small_models import tiny_checkpoint


def run(folder, kernels, model):
    settings = benchmarks_accuracy.Settings(
        model=model, kernels=kernels, sizes=["mini"], dtypes=["float32"], schedules=3
    )
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_benchmarks_accuracy")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_kernels_are_measured_and_predicted(tmp_path):
    model = str(tiny_checkpoint(tmp_path / "tiny.pt"))
    records, frame = run(tmp_path / "results", ["cvtcolor", "gemm"], model)
    kernels = {r.axes["kernel"] for r in records if r.metric == "mape"}
    assert kernels == {"cvtcolor", "gemm", "all"}
    assert {c for group in benchmarks_accuracy.CLAIMS.values() for c in group} <= {
        r.claim for r in records
    }
    assert [len(c.to_svg()) > 1000 for c in benchmarks_accuracy.charts(frame, {})] == [True, True]


def test_all_weighs_pairs_and_a_kernel_is_its_own(tmp_path, monkeypatch):
    errors = {"gemm": 0.5, "matmul": 0.1}

    def made_up(program, model, n, seed):
        measured = np.array([1.0, 2.0, 4.0])
        return {
            "measured": measured.tolist(),
            "predicted": (measured * (1 + errors[program.name])).tolist(),
        }

    monkeypatch.setattr(benchmarks_accuracy, "_pairs", made_up)
    records, _ = run(tmp_path, [*errors], str(tiny_checkpoint(tmp_path / "tiny.pt")))
    mape = {r.axes["kernel"]: r.value for r in records if r.metric == "mape"}
    assert mape == pytest.approx({"gemm": 50.0, "matmul": 10.0, "all": 30.0})


def test_the_full_list_is_known_to_programs_and_has_nineteen():
    from common.config import Session
    from common.experiment import all_experiments
    from costmodel import programs

    name = "costmodel_benchmarks_accuracy"
    with Session(all_experiments()) as session:
        (job,) = session.plan([f"experiment={name}", "profile=full"]).jobs
    assert len(set(job.settings.kernels)) == 19
    assert set(job.settings.kernels) <= set(programs.NAMES)
    assert set(programs.PAPER) < set(job.settings.kernels)
