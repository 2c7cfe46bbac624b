"""Max-min fair rates of flows on fixed paths, by water filling."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cluster import PS_PER_BYTE_AT_1_GBPS, Cluster
from .plan import Float64
from .routes import Paths


def max_min(cluster: Cluster, demands: Any, seed: int = 0) -> Float64:
    """Rates that raise no flow at the cost of a slower one.

    demands: (flows) triples (source, destination, Gb/s at most) or pairs, without a limit; names of
             nodes. Paths are those that flows of these numbers take in a simulation of the seed
    returns: (flows,) Gb/s of all bytes, headers included
    """
    rows = [tuple(demand) for demand in demands]
    number = {cluster.nodes[host]: host for host in cluster.hosts}
    for i, row in enumerate(rows):
        if len(row) not in (2, 3):
            raise ValueError(f"demand {i} must be (source, destination[, Gb/s]), got {row}")
        for name in row[:2]:
            if name not in number:
                raise ValueError(f"demand {i}: {name!r} is no host of the cluster")
        if row[0] == row[1]:
            raise ValueError(f"demand {i}: source and destination are the same, {row[0]!r}")
        if len(row) == 3 and not row[2] >= 0:
            raise ValueError(f"demand {i}: the limit must be 0 Gb/s or more, got {row[2]}")
    src = np.array([number[row[0]] for row in rows], dtype=np.int32)
    dst = np.array([number[row[1]] for row in rows], dtype=np.int32)
    limit = np.array([row[2] if len(row) == 3 else np.inf for row in rows], dtype=np.float64)
    paths = cluster.paths(src, dst, np.arange(len(rows)), 2 * seed)
    return water_fill(PS_PER_BYTE_AT_1_GBPS / cluster.network.ps_per_byte, paths, limit)


def water_fill(capacity: Float64, paths: Paths, limit: Float64) -> Float64:
    """(flows,) Rates: all rise together until a link is full or a limit met, then the others go on.

    capacity: (links,); paths: (flows); limit: (flows,) in the unit of capacity
    Bertsekas and Gallager, Data Networks, sec. 6.5.2.
    """
    n = len(paths)
    flow_of = np.repeat(np.arange(n), np.diff(paths.ptr))
    rate = np.zeros(n)
    rising = limit > 0
    left = capacity.astype(np.float64).copy()
    level = 0.0
    while rising.any():
        users = np.bincount(paths.links[rising[flow_of]], minlength=len(capacity))
        used = users > 0
        share = np.full(len(capacity), np.inf)
        share[used] = left[used] / users[used]
        step = min(share.min(), (limit[rising] - level).min())
        level += step
        rate[rising] = level
        left -= step * users
        # Full where its share was the step: comparing what is left to 0 would need a margin.
        full = share <= step * (1 + 1e-12)
        stops = np.zeros(n, dtype=bool)
        stops[flow_of[full[paths.links]]] = True
        rising &= ~(stops | (limit <= level * (1 + 1e-12)))
    return rate
