"""Experiments on the simulator at tiny settings: what they record, claims, charts, statistics."""

import attrs
import numpy as np
import pytest

from common import claims
from common.config import Session
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from panama.experiments import (
    EXPERIMENTS,
    baselines,
    buffer,
    dumbbell,
    ecn_mode,
    fair,
    fct,
    jct,
    loss,
    scale,
    shared,
    study,
    trees,
)

SITE = {"leaves": 2, "hosts_per_leaf": 4, "spines": 2, "workers": 4}
STUDY = study.Settings(
    **SITE,
    pods=2,
    jobs=2,
    megabytes=0.2,
    models=[],
    seeds=2,
    iterations=1,
    exchange_ms=3.0,
    mtu=1500,
    loads=[0.3],
    schemes=["ring_sorted", "hier_pipelined", "panama", "panama_plus"],
    shares=[0.5],
    tail=99,
)
SETTINGS = {
    "fct": STUDY,
    "jct": STUDY,
    "trees": trees.Settings(
        **SITE, jobs=1, megabytes=0.5, trees=[1, 2], placements=["random"], load=0.1, iterations=1,
        seeds=2, horizon_ms=20.0,
    ),
    "fair": fair.Settings(
        flows=[2], workers=[2], schemes=["panama", "panama_plus"], gbps=10.0, horizon_ms=5.0
    ),
    "ecn_mode": ecn_mode.Settings(
        **SITE, jobs=1, megabytes=0.1, variants=list(ecn_mode.VARIANTS), loads=[0.1], iterations=1,
        seeds=2, horizon_ms=20.0,
    ),
    "buffer": buffer.Settings(
        **SITE, megabytes=0.5, slots=[4, 16, 64], prop_ns=[500.0], skew_us=[0.0, 5.0],
        horizon_ms=20.0,
    ),
    "loss": loss.Settings(
        **SITE, jobs=1, megabytes=0.1, rates=[0.0, 1e-2], schemes=["panama", "ring_sorted"],
        seeds=1, horizon_ms=500.0,
    ),
    "scale": scale.Settings(hosts=[32, 64], load=0.3, megabytes=0.1, horizon_ms=0.2),
    "baselines": baselines.Settings(
        **SITE, megabytes=2.0, schemes=["ring_sorted", "ps", "panama"], mtu=9000, horizon_ms=50.0
    ),
}  # fmt: skip
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (fct, jct, trees, fair, ecn_mode, buffer, loss, scale, baselines)
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an experiment once in this process; gives its frame."""
    found = {}

    def run_once(name):
        if name not in found:
            (experiment,) = (e for e in EXPERIMENTS if e.name == f"panama_{name}")
            folder = tmp_path_factory.mktemp(name)
            options = Options(results=folder, isolate=False)
            outcome = run_one(Job(experiment, SETTINGS[name], options))
            assert outcome.status == "ok", outcome.error
            found[name] = Store(folder).frame()
        return found[name]

    return run_once


def test_every_experiment_on_the_simulator_is_tried_here():
    simulated = {
        e.name for e in EXPERIMENTS if not e.name.endswith(("line_rate", "area", "ns3", "accuracy"))
    }
    assert {f"panama_{name}" for name in SETTINGS} == simulated


@pytest.mark.parametrize("name", SETTINGS)
def test_charts_draw_what_was_recorded(run, name):
    charts = MODULES[name].charts(run(name), claims.load("panama"))
    assert charts
    assert all(len(chart.rows) for chart in charts)
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


@pytest.mark.parametrize("name", SETTINGS)
def test_records_fit_the_claims_they_carry(run, name):
    judged = run(name)
    judged = judged[judged["claim"].notna()]
    assert len(judged)
    for row in judged.to_dict("records"):
        claim = claims.find(row["claim"])
        assert (claim.metric, claim.unit) == (row["metric"], row["unit"])


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_flows_and_jobs_are_studied_at_the_same_settings(profile):
    names = ("panama_fct", "panama_jct")
    with Session({e.name: e for e in EXPERIMENTS}) as session:
        flows, jobs = (
            session.plan([f"experiment={name}", f"profile={profile}"]).jobs for name in names
        )
    assert flows[0].settings == jobs[0].settings


def test_jobs_are_read_from_the_runs_of_flows(tmp_path, monkeypatch):
    ran = []

    def once(**params):
        ran.append(params["scheme"])
        return run_once(**params)

    run_once = study.run_once
    monkeypatch.setattr(study, "run_once", once)
    options = Options(results=tmp_path, isolate=False)
    found = []
    for name in ("panama_fct", "panama_jct", "panama_fct"):
        (experiment,) = (e for e in EXPERIMENTS if e.name == name)
        outcome = run_one(Job(experiment, STUDY, attrs.evolve(options, resume=False)))
        assert outcome.status == "ok", outcome.error
        found.append(Store(tmp_path).frame(experiment=name))
        assert len(ran) == STUDY.seeds * (len(STUDY.schemes) + 1)
    assert (found[0]["value"] == found[2]["value"]).all()


def test_a_run_that_a_job_did_not_finish_proves_no_gain(run):
    frame = run("jct")
    bounds = frame[frame["metric"] == "training_time_ratio_at_most"]
    assert bounds["claim"].isna().all()


def test_a_worker_alone_shares_a_link_fairly_and_its_queue_is_low():
    found = dumbbell.shares("panama", workers=2, flows=2, gbps=10.0, horizon_s=0.02)
    assert found.jain > 0.9
    assert found.mean_queue_packets < found.bound_packets
    total = found.aggregation_gbps + 2 * found.flow_gbps
    assert 8.5 < total < 10


def test_ratios_are_of_pairs_and_their_interval_of_whole_groups():
    rng = np.random.default_rng(0)
    base = rng.exponential(size=2000) * 3
    groups = np.repeat(np.arange(4), 500)
    found = shared.paired_ratio(base, base / 2, shared.mean, rng, groups)
    # Each pair has the ratio 2, whatever is drawn.
    assert found == pytest.approx((2, 2, 2))
    other = rng.permutation(base)
    found = shared.paired_ratio(base, other, shared.mean, rng, groups)
    assert found.low < 1 < found.high
    far = np.where(groups == 0, base * 10, base)
    within = shared.paired_ratio(far, base, shared.mean, rng)
    between = shared.paired_ratio(far, base, shared.mean, rng, groups)
    assert between.high - between.low > within.high - within.low


def test_ratios_of_nothing_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least one pair, got none"):
        shared.paired_ratio(np.empty(0), np.empty(0), shared.mean, rng)
    with pytest.raises(ValueError, match="as many of both, got 2 and 3"):
        shared.paired_ratio(np.ones(2), np.ones(3), shared.mean, rng)
