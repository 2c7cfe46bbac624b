"""What the event core is given: a network, ordinary flows and jobs, as flat arrays.

Times are whole picoseconds, sizes whole bytes on the wire (preamble and gap included), so that
a run is the same on every machine. Node, link, flow, connection, message, tree and job numbers are
places in these arrays. Lists of varying length are a pair: `ptr` (n + 1) and the values, those of
item i being values[ptr[i]:ptr[i + 1]].
"""

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: Aggregators add at most so many children: their set is one word.
MAX_FAN_IN = 64


@attrs.frozen(eq=False)
class Network:
    """Directed links between hosts and switches; every link has one the other way.

    is_host:     (nodes,) 1 for hosts
    src, dst:    (links,) nodes
    back:        (links,) the link the other way
    ps_per_byte: (links,) 80 at 100 Gb/s
    prop_ps:     (links,) propagation
    mark_bytes:  (links,) a packet with at least so many bytes ahead is marked; -1: never (NICs)
    cap_bytes:   (links,) a packet that would make the queue longer is dropped; -1: never
    """

    is_host: Int32
    src: Int32
    dst: Int32
    back: Int32
    ps_per_byte: Int64
    prop_ps: Int64
    mark_bytes: Int64
    cap_bytes: Int64


@attrs.frozen(eq=False)
class Flows:
    """Ordinary traffic, sorted by start. ACKs come back over the same links the other way.

    start_ps: (flows,);  n_bytes: (flows,) payload
    raw:      (flows,) 1 for one unacknowledged packet of n_bytes on the wire, 0 for DCTCP
    path_ptr, path: links from source to destination
    max_window: (flows,) packets
    """

    start_ps: Int64
    n_bytes: Int64
    raw: Int32
    path_ptr: Int64
    path: Int32
    max_window: Int32


@attrs.frozen(eq=False)
class Messages:
    """Collectives made of messages between hosts: each iteration of a job sends all of them once.

    A connection is a DCTCP flow that lasts; it sends its messages in the order they stand
    here, each as soon as it is ready: its bucket is released and the messages it waits for have
    arrived whole.
    An iteration has ended when all have arrived.

    conn_job: (connections,) job;  conn_path_ptr, conn_path: links;  conn_max_window: packets
    conn:     (messages,) connection, of the same job; ascending
    n_bytes:  (messages,) payload
    bucket:   (messages,) the bucket of the job whose release it waits for, -1: none
    next_ptr, next: messages that wait for this one
    """

    conn_job: Int32
    conn_path_ptr: Int64
    conn_path: Int32
    conn_max_window: Int32
    conn: Int32
    n_bytes: Int64
    bucket: Int32
    next_ptr: Int64
    next: Int32


@attrs.frozen(eq=False)
class Trees:
    """Aggregation trees. A node adds what its children send; children are workers or nodes.

    tree_job:  (trees,) job; the trees of a job stand side by side
    node_tree: (nodes,) tree; a tree's nodes stand side by side
    node_at:   (nodes,) the switch
    parent:    (nodes,) node, -1 for the root
    child_of_parent: (nodes,) which child of its parent this is (0 .. fan_in - 1)
    fan_in:    (nodes,) children, at most 64
    up_ptr, up: links from the node to its parent, none for the root; results come down the
             other way
    join_node, join_child: (trees x workers of the job) in order of tree, then worker: the node a
               worker sends to, and which child it is there
    join_ptr, join: links from the worker to that node
    """

    tree_job: Int32
    node_tree: Int32
    node_at: Int32
    parent: Int32
    child_of_parent: Int32
    fan_in: Int32
    up_ptr: Int64
    up: Int32
    join_node: Int32
    join_child: Int32
    join_ptr: Int64
    join: Int32


#: How a worker's window answers marks.
LAWS = ("dctcp", "aimd_halve", "fixed")
#: What mark an aggregator gives its sum: of any child, or of the child marked most.
ECN_MODES = ("or", "worst")


@attrs.frozen(eq=False)
class Jobs:
    """Training jobs: compute, communicate, and again.

    Iteration i starts when i - 1 has ended, buckets are released at offsets from its start, and it
    ends when the slowest worker has every result and compute_ps have passed.

    aggregates: (jobs,) 1: over trees, 0: by messages
    start_ps, iterations, compute_ps: (jobs,)
    worker_ptr, worker: hosts
    bucket_ptr, bucket_ps, bucket_bytes: offset of the release, and payload of one worker's bucket
    law, ecn_mode: (jobs,) places in LAWS and ECN_MODES
    per_tree:   (jobs,) 1: a window for each tree, 0: one over all
    adaptive:   (jobs,) 1: trees by weights from marks, 0: packet i on tree i mod T
    slots:      (jobs,) of an aggregator, for each tree
    max_window: (jobs,) packets, of a window; at most slots (of a window over all trees: slots
    times T)
    min_window: (jobs,) packets
    fixed_window: (jobs,) of law "fixed"
    weight:     (jobs,) the share of a link relative to one DCTCP flow, in 1/256: windows grow
                weight times as fast and are cut by a weight-th of the law's cut
    """

    aggregates: Int32
    start_ps: Int64
    iterations: Int32
    compute_ps: Int64
    worker_ptr: Int64
    worker: Int32
    bucket_ptr: Int64
    bucket_ps: Int64
    bucket_bytes: Int64
    law: Int32
    ecn_mode: Int32
    per_tree: Int32
    adaptive: Int32
    slots: Int32
    max_window: Int32
    min_window: Int32
    fixed_window: Int32
    weight: Int32


@attrs.frozen
class Wire:
    """Sizes of packets and constants of the hosts.

    payload, header:  of a DCTCP packet;  sum_payload, sum_header: of an aggregation packet
    ack:              bytes of an ACK on the wire
    first_window:     packets;  rto_ps: first timeout;  nic_packets: at most so many wait in a NIC
    gain_shift:       g = 2**-gain_shift in alpha's average
    drop, duplicate:  probability of losing, of doubling a packet at a switch's output
    """

    payload: int = 1460
    header: int = 78
    sum_payload: int = 1408
    sum_header: int = 88
    ack: int = 84
    first_window: int = 10
    rto_ps: int = 1_000_000_000
    nic_packets: int = 4
    gain_shift: int = 4
    drop: float = 0.0
    duplicate: float = 0.0
    seed: int = 0


@attrs.frozen(eq=False)
class Plan:
    """A whole run."""

    network: Network
    flows: Flows
    messages: Messages
    trees: Trees
    jobs: Jobs
    wire: Wire = Wire()


@attrs.frozen(eq=False)
class Outcome:
    """What a run found, by the numbers of the plan; -1 where something did not happen.

    reason:      "done", "horizon", "budget" or "stalled" (no event is left and a job waits)
    now_ps, events, packet_hops, data_packets: of the whole run
    flow_end_ps: (flows,) the last payload byte has arrived;  flow_resent: (flows,) packets
    conn_resent: (connections,) packets
    iteration_ptr (jobs + 1), and for each iteration begin_ps, comm_ps (first bucket released),
                 sum_ps (slowest worker has all results), end_ps
    link:        dict of (links,) arrays: n_bytes, packets, max_queue (bytes ahead of a packet),
                 sum_queue (over packets), marks, drops, plus job_marks (jobs, links) where few
                 jobs make that small, or empty
    worker:      dict of arrays over workers of jobs (worker_ptr): sent, resent, marked, results,
                 window_ps (time with data ready and the window full), mean_window
    node:        dict of arrays over tree nodes: sums, duplicates, out_of_window, stale, repairs,
                 max_open (slots), skew_ps (sum of last arrival - first arrival of a slot)
    counters:    dict of ints: the invariants' two sides, and the memory that the core holds
    stalled:     job, packet number, tree node and a mask of missing children, or None
    """

    reason: str
    now_ps: int
    events: int
    packet_hops: int
    data_packets: int
    flow_end_ps: Int64
    flow_resent: Int32
    conn_resent: Int32
    iteration_ptr: Int64
    begin_ps: Int64
    comm_ps: Int64
    sum_ps: Int64
    end_ps: Int64
    link: dict[str, Any]
    worker: dict[str, Any]
    node: dict[str, Any]
    counters: dict[str, int]
    stalled: tuple[int, int, int, int] | None = None
