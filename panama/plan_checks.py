"""Whether a plan can be run: one clear ValueError for the first thing that is wrong with it."""

import numpy as np
import numpy.typing as npt

from panama.plan import ECN_MODES, LAWS, MAX_FAN_IN, Flows, Jobs, Messages, Network, Plan, Trees

Ints = npt.NDArray[np.integer]
#: Links, nodes, flows and so on are numbered by 28 bits in the core.
MOST = 2**28 - 1
#: Packet numbers and sizes are 32-bit.
MOST_PACKETS = 2**31 - 1
MOST_WINDOW = 2**20
MOST_WEIGHT = 2**16
MOST_TREES = 256
LATEST_PS = 2**62


def check_plan(plan: Plan) -> None:
    """Raise ValueError naming the array, the place, what is wanted and what stands there."""
    _check_network(plan.network)
    _check_wire(plan)
    _check_flows(plan.flows, plan)
    _check_jobs(plan.jobs, plan)
    _check_messages(plan.messages, plan)
    _check_trees(plan.trees, plan)
    _check_windows(plan)


def _length(name: str, values: Ints, n: int) -> None:
    if values.ndim != 1 or len(values) != n:
        raise ValueError(f"{name} must have shape ({n},), got {values.shape}")


def _between(name: str, values: Ints, low: int, high: int, why: str = "") -> None:
    """Low and high are allowed themselves."""
    bad = np.flatnonzero((values < low) | (values > high))
    if len(bad):
        i = int(bad[0])
        reason = f" ({why})" if why else ""
        raise ValueError(
            f"{name}[{i}] must be between {low} and {high}{reason}, got {int(values[i])}"
        )


def _pointers(name: str, ptr: Ints, n: int, n_values: int, least: int = 0) -> None:
    _length(name, ptr, n + 1)
    if ptr[0] != 0 or ptr[-1] != n_values:
        raise ValueError(
            f"{name} must run from 0 to {n_values}, got {int(ptr[0])} to {int(ptr[-1])}"
        )
    _between(f"the steps of {name}", np.diff(ptr), least, MOST)


def _check_network(net: Network) -> None:
    n_nodes, n_links = len(net.is_host), len(net.src)
    _between("network.is_host", net.is_host, 0, 1)
    if n_links > MOST:
        raise ValueError(f"a network has at most {MOST} links, got {n_links}")
    for name in ("src", "dst", "back", "ps_per_byte", "prop_ps", "mark_bytes", "cap_bytes"):
        _length(f"network.{name}", getattr(net, name), n_links)
    _between("network.src", net.src, 0, n_nodes - 1)
    _between("network.dst", net.dst, 0, n_nodes - 1)
    _between("network.back", net.back, 0, n_links - 1)
    _between("network.ps_per_byte", net.ps_per_byte, 1, 10**8)
    _between("network.prop_ps", net.prop_ps, 0, 10**15)
    _between("network.mark_bytes", net.mark_bytes, -1, LATEST_PS)
    _between("network.cap_bytes", net.cap_bytes, -1, LATEST_PS)
    wrong = np.flatnonzero((net.src[net.back] != net.dst) | (net.dst[net.back] != net.src))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"network.back[{i}] must be a link from {net.dst[i]} to {net.src[i]}, got link "
            f"{net.back[i]} from {net.src[net.back[i]]} to {net.dst[net.back[i]]}"
        )


def _check_wire(plan: Plan) -> None:
    wire = plan.wire
    for name in ("payload", "sum_payload", "ack", "first_window", "rto_ps", "nic_packets"):
        if getattr(wire, name) < 1:
            raise ValueError(f"wire.{name} must be at least 1, got {getattr(wire, name)}")
    for name in ("payload", "header", "sum_payload", "sum_header", "ack"):
        if not 0 <= getattr(wire, name) <= 2**20:
            raise ValueError(f"wire.{name} must be 0 to 2**20 bytes, got {getattr(wire, name)}")
    if not 1 <= wire.first_window <= MOST_WINDOW:
        raise ValueError(f"wire.first_window must be 1 to {MOST_WINDOW}, got {wire.first_window}")
    if wire.nic_packets > 2**16 or wire.rto_ps > 10**13:
        raise ValueError("wire.nic_packets must be at most 2**16 and wire.rto_ps at most 10 s")
    if not 0 <= wire.gain_shift <= 16:
        raise ValueError(f"wire.gain_shift must be 0 to 16, got {wire.gain_shift}")
    for name in ("drop", "duplicate"):
        if not 0 <= getattr(wire, name) <= 1:
            raise ValueError(f"wire.{name} must be a probability, got {getattr(wire, name)}")
    if not -(2**63) <= wire.seed < 2**63:
        raise ValueError(f"wire.seed must fit 64 bits, got {wire.seed}")


def _check_paths(name: str, ptr: Ints, path: Ints, net: Network) -> None:
    """Paths of at least one link, each link starting where the one before ended."""
    _pointers(f"{name}_ptr", ptr, len(ptr) - 1, len(path), least=1)
    _between(name, path, 0, len(net.src) - 1)
    joined = np.ones(len(path), dtype=bool)
    joined[1:] = net.dst[path[:-1]] == net.src[path[1:]]
    joined[ptr[:-1]] = True
    broken = np.flatnonzero(~joined)
    if len(broken):
        i = int(broken[0])
        raise ValueError(
            f"{name}[{i}] must leave node {net.dst[path[i - 1]]}, where the link before it ends, "
            f"got link {path[i]} from node {net.src[path[i]]}"
        )


def _check_host_paths(name: str, ptr: Ints, path: Ints, net: Network) -> None:
    _check_paths(name, ptr, path, net)
    ends = net.is_host[net.src[path[ptr[:-1]]]] & net.is_host[net.dst[path[ptr[1:] - 1]]]
    wrong = np.flatnonzero(ends == 0)
    if len(wrong):
        raise ValueError(f"{name}: path {int(wrong[0])} must go from a host to a host")


def _check_flows(flows: Flows, plan: Plan) -> None:
    n = len(flows.start_ps)
    if n > MOST:
        raise ValueError(f"a plan has at most {MOST} flows, got {n}")
    for name in ("n_bytes", "raw", "max_window"):
        _length(f"flows.{name}", getattr(flows, name), n)
    _length("flows.path_ptr", flows.path_ptr, n + 1)
    _between("flows.start_ps", flows.start_ps, 0, LATEST_PS)
    early = np.flatnonzero(np.diff(flows.start_ps) < 0)
    if len(early):
        raise ValueError(f"flows.start_ps must ascend, but flow {int(early[0]) + 1} starts earlier")
    _between("flows.raw", flows.raw, 0, 1)
    most = np.where(flows.raw == 1, 2**30, (MOST_PACKETS - 1) * plan.wire.payload)
    bad = np.flatnonzero((flows.n_bytes < 1) | (flows.n_bytes > most))
    if len(bad):
        i = int(bad[0])
        raise ValueError(f"flows.n_bytes[{i}] must be 1 to {most[i]}, got {flows.n_bytes[i]}")
    _between("flows.max_window", flows.max_window, 1, MOST_WINDOW)
    _check_host_paths("flows.path", flows.path_ptr, flows.path, plan.network)


def _check_jobs(jobs: Jobs, plan: Plan) -> None:
    n = len(jobs.aggregates)
    names = (
        "start_ps iterations compute_ps law ecn_mode per_tree adaptive slots max_window min_window "
        "fixed_window weight"
    )
    for name in names.split():
        _length(f"jobs.{name}", getattr(jobs, name), n)
    _pointers("jobs.worker_ptr", jobs.worker_ptr, n, len(jobs.worker))
    _pointers("jobs.bucket_ptr", jobs.bucket_ptr, n, len(jobs.bucket_ps))
    _length("jobs.bucket_bytes", jobs.bucket_bytes, len(jobs.bucket_ps))
    _between("jobs.worker", jobs.worker, 0, len(plan.network.is_host) - 1)
    for name in ("aggregates", "per_tree", "adaptive"):
        _between(f"jobs.{name}", getattr(jobs, name), 0, 1)
    _between("jobs.start_ps", jobs.start_ps, 0, LATEST_PS)
    _between("jobs.compute_ps", jobs.compute_ps, 0, LATEST_PS)
    _between("jobs.iterations", jobs.iterations, 1, MOST)
    _between("jobs.law", jobs.law, 0, len(LAWS) - 1, ", ".join(LAWS))
    _between("jobs.ecn_mode", jobs.ecn_mode, 0, len(ECN_MODES) - 1, ", ".join(ECN_MODES))
    _between("jobs.bucket_ps", jobs.bucket_ps, 0, LATEST_PS)
    for j in range(n):
        part = slice(jobs.bucket_ptr[j], jobs.bucket_ptr[j + 1])
        if (np.diff(jobs.bucket_ps[part]) < 0).any():
            raise ValueError(f"jobs.bucket_ps of job {j} must ascend, got {jobs.bucket_ps[part]}")
        if not jobs.aggregates[j]:
            continue
        sizes = jobs.bucket_bytes[part]
        if not len(sizes) or sizes.min() < 1:
            raise ValueError(f"job {j} must have buckets of at least 1 byte, got {sizes}")
        packets = int((-(-sizes // plan.wire.sum_payload)).sum()) * int(jobs.iterations[j])
        if packets >= MOST_PACKETS:
            raise ValueError(
                f"job {j} must send at most {MOST_PACKETS} packets in all, got {packets}"
            )


def _check_messages(messages: Messages, plan: Plan) -> None:
    n_conns, n = len(messages.conn_job), len(messages.conn)
    _length("messages.conn_max_window", messages.conn_max_window, n_conns)
    for name in ("n_bytes", "bucket"):
        _length(f"messages.{name}", getattr(messages, name), n)
    _length("messages.conn_path_ptr", messages.conn_path_ptr, n_conns + 1)
    _pointers("messages.next_ptr", messages.next_ptr, n, len(messages.next))
    jobs = plan.jobs
    _between("messages.conn_job", messages.conn_job, 0, len(jobs.aggregates) - 1)
    _between("messages.conn", messages.conn, 0, n_conns - 1)
    _between("messages.next", messages.next, 0, n - 1)
    _between("messages.conn_max_window", messages.conn_max_window, 1, MOST_WINDOW)
    _between("messages.n_bytes", messages.n_bytes, 1, MOST_PACKETS)
    if (np.diff(messages.conn) < 0).any() or (np.diff(messages.conn_job) < 0).any():
        raise ValueError("messages.conn and messages.conn_job must ascend")
    _check_host_paths(
        "messages.conn_path", messages.conn_path_ptr, messages.conn_path, plan.network
    )
    job_of = messages.conn_job[messages.conn]
    buckets = np.diff(jobs.bucket_ptr)
    bad = np.flatnonzero((messages.bucket < -1) | (messages.bucket >= buckets[job_of]))
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"messages.bucket[{i}] must be -1 or one of the {buckets[job_of[i]]} buckets of job "
            f"{job_of[i]}, got {messages.bucket[i]}"
        )
    from_job = np.repeat(job_of, np.diff(messages.next_ptr))
    if (from_job != job_of[messages.next]).any():
        raise ValueError("messages.next must name messages of the same job")
    packets = np.zeros(n_conns, dtype=np.int64)
    np.add.at(packets, messages.conn, -(-messages.n_bytes // plan.wire.payload))
    _between(
        "packets of connection", packets * jobs.iterations[messages.conn_job], 0, MOST_PACKETS - 1
    )
    for j in range(len(jobs.aggregates)):
        has = bool((job_of == j).any())
        if has == bool(jobs.aggregates[j]):
            kind = "aggregates, so it has no" if jobs.aggregates[j] else "must have"
            raise ValueError(f"job {j} {kind} messages, got {int((job_of == j).sum())}")


def _check_trees(trees: Trees, plan: Plan) -> None:
    n_trees, n = len(trees.tree_job), len(trees.node_tree)
    jobs, net = plan.jobs, plan.network
    for name in ("node_at", "parent", "child_of_parent", "fan_in"):
        _length(f"trees.{name}", getattr(trees, name), n)
    _between("trees.tree_job", trees.tree_job, 0, len(jobs.aggregates) - 1)
    _between("trees.node_tree", trees.node_tree, 0, n_trees - 1)
    _between("trees.node_at", trees.node_at, 0, len(net.is_host) - 1)
    _between("trees.parent", trees.parent, -1, n - 1)
    _between("trees.fan_in", trees.fan_in, 1, MAX_FAN_IN, "a switch's set of children is one word")
    if (np.diff(trees.tree_job) < 0).any() or (np.diff(trees.node_tree) < 0).any():
        raise ValueError("trees.tree_job and trees.node_tree must ascend")
    workers = np.diff(jobs.worker_ptr)
    for j in range(len(jobs.aggregates)):
        has = int((trees.tree_job == j).sum())
        if bool(has) != bool(jobs.aggregates[j]) or has > MOST_TREES:
            wanted = f"1 to {MOST_TREES} trees" if jobs.aggregates[j] else "no tree"
            raise ValueError(f"job {j} must have {wanted}, got {has}")
    joins = np.repeat(np.arange(n_trees), workers[trees.tree_job])
    for name in ("join_node", "join_child"):
        _length(f"trees.{name}", getattr(trees, name), len(joins))
    _between("trees.join_node", trees.join_node, 0, n - 1)
    _check_ups(trees, net)
    _length("trees.join_ptr", trees.join_ptr, len(joins) + 1)
    _check_paths("trees.join", trees.join_ptr, trees.join, net)
    _check_children(trees, joins)
    first, last = (
        net.src[trees.join[trees.join_ptr[:-1]]],
        net.dst[trees.join[trees.join_ptr[1:] - 1]],
    )
    hosts = [jobs.worker[jobs.worker_ptr[j] : jobs.worker_ptr[j + 1]] for j in trees.tree_job]
    wanted_first = np.concatenate([*hosts, np.zeros(0, np.int32)])
    wrong = np.flatnonzero((first != wanted_first) | (last != trees.node_at[trees.join_node]))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"trees.join: path {i} must go from node {wanted_first[i]} to node "
            f"{trees.node_at[trees.join_node[i]]}, got {first[i]} to {last[i]}"
        )
    if not net.is_host[first].all():
        raise ValueError("jobs.worker must name hosts")


def _check_ups(trees: Trees, net: Network) -> None:
    inner = np.flatnonzero(trees.parent >= 0)
    _pointers("trees.up_ptr", trees.up_ptr, len(trees.parent), len(trees.up))
    hops = np.diff(trees.up_ptr)
    if (hops[inner] < 1).any() or (hops[trees.parent < 0] != 0).any():
        raise ValueError("trees.up must have a path of links for every node but the roots")
    _check_paths("trees.up", np.append(trees.up_ptr[inner], len(trees.up)), trees.up, net)
    first, last = trees.up_ptr[inner], trees.up_ptr[inner + 1] - 1
    leaves = net.src[trees.up[first]] != trees.node_at[inner]
    ends = net.dst[trees.up[last]] != trees.node_at[trees.parent[inner]]
    wrong = np.flatnonzero(leaves | ends)
    if len(wrong):
        raise ValueError(
            f"trees.up of node {int(inner[wrong[0]])} must go from its switch to its parent's"
        )


def _check_children(trees: Trees, join_tree: Ints) -> None:
    """Each child number of a node taken once, nodes and workers within one tree, one root a tree."""
    inner = np.flatnonzero(trees.parent >= 0)
    above = np.concatenate([trees.parent[inner], trees.join_node])
    child = np.concatenate([trees.child_of_parent[inner], trees.join_child])
    tree = np.concatenate([trees.node_tree[inner], join_tree])
    if (trees.node_tree[above] != tree).any():
        raise ValueError("trees.parent and trees.join_node must stay within their own tree")
    if ((child < 0) | (child >= trees.fan_in[above])).any():
        i = int(np.flatnonzero((child < 0) | (child >= trees.fan_in[above]))[0])
        raise ValueError(
            f"children of tree node {above[i]} must be numbered 0 to {trees.fan_in[above[i]] - 1}, "
            f"got {child[i]}"
        )
    taken = np.zeros((len(trees.fan_in), MAX_FAN_IN), dtype=np.int64)
    np.add.at(taken, (above, child), 1)
    wrong = np.flatnonzero((taken > 1).any(axis=1) | (taken.sum(axis=1) != trees.fan_in))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"trees.fan_in[{i}] is {trees.fan_in[i]}, but {taken[i].sum()} nodes and workers name "
            "that node, or two of them the same place"
        )
    roots = np.bincount(trees.node_tree[trees.parent < 0], minlength=len(trees.tree_job))
    if (roots != 1).any():
        i = int(np.flatnonzero(roots != 1)[0])
        raise ValueError(f"tree {i} must have one root, got {roots[i]}")
    # With one root and a parent each, a node that does not reach the root is on a cycle.
    at = np.arange(len(trees.parent))
    for _ in range(len(trees.parent)):
        at = np.where(trees.parent[at] >= 0, trees.parent[at], at)
        if (trees.parent[at] < 0).all():
            return
    if len(at):
        raise ValueError("trees.parent must lead every node to a root, got a cycle")


def _check_windows(plan: Plan) -> None:
    jobs, trees = plan.jobs, plan.trees
    net = plan.network
    first_join = 0
    for j in np.flatnonzero(jobs.aggregates).tolist():
        n_trees = int((trees.tree_job == j).sum())
        n_workers = int(jobs.worker_ptr[j + 1] - jobs.worker_ptr[j])
        slots, window = int(jobs.slots[j]), int(jobs.max_window[j])
        for name, value, most in (
            ("slots", slots, MOST_WINDOW),
            ("max_window", window, MOST_WINDOW),
            ("min_window", int(jobs.min_window[j]), window),
            ("weight", int(jobs.weight[j]), MOST_WEIGHT),
            ("fixed_window", int(jobs.fixed_window[j]) or 1, MOST_WINDOW),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"jobs.{name}[{j}] must be 1 to {most}, got {value}")
        if LAWS[jobs.law[j]] == "fixed" and jobs.fixed_window[j] < 1:
            raise ValueError(
                f"jobs.fixed_window[{j}] must be at least 1 for the law 'fixed', got 0"
            )
        if jobs.adaptive[j] and jobs.per_tree[j]:
            raise ValueError(f"job {j}: adaptive trees need one window over all (per_tree = 0)")
        spread = 1 if jobs.per_tree[j] or jobs.adaptive[j] else n_trees
        if window > slots * spread:
            raise ValueError(
                f"jobs.max_window[{j}] must be at most slots x {spread} = {slots * spread}, got "
                f"{window}: raise slots or lower max_window"
            )
        joins = slice(first_join, first_join + n_trees * n_workers)
        first_join += n_trees * n_workers
        nics = trees.join[trees.join_ptr[:-1][joins]].reshape(n_trees, n_workers)
        if not jobs.per_tree[j] and (nics != nics[0]).any():
            raise ValueError(
                f"job {j}: a window over all trees needs one NIC for each worker; use per_tree = 1"
            )
    if not net.is_host[jobs.worker].all():
        raise ValueError("jobs.worker must name hosts")
