"""The experiment that sets code found by search beside compilers and schedulers."""

import attrs
import numpy as np
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from costmodel.experiments import EXPERIMENTS, polybench
from tests.costmodel.small_models import tiny_checkpoint

SETTINGS = polybench.Settings(
    kernels=["gemm", "trisolv"],
    size="mini",
    dtype="float32",
    budget_s=0.1,
    limit=2,
    model="",
    passes=6,
    image=0,
)


def run(folder, settings=SETTINGS):
    (experiment,) = (e for e in EXPERIMENTS if e.name == "costmodel_polybench")
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_every_kernel_is_set_beside_gcc_and_isl(tmp_path):
    records, frame = run(tmp_path)
    rows = frame[frame["metric"] == "speedup"]
    for kernel in SETTINGS.kernels:
        assert {"ours", "gcc", "isl"} <= set(rows[rows["axis.kernel"] == kernel]["axis.system"])
    judged = {r.claim for r in records if r.claim}
    assert {"costmodel.ours.polybench_gcc", "costmodel.ours.polybench_isl"} <= judged
    assert len(polybench.charts(frame, {})[0].to_svg()) > 1000


def test_the_models_search_stands_beside_the_one_that_runs_candidates(tmp_path):
    model = str(tiny_checkpoint(tmp_path / "tiny.pt"))
    settings = attrs.evolve(SETTINGS, kernels=["trisolv"], model=model)
    records, _ = run(tmp_path / "results", settings)
    systems = {r.axes.get("system") for r in records}
    assert {polybench.MODEL, f"{polybench.MODEL} over ours", "ours over gcc"} <= systems


def test_means_are_of_ratios_pass_by_pass(tmp_path, monkeypatch):
    def made_up(program, settings, threads):
        gain = {"gemm": 4.0, "trisolv": 1.0}[program.name]
        noise = np.linspace(-0.01, 0.01, 6)
        return {
            "speedups": {
                "ours": (np.log(gain) + noise).tolist(),
                "gcc": noise.tolist(),
                "isl": (noise - np.log(2)).tolist(),
            },
            "schedule": "",
            "tried": 1,
            "absent": {},
            "status": {},
        }

    monkeypatch.setattr(polybench, "_measured", made_up)
    records, _ = run(tmp_path)
    found = {r.claim: r.value for r in records if r.claim}
    assert found["costmodel.ours.polybench_gcc"] == pytest.approx(2.0)
    assert found["costmodel.ours.polybench_isl"] == pytest.approx(4.0)


def test_the_matrix_product_is_checked_against_torch(tmp_path, monkeypatch):
    from common.context import Context

    compared = {}

    def compare(self, metric, candidates, **options):
        compared.update(options, values={n: call() for n, call in candidates.items()})

    monkeypatch.setattr(Context, "compare", compare)
    logs = {"ours": [0.0] * 6, "adams2019": [-1.0] * 6}
    schedule = "unfuse(S1, 1); unfuse(S1, 0); register_tile(S1, 0, 6, 1, 16)"
    cell = {"speedups": logs, "schedule": schedule, "tried": 1, "absent": {}, "status": {}}
    monkeypatch.setattr(polybench, "_measured", lambda *_: cell)
    records, _ = run(tmp_path, attrs.evolve(SETTINGS, kernels=[], image=64))
    assert compared["claim"] == "costmodel.ours.matmul_torch"
    values = compared["values"]
    compared["verify"](values["ours"], values["torch"])
    (adams,) = (r for r in records if r.claim == "costmodel.ours.matmul_adams")
    assert adams.value == pytest.approx(np.e)
