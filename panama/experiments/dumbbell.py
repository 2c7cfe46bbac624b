"""One bottleneck between two switches that an aggregation flow and DCTCP flows share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Shares(NamedTuple):
    """Goodput after the first fifth of the time, and the bottleneck's queue.

    jain: of all flows' goodput;  mean_queue_packets: ahead of a packet after the first fifth
    max_queue_packets: ever, the slow start of all senders at once included
    bound_packets: the marking threshold, a packet a sender, and five
    """

    aggregation_gbps: float
    flow_gbps: float
    jain: float
    mean_queue_packets: float
    max_queue_packets: float
    bound_packets: float


def shares(scheme: str, workers: int, flows: int, gbps: float, horizon_s: float) -> Shares:
    """Workers left of the bottleneck sum with one to its right, which is where the flows go too.

    The root is the switch on the right. Round trips of sums and of flows are of as many links.
    """
    import networkx as nx

    import panama
    from panama import core
    from panama.planning import Placed, make_plan
    from panama.schemes import scheme_of
    from panama.traffic import Arrivals
    from panama.windows import wire_of

    wire = wire_of(1500)
    packet = wire.payload + wire.header
    mark = 65 * packet
    graph = nx.DiGraph()
    for tier, switch in enumerate(("left", "right"), 1):
        graph.add_node(switch, kind="switch", tier=tier)

    def join(a: str, b: str) -> None:
        for u, v in ((a, b), (b, a)):
            graph.add_edge(u, v, gbps=gbps, prop_ns=2000.0, k_bytes=mark, cap_bytes=4_000_000)

    join("left", "right")
    senders = [f"worker{i}" for i in range(workers)]
    sources, sinks = [f"source{i}" for i in range(flows)], [f"sink{i}" for i in range(flows)]
    for side, names in (("left", [*senders, *sources]), ("right", ["last", *sinks])):
        for name in names:
            graph.add_node(name, kind="host")
            join(name, side)
    cluster = panama.Cluster.from_graph(graph)
    number = {name: i for i, name in enumerate(cluster.nodes)}
    # Far more than the time allows, so that all send to the end.
    n_bytes = int(gbps * 1e9 / 8 * horizon_s * 2)
    arrivals = Arrivals(
        start_ps=np.zeros(flows, np.int64),
        n_bytes=np.full(flows, n_bytes, np.int64),
        src=np.array([number[s] for s in sources], np.int32),
        dst=np.array([number[s] for s in sinks], np.int32),
    )
    hosts = np.array([number[s] for s in (*senders, "last")], np.int32)
    job = panama.Job(bytes=n_bytes, workers=workers + 1)
    plan = make_plan(cluster, [Placed(0, job, hosts, 0)], arrivals, scheme_of(scheme), 0, wire)
    early = core.run(plan, until_ps=round(0.2 * horizon_s * 1e12))
    late = core.run(plan, until_ps=round(horizon_s * 1e12))
    seconds = 0.8 * horizon_s
    results = late.worker["results"].min() - early.worker["results"].min()
    aggregation = float(results) * wire.sum_payload * 8 / seconds / 1e9
    ways = [plan.flows.path[plan.flows.path_ptr[i]] for i in range(flows)]
    sent = (late.link["n_bytes"] - early.link["n_bytes"])[ways]
    rates = sent * wire.payload / packet * 8 / seconds / 1e9
    everyone = np.array([aggregation, *rates])
    net = plan.network
    bottleneck = int(np.flatnonzero((net.src == number["left"]) & (net.dst == number["right"]))[0])
    ahead = late.link["sum_queue"][bottleneck] - early.link["sum_queue"][bottleneck]
    packets = late.link["packets"][bottleneck] - early.link["packets"][bottleneck]
    return Shares(
        aggregation_gbps=aggregation,
        flow_gbps=float(rates.mean()),
        jain=float(everyone.sum() ** 2 / (len(everyone) * (everyone**2).sum())),
        mean_queue_packets=float(ahead) / max(1, int(packets)) / packet,
        max_queue_packets=float(late.link["max_queue"][bottleneck]) / packet,
        bound_packets=65 + flows + 1 + 5,
    )
