"""Aggregation trees: what they cover, how many there are, and which are chosen."""

import networkx as nx
import numpy as np
import pytest

from panama.cluster import Cluster
from panama.errors import NoTreeError
from panama.trees import Tree, expected_use, find_trees, select


@pytest.fixture(scope="module")
def two():
    return Cluster.clos(leaves=6, hosts_per_leaf=4, spines=3)


@pytest.fixture(scope="module")
def three():
    return Cluster.clos(tiers=3, pods=3, leaves=2, spines=2, hosts_per_leaf=3)


def named(cluster, *names):
    return np.array([cluster.nodes.index(name) for name in names], dtype=np.int32)


def edges_of(cluster, tree: Tree):
    net = cluster.network
    return [(int(net.dst[link]), int(net.src[link])) for link in tree.links]


def check(cluster, tree: Tree, workers):
    """From the root down: an arborescence whose leaves are the members, children numbered 0.."""
    graph = nx.DiGraph(edges_of(cluster, tree))
    assert graph.number_of_edges() == len(tree.links)
    assert nx.is_arborescence(graph)
    assert graph.in_degree(tree.root) == 0
    assert {n for n in graph if graph.out_degree(n) == 0} == set(map(int, workers))
    children = [[] for _ in tree.aggregators]
    for node in tree.aggregators[1:]:
        children[node.parent].append(node.child)
    for node, child, _ in tree.join:
        children[node].append(child)
    net = cluster.network
    for i, node in enumerate(tree.aggregators):
        assert sorted(children[i]) == list(range(node.fan_in))
        assert node.fan_in == graph.out_degree(node.at) > 1
        if i:
            assert net.src[node.up[0]] == node.at
            assert net.dst[node.up[-1]] == tree.aggregators[node.parent].at
    for worker, (node, _, links) in zip(workers, tree.join, strict=True):
        assert net.src[links[0]] == worker
        assert net.dst[links[-1]] == tree.aggregators[node].at
        assert np.array_equal(net.dst[list(links[:-1])], net.src[list(links[1:])])
    # Going down to a member never leads up again.
    for a, b in graph.edges:
        assert cluster.tier[a] > cluster.tier[b]


@pytest.mark.parametrize("cluster_name", ["two", "three"])
@pytest.mark.parametrize("seed", range(12))
def test_every_tree_covers_exactly_the_members(cluster_name, seed, request):
    cluster = request.getfixturevalue(cluster_name)
    rng = np.random.default_rng(seed)
    workers = rng.permutation(cluster.hosts)[: rng.integers(2, len(cluster.hosts) + 1)]
    trees = find_trees(cluster, workers, "j", seed)
    assert len({tree.root for tree in trees}) == len(trees)
    for tree in trees:
        check(cluster, tree, workers)


def test_two_tiers_have_a_tree_for_every_spine(two):
    trees = find_trees(two, two.hosts, "j")
    assert [two.nodes[t.root] for t in trees] == ["spine0", "spine1", "spine2"]


def test_three_tiers_have_a_tree_for_every_core_and_in_a_pod_for_every_spine(three):
    trees = find_trees(three, three.hosts, "j")
    assert [three.nodes[t.root] for t in trees] == ["core0", "core1", "core2", "core3"]
    trees = find_trees(three, named(three, "host0", "host1", "host3", "host5"), "j")
    assert [three.nodes[t.root] for t in trees] == ["spine0", "spine1"]


def test_a_job_in_one_rack_has_its_leaf(two):
    trees = find_trees(two, named(two, "host4", "host6", "host7"), "j")
    assert [two.nodes[t.root] for t in trees] == ["leaf1"]
    assert len(trees[0].aggregators) == 1


def test_a_leaf_with_one_member_passes_its_packets_through(two):
    tree = find_trees(two, named(two, "host0", "host1", "host4"), "j")[0]
    assert [two.nodes[a.at] for a in tree.aggregators] == ["spine0", "leaf0"]
    assert [len(links) for _, _, links in tree.join] == [1, 1, 2]
    assert [node for node, _, _ in tree.join] == [1, 1, 0]


def test_a_dumbbell_with_tiers_has_a_tree_and_without_them_none():
    graph = nx.DiGraph()
    graph.add_nodes_from("abcd", kind="host")
    graph.add_nodes_from(["left", "right"], kind="switch")
    for u, v in [("a", "left"), ("b", "left"), ("left", "right"), ("c", "right"), ("d", "right")]:
        graph.add_edge(u, v, gbps=10, prop_ns=1)
        graph.add_edge(v, u, gbps=10, prop_ns=1)
    flat = Cluster.from_graph(graph)
    with pytest.raises(NoTreeError, match=r"job 'j'.*'left' is above most, but host 'c'"):
        find_trees(flat, named(flat, "a", "b", "c"), "j")
    graph.nodes["right"]["tier"] = 2
    cluster = Cluster.from_graph(graph)
    workers = named(cluster, *"abcd")
    (tree,) = find_trees(cluster, workers, "j")
    assert cluster.nodes[tree.root] == "right"
    check(cluster, tree, workers)


def test_more_children_than_an_aggregator_has_bits_are_refused():
    cluster = Cluster.clos(leaves=1, hosts_per_leaf=65, spines=1)
    with pytest.raises(ValueError, match="'leaf0' would add 65 children, at most 64"):
        find_trees(cluster, cluster.hosts, "big")
    assert find_trees(cluster, cluster.hosts[:64], "fits")[0].aggregators[0].fan_in == 64


def test_ways_up_that_split_still_make_a_tree():
    # Two switches a rack, both below both roots: four ways from each host.
    graph = nx.DiGraph()
    hosts = [f"h{i}" for i in range(8)]
    graph.add_nodes_from(hosts, kind="host")
    graph.add_nodes_from([f"s{i}" for i in range(4)], kind="switch", tier=1)
    graph.add_nodes_from(["r0", "r1"], kind="switch", tier=2)
    pairs = [(h, f"s{2 * (i // 4) + j}") for i, h in enumerate(hosts) for j in range(2)]
    pairs += [(f"s{i}", f"r{j}") for i in range(4) for j in range(2)]
    for u, v in pairs:
        graph.add_edge(u, v, gbps=10, prop_ns=1)
        graph.add_edge(v, u, gbps=10, prop_ns=1)
    cluster = Cluster.from_graph(graph)
    for seed in range(10):
        trees = find_trees(cluster, cluster.hosts, "j", seed)
        assert len(trees) == 2
        for tree in trees:
            check(cluster, tree, cluster.hosts)
        # A worker's packets leave by one of its two links, whatever the tree.
        first = [[links[0] for _, _, links in tree.join] for tree in trees]
        assert first[0] == first[1]


def picked(trees, policy, k=1, load=None, seed=0):
    load = np.zeros(1000) if load is None else load
    return select(trees, policy, k, load, np.random.default_rng(seed))


def test_single_random_takes_each_equally_often(two):
    trees = find_trees(two, two.hosts, "j")
    rng = np.random.default_rng(0)
    roots = [select(trees, "single_random", 1, np.zeros(1), rng)[0].root for _ in range(3000)]
    _, counts = np.unique(roots, return_counts=True)
    # Binomial of a third: five standard deviations.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)


def test_least_loaded_trees_avoid_what_is_used(two):
    trees = find_trees(two, two.hosts, "j")
    busy = expected_use(two, trees[:1], 1e9)
    assert {t.root for t in picked(trees, "k_least_loaded", 2, busy)} == {
        trees[1].root,
        trees[2].root,
    }
    assert len(picked(trees, "k_least_loaded", 9, busy)) == 3
    assert picked(trees, "all") == trees


def test_expected_use_is_the_bytes_both_ways_split_over_the_trees(two):
    trees = find_trees(two, two.hosts, "j")
    use = expected_use(two, trees, 1e9)
    net = two.network
    at_host = net.is_host[net.src] == 1
    # 1 GB at 100 Gb/s is 0.08 s; between switches each tree has a third.
    assert use[at_host] == pytest.approx(0.08)
    assert use[net.back[at_host]] == pytest.approx(0.08)
    between = (net.is_host[net.src] == 0) & (net.is_host[net.dst] == 0)
    assert use[between] == pytest.approx(0.08 / 3)


def test_an_unknown_selection_lists_those_there_are(two):
    with pytest.raises(ValueError, match=r"'al', did you mean 'all'.*single_random, all, k_least"):
        picked(find_trees(two, two.hosts, "j"), "al")
    with pytest.raises(ValueError, match="k of at least 1, got 0"):
        picked(find_trees(two, two.hosts, "j"), "k_least_loaded", 0)
