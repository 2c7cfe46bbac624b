"""Aggregation trees: a switch that all members reach going up, and the ways from them to it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from common.spelling import did_you_mean

from .cluster import Cluster
from .errors import NoTreeError
from .plan import MAX_FAN_IN, Float64, Int32
from .routes import mix


@attrs.frozen(eq=False)
class Aggregator:
    """A switch that adds what its children send.

    at:      switch
    parent:  place in the tree's list of aggregators, -1 for the root, which comes first
    child:   which child of its parent this is
    fan_in:  number of children
    up:      links to the parent; more than one where switches with a single child are passed
    """

    at: int
    parent: int
    child: int
    fan_in: int
    up: tuple[int, ...]


@attrs.frozen(eq=False)
class Tree:
    """One way of adding up what the workers of a job have.

    aggregators: the root first
    join: for each worker the aggregator it sends to, which child it is there, and the links
    """

    aggregators: tuple[Aggregator, ...]
    join: tuple[tuple[int, int, tuple[int, ...]], ...]

    @property
    def root(self) -> int:
        """The switch that has the whole sum."""
        return self.aggregators[0].at

    @property
    def links(self) -> Int32:
        """Links towards the root, each once."""
        ways = [a.up for a in self.aggregators] + [links for _, _, links in self.join]
        return np.array([link for way in ways for link in way], dtype=np.int32)


def find_trees(cluster: Cluster, workers: Int32, job: str, seed: int = 0) -> list[Tree]:
    """A tree for every lowest switch that all workers reach going up, by number of the switch.

    Up is to a higher tier. In a Clos network these switches are the leaf of a one-rack job, the
    spines of the pod of a job in one pod, else the cores. Where several ways lead up to the root,
    one is chosen by a hash of the seed, the same from everywhere below: ways that meet stay
    together.

    Raises NoTreeError naming the job and a worker left out, ValueError where a switch would have
    more children than an aggregator can tell apart.
    """
    up = _up_links(cluster)
    reach = [up.above(int(worker)) for worker in workers]
    common = set.intersection(*map(set, reach))
    if not common:
        raise _no_tree(cluster, workers, reach, job)
    lowest = min(int(cluster.tier[s]) for s in common)
    roots = sorted(s for s in common if cluster.tier[s] == lowest)
    first = {int(worker): up.first(int(worker), roots, seed) for worker in workers}
    trees = [_tree(cluster, up, first, root, seed) for root in roots]
    for tree in trees:
        _check_fan_in(cluster, tree, job)
    return trees


class _UpLinks:
    """Links to higher tiers, and what is above a node."""

    def __init__(self, cluster: Cluster) -> None:
        net = cluster.network
        rising = cluster.tier[net.dst] > cluster.tier[net.src]
        self.links: dict[int, list[int]] = {}
        for link in np.flatnonzero(rising & (net.is_host[net.dst] == 0)):
            self.links.setdefault(int(net.src[link]), []).append(int(link))
        self._dst = net.dst
        self._above: dict[int, frozenset[int]] = {}
        self._leading: dict[tuple[int, int], list[int]] = {}

    def above(self, node: int) -> frozenset[int]:
        """Switches that a node reaches going up; a switch reaches itself, a host does not."""
        if node not in self._above:
            found: set[int] = set()
            for link in self.links.get(node, []):
                higher = int(self._dst[link])
                found |= {higher} | self.above(higher)
            self._above[node] = frozenset(found)
        return self._above[node]

    def first(self, host: int, roots: Sequence[int], seed: int) -> int | None:
        """The link from a host that leads to all the roots, as a window has one NIC; None: none."""
        fitting = [
            link
            for link in self.links[host]
            if {int(self._dst[link])} | self.above(int(self._dst[link])) >= set(roots)
        ]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        pick = mix(mix(seed % 2**64) ^ mix(host))[0]
        return fitting[int(pick % np.uint64(len(fitting)))]

    def towards(self, node: int, root: int, seed: int) -> int:
        """The link up from a node that leads to the root."""
        fitting = self._leading.get((node, root))
        if fitting is None:
            fitting = self._leading[node, root] = [
                link
                for link in self.links[node]
                if (higher := int(self._dst[link])) == root or root in self.above(higher)
            ]
        if len(fitting) == 1:
            return fitting[0]
        pick = mix(mix(seed % 2**64) ^ mix(node) ^ np.uint64(root))[0]
        return fitting[int(pick % np.uint64(len(fitting)))]


@functools.lru_cache(maxsize=4)
def _up_links(cluster: Cluster) -> _UpLinks:
    """The same for all jobs of a cluster, as it remembers what it was asked."""
    return _UpLinks(cluster)


def _tree(
    cluster: Cluster, up: _UpLinks, first: dict[int, int | None], root: int, seed: int
) -> Tree:
    """The ways from all workers to the root, switches with one child passed through.

    first: the workers, and the link that each begins with, if that is settled
    """
    dst = cluster.network.dst
    way: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for worker, begin in first.items():
        node = worker
        while node != root and node not in way:
            link = begin if node == worker and begin is not None else up.towards(node, root, seed)
            way[node] = link
            node_up = int(dst[link])
            children.setdefault(node_up, []).append(node)
            node = node_up
    # A root with one child only passes on what that child has summed already.
    while len(children[root]) == 1 and children[root][0] in children:
        root = children[root][0]
    place: dict[int, int] = {}
    order: list[int] = [root]
    links_up: dict[int, tuple[int, ...]] = {root: ()}
    joins: dict[int, tuple[int, int, tuple[int, ...]]] = {}
    rows: list[Aggregator] = []
    child_of: dict[int, tuple[int, int]] = {root: (-1, -1)}
    for switch in order:
        place[switch] = len(rows)
        below = sorted(children[switch])
        parent, child = child_of[switch]
        rows.append(Aggregator(switch, parent, child, len(below), links_up[switch]))
        for i, node in enumerate(below):
            links = [way[node]]
            while node in children and len(children[node]) == 1:
                node = children[node][0]
                links.insert(0, way[node])
            if node in children:
                order.append(node)
                links_up[node] = tuple(links)
                child_of[node] = (place[switch], i)
            else:
                joins[node] = (place[switch], i, tuple(links))
    return Tree(tuple(rows), tuple(joins[worker] for worker in first))


def _no_tree(
    cluster: Cluster, workers: Int32, reach: list[frozenset[int]], job: str
) -> NoTreeError:
    """The error, with the switch that most workers reach and one worker that does not."""
    switches = sorted(set().union(*reach))
    best = max(switches, key=lambda s: sum(s in r for r in reach))
    out = next(int(w) for w, r in zip(workers, reach, strict=True) if best not in r)
    return NoTreeError(
        f"job {job!r}: no switch is above all {len(workers)} workers; {cluster.nodes[best]!r} is "
        f"above most, but host {cluster.nodes[out]!r} does not reach it going up. Give switches "
        "the attribute tier= (higher is nearer the root), or place the job below one switch"
    )


def _check_fan_in(cluster: Cluster, tree: Tree, job: str) -> None:
    for node in tree.aggregators:
        if node.fan_in > MAX_FAN_IN:
            raise ValueError(
                f"job {job!r}: {cluster.nodes[node.at]!r} would add {node.fan_in} children, at "
                f"most {MAX_FAN_IN} are possible; use fewer workers a rack, or another tier"
            )


#: How many and which of a job's trees are used.
SELECTIONS = ("single_random", "all", "k_least_loaded")


def select(
    trees: Sequence[Tree], policy: str, k: int, load: Float64, rng: np.random.Generator
) -> list[Tree]:
    """The trees a job uses.

    policy: single_random, as one flow in equal-cost multipath; all; k_least_loaded: those whose
            busiest links are expected to carry least
    k:      of k_least_loaded, how many at most
    load:   (links,) seconds of use expected of each link
    """
    if policy not in SELECTIONS:
        raise ValueError(
            f"unknown tree selection {policy!r}{did_you_mean(policy, SELECTIONS)}; "
            f"there are {', '.join(SELECTIONS)}"
        )
    if policy == "all":
        return list(trees)
    if policy == "single_random":
        return [trees[int(rng.integers(len(trees)))]]
    if k < 1:
        raise ValueError(f"k_least_loaded needs k of at least 1, got {k}")
    shuffled = [trees[i] for i in rng.permutation(len(trees))]
    # Busiest link first, the next where equal: one that all trees share decides nothing.
    return sorted(shuffled, key=lambda tree: sorted(load[tree.links], reverse=True))[:k]


def expected_use(cluster: Cluster, trees: Sequence[Tree], n_bytes: float) -> Float64:
    """(links,) seconds of use of each link: a job's bytes go up and come down, split over trees."""
    net = cluster.network
    use: Any = np.zeros(len(net.src))
    for tree in trees:
        links = tree.links
        use[links] += n_bytes / len(trees)
        use[net.back[links]] += n_bytes / len(trees)
    seconds: Float64 = use * net.ps_per_byte * 1e-12
    return seconds
