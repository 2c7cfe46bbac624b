"""Clusters, jobs and statistics that the experiments on the simulator have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

    import panama

Floats = npt.NDArray[np.float64]

#: Flows that count as short and latency-sensitive, in bytes.
SHORT = 100_000
#: Of all links.
RATE_GBPS = 100
#: Host-based schemes: what an operator without in-network aggregation chooses from.
HOST_SCHEMES = ("ring", "ring_sorted", "hier_ring", "hier_pipelined", "halving_doubling", "ps")


@attrs.frozen
class Site:
    """A Clos cluster and the training jobs on it.

    leaves, spines: of a pod; several pods have cores between them
    prop_ns: of a link;  skew_ns: what every second host sends comes so much later
     jobs of `workers` workers each exchange `megabytes` an iteration, or the
    gradients of `models` in turn where megabytes is 0
    """

    leaves: int
    hosts_per_leaf: int
    spines: int
    jobs: int
    workers: int
    megabytes: float
    models: tuple[str, ...] = ()
    prop_ns: float = 500.0
    pods: int = 1
    skew_ns: float = 0.0

    @property
    def hosts(self) -> int:
        """Hosts of the cluster."""
        return self.pods * self.leaves * self.hosts_per_leaf

    def cluster(self) -> panama.Cluster:
        """All links at 100 Gb/s."""
        import panama

        cluster = panama.Cluster.clos(
            3 if self.pods > 1 else 2,
            pods=self.pods,
            leaves=self.leaves,
            hosts_per_leaf=self.hosts_per_leaf,
            spines=self.spines,
            rate_gbps=RATE_GBPS,
            prop_ns=self.prop_ns,
        )
        if not self.skew_ns:
            return cluster
        graph = cluster.graph
        for host in range(0, self.hosts, 2):
            graph.edges[f"host{host}", f"leaf{host // self.hosts_per_leaf}"]["prop_ns"] += (
                self.skew_ns
            )
        return panama.Cluster.from_graph(graph)

    def make_jobs(
        self, share: float, iterations: int, one_by_one: bool = False
    ) -> list[panama.Job]:
        """Jobs that compute for this share of an iteration of an idle ring (Job.compute_share).

        one_by_one: their starts are spread evenly over one computation
        """
        import panama

        same: dict[str, Any] = {
            "workers": self.workers,
            "iterations": iterations,
            "compute_share": share,
        }
        n_bytes = int(self.megabytes * 1e6)
        jobs = []
        for i in range(self.jobs):
            model = None if n_bytes else self.models[i % len(self.models)]
            job = panama.Job(model, bytes=n_bytes or None, **same)
            if one_by_one:
                start = self.compute_seconds(job) * i / self.jobs
                job = panama.Job(model, bytes=n_bytes or None, arrival_s=start, **same)
            jobs.append(job)
        return jobs

    @staticmethod
    def compute_seconds(job: panama.Job) -> float:
        """Computation of an iteration."""
        return job.compute_ps(round(8000 / RATE_GBPS)) * 1e-12


def ring_seconds(n_bytes: float, workers: int, gbps: float = 100.0) -> float:
    """An idle ring's time: each host sends 2 (n - 1) / n of the gradient at its link's rate."""
    return 2 * (workers - 1) / workers * n_bytes * 8 / (gbps * 1e9)


class Ratio(NamedTuple):
    """A ratio with its 95% interval."""

    value: float
    low: float
    high: float


def paired_ratio(
    base: Floats,
    other: Floats,
    statistic: Callable[[Floats], Any],
    rng: np.random.Generator,
    groups: npt.NDArray[np.int64] | None = None,
    samples: int = 500,
) -> Ratio:
    """statistic(base) / statistic(other) over pairs, with a bootstrap interval.

    base, other: (pairs,) the same flow or iteration in two runs;  groups: (pairs,) seeds: whole
    seeds are drawn first, then pairs within them, so that what a seed's pairs share is not taken
    for many observations
    """
    if len(base) != len(other):
        raise ValueError(f"pairs need as many of both, got {len(base)} and {len(other)}")
    if not len(base):
        raise ValueError("a ratio needs at least one pair, got none")
    groups = np.zeros(len(base), np.int64) if groups is None else groups
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]

    def drawn() -> float:
        which = rng.integers(len(members), size=len(members)) if len(members) > 1 else [0]
        at = np.concatenate([rng.choice(members[g], size=len(members[g])) for g in which])
        return float(statistic(base[at]) / statistic(other[at]))

    low, high = np.quantile([drawn() for _ in range(samples)], [0.025, 0.975])
    value = float(statistic(base) / statistic(other))
    return Ratio(value, min(float(low), value), max(float(high), value))


def p99(values: Floats) -> float:
    """99th percentile."""
    return float(np.quantile(values, 0.99))


def p95(values: Floats) -> float:
    """95th percentile."""
    return float(np.quantile(values, 0.95))


def mean(values: Floats) -> float:
    """Arithmetic mean."""
    return float(np.mean(values))


class Seen(NamedTuple):
    """What a run showed of its short flows and of its jobs, in an order that all schemes share.

    fct: (short flows,) seconds, infinite for one that did not end
    iteration: (jobs,) mean seconds of the first iterations; for a job that did fewer by the
    horizon a lower bound, all of its time over one more than it did
    exact: (jobs,) which are no bound
    comm: (iterations that were done,) seconds of the exchange alone
    hops: packets times links;  seconds, peak_mib: the run's processor time, the process's memory
    """

    fct: Floats
    iteration: Floats
    exact: npt.NDArray[np.bool_]
    comm: Floats
    max_utilisation: float
    drops: int
    hops: int
    seconds: float = 0.0
    peak_mib: float = 0.0


def look(result: panama.Result, iterations: int, from_s: float, until_s: float) -> Seen:
    """Short flows that start in a window, and the first iterations of each job."""
    flows: pd.DataFrame = result.flows
    counted = flows[
        (flows["bytes"] < SHORT) & (flows["start_s"] >= from_s) & (flows["start_s"] < until_s)
    ]
    fct = np.where(counted["done"], counted["fct_s"], np.inf)
    end_s = result.outcome.now_ps * 1e-12
    mean_s, exact, comm = [], [], []
    for _, rows in result.jobs[result.jobs["iter"] < iterations].groupby("job"):
        done = rows[rows["done"]]
        comm.append(done["comm_s"].to_numpy(np.float64))
        exact.append(len(done) == iterations)
        whole = end_s - rows["start_s"].min()
        mean_s.append(done["jct_s"].mean() if exact[-1] else whole / (len(done) + 1))
    return Seen(
        fct=fct.astype(np.float64),
        iteration=np.array(mean_s),
        exact=np.array(exact, bool),
        comm=np.concatenate([np.zeros(0), *comm]),
        max_utilisation=float(result.links["util"].max()),
        drops=int(result.links["drops"].sum()),
        hops=int(result.outcome.packet_hops),
    )


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that follow from a root seed and a name alone."""
    return np.random.default_rng([seed, *name.encode()])


def seeds_of(rng: np.random.Generator, n: int) -> list[int]:
    """Seeds of placement and traffic."""
    return [int(s) for s in rng.integers(2**31, size=n)]


def joined(parts: Iterable[Floats]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Values of several seeds one after another, and which seed each is of."""
    parts = list(parts)
    return (
        np.concatenate(parts),
        np.repeat(np.arange(len(parts)), [len(p) for p in parts]).astype(np.int64),
    )
