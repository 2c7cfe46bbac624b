"""From cluster, jobs, traffic and a scheme to the flat arrays of a Plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from .cluster import Cluster
from .collectives import COLLECTIVES, Collective, in_chunks
from .jobs import Job
from .plan import (
    ECN_MODES,
    LAWS,
    Float64,
    Flows,
    Int32,
    Int64,
    Jobs,
    Messages,
    Network,
    Plan,
    Trees,
    Wire,
)
from .routes import Paths
from .schemes import Scheme
from .seeds import stream
from .traffic import Arrivals
from .trees import Tree, expected_use, find_trees, select
from .windows import window_caps


@attrs.frozen(eq=False)
class Placed:
    """A job on its hosts.

    number:  its place in the user's list, from which its random choices follow
    workers: (workers,) hosts
    start_ps: when it can start
    """

    number: int
    job: Job
    workers: Int32
    start_ps: int

    @property
    def name(self) -> str:
        """As errors call it."""
        return f"{self.number} ({self.job.model})"


def make_plan(
    cluster: Cluster,
    placed: Sequence[Placed],
    arrivals: Arrivals,
    scheme: Scheme,
    seed: int,
    wire: Wire,
) -> Plan:
    """All that a run needs. A job's choices depend on the seed and its number alone, but for trees
    chosen by load, which depend on the jobs before it.

    Raises NoTreeError, and ValueError for windows that slots do not cover.
    """
    flows = _flows(cluster, arrivals, seed, wire)
    jobs = [] if scheme.name == "none" else list(placed)
    ordered = [_ordered(cluster, p, scheme, seed) for p in jobs]
    trees: list[list[Tree]] = [[] for _ in ordered]
    if not scheme.collective:
        trees = _choose_trees(cluster, ordered, flows, scheme, seed)
    messages = _messages(cluster, ordered if scheme.collective else [], scheme, seed, wire)
    return Plan(
        network=cluster.network,
        flows=flows,
        messages=messages,
        trees=_trees(trees),
        jobs=_jobs(cluster, ordered, trees, scheme, wire),
        wire=wire,
    )


def _ordered(cluster: Cluster, placed: Placed, scheme: Scheme, seed: int) -> Placed:
    """Workers in the order that the scheme has them in."""
    if scheme.order == "racks":
        rank = np.lexsort((placed.workers, cluster.rack[placed.workers]))
        return attrs.evolve(placed, workers=placed.workers[rank])
    return placed


def _flows(cluster: Cluster, arrivals: Arrivals, seed: int, wire: Wire) -> Flows:
    keys = np.arange(len(arrivals), dtype=np.int64)
    paths = cluster.paths(arrivals.src, arrivals.dst, keys, 2 * seed)
    return Flows(
        start_ps=arrivals.start_ps,
        n_bytes=arrivals.n_bytes,
        raw=np.zeros(len(arrivals), dtype=np.int32),
        path_ptr=paths.ptr,
        path=paths.links,
        max_window=window_caps(cluster.network, paths, wire, Scheme("").window_bdp),
    )


def _choose_trees(
    cluster: Cluster, jobs: list[Placed], flows: Flows, scheme: Scheme, seed: int
) -> list[list[Tree]]:
    """Trees of each job."""
    use: Float64 = np.zeros(len(cluster.network.src))
    by_load = scheme.trees == "k_least_loaded"
    if by_load:
        per_link = np.repeat(flows.n_bytes, np.diff(flows.path_ptr)).astype(np.float64)
        carried = np.bincount(flows.path, per_link, len(use))
        use = (carried * cluster.network.ps_per_byte * 1e-12).astype(np.float64)
    chosen = []
    for placed in jobs:
        found = find_trees(cluster, placed.workers, placed.name, seed)
        rng = np.random.default_rng([placed.number, int(stream(seed, "trees").integers(2**62))])
        trees = select(found, scheme.trees, scheme.n_trees, use, rng)
        if by_load:
            job = placed.job
            use = use + expected_use(cluster, trees, job.bytes * job.iterations)
        chosen.append(trees)
    return chosen


def _trees(trees: list[list[Tree]]) -> Trees:
    """Flat arrays of all jobs' trees."""
    tree_job: list[int] = []
    rows: list[tuple[int, int, int, int, int]] = []
    ups: list[Iterable[int]] = []
    joins: list[tuple[int, int]] = []
    join_ways: list[Iterable[int]] = []
    for job, of_job in enumerate(trees):
        for tree in of_job:
            first = len(rows)
            for a in tree.aggregators:
                parent = -1 if a.parent < 0 else first + a.parent
                rows.append((len(tree_job), a.at, parent, a.child, a.fan_in))
                ups.append(a.up)
            for node, child, links in tree.join:
                joins.append((first + node, child))
                join_ways.append(links)
            tree_job.append(job)
    columns = _columns(rows, 5)
    join_columns = _columns(joins, 2)
    up, join = _ragged(ups), _ragged(join_ways)
    return Trees(
        tree_job=np.array(tree_job, dtype=np.int32),
        node_tree=columns[0],
        node_at=columns[1],
        parent=columns[2],
        child_of_parent=columns[3],
        fan_in=columns[4],
        up_ptr=up.ptr,
        up=up.links,
        join_node=join_columns[0],
        join_child=join_columns[1],
        join_ptr=join.ptr,
        join=join.links,
    )


def _messages(
    cluster: Cluster, jobs: list[Placed], scheme: Scheme, seed: int, wire: Wire
) -> Messages:
    """Flat arrays of all jobs' messages."""
    conn_job, conn_src, conn_dst, keys = [_none()], [_none()], [_none()], [_none(np.int64)]
    conn, n_bytes, bucket = [_none()], [_none(np.int64)], [_none()]
    before, after = [_none(np.int64)], [_none(np.int64)]
    n_conns = n_messages = 0
    for number, placed in enumerate(jobs):
        racks = cluster.rack[placed.workers]
        col = in_chunks(COLLECTIVES[scheme.collective](racks), scheme.chunks)
        mine = len(col.conn_src)
        conn_job.append(np.full(mine, number, dtype=np.int32))
        conn_src.append(placed.workers[col.conn_src])
        conn_dst.append(placed.workers[col.conn_dst])
        keys.append((placed.number << 32) + np.arange(mine, dtype=np.int64))
        flat = _with_buckets(col, placed.job.bucket_bytes())
        conn.append(flat[0] + np.int32(n_conns))
        n_bytes.append(flat[1])
        bucket.append(flat[2])
        before.append(flat[3] + n_messages)
        after.append(flat[4] + n_messages)
        n_conns += mine
        n_messages += len(flat[0])
    paths = cluster.paths(
        np.concatenate(conn_src), np.concatenate(conn_dst), np.concatenate(keys), 2 * seed + 1
    )
    needs, followers = np.concatenate(before), np.concatenate(after)
    next_ptr = np.zeros(n_messages + 1, dtype=np.int64)
    np.cumsum(np.bincount(needs, minlength=n_messages), out=next_ptr[1:])
    return Messages(
        conn_job=np.concatenate(conn_job),
        conn_path_ptr=paths.ptr,
        conn_path=paths.links,
        conn_max_window=window_caps(cluster.network, paths, wire, scheme.window_bdp),
        conn=np.concatenate(conn).astype(np.int32),
        n_bytes=np.concatenate(n_bytes),
        bucket=np.concatenate(bucket),
        next_ptr=next_ptr,
        next=followers[np.lexsort((followers, needs))].astype(np.int32),
    )


def _with_buckets(col: Collective, bucket_bytes: Int64) -> tuple[Int32, Int64, Int32, Int64, Int64]:
    """conn, n_bytes, bucket, before and after of a collective carried out once for each bucket.

    On a connection one bucket's messages follow another's. Messages that wait for no other wait for
    their bucket. One that would be empty, as a part can be of very few bytes, has a byte.
    """
    n, n_buckets = len(col.conn), len(bucket_bytes)
    conn = np.tile(col.conn, n_buckets)
    of = np.repeat(np.arange(n_buckets, dtype=np.int32), n)
    total = bucket_bytes[of]
    low, high = np.tile(col.low, n_buckets), np.tile(col.high, n_buckets)
    n_bytes = np.maximum(1, high * total // col.parts - low * total // col.parts)
    bucket = np.where(np.isin(np.tile(np.arange(n), n_buckets), col.after), np.int32(-1), of)
    order = np.lexsort((np.arange(n * n_buckets), of, conn))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    shift = np.repeat(np.arange(n_buckets, dtype=np.int64) * n, len(col.before))
    before = place[np.tile(col.before, n_buckets) + shift]
    after = place[np.tile(col.after, n_buckets) + shift]
    return conn[order], n_bytes[order], bucket[order].astype(np.int32), before, after


def _jobs(
    cluster: Cluster, jobs: list[Placed], trees: list[list[Tree]], scheme: Scheme, wire: Wire
) -> Jobs:
    ps_per_byte = int(cluster.host_ps_per_byte.max())
    compute = [p.job.compute_ps(ps_per_byte) for p in jobs]
    buckets = _ragged([range(p.job.buckets) for p in jobs])
    trips = _Trips(cluster.network, wire.sum_payload + wire.sum_header)
    both = [_sum_windows(trips, p, t, scheme, wire) for p, t in zip(jobs, trees, strict=True)]
    floors, windows = [floor for floor, _ in both], [most for _, most in both]
    n = len(jobs)

    def same(value: int) -> Int32:
        return np.full(n, value, dtype=np.int32)

    workers = _ragged([p.workers for p in jobs])
    return Jobs(
        aggregates=same(int(not scheme.collective)),
        start_ps=np.array([p.start_ps for p in jobs], dtype=np.int64),
        iterations=np.array([p.job.iterations for p in jobs], dtype=np.int32),
        compute_ps=np.array(compute, dtype=np.int64),
        worker_ptr=workers.ptr,
        worker=workers.links,
        bucket_ptr=buckets.ptr,
        bucket_ps=_joined([p.job.bucket_ps(c) for p, c in zip(jobs, compute, strict=True)]),
        bucket_bytes=_joined([p.job.bucket_bytes() for p in jobs]),
        law=same(LAWS.index(scheme.law)),
        ecn_mode=same(ECN_MODES.index(scheme.ecn_mode)),
        per_tree=same(int(scheme.per_tree)),
        adaptive=same(int(scheme.adaptive)),
        slots=same(scheme.slots),
        max_window=np.array(windows, dtype=np.int32),
        min_window=np.array(floors, dtype=np.int32),
        fixed_window=np.array(windows, dtype=np.int32),
        weight=same(round(256 * scheme.weight)),
    )


def _sum_windows(
    trips: _Trips, placed: Placed, trees: list[Tree], scheme: Scheme, wire: Wire
) -> tuple[int, int]:
    """Packets a window has at least and at most, by the worker furthest from its root.

    At most min(slots, 4 BDP).

    The slots of all trees count for a window over all of them, unless it may be spent on one.
    """
    if not trees:
        return 1, wire.first_window
    packet = trips.packet
    longest = slowest = 0
    for tree in trees:
        trip = [0] * len(tree.aggregators)
        for i, node in enumerate(tree.aggregators[1:], start=1):
            trip[i] = trip[node.parent] + trips.there_and_back(node.up)[0]
        for node_number, _, links in tree.join:
            here, rate = trips.there_and_back(links)
            longest = max(longest, trip[node_number] + here)
            slowest = max(slowest, rate)
    slots = scheme.slots * (1 if scheme.per_tree or scheme.adaptive else len(trees))
    wanted = int(np.ceil(scheme.window_bdp * longest / (slowest * packet)))
    if scheme.window_cap:
        if scheme.window_cap > slots:
            raise ValueError(
                f"job {placed.name}: window_cap={scheme.window_cap} packets do not fit into "
                f"{slots} slots; set window_cap={slots} or slots={scheme.window_cap}"
            )
        wanted = min(wanted, scheme.window_cap)
    most = max(1, min(slots, wanted))
    share = len(trees) if scheme.per_tree else 1  # of a floor that holds for all windows together
    floor = int(scheme.window_floor * longest / (slowest * packet * share))
    return max(1, min(floor, most)), most


class _Trips:
    """Ways of a packet there and back, which trees that differ elsewhere have in common."""

    def __init__(self, net: Network, packet: int) -> None:
        self.packet = packet
        self._net = net
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}

    def there_and_back(self, links: tuple[int, ...]) -> tuple[int, int]:
        """Picoseconds on an idle network, and of a byte on the slowest link there."""
        if links not in self._known:
            net, way = self._net, np.array(links, dtype=np.int64)
            both = np.concatenate([way, net.back[way]])
            trip = int((net.ps_per_byte[both] * self.packet + net.prop_ps[both]).sum())
            self._known[links] = trip, int(net.ps_per_byte[way].max(initial=0))
        return self._known[links]


def _columns(rows: list[Any], width: int) -> list[Int32]:
    table = np.array(rows, dtype=np.int32).reshape(len(rows), width)
    return [table[:, i].copy() for i in range(width)]


def _ragged(lists: Sequence[Iterable[int]]) -> Paths:
    """Lists of varying length one after another."""
    arrays = [np.fromiter(values, dtype=np.int32) for values in lists]
    ptr = np.zeros(len(arrays) + 1, dtype=np.int64)
    np.cumsum([len(a) for a in arrays], out=ptr[1:])
    return Paths(ptr, np.concatenate([_none(), *arrays]).astype(np.int32))


def _joined(arrays: list[Int64]) -> Int64:
    return np.concatenate([_none(np.int64), *arrays])


def _none(kind: Any = np.int32) -> Any:
    return np.zeros(0, dtype=kind)
