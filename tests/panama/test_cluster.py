"""Clusters: what is built, what is refused, and that paths are shortest and evenly spread."""

import networkx as nx
import numpy as np
import pytest

from panama.cluster import Cluster


def small(**more):
    return Cluster.clos(**{"leaves": 4, "hosts_per_leaf": 2, "spines": 3, **more})


def fat_tree(k):
    half = k // 2
    return Cluster.clos(tiers=3, pods=k, leaves=half, spines=half, hosts_per_leaf=half)


def graph_of(rate=100.0, **edge):
    graph = nx.DiGraph()
    graph.add_nodes_from(["a", "b"], kind="host")
    graph.add_node("s", kind="switch")
    for u, v in [("a", "s"), ("s", "a"), ("b", "s"), ("s", "b")]:
        graph.add_edge(u, v, **{"gbps": rate, "prop_ns": 100, "k_bytes": 1000, **edge})
    return graph


def test_two_tiers_join_every_leaf_to_every_spine():
    cluster = small()
    assert len(cluster.hosts) == 8
    leaves = [n for n in cluster.nodes if n.startswith("leaf")]
    for leaf in leaves:
        ups = [v for v in cluster.graph.successors(leaf) if v.startswith("spine")]
        assert sorted(ups) == ["spine0", "spine1", "spine2"]


@pytest.mark.parametrize("k", [4, 6])
def test_fat_tree_has_the_textbook_counts(k):
    cluster = fat_tree(k)
    assert len(cluster.hosts) == k**3 // 4
    assert len(cluster.nodes) - len(cluster.hosts) == 5 * k * k // 4
    for node in cluster.nodes:
        if not node.startswith("host"):
            assert cluster.graph.out_degree(node) == k


def test_oversubscription_slows_links_between_switches():
    cluster = Cluster.clos(leaves=2, hosts_per_leaf=8, spines=2, rate_gbps=10, oversub=4)
    assert cluster.graph.edges["leaf0", "spine0"]["gbps"] == 10
    fast = Cluster.clos(leaves=2, hosts_per_leaf=8, spines=2, rate_gbps=10, oversub=1)
    assert fast.graph.edges["leaf0", "spine0"]["gbps"] == 40


def test_links_carry_rates_marks_and_the_way_back():
    net = small(rate_gbps=40, prop_ns=250, ecn_k=5000, buffer=9000).network
    assert set(net.ps_per_byte) == {200}
    assert set(net.prop_ps) == {250_000}
    from_host = net.is_host[net.src] == 1
    assert set(net.mark_bytes[from_host]) == {-1}
    assert set(net.cap_bytes[from_host]) == {-1}
    assert set(net.mark_bytes[~from_host]) == {5000}
    assert set(net.cap_bytes[~from_host]) == {9000}
    assert np.array_equal(net.src[net.back], net.dst)
    assert np.array_equal(net.dst[net.back], net.src)


@pytest.mark.parametrize(("rate", "near"), [(3, "2.9996"), (99.0, "98.76"), (7000, "8000")])
def test_a_rate_of_broken_picoseconds_names_the_nearest_valid_one(rate, near):
    with pytest.raises(ValueError, match=rf"link 'a' -> 's'.*nearest valid rate is {near}"):
        Cluster.from_graph(graph_of(rate))


def test_the_nearest_rate_named_is_the_nearest():
    valid = 8000 / np.arange(1, 10_000)
    for rate in (97.3, 33.0, 5500.0, 5000.0, 1.2345):
        with pytest.raises(ValueError, match="nearest") as caught:
            Cluster.from_graph(graph_of(rate))
        said = float(str(caught.value).split("rate is ")[1].split()[0])
        assert said == pytest.approx(valid[np.abs(valid - rate).argmin()])


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match="link 'a' -> 's': rate must be above 0"):
        Cluster.from_graph(graph_of(rate))


@pytest.mark.parametrize("name", ["gbps", "prop_ns"])
def test_a_missing_attribute_is_named_with_its_edge(name):
    graph = graph_of()
    del graph.edges["s", "b"][name]
    with pytest.raises(ValueError, match=f"'s' -> 'b' has no attribute '{name}'"):
        Cluster.from_graph(graph)


def test_a_one_way_link_is_refused():
    graph = graph_of()
    graph.remove_edge("s", "b")
    with pytest.raises(ValueError, match="link 'b' -> 's' has no link back"):
        Cluster.from_graph(graph)


def test_a_disconnected_network_names_two_hosts():
    graph = nx.union(graph_of(), graph_of(), rename=("x", "y"))
    with pytest.raises(ValueError, match="no path from host 'xa' to host 'ya'"):
        Cluster.from_graph(graph)


def test_hosts_do_not_forward():
    graph = graph_of()
    graph.add_node("t", kind="switch")
    graph.add_node("c", kind="host")
    for u, v in [("b", "t"), ("t", "b"), ("c", "t"), ("t", "c")]:
        graph.add_edge(u, v, gbps=100, prop_ns=1)
    with pytest.raises(ValueError, match="no path from host 'a' to host 'c'"):
        Cluster.from_graph(graph)


def test_a_node_needs_a_kind():
    graph = graph_of()
    graph.nodes["s"]["kind"] = "router"
    with pytest.raises(ValueError, match="node 's' needs kind="):
        Cluster.from_graph(graph)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tiers": 4}, "tiers=4"),
        ({"leaves": 0}, "leaves, got 0"),
        ({"pods": 2}, "say tiers=3"),
        ({"oversub": -1}, "oversub"),
    ],
)
def test_a_clos_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        small(**wrong)


@pytest.mark.parametrize("cluster", [small(), fat_tree(4)], ids=["two", "three"])
def test_paths_are_chains_from_source_to_destination_and_as_short_as_networkx_finds(cluster):
    src, dst = np.nonzero(~np.eye(len(cluster.hosts), dtype=bool))
    src, dst = cluster.hosts[src], cluster.hosts[dst]
    paths = cluster.paths(src, dst, np.arange(len(src)), seed=3)
    net = cluster.network
    hops = dict(nx.all_pairs_shortest_path_length(cluster.graph))
    for i in range(len(src)):
        path = paths[i]
        assert net.src[path[0]] == src[i]
        assert net.dst[path[-1]] == dst[i]
        assert np.array_equal(net.dst[path[:-1]], net.src[path[1:]])
        assert len(path) == hops[cluster.nodes[src[i]]][cluster.nodes[dst[i]]]


def test_paths_depend_on_seed_and_key_alone():
    cluster = small()
    src, dst = np.repeat(cluster.hosts[:1], 200), np.repeat(cluster.hosts[-1:], 200)
    keys = np.arange(200)
    one = cluster.paths(src, dst, keys, seed=1)
    assert np.array_equal(one.links, cluster.paths(src, dst, keys, seed=1).links)
    assert not np.array_equal(one.links, cluster.paths(src, dst, keys, seed=2).links)
    other = cluster.paths(src[::2], dst[::2], keys[::2], seed=1)
    assert np.array_equal(one[20], other[10])


def test_equal_paths_are_taken_equally_often():
    cluster = fat_tree(4)
    n = 8000
    src, dst = np.repeat(cluster.hosts[:1], n), np.repeat(cluster.hosts[-1:], n)
    paths = cluster.paths(src, dst, np.arange(n), seed=0)
    _, counts = np.unique(paths.links.reshape(n, 6), axis=0, return_counts=True)
    assert len(counts) == 4
    # Binomial: five standard deviations about n/4.
    assert np.abs(counts - n / 4).max() < 5 * np.sqrt(n * 3 / 16)


def test_racks_are_the_leaves():
    cluster = small()
    racks = [cluster.nodes[r] for r in cluster.rack[cluster.hosts]]
    assert racks == [f"leaf{i // 2}" for i in range(8)]
