"""A study gives the same tables whatever the number of processes that share its runs."""

import joblib
import pandas as pd
import pytest

from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from panama.experiments import EXPERIMENTS, shared, study

SETTINGS = study.Settings(
    pods=1, leaves=2, hosts_per_leaf=4, spines=2, jobs=2, workers=4, megabytes=0.2, models=[],
    loads=[0.2, 0.4], schemes=["ring_sorted", "hier_pipelined", "panama", "panama_plus"],
    shares=[0.3, 0.6], seeds=2, iterations=1, exchange_ms=2.0, tail=99, mtu=1500,
)  # fmt: skip
#: What a clock or the process itself decides.
OF_THE_PROCESS = ("run_seconds", "peak_memory")


def tables(scheme: str, seed: int) -> list[pd.DataFrame]:
    """Jobs, flows and links of a run."""
    import panama

    cluster = panama.Cluster.clos(leaves=2, hosts_per_leaf=4, spines=2)
    result = panama.simulate(
        cluster,
        [panama.Job(bytes=300_000, workers=4, iterations=2, compute_s=1e-5) for _ in range(2)],
        panama.Traffic.websearch(load=0.3),
        scheme=scheme,
        horizon_s=1.0,
        drop=1e-3,
        seed=seed,
        max_events=300_000,
    )
    return [result.jobs, result.flows, result.links]


def study_of(name: str, settings: study.Settings, results) -> pd.DataFrame:
    """An experiment's rows, but for those that the process decides."""
    (experiment,) = (e for e in EXPERIMENTS if e.name == name)
    outcome = run_one(Job(experiment, settings, Options(results=results, isolate=False)))
    assert outcome.status == "ok", outcome.error
    frame = Store(results).frame(experiment=name)
    frame = frame[~frame["metric"].isin(OF_THE_PROCESS)]
    columns = ["claim", "metric", "value", "low", "high"]
    columns += [column for column in frame if column.startswith("axis.")]
    return frame[columns].reset_index(drop=True)


@pytest.mark.filterwarnings("ignore:max_events")
@pytest.mark.parametrize("workers", [2, 3])
def test_runs_in_other_processes_give_the_same_tables(workers):
    asked = [(scheme, seed) for scheme in ("ring", "panama_plus") for seed in (0, 1)]
    alone = [tables(*one) for one in asked]
    shared_out = joblib.Parallel(n_jobs=workers)(joblib.delayed(tables)(*one) for one in asked)
    for one, other in zip(alone, shared_out, strict=True):
        for here, there in zip(one, other, strict=True):
            pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert not alone[0][1].equals(alone[1][1]), "two seeds are two runs"


@pytest.mark.slow
def test_a_study_shared_by_processes_records_the_same_rows(tmp_path):
    alone = study_of("panama_jct", SETTINGS, tmp_path / "alone")
    runs = [
        {
            "site": SETTINGS.site, "scheme": scheme, "load": load, "share": share, "seed": seed,
            "iterations": SETTINGS.iterations, "exchange_s": SETTINGS.exchange_ms / 1e3,
            "mtu": SETTINGS.mtu,
        }
        for share, load in SETTINGS.points
        for scheme in SETTINGS.schemes
        for seed in shared.seeds_of(shared.generator(0, "panama study"), SETTINGS.seeds)
    ]  # fmt: skip
    folder = tmp_path / "together" / "data" / f"panama_study-v{study.VERSION}"
    folder.mkdir(parents=True)
    joblib.Parallel(n_jobs=2)(joblib.delayed(study.kept)(folder, **run) for run in reversed(runs))
    assert len(list(folder.iterdir())) == len(runs)
    together = study_of("panama_jct", SETTINGS, tmp_path / "together")
    assert len(list(folder.iterdir())) == len(runs), "none was run again"
    pd.testing.assert_frame_equal(alone, together, check_exact=True)
