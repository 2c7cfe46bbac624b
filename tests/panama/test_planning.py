"""Plans: that the flat arrays say what the cluster, the jobs and the scheme say."""

import attrs
import numpy as np
import pytest

from panama.cluster import Cluster
from panama.errors import NoTreeError
from panama.jobs import Job
from panama.plan import Wire
from panama.planning import Placed, make_plan
from panama.schemes import SCHEMES, Scheme, scheme_of
from panama.traffic import Traffic
from panama.windows import round_trips, window_caps, wire_of


@pytest.fixture(scope="module")
def cluster():
    return Cluster.clos(leaves=4, hosts_per_leaf=4, spines=3)


def plan_of(cluster, scheme, *, workers=(6, 4), buckets=1, load=0.0, seed=0, bytes=100_000):
    free = np.random.default_rng(5).permutation(cluster.hosts)
    placed, at = [], 0
    for number, n in enumerate(workers):
        job = Job(bytes=bytes, workers=n, iterations=2, compute_s=1e-6, buckets=buckets)
        placed.append(Placed(number, job, free[at : at + n], start_ps=1000 * number))
        at += n
    arrivals = Traffic.websearch(load).draw(cluster, 0.001, seed)
    return make_plan(cluster, placed, arrivals, scheme_of(scheme), seed, wire_of(1500))


def check_paths(net, ptr, path, src, dst):
    for i in range(len(ptr) - 1):
        links = path[ptr[i] : ptr[i + 1]]
        assert len(links)
        assert net.src[links[0]] == src[i]
        assert net.dst[links[-1]] == dst[i]
        assert np.array_equal(net.dst[links[:-1]], net.src[links[1:]])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("buckets", [1, 3])
def test_every_scheme_makes_a_plan_whose_arrays_fit(cluster, scheme, buckets):
    plan = plan_of(cluster, scheme, buckets=buckets, load=0.2)
    net, jobs, trees, messages = plan.network, plan.jobs, plan.trees, plan.messages
    n_jobs = 0 if scheme == "none" else 2
    for field in attrs.fields(type(jobs)):
        value = getattr(jobs, field.name)
        if field.name.endswith("_ptr"):
            assert len(value) == n_jobs + 1
        elif field.name not in ("worker", "bucket_ps", "bucket_bytes"):
            assert len(value) == n_jobs, field.name
    assert len(plan.flows.start_ps) > 10
    if not n_jobs:
        assert len(trees.tree_job) == len(messages.conn) == 0
        return
    assert list(np.diff(jobs.worker_ptr)) == [6, 4]
    assert list(np.diff(jobs.bucket_ptr)) == [buckets] * 2
    assert len(jobs.bucket_bytes) == len(jobs.bucket_ps) == 2 * buckets
    if SCHEMES[scheme].collective:
        assert len(trees.tree_job) == 0
        assert set(jobs.aggregates) == {0}
        assert (np.diff(messages.conn) >= 0).all()
        assert list(np.unique(messages.conn_job)) == [0, 1]
        assert len(messages.next_ptr) == len(messages.conn) + 1
        job_of = messages.conn_job[messages.conn]
        before = np.repeat(np.arange(len(messages.conn)), np.diff(messages.next_ptr))
        assert np.array_equal(job_of[before], job_of[messages.next])
        # Who waits for no other waits for a bucket, and the other way round.
        waiting = np.zeros(len(messages.conn), dtype=bool)
        waiting[messages.next] = True
        assert np.array_equal(waiting, messages.bucket == -1)
        assert set(messages.bucket) == {-1, *range(buckets)}
        ends = [
            messages.conn_path[messages.conn_path_ptr[:-1]],
            messages.conn_path[messages.conn_path_ptr[1:] - 1],
        ]
        for c, job in enumerate(messages.conn_job):
            mine = set(jobs.worker[jobs.worker_ptr[job] : jobs.worker_ptr[job + 1]])
            assert {net.src[ends[0][c]], net.dst[ends[1][c]]} <= mine
    else:
        assert len(messages.conn) == 0
        assert set(jobs.aggregates) == {1}
        n_trees = np.bincount(trees.tree_job)
        assert len(trees.join_node) == (n_trees * [6, 4]).sum()
        assert (jobs.max_window <= jobs.slots * np.where(jobs.per_tree, 1, n_trees)).all()
        worker = np.concatenate(
            [
                np.tile(jobs.worker[jobs.worker_ptr[j] : jobs.worker_ptr[j + 1]], n_trees[j])
                for j in range(2)
            ]
        )
        check_paths(net, trees.join_ptr, trees.join, worker, trees.node_at[trees.join_node])
        inner = np.flatnonzero(trees.parent >= 0)
        assert np.array_equal(trees.node_tree[inner], trees.node_tree[trees.parent[inner]])
        for i in inner:
            way = trees.up[trees.up_ptr[i] : trees.up_ptr[i + 1]]
            assert net.src[way[0]] == trees.node_at[i]
            assert net.dst[way[-1]] == trees.node_at[trees.parent[i]]
        # All children of all nodes are there once.
        slots = [*zip(trees.parent[inner], trees.child_of_parent[inner], strict=True)]
        slots += [*zip(trees.join_node, trees.join_child, strict=True)]
        assert len(set(slots)) == len(slots) == trees.fan_in.sum()


@pytest.mark.parametrize("bytes", [100_000, 5])
@pytest.mark.parametrize("scheme", ["ring", "hier_ring", "halving_doubling", "ps"])
def test_buckets_send_what_one_would(cluster, scheme, bytes):
    one = plan_of(cluster, scheme, workers=[8], bytes=bytes).messages
    three = plan_of(cluster, scheme, workers=[8], bytes=bytes, buckets=3).messages
    assert len(three.n_bytes) == 3 * len(one.n_bytes)
    assert three.n_bytes.min() >= 1
    if bytes > 1000:
        # A part is cut to whole bytes: at most one more or less a message.
        per_conn = [np.bincount(m.conn, m.n_bytes) for m in (one, three)]
        assert np.abs(per_conn[0] - per_conn[1]).max() <= np.bincount(three.conn).max()


def test_each_bucket_goes_round_a_ring_of_its_own(cluster):
    messages = plan_of(cluster, "ring", workers=[5], buckets=2).messages
    # From a bucket's first messages, only messages of as many steps are reached.
    for bucket in (0, 1):
        seen = set(np.flatnonzero(messages.bucket == bucket))
        assert len(seen) == 5
        front = list(seen)
        while front:
            m = front.pop()
            for after in messages.next[messages.next_ptr[m] : messages.next_ptr[m + 1]]:
                if after not in seen:
                    seen.add(int(after))
                    front.append(int(after))
        assert len(seen) == 5 * 8


def test_schemes_see_the_same_flows_and_workers(cluster):
    plans = [plan_of(cluster, scheme, load=0.3) for scheme in SCHEMES]
    for plan in plans[1:]:
        for field in attrs.fields(type(plan.flows)):
            assert np.array_equal(
                getattr(plan.flows, field.name), getattr(plans[0].flows, field.name)
            )
        assert set(plan.jobs.worker[:6]) == set(plans[1].jobs.worker[:6])


def test_flows_keep_their_paths_when_jobs_change(cluster):
    one, two = plan_of(cluster, "ring", load=0.3), plan_of(cluster, "ring", load=0.3, workers=[3])
    assert np.array_equal(one.flows.path, two.flows.path)


def test_rack_order_crosses_racks_as_seldom_as_possible(cluster):
    def crossings(scheme):
        plan = plan_of(cluster, scheme, workers=[12])
        return (np.diff(plan.messages.conn_path_ptr) > 2).sum()

    racks = len(set(cluster.rack[plan_of(cluster, "ring", workers=[12]).jobs.worker]))
    assert crossings("ring_sorted") == racks < crossings("ring")


def test_a_window_is_capped_by_slots_and_by_the_path(cluster):
    # Alone: 4 links, each way 0.5 us and a packet of 1496 bytes at 80 ps.
    trip = 2 * 2 * (500_000 + 1496 * 80)
    packets = int(np.ceil(4 * trip / (1496 * 80)))
    plan = plan_of(cluster, "panama")
    assert list(plan.jobs.max_window) == [packets] * 2
    few = attrs.evolve(SCHEMES["panama"], slots=8)
    assert list(plan_of(cluster, few).jobs.max_window) == [3 * 8] * 2
    for one in ("per_tree", "adaptive"):
        assert list(plan_of(cluster, attrs.evolve(few, **{one: True})).jobs.max_window) == [8, 8]
    with pytest.raises(ValueError, match="window_cap=100 packets do not fit into 8 slots; set"):
        plan_of(cluster, attrs.evolve(SCHEMES["ina_atp"], slots=8))


def test_windows_of_flows_follow_the_round_trip(cluster):
    net = cluster.network
    src, dst = cluster.hosts[[0, 0]], cluster.hosts[[1, 15]]
    paths = cluster.paths(src, dst, np.arange(2), 0)
    trips = round_trips(net, paths, 1538, 84)
    one_link = 2 * 500_000 + (1538 + 84) * 80
    assert list(trips) == [2 * one_link, 4 * one_link]
    caps = window_caps(net, paths, Wire(), 4.0)
    assert list(caps) == [int(np.ceil(4 * t / (1538 * 80))) for t in trips]
    assert list(window_caps(net, paths, Wire(), 0.01)) == [10, 10]


@pytest.mark.parametrize(("mtu", "payload", "beats"), [(1500, 1460, 22), (9000, 8960, 139)])
def test_packets_fill_the_mtu(mtu, payload, beats):
    wire = wire_of(mtu)
    assert (wire.payload, wire.sum_payload) == (payload, 64 * beats)
    assert wire.payload + wire.header == mtu + 38
    assert wire.sum_payload + wire.sum_header <= mtu + 38
    if mtu == 1500:
        assert wire == Wire()


@pytest.mark.parametrize("mtu", [0, 113, 9217])
def test_an_mtu_no_packet_fits_is_refused(mtu):
    with pytest.raises(ValueError, match=f"mtu must be from 114 to 9216 bytes, got {mtu}"):
        wire_of(mtu)


def test_trees_by_load_avoid_those_of_the_job_before(cluster):
    scheme = Scheme("k", trees="k_least_loaded", n_trees=1)
    trees = plan_of(cluster, scheme, workers=(5, 5, 6)).trees
    roots = trees.node_at[trees.parent == -1]
    assert len(set(roots)) == 3


def test_an_unknown_scheme_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'panam', did you mean 'panama'.*there are none, ring"):
        scheme_of("panam")


def test_a_job_without_a_tree_is_named():
    graph = Cluster.clos(leaves=2, hosts_per_leaf=2, spines=1).graph.copy()
    graph.nodes["spine0"]["tier"] = 1
    flat = Cluster.from_graph(graph)
    with pytest.raises(NoTreeError, match=r"job '0 \(custom\)'"):
        plan_of(flat, "panama", workers=[4])
    assert len(plan_of(flat, "ring", workers=[4]).messages.conn)
