"""Max-min fair rates against linear programs, and long DCTCP flows against max-min fair rates."""

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import spearmanr

from panama.cluster import Cluster
from panama.core import Core
from panama.maxmin import max_min
from panama.planning import make_plan
from panama.schemes import scheme
from panama.traffic import Arrivals
from panama.windows import wire_of


def lexicographic(capacity, uses, limit):
    """(flows,) Rates: the largest smallest rate by a linear program, fix who has no more, again.

    uses: (links, flows) 0 or 1
    """
    n = uses.shape[1]
    fixed = np.full(n, np.nan)
    while np.isnan(fixed).any():
        free = np.isnan(fixed)
        # Variables: the rates, and the smallest rate t of the free ones.
        smaller = np.hstack([-np.diag(free.astype(float))[free], np.ones((free.sum(), 1))])
        a = np.vstack([np.hstack([uses, np.zeros((len(uses), 1))]), smaller])
        b = np.concatenate([capacity, np.zeros(free.sum())])
        bounds = [(0, m) if np.isnan(f) else (f, f) for f, m in zip(fixed, limit, strict=True)]
        goal = np.zeros(n + 1)
        goal[-1] = -1
        level = -linprog(goal, a, b, bounds=[*bounds, (0, None)]).fun
        # A flow stops here if it cannot get more while the free ones have the level.
        floor = [
            (level - 1e-7, m) if np.isnan(f) else (f, f) for f, m in zip(fixed, limit, strict=True)
        ]
        for i in np.flatnonzero(free):
            goal = np.zeros(n)
            goal[i] = -1
            best = -linprog(goal, uses, capacity, bounds=floor).fun
            if best <= level + 1e-4:
                fixed[i] = level
    return fixed


@pytest.mark.parametrize("seed", range(8))
def test_rates_are_those_of_linear_programs(seed):
    rng = np.random.default_rng(seed)
    cluster = Cluster.clos(leaves=3, hosts_per_leaf=3, spines=2, rate_gbps=10, oversub=1.5)
    n = 12
    src = rng.integers(0, 9, n)
    dst = (src + rng.integers(1, 9, n)) % 9
    limit = np.where(rng.random(n) < 0.5, rng.integers(1, 6, n), 100.0)
    demands = [(f"host{s}", f"host{d}", m) for s, d, m in zip(src, dst, limit, strict=True)]
    paths = cluster.paths(cluster.hosts[src], cluster.hosts[dst], np.arange(n), 2 * seed)
    uses = np.zeros((len(cluster.network.src), n))
    for i in range(n):
        uses[paths[i], i] = 1
    wanted = lexicographic(8000 / cluster.network.ps_per_byte, uses, limit)
    # The linear programs leave 1e-7 for each level fixed before.
    assert max_min(cluster, demands, seed) == pytest.approx(wanted, abs=1e-4)


def long_flows(seed, oversub):
    """(flows,) mean Gb/s of endless DCTCP flows on a small Clos, hosts of many rates; and max-min.

    All cross the spines: at other base round-trip times DCTCP shares are not max-min.
    """
    rng = np.random.default_rng(seed)
    graph = Cluster.clos(
        leaves=int(rng.integers(3, 6)), hosts_per_leaf=4, spines=2, oversub=oversub
    ).graph
    for host in [node for node in graph if graph.nodes[node]["kind"] == "host"]:
        (leaf,) = graph[host]
        rate = float(rng.choice([20, 25, 40, 50, 80, 100]))
        graph.edges[host, leaf]["gbps"] = graph.edges[leaf, host]["gbps"] = rate
    cluster = Cluster.from_graph(graph)
    hosts = rng.permutation(cluster.hosts)
    n = len(hosts) // 2 + 2
    # Hosts that send get nothing, so that their links carry what they send and no ACKs.
    src, rack = hosts[:n], cluster.rack
    dst = np.array([rng.choice([h for h in hosts[n:] if rack[h] != rack[s]]) for s in src])
    start = np.sort(rng.integers(0, 2_000_000_000, n))
    endless = Arrivals(
        start, src.astype(np.int32), dst.astype(np.int32), np.full(n, 10**10, dtype=np.int64)
    )
    plan = make_plan(cluster, [], endless, scheme("none"), seed, wire_of(1500))
    with Core(plan) as core:
        before = core.read(core.run(10_000_000_000))
        after = core.read(core.run(40_000_000_000))
    own_links = plan.flows.path[plan.flows.path_ptr[:-1]]
    sent = (after.link["n_bytes"] - before.link["n_bytes"])[own_links]
    names = [(cluster.nodes[s], cluster.nodes[d]) for s, d in zip(src, dst, strict=True)]
    return sent * 8 / 30e-3 / 1e9, max_min(cluster, names, seed)


@pytest.mark.slow
@pytest.mark.parametrize("oversub", [1.0, 2.0])
def test_long_dctcp_flows_get_about_max_min_rates(oversub):
    both = [long_flows(seed, oversub) for seed in range(8)]
    # Ranks over all networks: within one, many flows share a rate to the last bit.
    got, wanted = (np.concatenate(part) for part in zip(*both, strict=True))
    assert len(got) > 80
    assert spearmanr(got, wanted).statistic >= 0.95
    assert np.mean(np.abs(got / wanted - 1)) <= 0.15


def test_flows_into_one_host_share_its_link():
    cluster = Cluster.clos(leaves=2, hosts_per_leaf=2, spines=1, rate_gbps=100)
    rates = max_min(cluster, [("host0", "host1"), ("host2", "host1", 10.0), ("host3", "host1")])
    assert rates == pytest.approx([45, 10, 45])


def test_no_flows_have_no_rates():
    cluster = Cluster.clos(leaves=1, hosts_per_leaf=2, spines=1)
    assert len(max_min(cluster, [])) == 0
    assert max_min(cluster, [("host0", "host1", 0.0)]) == [0.0]


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        (("host0", "host7"), "demand 0: 'host7' is no host"),
        (("host0", "host0"), "the same, 'host0'"),
        (("host0", "host1", -1), "0 Gb/s or more, got -1"),
        (("host0",), r"must be \(source, destination"),
    ],
)
def test_a_demand_that_makes_no_sense_is_named(demand, said):
    cluster = Cluster.clos(leaves=1, hosts_per_leaf=2, spines=1)
    with pytest.raises(ValueError, match=said):
        max_min(cluster, [demand])
