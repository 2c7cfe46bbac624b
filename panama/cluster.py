"""Clusters: folded Clos networks, or any directed graph with rates and delays, as flat arrays."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import attrs
import networkx as nx
import numpy as np

from .plan import Network
from .routes import Paths, Routes

#: Node numbers and link numbers are places in the cluster's arrays.
Node: TypeAlias = Any

#: Picoseconds a byte takes at 1 Gb/s.
PS_PER_BYTE_AT_1_GBPS = 8000

#: DCTCP's 65 packets of 1500 bytes, as they are on the wire (DCTCP, sec. 3.4, for 10 Gb/s).
ECN_K_BYTES = 65 * 1538
#: A tenth of a millisecond at 100 Gb/s; small buffers are what the paper assumes.
BUFFER_BYTES = 1_250_000


@attrs.frozen(eq=False)
class Cluster:
    """Hosts and switches, the links between them, and the shortest paths over those.

    graph:   the description; networkx DiGraph
    nodes:   names, in the order of `network`'s node numbers
    network: flat arrays of links
    hosts:   (hosts,) int32 node numbers
    tier:    (nodes,) int32; 0 for hosts, and for switches the node's attribute `tier` or its hops
             to the nearest host
    routes:  shortest paths
    """

    graph: nx.DiGraph
    nodes: tuple[Node, ...]
    network: Network
    hosts: np.ndarray[Any, np.dtype[np.int32]]
    tier: np.ndarray[Any, np.dtype[np.int32]]
    routes: Routes

    @classmethod
    def clos(
        cls,
        tiers: int = 2,
        *,
        hosts_per_leaf: int,
        leaves: int,
        spines: int,
        pods: int = 1,
        rate_gbps: float = 100.0,
        oversub: float | None = None,
        prop_ns: float = 500.0,
        ecn_k: int = ECN_K_BYTES,
        buffer: int = BUFFER_BYTES,
    ) -> Cluster:
        """Two tiers: every leaf to every spine. Three: pods of those, and cores between the pods.

        leaves, spines: of a pod. Spine s of every pod joins the same `leaves` cores, so that a
                        spine has as many links up as down; a fat tree of k ports has pods=k and
                        k/2 of the rest
        rate_gbps: of a host's link
        oversub:   rate of a leaf's hosts over that of its links up, which sets the rate of all
                   links between switches. None: they are as fast as the hosts'
        prop_ns:   of each link
        ecn_k, buffer: bytes ahead of a packet from which it is marked, beyond which it is dropped
        """
        counts = {"hosts_per_leaf": hosts_per_leaf, "leaves": leaves, "spines": spines}
        _check_clos(tiers, pods, oversub, counts)
        up = rate_gbps
        if oversub is not None:
            up = hosts_per_leaf * rate_gbps / (spines * oversub)
        graph = nx.DiGraph()

        def join(a: str, b: str, gbps: float) -> None:
            for u, v in ((a, b), (b, a)):
                graph.add_edge(u, v, gbps=gbps, prop_ns=prop_ns, k_bytes=ecn_k, cap_bytes=buffer)

        n_leaves, n_spines = pods * leaves, pods * spines
        hosts = [f"host{i}" for i in range(n_leaves * hosts_per_leaf)]
        graph.add_nodes_from(hosts, kind="host", tier=0)
        graph.add_nodes_from((f"leaf{i}" for i in range(n_leaves)), kind="switch", tier=1)
        graph.add_nodes_from((f"spine{i}" for i in range(n_spines)), kind="switch", tier=2)
        for i, host in enumerate(hosts):
            join(host, f"leaf{i // hosts_per_leaf}", rate_gbps)
        for leaf in range(n_leaves):
            for s in range(spines):
                join(f"leaf{leaf}", f"spine{leaf // leaves * spines + s}", up)
        if tiers == 3:
            n_cores = spines * leaves
            graph.add_nodes_from((f"core{i}" for i in range(n_cores)), kind="switch", tier=3)
            for spine in range(n_spines):
                for c in range(leaves):
                    join(f"spine{spine}", f"core{spine % spines * leaves + c}", up)
        return cls.from_graph(graph)

    @classmethod
    def from_graph(cls, graph: nx.DiGraph) -> Cluster:
        """Any graph whose nodes have `kind` and whose edges have `gbps` and `prop_ns`.

        kind: "host" or "switch"; optional `tier` of a switch says what is above what
        gbps: a byte must take a whole number of picoseconds
        k_bytes, cap_bytes: absent means no marks, no drops; a host's own queue never marks

        Raises ValueError naming the node or edge and what is wrong with it.
        """
        nodes = tuple(graph.nodes)
        number = {node: i for i, node in enumerate(nodes)}
        is_host = np.array([_kind(graph, node) == "host" for node in nodes], dtype=np.int32)
        edges = sorted((number[u], number[v]) for u, v in graph.edges)
        place = {edge: i for i, edge in enumerate(edges)}
        rows = [_link(graph, nodes[u], nodes[v], bool(is_host[u])) for u, v in edges]
        columns = np.array(rows, dtype=np.int64).reshape(len(rows), 4).T
        src, dst = np.array(edges, dtype=np.int32).reshape(len(edges), 2).T
        _check_joined(graph, nodes, is_host, src, dst)
        network = Network(
            is_host=is_host,
            src=src.copy(),
            dst=dst.copy(),
            back=np.array([place[v, u] for u, v in edges], dtype=np.int32),
            ps_per_byte=columns[0].copy(),
            prop_ps=columns[1].copy(),
            mark_bytes=columns[2].copy(),
            cap_bytes=columns[3].copy(),
        )
        return cls(
            graph=graph,
            nodes=nodes,
            network=network,
            hosts=np.flatnonzero(is_host).astype(np.int32),
            tier=_tiers(graph, nodes, network),
            routes=Routes.of(network),
        )

    def __repr__(self) -> str:
        return (
            f"Cluster({len(self.hosts)} hosts, {len(self.nodes) - len(self.hosts)} switches, "
            f"{len(self.network.src) // 2} links)"
        )

    @property
    def rack(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """(nodes,) The switch of a host: of its switches the first, and -1 for switches."""
        rack = np.full(len(self.nodes), -1, dtype=np.int32)
        net = self.network
        from_host = np.flatnonzero(net.is_host[net.src])[::-1]
        rack[net.src[from_host]] = net.dst[from_host]
        return rack

    @property
    def host_ps_per_byte(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(hosts,) Picoseconds a byte takes on the fastest link of a host."""
        net = self.network
        slowest = np.iinfo(np.int64).max
        fastest = np.full(len(self.nodes), slowest, dtype=np.int64)
        np.minimum.at(fastest, net.src, net.ps_per_byte)
        of_hosts: np.ndarray[Any, np.dtype[np.int64]] = fastest[self.hosts]
        return of_hosts

    def paths(self, src: Any, dst: Any, key: Any, seed: int) -> Paths:
        """One shortest path for each pair of hosts, by a hash of its key (equal-cost multipath).

        src, dst: (pairs,) node numbers; key: (pairs,) whole numbers, such as a flow's place
        """
        return self.routes.paths(src, dst, key, seed)


def _check_clos(tiers: int, pods: int, oversub: float | None, counts: dict[str, int]) -> None:
    if tiers not in (2, 3):
        raise ValueError(f"a Clos network here has 2 or 3 tiers, got tiers={tiers}")
    for name, count in {**counts, "pods": pods}.items():
        if count < 1:
            raise ValueError(f"a Clos network needs at least one of {name}, got {count}")
    if tiers == 2 and pods != 1:
        raise ValueError(f"pods={pods} need cores between them: say tiers=3")
    if oversub is not None and not (oversub > 0 and math.isfinite(oversub)):
        raise ValueError(f"oversub must be above 0, got {oversub}")


def _kind(graph: nx.DiGraph, node: Node) -> str:
    kind = graph.nodes[node].get("kind")
    if kind not in ("host", "switch"):
        raise ValueError(f"node {node!r} needs kind='host' or kind='switch', got {kind!r}")
    return str(kind)


def _link(graph: nx.DiGraph, u: Node, v: Node, from_host: bool) -> tuple[int, int, int, int]:
    """ps_per_byte, prop_ps, mark_bytes and cap_bytes of a link."""
    edge, data = f"link {u!r} -> {v!r}", graph.edges[u, v]
    if not graph.has_edge(v, u):
        raise ValueError(f"{edge} has no link back: add the edge ({v!r}, {u!r})")
    if from_host and graph.nodes[v].get("kind") == "host":
        raise ValueError(f"{edge} joins two hosts: hosts join switches only, put one between")
    for name in ("gbps", "prop_ns"):
        if name not in data:
            raise ValueError(f"{edge} has no attribute {name!r}")
    prop_ns = data["prop_ns"]
    if not (prop_ns >= 0 and math.isfinite(prop_ns)):
        raise ValueError(f"{edge}: prop_ns must be 0 or more, got {prop_ns}")
    sizes = []
    for name in ("k_bytes", "cap_bytes"):
        size = data.get(name)
        if size is not None and size < 0:
            raise ValueError(f"{edge}: {name} must be 0 or more, got {size}; leave it out for none")
        sizes.append(-1 if size is None else int(size))
    # Marking is a switch's function: at its own NIC a host sees its queue.
    mark = -1 if from_host else sizes[0]
    cap = -1 if from_host else sizes[1]
    return ps_per_byte(data["gbps"], edge), round(prop_ns * 1000), mark, cap


def ps_per_byte(gbps: float, where: str) -> int:
    """Whole picoseconds a byte takes; ValueError naming the link and the nearest rate with that."""
    if not (gbps > 0 and math.isfinite(gbps)):
        raise ValueError(f"{where}: rate must be above 0 Gb/s, got {gbps}; 100 Gb/s is valid")
    exact = PS_PER_BYTE_AT_1_GBPS / gbps
    whole = max(1, round(exact))
    if abs(exact - whole) > 1e-9 * whole:
        near = min(
            (PS_PER_BYTE_AT_1_GBPS / k for k in (max(1, math.floor(exact)), math.ceil(exact))),
            key=lambda rate: abs(rate - gbps),
        )
        raise ValueError(
            f"{where}: at {gbps:g} Gb/s a byte takes {exact:g} ps, which must be a whole number; "
            f"the nearest valid rate is {near:.12g} Gb/s"
        )
    return whole


def _check_joined(
    graph: nx.DiGraph, nodes: tuple[Node, ...], is_host: Any, src: Any, dst: Any
) -> None:
    """Hosts reach each other through switches alone."""
    hosts = np.flatnonzero(is_host)
    if len(hosts) < 2:
        raise ValueError(f"a cluster needs at least two hosts, got {len(hosts)}")
    neighbours = graph.adj
    seen, frontier = {nodes[hosts[0]]}, [nodes[hosts[0]]]
    while frontier:
        node = frontier.pop()
        if node != nodes[hosts[0]] and graph.nodes[node]["kind"] == "host":
            continue
        for other in neighbours[node]:
            if other not in seen:
                seen.add(other)
                frontier.append(other)
    for host in hosts:
        if nodes[host] not in seen:
            raise ValueError(
                f"the network is not connected: no path from host {nodes[hosts[0]]!r} to host "
                f"{nodes[host]!r} over switches"
            )


def _tiers(graph: nx.DiGraph, nodes: tuple[Node, ...], net: Network) -> Any:
    """(nodes,) int32: hops to the nearest host where the graph does not say."""
    tier = np.where(net.is_host == 1, 0, np.iinfo(np.int32).max).astype(np.int32)
    for level in range(len(nodes)):
        step = net.dst[(tier[net.src] == level) & (tier[net.dst] > level + 1)]
        if not len(step):
            break
        tier[step] = level + 1
    for i, node in enumerate(nodes):
        if not net.is_host[i] and "tier" in graph.nodes[node]:
            tier[i] = graph.nodes[node]["tier"]
    return tier
