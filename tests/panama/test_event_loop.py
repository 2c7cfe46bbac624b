"""The native core beside the plain simulator, to the picosecond; sums of real numbers in it."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panama import core, reference, wire
from panama.plan import ECN_MODES, LAWS, Flows, Plan, Wire

# Tests are not a package: the maker of plans beside this file is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "panama_test_plans", Path(__file__).with_name("plans.py")
)
assert _spec is not None
assert _spec.loader is not None
plans = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = plans
_spec.loader.exec_module(plans)

PACKET = 1538
UNTIL_PS = 30_000_000_000
quick = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow], database=None
)


def assert_same(plan: Plan, until_ps: int = UNTIL_PS) -> reference.Found:
    """Run a plan both ways and compare all that both report."""
    wanted = reference.run(plan, until_ps=until_ps)
    with core.Core(plan) as native:
        got = native.read(native.run(until_ps))
    core.check_balance(got)
    for name in ("reason", "now_ps", "flow_end_ps", "flow_resent", "conn_resent"):
        value = getattr(got, name)
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == getattr(
            wanted, name
        ), name
    for name in ("begin_ps", "comm_ps", "sum_ps", "end_ps"):
        assert getattr(got, name).tolist() == getattr(wanted, name), name
    for part in ("link", "worker", "node"):
        for name, values in getattr(wanted, part).items():
            assert getattr(got, part)[name].tolist() == values, f"{part} {name}"
    return wanted


@st.composite
def nets(draw: st.DrawFn) -> Any:
    how = {
        "ppb": draw(st.sampled_from([80, 200, 800])),
        "prop_ps": draw(st.sampled_from([0, 1, 77_777, 500_000])),
        "mark": PACKET * draw(st.sampled_from([1, 3, 10, 65])),
        "cap": draw(st.sampled_from([-1, 4 * PACKET, 12 * PACKET, 40 * PACKET])),
    }
    if draw(st.booleans()):
        return plans.star(draw(st.integers(2, 8)), **how)
    leaves, spines = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    return plans.leaf_spine(leaves, draw(st.integers(1, 8 // leaves)), spines, **how)


def paths_between(net: Any, a: int, b: int) -> list[list[int]]:
    """Shortest paths between hosts: over the leaf they share, else over each spine."""
    leaf = {u: v for u, v in net.link if u < net.n_hosts}
    if leaf[a] == leaf[b]:
        return [net.path(a, leaf[a], b)]
    spines = [v for u, v in net.link if u == leaf[a] and v >= net.n_hosts]
    return [net.path(a, leaf[a], spine, leaf[b], b) for spine in spines]


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    chance = st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.05])
    return Wire(
        first_window=draw(st.sampled_from([1, 4, 10])),
        rto_ps=draw(st.sampled_from([20_000_000, 100_000_000, 1_000_000_000])),
        nic_packets=draw(st.integers(1, 6)),
        gain_shift=draw(st.integers(0, 5)),
        drop=draw(chance),
        duplicate=draw(chance),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def traffic(draw: st.DrawFn, net: Any, most: int) -> Flows:
    n = draw(st.integers(0, most))
    starts = sorted(draw(st.integers(0, 20_000_000)) for _ in range(n))
    raw, sizes, ways = [], [], []
    for _ in range(n):
        a, b = draw(st.permutations(range(net.n_hosts)))[:2]
        ways.append(draw(st.sampled_from(paths_between(net, a, b))))
        raw.append(draw(st.sampled_from([0, 0, 0, 1])))
        sizes.append(draw(st.integers(64, 1538)) if raw[-1] else draw(st.integers(1, 200_000)))
    made = plans.flows(starts, sizes, ways, max_window=draw(st.sampled_from([2, 16, 1000])))
    return attrs.evolve(made, raw=plans.i32(raw))


def shapes_of(net: Any, hosts: list[int]) -> list[Any]:
    """Every tree over these hosts: one for each spine, or the leaf they share."""
    leaf = {u: v for u, v in net.link if u < net.n_hosts}
    below: dict[int, list[Any]] = {}
    for host in hosts:
        below.setdefault(leaf[host], []).append(host)
    if len(below) == 1:
        return list(below.items())
    first = next(iter(below))
    spines = [v for u, v in net.link if u == first and v >= net.n_hosts]
    return [(spine, list(below.items())) for spine in spines]


@st.composite
def aggregations(draw: st.DrawFn, net: Any) -> dict[str, Any]:
    """Trees, buckets and settings of one or two jobs."""
    shapes = []
    for _ in range(draw(st.integers(1, 2))):
        n = draw(st.integers(2, net.n_hosts))
        hosts = sorted(draw(st.permutations(range(net.n_hosts)))[:n])
        all_trees = shapes_of(net, hosts)
        shapes.append(all_trees[: draw(st.integers(1, len(all_trees)))])
    buckets = [draw(st.lists(st.integers(1, 150_000), min_size=1, max_size=3)) for _ in shapes]
    adaptive = draw(st.booleans())
    per_tree = 0 if adaptive else draw(st.integers(0, 1))
    slots = draw(st.sampled_from([8, 32, 128]))
    return {
        "shapes": shapes,
        "bucket_bytes": buckets,
        "bucket_ps": [
            at for b in buckets for at in sorted(draw(st.integers(0, 3_000_000)) for _ in b)
        ],
        "start_ps": draw(st.integers(0, 5_000_000)),
        "iterations": draw(st.integers(1, 3)),
        "compute_ps": draw(st.sampled_from([0, 20_000_000])),
        "law": draw(st.integers(0, len(LAWS) - 1)),
        "ecn_mode": draw(st.integers(0, len(ECN_MODES) - 1)),
        "per_tree": per_tree,
        "adaptive": int(adaptive),
        "slots": slots,
        "max_window": slots,
        "min_window": draw(st.sampled_from([1, 2])),
        "fixed_window": draw(st.sampled_from([1, 7, 64])),
        "weight": draw(st.sampled_from([64, 256, 512])),
    }


@quick
@given(st.data())
def test_flows_end_at_the_same_picosecond(data: st.DataObject) -> None:
    net = data.draw(nets())
    made = data.draw(traffic(net, 6))
    plan = plans.only_flows(net, made)
    assert_same(attrs.evolve(plan, wire=data.draw(wires())))


@quick
@given(st.data())
def test_rings_beside_flows_end_at_the_same_picosecond(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 8))
    cap = data.draw(st.sampled_from([-1, 6 * PACKET, 30 * PACKET]))
    net = plans.star(n, cap=cap, mark=3 * PACKET)
    n_bytes = data.draw(st.integers(n, 150_000))
    plan = plans.ring(net, n, n_bytes, data.draw(wires()), data.draw(st.sampled_from([3, 400])))
    iterations = plans.i32([data.draw(st.integers(1, 2))])
    assert_same(
        attrs.evolve(
            plan,
            flows=data.draw(traffic(net, 3)),
            jobs=attrs.evolve(plan.jobs, iterations=iterations),
        )
    )


@quick
@given(st.data())
def test_aggregation_beside_flows_ends_at_the_same_picosecond(data: st.DataObject) -> None:
    net = data.draw(nets())
    how = data.draw(aggregations(net))
    plan = plans.aggregation(
        net, traffic=data.draw(traffic(net, 3)), wire=data.draw(wires()), **how
    )
    assert_same(plan)


def crowded(adaptive: int, **changes: Any) -> Plan:
    """Three trees, one of them crowded by a flow, over many epochs."""
    net = plans.leaf_spine(2, 3, 3, mark=4 * PACKET, cap=40 * PACKET)
    below = [(6, [0, 1]), (7, [3, 4])]
    shapes = [[(spine, below) for spine in (8, 9, 10)]]
    flows = plans.flows([0], [3_000_000], [net.path(2, 6, 9, 7, 5)])
    return plans.aggregation(
        net, shapes, [[700_000]], flows, Wire(**changes), adaptive=adaptive, slots=64,
        max_window=64,
    )  # fmt: skip


@pytest.mark.parametrize("drop", [0.0, 0.003])
def test_adaptive_trees_end_at_the_same_picosecond(drop: float) -> None:
    adaptive = assert_same(crowded(1, drop=drop, duplicate=drop, seed=11))
    fixed = reference.run(crowded(0, drop=drop, duplicate=drop, seed=11))
    # The rule must have had an effect, or nothing was compared.
    assert adaptive.node["sums"] != fixed.node["sums"]


def test_a_lost_raw_packet_is_not_waited_for() -> None:
    net = plans.star(3, cap=2 * PACKET)
    ways = [net.path(0, 3, 2), net.path(1, 3, 2)] * 4
    plan = plans.only_flows(net, plans.flows(0, PACKET, ways, raw=1))
    found = assert_same(plan)
    assert found.reason == "done"
    assert 0 < sum(found.link["drops"]) == found.flow_end_ps.count(-1)


def test_a_link_that_loses_all_stalls_the_same() -> None:
    net = plans.star(3)
    plan = plans.aggregation(net, [[(3, [0, 1, 2])]], [[5000]], wire=Wire(drop=1.0, rto_ps=1000))
    assert assert_same(plan, 10**15).reason == "stalled"


def heap_sum(values: list[Any]) -> Any:
    """Leaf i is node n - 1 + i, node k adds 2 k + 1 and 2 k + 2: written with a loop, in place."""
    nodes = [None] * (len(values) - 1) + list(values)
    for k in reversed(range(len(values) - 1)):
        nodes[k] = nodes[2 * k + 1] + nodes[2 * k + 2]
    return nodes[0]


def sum_by_tree(shape: Any, of_host: dict[int, Any]) -> Any:
    children = shape[1]
    return heap_sum(
        [sum_by_tree(c, of_host) if isinstance(c, tuple) else of_host[c] for c in children]
    )


@quick
@given(st.data())
def test_each_worker_gets_each_sum_once_with_the_bits_of_the_tree(data: st.DataObject) -> None:
    net = data.draw(nets())
    how = data.draw(aggregations(net))
    how["iterations"] = 1
    plan = plans.aggregation(
        net, traffic=data.draw(traffic(net, 2)), wire=data.draw(wires()), **how
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    members = [plans.members(of_job[0]) for of_job in how["shapes"]]
    n_packets = [sum(-(-b // plan.wire.sum_payload) for b in job) for job in how["bucket_bytes"]]
    values = {
        j: rng.standard_normal((len(members[j]), n_packets[j], 5)).astype(np.float32)
        for j in range(len(members))
    }
    found = reference.run(plan, data=values)
    if found.reason == "stalled":  # too many losses in a row: nobody has a wrong sum all the same
        assert plan.wire.drop > 0
    else:
        assert sorted(found.results) == [
            (j, w, p)
            for j, n in enumerate(n_packets)
            for w in range(len(members[j]))
            for p in range(n)
        ]
    for (j, _, p), got in found.results.items():
        of_host = {host: values[j][w, p] for w, host in enumerate(members[j])}
        # Any tree it went over: they differ only in the spine, so all associate alike.
        wanted = sum_by_tree(how["shapes"][j][0], of_host)
        assert got.tobytes() == wanted.tobytes()


def test_numbers_in_packets_do_not_change_when_they_come() -> None:
    net = plans.star(4)
    plan = plans.aggregation(net, [[(4, [0, 1, 2, 3])]], [[100_000]], wire=Wire(drop=0.01, seed=2))
    data = {0: np.ones((4, 72, 2), dtype=np.float32)}
    with_numbers, without = reference.run(plan, data=data), reference.run(plan)
    assert with_numbers.end_ps == without.end_ps
    assert wire.tree_add(data[0][:, 0]).tolist() == [4.0, 4.0]
