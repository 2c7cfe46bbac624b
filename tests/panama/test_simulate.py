"""Whole runs: tables, what waits, what is warned of, and comparisons."""

import warnings

import attrs
import numpy as np
import pytest

import panama
from panama.compare import ratio_interval
from panama.errors import StallError
from panama.ideal import exchange_seconds, flow_seconds
from panama.plan import Wire
from panama.simulate import _stalled


@pytest.fixture(scope="module")
def cluster():
    return panama.Cluster.clos(leaves=4, hosts_per_leaf=4, spines=2)


def run(cluster, jobs, background=None, **options):
    return panama.simulate(cluster, jobs, background, **{"horizon_s": 0.1, **options})


@pytest.fixture(scope="module")
def busy(cluster):
    """A run whose jobs all end, and whose flows come until the horizon."""
    jobs = [
        panama.Job(bytes=300_000, workers=6, iterations=3, compute_s=20e-6),
        panama.Job(bytes=200_000, workers=4, arrival_s=50e-6, buckets=2, compute_s=50e-6),
    ]
    return run(cluster, jobs, panama.Traffic.fixed(20_000, 0.2), horizon_s=2e-3)


@pytest.mark.parametrize("scheme", [name for name in panama.SCHEMES if name != "none"])
def test_every_scheme_finishes_a_job_no_sooner_than_its_links_allow(cluster, scheme):
    result = run(cluster, [panama.Job(bytes=500_000, workers=7, iterations=2)], scheme=scheme)
    why = result.explain(0)
    assert result.jobs["done"].all()
    assert why.comm_s >= why.bound_s
    assert why.iterations == 2
    assert "worst link" in str(why)


@pytest.mark.parametrize(
    # Start-up, and steps that wait for each other, are some tens of microseconds.
    ("scheme", "over"),
    [("panama", 1.03), ("ina_single", 1.03), ("ring_sorted", 1.05)],
)
def test_an_idle_network_comes_near_the_bound(cluster, scheme, over):
    job = panama.Job(bytes=8_000_000, workers=8)
    result = run(cluster, [job], scheme=scheme, mtu=9000, placement="packed")
    why = result.explain(0)
    assert 1 <= why.comm_s / why.bound_s <= over


def test_tables_have_a_row_for_everything(busy):
    jobs, flows, links = busy.jobs, busy.flows, busy.links
    assert list(jobs["job"]) == [0, 0, 0, 1]
    assert list(jobs["iter"]) == [0, 1, 2, 0]
    assert jobs["done"].all()
    assert jobs["jct_s"].to_numpy() == pytest.approx(jobs["end_s"] - jobs["start_s"])
    assert (jobs["jct_s"] >= jobs["compute_s"]).all()
    assert jobs["start_s"].to_numpy()[1:3] == pytest.approx(jobs["end_s"].to_numpy()[:2])
    assert jobs["start_s"].to_numpy()[3] == pytest.approx(50e-6)
    assert len(flows) == len(busy.plan.flows.start_ps) > 100
    # Flows arrive up to the horizon: the last ones, in a run's last microseconds, are under way.
    assert flows["done"].mean() > 0.98
    assert (flows["start_s"][~flows["done"]] > 1.9e-3).all()
    assert flows["fct_s"].isna().equals(~flows["done"])
    assert len(links) == len(busy.cluster.network.src)
    assert links["util"].between(0, 1).all()
    assert links["mark_frac"].between(0, 1).all()
    assert (links["mean_q_bytes"] <= links["max_q_bytes"]).all()


def test_no_flow_is_faster_than_its_ideal(busy):
    done = busy.flows[busy.flows["done"]]
    assert (done["slowdown"] >= 1).all()


def test_a_small_flow_alone_takes_its_ideal_time(cluster):
    # Two packets fit the first window: nothing waits for an ACK.
    result = run(cluster, [], panama.Traffic.incast(1, 2000, 1.0), scheme="none")
    assert len(result.flows) == 1
    assert result.flows["slowdown"].to_numpy() == pytest.approx([1.0])


def chain_seconds(ps, prop, sizes):
    """When the last of the packets has crossed all links, packet by packet."""
    free = [0] * len(ps)
    at = 0
    for size in sizes:
        at = 0
        for link in range(len(ps)):
            at = max(at, free[link]) + size * ps[link]
            free[link] = at
            at += prop[link]
    return at * 1e-12


@pytest.mark.parametrize("n_bytes", [1, 700, 1460, 1461, 2920, 10_000, 14_600])
@pytest.mark.parametrize("oversub", [None, 0.5, 4])
def test_ideal_times_are_those_of_packets_in_a_row(cluster, n_bytes, oversub):
    other = panama.Cluster.clos(leaves=4, hosts_per_leaf=4, spines=2, oversub=oversub)
    flows = run(other, [], panama.Traffic.incast(8, n_bytes, 1.0), scheme="none").plan.flows
    net, wire = other.network, panama.simulate(other, [], scheme="none").plan.wire
    found = flow_seconds(net, flows, wire)
    for i in range(8):
        path = flows.path[flows.path_ptr[i] : flows.path_ptr[i + 1]]
        full, rest = divmod(n_bytes, wire.payload)
        sizes = [wire.payload + wire.header] * full + [rest + wire.header] * (rest > 0)
        wanted = chain_seconds(net.ps_per_byte[path], net.prop_ps[path], sizes)
        assert found[i] <= wanted * (1 + 1e-12)
        if oversub is None:
            assert found[i] == pytest.approx(wanted)


def test_bounds_of_exchanges():
    wire = attrs.evolve(Wire(), header=0, sum_header=0)
    job = panama.Job(bytes=1_000_000, workers=5)
    seconds = [exchange_seconds(job, panama.SCHEMES[s], wire, 80) for s in ("panama", "ring", "ps")]
    assert seconds == pytest.approx([80e-6, 2 * 4 / 5 * 80e-6, 4 * 80e-6])


def test_the_same_seed_gives_the_same_tables(cluster, busy):
    jobs = [panama.Job(bytes=100_000, workers=6)]
    traffic = panama.Traffic.websearch(0.2)
    one, two = (run(cluster, jobs, traffic, horizon_s=1e-3, seed=3) for _ in range(2))
    assert one.jobs.equals(two.jobs)
    assert one.flows.equals(two.flows)
    assert one.links.equals(two.links)


def test_schemes_meet_the_same_traffic_on_the_same_hosts(cluster):
    jobs = [panama.Job(bytes=50_000, workers=6)]
    runs = [
        run(cluster, jobs, panama.Traffic.fixed(20_000, 0.2), horizon_s=1e-3, scheme=scheme)
        for scheme in ("none", "ring", "panama")
    ]
    for name in ("src", "dst", "bytes", "start_s"):
        assert runs[0].flows[name].equals(runs[1].flows[name])
        assert runs[0].flows[name].equals(runs[2].flows[name])
    assert set(runs[1].plan.jobs.worker) == set(runs[2].plan.jobs.worker)


def test_jobs_without_room_wait_in_turn(cluster):
    jobs = [
        panama.Job(bytes=100_000, workers=10),
        panama.Job(bytes=100_000, workers=10, arrival_s=1e-6),
        # Would fit beside the first, but comes after the second.
        panama.Job(bytes=100_000, workers=4, arrival_s=2e-6),
    ]
    rows = run(cluster, jobs).jobs
    assert rows["done"].all()
    first, second, third = rows.to_dict("records")
    assert first["start_s"] == 0
    assert second["start_s"] == pytest.approx(first["end_s"], abs=1e-12)
    assert third["start_s"] == pytest.approx(second["start_s"], abs=1e-12)
    alone = run(cluster, jobs[:1]).jobs
    assert alone["end_s"][0] == first["end_s"]


def test_a_horizon_that_is_too_short_is_told_once(cluster):
    jobs = [panama.Job(bytes=200_000, workers=8, iterations=10)]
    jobs += [panama.Job(bytes=1000, workers=12)]
    with pytest.warns(
        UserWarning, match="2 of 2 jobs are not done by the horizon of 0.0001 s"
    ) as w:
        result = run(cluster, jobs, horizon_s=1e-4)
    assert len(w) == 1
    rows = result.jobs
    assert 0 < rows["done"].sum() < 10
    assert rows[rows["job"] == 1]["start_s"].isna().all()
    with pytest.raises(ValueError, match="job 1 has done no iteration"):
        result.explain(1)
    with pytest.raises(ValueError, match="jobs 0 to 1, got job=2"):
        result.explain(2)


def test_a_budget_that_is_used_up_is_told(cluster):
    with pytest.warns(UserWarning, match="max_events were used up"):
        result = run(cluster, [panama.Job(bytes=10**6, workers=8)], max_events=1000)
    assert result.truncated


def test_loss_is_repaired(cluster):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scheme in ("panama", "ring"):
            job = panama.Job(bytes=300_000, workers=8)
            result = run(cluster, [job], scheme=scheme, drop=1e-3)
            assert result.jobs["done"].all()
            assert result.links["drops"].sum() > 0 or scheme == "panama"


def test_what_hosts_of_a_collective_send_again_is_counted(cluster):
    jobs = [panama.Job(bytes=500_000, workers=4) for _ in range(2)]
    options = {"scheme": "ring", "horizon_s": 1.0}
    assert run(cluster, jobs, **options).resent == 0
    lossy = run(cluster, jobs, drop=1e-2, **options)
    again = lossy.outcome.conn_resent
    # At least what was lost of data is sent again; nothing else here could be.
    assert lossy.resent == again.sum() > 0
    assert lossy.explain(0).resent + lossy.explain(1).resent == lossy.resent


def test_a_stall_is_told_by_names(cluster):
    result = run(cluster, [panama.Job(bytes=100_000, workers=9)], scheme="ina_single")
    plan, placed = result.plan, result._placed
    root = int(np.flatnonzero(plan.trees.parent == -1)[0])
    stall = StallError(0, 17, root, int(plan.trees.node_at[root]), (0,))
    said = _stalled(cluster, placed, plan, stall)
    assert said.startswith("job 0 (custom) waits for packet 17 at 'spine")
    child = np.flatnonzero((plan.trees.parent == root) & (plan.trees.child_of_parent == 0))
    if len(child):
        assert repr(cluster.nodes[plan.trees.node_at[child[0]]]) in said
    else:
        assert "host" in said
    none = StallError(0, 17, root, int(plan.trees.node_at[root]), ())
    assert "result was lost" in _stalled(cluster, placed, plan, none)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scheme": "panma"}, "unknown scheme 'panma', did you mean 'panama'"),
        ({"placement": "spraed"}, "unknown placement 'spraed', did you mean 'spread'"),
        ({"horizon_s": 0}, "horizon_s must be above 0"),
        ({"drop": 1.0}, "drop must be at least 0 and below 1"),
        ({"mtu": 10}, "mtu must be from"),
    ],
)
def test_options_that_make_no_sense_are_named(cluster, wrong, said):
    with pytest.raises(ValueError, match=said):
        run(cluster, [panama.Job(bytes=1000, workers=2)], **wrong)


def test_comparisons_are_by_seed_against_the_first(cluster):
    table = panama.compare(
        cluster,
        [panama.Job(bytes=200_000, workers=8)],
        panama.Traffic.fixed(20_000, 0.1),
        schemes=["ring", "panama"],
        seeds=range(3),
        horizon_s=1e-3,
    )
    assert len(table) == 2 * 4
    first = table[table["scheme"] == "ring"]
    assert first[["ratio", "low", "high"]].to_numpy() == pytest.approx(1)
    comm = table[(table["scheme"] == "panama") & (table["metric"] == "comm_mean_s")].iloc[0]
    assert comm["low"] <= comm["ratio"] <= comm["high"]
    ring = first[first["metric"] == "comm_mean_s"].iloc[0]
    assert comm["ratio"] == pytest.approx(ring["mean"] / comm["mean"])
    with pytest.raises(ValueError, match="at least one scheme"):
        panama.compare(cluster, [], schemes=[])
    with pytest.raises(ValueError, match="at least one seed"):
        panama.compare(cluster, [], schemes=["ring"], seeds=[])


def test_intervals_of_pairs_ignore_what_pairs_share():
    rng = np.random.default_rng(0)
    shared = rng.exponential(1, 20)
    ratio, low, high = ratio_interval(2 * shared, shared)
    assert (ratio, low, high) == pytest.approx((2, 2, 2))
    ratio, low, high = ratio_interval(2 * shared, rng.permutation(shared))
    assert low < 2 < high
