"""The event core against queueing theory, closed forms, and what must hold in every run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panama.core import Core, check_balance, run
from panama.errors import StallError
from panama.plan import Outcome, Plan, Wire
from tests.panama.plans import (
    PPB,
    Net,
    aggregation,
    flows,
    i32,
    i64,
    leaf_spine,
    only_flows,
    ring,
    star,
    with_wire,
)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8, 0.9])
def test_poisson_packets_wait_as_in_an_md1_queue(load: float) -> None:
    """Mean wait = load * service / (2 (1 - load)), Pollaczek-Khinchine."""
    n, size = 1_000_000, 1500
    service = size * PPB
    gaps = np.random.default_rng(7).exponential(service / load, n)
    start = np.cumsum(gaps).astype(np.int64)
    # They queue at the source's own link, a FIFO of fixed rate like any other.
    net = star(3, mark=-1)
    plan = only_flows(net, flows(start, size, [net.path(0, 3, 2)] * n, raw=1))
    outcome = run(plan)
    assert outcome.reason == "done"
    wait = outcome.flow_end_ps - start - 2 * service - 2 * 500_000
    assert wait.min() >= 0
    assert wait.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.03)


def jain(x: np.ndarray) -> float:
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))


@pytest.mark.parametrize("n", [2, 10, 20])
def test_dctcp_flows_fill_a_link_fairly_with_a_queue_near_the_mark(n: int) -> None:
    size, mark_packets = 1538, 65
    net = star(n + 1, mark=mark_packets * size)
    n_bytes, horizon = 10**9, 40 * 10**9
    sink = [net.path(h, n + 1, n) for h in range(n)]
    # Starts lie apart, so that slow starts do not coincide.
    plan = only_flows(net, flows(np.arange(n) * 200_000_000, n_bytes, sink))
    with Core(plan) as core:
        assert core.run(horizon // 2) == "horizon"
        before = core.read("horizon")
        core.forget_queues()
        assert core.run(horizon) == "horizon"
        after = core.read("horizon")
    out = net.link[n + 1, n]
    sent = after.link["n_bytes"][out] - before.link["n_bytes"][out]
    assert sent * PPB / (horizon - horizon // 2) >= 0.99
    ups = [net.link[h, n + 1] for h in range(n)]
    share = (after.link["n_bytes"] - before.link["n_bytes"])[ups]
    assert jain(share.astype(float)) >= 0.99
    assert after.link["max_queue"][out] <= (mark_packets + n + 3) * size
    assert after.link["drops"].sum() == 0


@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_idle_ring_takes_its_bandwidth_bound(n: int) -> None:
    """2 (n - 1) / n * S / B for jumbo frames, wire over payload, within 2%."""
    wire = Wire(payload=8922, header=116)
    n_bytes = n * 8922 * 220
    outcome = run(ring(star(n, prop_ps=100_000), n, n_bytes, wire))
    bound = 2 * (n - 1) / n * n_bytes * PPB * (8922 + 116) / 8922
    assert 1 <= outcome.end_ps[0] / bound <= 1.02


@pytest.mark.parametrize("n_workers", [2, 16, 64])
def test_idle_aggregation_takes_one_transfer(n_workers: int) -> None:
    net = star(n_workers)
    n_bytes = 1408 * 20_000
    outcome = run(aggregation(net, [[(n_workers, list(range(n_workers)))]], [[n_bytes]]))
    bound = n_bytes * PPB * (1408 + 88) / 1408
    assert 1 <= outcome.end_ps[0] / bound <= 1.005
    assert outcome.node["sums"][0] == 20_000


def two_level(draw: Any, net: Net, leaves: int, per_leaf: int, used: list[int]) -> list[Any]:
    """A tree over each spine; one-worker leaves are passed through or add alone."""
    hosts = leaves * per_leaf
    shapes = []
    for spine in range(hosts + leaves, hosts + leaves + draw(st.integers(1, 3))):
        below = []
        for leaf in range(leaves):
            mine = [h for h in used if h // per_leaf == leaf]
            mine = draw(st.permutations(mine))
            if mine:
                below.append((hosts + leaf, list(mine)))
        shapes.append((spine, draw(st.permutations(below))))
    return shapes


@st.composite
def lossy_plans(draw: Any) -> Plan:
    leaves, per_leaf = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    net = leaf_spine(leaves, per_leaf, 3, mark=draw(st.sampled_from([3000, 20_000])))
    hosts = leaves * per_leaf
    used = sorted(draw(st.sets(st.integers(0, hosts - 1), min_size=1)))
    shapes = two_level(draw, net, leaves, per_leaf, used)
    n_trees = len(shapes)
    sizes = draw(st.lists(st.integers(1, 60_000), min_size=1, max_size=3))
    per_tree = draw(st.booleans())
    adaptive = draw(st.booleans()) and not per_tree
    slots = draw(st.sampled_from([1, 2, 7, 32]))
    most = slots if per_tree or adaptive else slots * n_trees
    window = draw(st.integers(1, most))
    wire = Wire(
        drop=draw(st.sampled_from([0.0, 1e-3, 0.02, 0.1])),
        duplicate=draw(st.sampled_from([0.0, 0.01, 0.1])),
        seed=draw(st.integers(0, 2**32)),
        rto_ps=50_000_000,
    )
    return aggregation(
        net,
        [shapes],
        [sizes],
        wire=wire,
        bucket_ps=sorted(draw(st.integers(0, 10**8)) for _ in sizes),
        iterations=draw(st.integers(1, 3)),
        per_tree=int(per_tree),
        adaptive=int(adaptive),
        ecn_mode=draw(st.integers(0, 1)),
        law=draw(st.integers(0, 2)),
        slots=slots,
        max_window=window,
        min_window=1,
    )


def n_packets(plan: Plan) -> int:
    """Packets of job 0 over all its iterations."""
    each = -(-plan.jobs.bucket_bytes // plan.wire.sum_payload)
    return int(each.sum() * plan.jobs.iterations[0])


def check_all_came_once(plan: Plan, outcome: Outcome) -> None:
    n = n_packets(plan)
    check_balance(outcome)
    assert outcome.reason == "done"
    assert (outcome.worker["results"] == n).all()
    assert (outcome.worker["sent"] == n).all()
    assert outcome.node["max_open"].max() <= plan.jobs.slots[0]
    # Each node added each of its packets once, of each of its children.
    c = outcome.counters
    assert c["contributions"] == c["sums_fan_in"]
    assert c["open_contributions"] == 0
    for tree in range(len(plan.trees.tree_job)):
        sums = outcome.node["sums"][plan.trees.node_tree == tree]
        assert (sums == sums[0]).all()
    roots = plan.trees.parent < 0
    assert outcome.node["sums"][roots].sum() == n
    assert c["results"] == n * len(plan.jobs.worker)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(lossy_plans())
def test_every_worker_gets_every_sum_once_whatever_is_lost_or_doubled(plan: Plan) -> None:
    check_all_came_once(plan, run(plan))


def lossy_tree(seed: int, **wire: Any) -> Plan:
    net = leaf_spine(2, 4, 1, mark=20_000)
    shape = (10, [(8, [0, 1, 2, 3]), (9, [4, 5, 6, 7])])
    wire = {"rto_ps": 50_000_000, "seed": seed, **wire}
    return aggregation(net, [[shape]], [[1408 * 300]], wire=Wire(**wire), slots=32, max_window=32)


def test_the_pseudo_code_without_its_two_safeguards_fails() -> None:
    """Sums are wrong or never come once a packet is lost; with the safeguards none is."""
    wrong = stuck = 0
    for seed in range(40):
        plan = lossy_tree(seed, drop=0.02)
        check_all_came_once(plan, run(plan))
        with Core(plan, _literal=True) as core:
            reason = core.run(until_ps=10**11)
            wrong += core.read(reason).counters["wrong_sums"] > 0
            stuck += reason != "done"
    assert wrong + stuck >= 36


def test_runs_repeat_to_the_bit() -> None:
    plan = lossy_tree(3, drop=0.01, duplicate=0.01)
    first, second = run(plan), run(plan)
    with Core(plan) as core:  # in slices of a few events
        events = 0
        while (reason := core.run(max_events=events)) == "budget":
            events += 97
        third = core.read(reason)
    for other in (second, third):
        for name in ("now_ps", "events", "packet_hops", "counters"):
            assert getattr(first, name) == getattr(other, name)
        np.testing.assert_array_equal(first.end_ps, other.end_ps)
        for part in ("link", "worker", "node"):
            for key, values in getattr(first, part).items():
                np.testing.assert_array_equal(values, getattr(other, part)[key])


def random_flows(rng: np.random.Generator, n: int, **how: Any) -> Plan:
    net = leaf_spine(4, 4, 2, **how)
    paths = []
    for _ in range(n):
        a, b = rng.choice(16, 2, replace=False).tolist()
        la, lb, spine = 16 + a // 4, 16 + b // 4, 20 + int(rng.integers(2))
        paths.append(net.path(a, la, b) if la == lb else net.path(a, la, spine, lb, b))
    start = np.sort(rng.integers(0, 10**9, n))
    return only_flows(net, flows(start, rng.integers(1, 300_000, n), paths))


def ideal_ps(plan: Plan) -> np.ndarray:
    """Alone in the network: all bytes at the slowest link, and the last packet over the others."""
    f, wire = plan.flows, plan.wire
    n = -(-f.n_bytes // wire.payload)
    last = f.n_bytes - (n - 1) * wire.payload + wire.header
    hops = np.diff(f.path_ptr)
    bytes_at_once = (n - 1) * (wire.payload + wire.header) + last
    return bytes_at_once * PPB + (hops - 1) * last * PPB + hops * 500_000


@pytest.mark.parametrize("cap", [-1, 30_000])
def test_no_flow_is_faster_than_alone(rng: np.random.Generator, cap: int) -> None:
    plan = random_flows(rng, 2000, cap=cap)
    outcome = run(plan)
    assert outcome.reason == "done"
    took = outcome.flow_end_ps - plan.flows.start_ps
    assert (took >= ideal_ps(plan)).all()
    assert (outcome.link["drops"].sum() > 0) == (cap > 0)


def test_a_lone_packet_takes_exactly_its_ideal_time() -> None:
    net = star(2)
    plan = only_flows(net, flows(0, 1000, [net.path(0, 2, 1)]))
    assert run(plan).flow_end_ps[0] == 2 * (1078 * PPB + 500_000)


def test_lost_packets_of_flows_are_sent_again(rng: np.random.Generator) -> None:
    plan = with_wire(random_flows(rng, 300), drop=0.02, duplicate=0.02, seed=1)
    outcome = run(plan)
    check_balance(outcome)
    assert outcome.reason == "done"
    assert outcome.counters["lost"] > 0
    assert outcome.counters["copies"] > 0
    assert outcome.flow_resent.sum() > 0


def test_a_heavier_job_takes_a_larger_share() -> None:
    """Two aggregations over one cable: with weight 4 against 1 the shares differ as wanted."""
    net = Net(4, 2, [(0, 4), (1, 4), (2, 5), (3, 5), (4, 5)], mark=65 * 1496)
    shapes = [[(5, [(4, [0]), 2])], [(5, [(4, [1]), 3])]]
    plan = aggregation(net, shapes, [[50_000_000]] * 2, max_window=2000, slots=2000)
    heavy = attrs.evolve(plan, jobs=attrs.evolve(plan.jobs, weight=i32([256, 1024])))
    with Core(plan) as core, Core(heavy) as other:
        core.run(4 * 10**9), other.run(4 * 10**9)
        even = core.read("horizon").worker["results"]
        uneven = other.read("horizon").worker["results"]
    assert even[0] == pytest.approx(even[2], rel=0.1)
    assert uneven[2] > 2 * uneven[0]


def test_iterations_wait_for_compute_and_for_the_slowest_bucket() -> None:
    net = star(4)
    plan = aggregation(
        net,
        [[(4, [0, 1, 2, 3])]],
        [[14_080, 1408]],
        bucket_ps=[0, 50_000_000],
        iterations=3,
        compute_ps=80_000_000,
    )
    outcome = run(plan)
    np.testing.assert_array_equal(np.diff(outcome.begin_ps), [80_000_000] * 2)
    one_packet = 2 * (1496 * PPB + 500_000)
    np.testing.assert_array_equal(outcome.sum_ps - outcome.begin_ps, [50_000_000 + one_packet] * 3)
    np.testing.assert_array_equal(outcome.end_ps - outcome.begin_ps, [80_000_000] * 3)


def test_a_stall_names_job_packet_switch_and_children() -> None:
    net = star(3)
    plan = aggregation(net, [[(3, [0, 1, 2])]], [[1408]], wire=Wire(drop=1.0, rto_ps=10**7))
    # UPs leave hosts, where nothing is lost; results leave the switch and never come.
    with pytest.raises(StallError, match="job 0 waits for packet 0 at switch 3") as stall:
        run(plan)
    assert (stall.value.node, stall.value.missing) == (0, ())


def test_messages_that_wait_in_a_circle_are_a_stall() -> None:
    plan = ring(star(4), 4, 40_000, Wire())
    turned = plan.messages.next.copy()
    turned[0] = 0  # the first message of connection 0 waits for itself
    broken = attrs.evolve(plan, messages=attrs.evolve(plan.messages, next=turned))
    with pytest.raises(StallError, match="waits for message"):
        run(broken)


def good_plan() -> Plan:
    return aggregation(
        star(4), [[(4, [0, 1, 2])]], [[5000]], flows(0, 100, [star(4).path(0, 4, 1)])
    )


@pytest.mark.parametrize(
    ("part", "field", "value", "text"),
    [
        ("network", "src", i32([0]), r"network.src must have shape \(8,\), got \(1,\)"),
        ("network", "back", i32([0] * 8), r"network.back\[0\] must be a link from 4 to 0"),
        ("network", "ps_per_byte", i64([0] * 8), r"ps_per_byte\[0\] must be between 1 and"),
        ("flows", "n_bytes", i64([0]), r"flows.n_bytes\[0\] must be 1 to"),
        ("flows", "path", i32([0, 99]), r"flows.path\[1\] must be between 0 and 7, got 99"),
        ("flows", "path", i32([0, 2]), r"flows.path\[1\] must leave node 4"),
        ("flows", "path_ptr", i64([0, 1]), "flows.path_ptr must run from 0 to 2, got 0 to 1"),
        ("trees", "fan_in", i32([65]), r"trees.fan_in\[0\] must be between 1 and 64"),
        ("trees", "fan_in", i32([4]), r"trees.fan_in\[0\] is 4, but 3 nodes and workers name"),
        ("trees", "join_child", i32([0, 1, 1]), "or two of them the same place"),
        ("trees", "join_node", i32([0, 0, 7]), r"trees.join_node\[2\] must be between 0 and 0"),
        ("trees", "parent", i32([0]), "trees.up must have a path of links"),
        ("jobs", "slots", i32([100]), "max_window.* must be at most slots x 1 = 100, got 256"),
        ("jobs", "law", i32([3]), r"jobs.law\[0\] must be between 0 and 2 \(dctcp"),
        ("jobs", "bucket_bytes", i64([0]), "job 0 must have buckets of at least 1 byte"),
        ("jobs", "aggregates", i32([0]), "job 0 must have messages, got 0"),
        ("jobs", "weight", i32([0]), r"jobs.weight\[0\] must be 1 to"),
        ("wire", "drop", 1.5, "wire.drop must be a probability, got 1.5"),
        ("wire", "payload", 0, "wire.payload must be at least 1, got 0"),
    ],
)
def test_a_wrong_plan_is_refused(part: str, field: str, value: Any, text: str) -> None:
    plan = good_plan()
    run(plan)
    wrong = attrs.evolve(plan, **{part: attrs.evolve(getattr(plan, part), **{field: value})})
    with pytest.raises(ValueError, match=text):
        run(wrong)


def test_another_type_is_refused() -> None:
    plan = good_plan()
    flows64 = attrs.evolve(plan.flows, max_window=np.array([1]))
    with pytest.raises(TypeError, match=r"flows.max_window must be an array of int32, got int64"):
        run(attrs.evolve(plan, flows=flows64))


def test_progress_is_told_and_the_budget_kept() -> None:
    plan = ring(star(8), 8, 40_000_000, Wire())
    told: list[int] = []
    outcome = run(plan, max_events=500_000, progress=lambda p: told.append(p.events), every_s=0)
    assert outcome.reason == "budget"
    assert outcome.events == 500_000
    assert told == [200_000, 400_000]


_SANITIZED = """
import pytest
from panama.core import _library
with open(_library(False).path, "rb") as file:
    text = file.read()
assert b"__asan_report" in text and b"__ubsan" in text
raise SystemExit(pytest.main(["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow",
    "-k", "not md1 and not fill and not ring_takes", "tests/panama/test_core.py"]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sanitizers_find_nothing_in_the_core() -> None:
    asked = ["c++", "-print-file-name=libasan.so"]
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        **os.environ,
        "MLSYS21_SANITIZE": "address,undefined",
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _SANITIZED],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
