"""Which hosts the workers of a job get; a host has one worker at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from common.spelling import did_you_mean

from .cluster import Cluster
from .jobs import Job
from .plan import Int32


def place(
    cluster: Cluster, job: Job, free: Int32, policy: str, rng: np.random.Generator
) -> Int32 | None:
    """(workers,) hosts for a job among the free ones, or None where they do not suffice.

    free:   node numbers of hosts without a worker, rising
    policy: random; packed: fewest racks, the fullest first; spread: one in each rack, and again;
            trace: those the job names
    """
    check_policy(policy)
    if policy == "trace":
        return _traced(cluster, job, free)
    if job.workers > len(cluster.hosts):
        raise ValueError(
            f"job {job.model!r}: workers={job.workers} is more than the cluster's "
            f"{len(cluster.hosts)} hosts"
        )
    if job.workers > len(free):
        return None
    return POLICIES[policy](cluster, job.workers, free, rng)


def check_policy(policy: str) -> None:
    """Raise ValueError listing the names for an unknown one."""
    names = [*POLICIES, "trace"]
    if policy not in names:
        raise ValueError(
            f"unknown placement {policy!r}{did_you_mean(policy, names)}; "
            f"there are {', '.join(names)}"
        )


def _random(cluster: Cluster, workers: int, free: Int32, rng: np.random.Generator) -> Int32:
    return rng.permutation(free)[:workers]


def _packed(cluster: Cluster, workers: int, free: Int32, rng: np.random.Generator) -> Int32:
    racks = _by_rack(cluster, free, rng)
    chosen: list[Int32] = []
    left = workers
    while left:
        # The tightest rack that takes all that is left, or the one with most room.
        fitting = [rack for rack in racks if len(rack) >= left]
        best = min(range(len(racks)), key=lambda i: len(racks[i]) if fitting else -len(racks[i]))
        if fitting:
            best = next(i for i, r in enumerate(racks) if len(r) == min(map(len, fitting)))
        rack = racks.pop(best)[:left]
        chosen.append(rack)
        left -= len(rack)
    return np.concatenate(chosen).astype(np.int32)


def _spread(cluster: Cluster, workers: int, free: Int32, rng: np.random.Generator) -> Int32:
    racks = _by_rack(cluster, free, rng)
    racks = [rng.permutation(rack) for rack in racks]
    turn = np.concatenate([np.arange(len(rack)) for rack in racks])
    return np.concatenate(racks)[np.argsort(turn, kind="stable")][:workers].astype(np.int32)


def _by_rack(cluster: Cluster, free: Int32, rng: np.random.Generator) -> list[Int32]:
    """Free hosts of each rack that has any, racks in random order."""
    rack = cluster.rack[free]
    return [free[rack == r] for r in rng.permutation(np.unique(rack))]


def _traced(cluster: Cluster, job: Job, free: Int32) -> Int32 | None:
    if job.hosts is None:
        raise ValueError(f"job {job.model!r}: placement 'trace' needs hosts= of every job")
    number = {cluster.nodes[h]: h for h in cluster.hosts}
    unknown = [host for host in job.hosts if host not in number]
    if unknown:
        raise ValueError(f"job {job.model!r}: {unknown[0]!r} is no host of the cluster")
    chosen = np.array([number[host] for host in job.hosts], dtype=np.int32)
    return chosen if np.isin(chosen, free).all() else None


POLICIES: dict[str, Callable[[Cluster, int, Int32, np.random.Generator], Int32]] = {
    "random": _random,
    "packed": _packed,
    "spread": _spread,
}
