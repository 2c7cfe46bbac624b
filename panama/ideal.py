"""What an idle network could do: bounds that results are set against."""

from __future__ import annotations

import numpy as np

from .jobs import Job
from .plan import Float64, Flows, Network, Wire
from .schemes import Scheme


def flow_seconds(net: Network, flows: Flows, wire: Wire) -> Float64:
    """(flows,) From start to last byte, all packets in the NIC at once and nothing else running.

    A packet is stored whole before it goes on, so the last byte comes no sooner than by any chain
    of "this packet here, then the next packet here or this packet there". Two chains are taken:
    all packets at the slowest link, the first one before it, and behind it the last one, or the
    last but one, which is longer and which the last one follows over the last link.
    """
    n = len(flows.n_bytes)
    if not n:
        return np.zeros(0)
    hops = np.diff(flows.path_ptr)
    start = flows.path_ptr[:-1]
    ps = net.ps_per_byte[flows.path]
    packets = -(-flows.n_bytes // wire.payload)
    last = flows.n_bytes - (packets - 1) * wire.payload + wire.header
    full = np.where(packets > 1, wire.payload + wire.header, last)
    slowest = np.maximum.reduceat(ps, start)
    # Behind the first of the slowest links of each flow.
    seen = np.repeat(slowest, hops) == ps
    index = np.arange(len(ps))
    first_slow = np.minimum.reduceat(np.where(seen, index, len(ps)), start)
    before = index < np.repeat(first_slow, hops)
    behind = index > np.repeat(first_slow, hops)
    one = slowest * ((packets - 1) * full + last)
    one = one + np.add.reduceat(before * ps, start) * full
    one = one + np.add.reduceat(behind * ps, start) * last
    ends = flows.path_ptr[1:] - 1
    two = slowest * (packets - 1) * full + ps[ends] * last
    two = two + (np.add.reduceat(ps, start) - slowest) * full
    prop = np.add.reduceat(net.prop_ps[flows.path], start)
    both = np.where(packets > 1, np.maximum(one, two), one)
    seconds: Float64 = (both + prop) * 1e-12
    return seconds


def exchange_seconds(job: Job, scheme: Scheme, wire: Wire, ps_per_byte: int) -> float:
    """Serialisation bound: what the busiest worker must send, or get, at the rate of its link.

    In the network each sends the gradients once; between hosts 2(n-1)/n times at least, which a
    ring does; a parameter server gets them from each of the others.
    """
    n = job.workers
    payload, header = wire.payload, wire.header
    if not scheme.collective:
        times, payload, header = 1.0, wire.sum_payload, wire.sum_header
    elif scheme.collective == "parameter_server":
        times = n - 1.0
    else:
        times = 2 * (n - 1) / n
    return times * job.bytes * (payload + header) / payload * ps_per_byte * 1e-12
