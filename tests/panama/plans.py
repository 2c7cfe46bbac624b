"""Plans made by hand for the tests of the event core, as plain as they can be."""

from typing import Any

import attrs
import numpy as np

from panama.plan import Flows, Jobs, Messages, Network, Plan, Trees, Wire

PPB = 80  # 100 Gb/s


def i32(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.int32).reshape(-1)


def i64(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.int64).reshape(-1)


def lists(paths: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of varying length as ptr and values."""
    return i64([0, *np.cumsum([len(p) for p in paths])]), i32([x for p in paths for x in p])


class Net:
    """A network by its cables; `link[u, v]` is the number of a directed link."""

    def __init__(self, n_hosts: int, n_switches: int, cables: list[tuple[int, int]], **how: Any):
        ppb, prop = how.get("ppb", PPB), how.get("prop_ps", 500_000)
        mark, cap = how.get("mark", 65 * 1538), how.get("cap", -1)
        pairs = [pair for u, v in cables for pair in ((u, v), (v, u))]
        self.link = {pair: i for i, pair in enumerate(pairs)}
        src, dst = i32([u for u, _ in pairs]), i32([v for _, v in pairs])
        n = len(pairs)
        from_host = src < n_hosts
        self.n_hosts = n_hosts
        self.network = Network(
            is_host=i32([1] * n_hosts + [0] * n_switches),
            src=src,
            dst=dst,
            back=i32([i ^ 1 for i in range(n)]),
            ps_per_byte=i64([ppb] * n),
            prop_ps=i64([prop] * n),
            mark_bytes=np.where(from_host, -1, mark).astype(np.int64),
            cap_bytes=np.where(from_host, -1, cap).astype(np.int64),
        )

    def path(self, *nodes: int) -> list[int]:
        return [self.link[pair] for pair in zip(nodes[:-1], nodes[1:], strict=True)]


def star(n_hosts: int, **how: Any) -> Net:
    """Hosts 0 .. n - 1 around switch n."""
    return Net(n_hosts, 1, [(h, n_hosts) for h in range(n_hosts)], **how)


def leaf_spine(leaves: int, per_leaf: int, spines: int, **how: Any) -> Net:
    """Hosts, then leaves, then spines."""
    hosts = leaves * per_leaf
    cables = [(h, hosts + h // per_leaf) for h in range(hosts)]
    cables += [(hosts + a, hosts + leaves + s) for a in range(leaves) for s in range(spines)]
    return Net(hosts, leaves + spines, cables, **how)


def flows(
    start: Any, n_bytes: Any, paths: list[list[int]], raw: int = 0, max_window: int = 1000
) -> Flows:
    n = len(paths)
    ptr, path = lists(paths)
    each = np.zeros(n, dtype=np.int64)
    return Flows(
        start_ps=i64(start + each),
        n_bytes=i64(n_bytes + each),
        raw=i32([raw] * n),
        path_ptr=ptr,
        path=path,
        max_window=i32([max_window] * n),
    )


def no_messages() -> Messages:
    return Messages(
        i32([]), i64([0]), i32([]), i32([]), i32([]), i64([]), i32([]), i64([0]), i32([])
    )


def no_trees() -> Trees:
    none, zero = i32([]), i64([0])
    return Trees(none, none, none, none, none, none, zero, none, none, none, zero, none)


def jobs(workers: list[list[int]], bucket_bytes: list[list[int]], **how: Any) -> Jobs:
    """Jobs that are alike but for workers and buckets; `how` sets fields for all of them."""
    n = len(workers)
    worker_ptr, worker = lists(workers)
    bucket_ptr, _ = lists(bucket_bytes)
    sizes = [b for job in bucket_bytes for b in job]
    how.setdefault("bucket_ps", [0] * len(sizes))

    def each(name: str, default: int) -> np.ndarray:
        return i32([how.get(name, default)] * n)

    def each64(name: str) -> np.ndarray:
        return i64([how.get(name, 0)] * n)

    return Jobs(
        aggregates=each("aggregates", 1),
        start_ps=each64("start_ps"),
        iterations=each("iterations", 1),
        compute_ps=each64("compute_ps"),
        worker_ptr=worker_ptr,
        worker=worker,
        bucket_ptr=bucket_ptr,
        bucket_ps=i64(how["bucket_ps"]),
        bucket_bytes=i64(sizes),
        law=each("law", 0),
        ecn_mode=each("ecn_mode", 0),
        per_tree=each("per_tree", 0),
        adaptive=each("adaptive", 0),
        slots=each("slots", 256),
        max_window=each("max_window", 256),
        min_window=each("min_window", 1),
        fixed_window=each("fixed_window", 64),
        weight=each("weight", 256),
    )


def no_jobs() -> Jobs:
    return jobs([], [])


def only_flows(net: Net, traffic: Flows, **wire: Any) -> Plan:
    return Plan(net.network, traffic, no_messages(), no_trees(), no_jobs(), Wire(**wire))


#: A tree of switches: its children, nested; a worker is its number, a switch a pair (node, children).
Shape = tuple[int, list[Any]]


def trees(net: Net, shapes: list[list[Shape]]) -> Trees:
    """The trees of each job; children count in the order they stand. Cables join parent and child."""
    tree_job, node_tree, node_at, parent, child_of, fan_in = [], [], [], [], [], []
    ups: list[list[int]] = []
    joins: list[tuple[int, int, list[int]]] = []

    def add(shape: Shape, tree: int, above: int, place: int, found: dict[int, Any]) -> None:
        at, below = shape
        me = len(node_at)
        node_tree.append(tree), node_at.append(at), parent.append(above)
        child_of.append(place), fan_in.append(len(below))
        ups.append(net.path(at, node_at[above]) if above >= 0 else [])
        for i, child in enumerate(below):
            if isinstance(child, tuple):
                add(child, tree, me, i, found)
            else:
                found[child] = (me, i, net.path(child, at))

    for job, of_job in enumerate(shapes):
        for shape in of_job:
            found: dict[int, Any] = {}
            add(shape, len(tree_job), -1, 0, found)
            tree_job.append(job)
            joins += [found[worker] for worker in sorted(found)]
    up_ptr, up = lists(ups)
    join_ptr, join = lists([path for _, _, path in joins])
    return Trees(
        tree_job=i32(tree_job),
        node_tree=i32(node_tree),
        node_at=i32(node_at),
        parent=i32(parent),
        child_of_parent=i32(child_of),
        fan_in=i32(fan_in),
        up_ptr=up_ptr,
        up=up,
        join_node=i32([n for n, _, _ in joins]),
        join_child=i32([c for _, c, _ in joins]),
        join_ptr=join_ptr,
        join=join,
    )


def members(shape: Shape) -> list[int]:
    """The workers of a tree, ascending."""
    found: list[int] = []
    for child in shape[1]:
        found += members(child) if isinstance(child, tuple) else [child]
    return sorted(found)


def aggregation(
    net: Net,
    shapes: list[list[Shape]],
    bucket_bytes: list[list[int]],
    traffic: Flows | None = None,
    wire: Wire | None = None,
    **how: Any,
) -> Plan:
    workers = [members(of_job[0]) for of_job in shapes]
    traffic = flows([], [], []) if traffic is None else traffic
    return Plan(
        net.network,
        traffic,
        no_messages(),
        trees(net, shapes),
        jobs(workers, bucket_bytes, **how),
        wire or Wire(),
    )


def ring(net: Net, n: int, n_bytes: int, wire: Wire, max_window: int = 400) -> Plan:
    """Ring all-reduce of hosts 0 .. n - 1 around a star: 2 (n - 1) steps of an n-th each."""
    steps = 2 * (n - 1)
    paths = [net.path(h, n, (h + 1) % n) for h in range(n)]
    ptr, path = lists(paths)
    # Step k + 1 of a host waits for step k of the host before it; steps stand by connection.
    after = [
        [((h + 1) % n) * steps + k + 1] if k + 1 < steps else []
        for h in range(n)
        for k in range(steps)
    ]
    next_ptr, following = lists(after)
    messages = Messages(
        conn_job=i32([0] * n),
        conn_path_ptr=ptr,
        conn_path=path,
        conn_max_window=i32([max_window] * n),
        conn=i32(np.repeat(np.arange(n), steps)),
        n_bytes=i64([n_bytes // n] * (n * steps)),
        bucket=i32([0] * (n * steps)),
        next_ptr=next_ptr,
        next=following,
    )
    work = jobs([list(range(n))], [[n_bytes]], aggregates=0)
    return Plan(net.network, flows([], [], []), messages, no_trees(), work, wire)


def with_wire(plan: Plan, **changes: Any) -> Plan:
    return attrs.evolve(plan, wire=attrs.evolve(plan.wire, **changes))
