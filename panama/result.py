"""What a run showed, as tables and in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from .cluster import PS_PER_BYTE_AT_1_GBPS, Cluster
from .ideal import exchange_seconds, flow_seconds
from .jobs import Job
from .plan import Int64, Outcome, Plan
from .planning import Placed
from .schemes import Scheme

if TYPE_CHECKING:
    import pandas as pd


JOB_COLUMNS = (
    "job",
    "model",
    "workers",
    "iter",
    "start_s",
    "end_s",
    "comm_s",
    "compute_s",
    "jct_s",
    "done",
)


@attrs.frozen
class Explanation:
    """Where the time of a job went; means over the iterations that were done.

    iteration_s, compute_s, comm_s: an iteration, its computation, its communication
    bound_s:        the least its communication can take at the rate of a host's link
    worst_link:     of those the job uses, the one with most bytes ahead of a packet on average
    worst_util, worst_queue_bytes, worst_mark_frac: of that link
    window_limited: share of the communication in which a worker had data but a full window
    marked:         share of results with a mark
    skew_s:         from a sum's first part to its last, at the switches
    resent:         packets, of all workers or of the connections between them
    """

    job: int
    scheme: str
    iterations: int
    iteration_s: float
    compute_s: float
    comm_s: float
    bound_s: float
    worst_link: tuple[Any, Any]
    worst_util: float
    worst_queue_bytes: float
    worst_mark_frac: float
    window_limited: float
    marked: float
    skew_s: float
    resent: int

    def __str__(self) -> str:
        u, v = self.worst_link
        return "\n".join(
            (
                f"job {self.job}, {self.scheme}: {self.iterations} iterations of "
                f"{self.iteration_s * 1e3:.3f} ms",
                f"  computation {self.compute_s * 1e3:.3f} ms, communication "
                f"{self.comm_s * 1e3:.3f} ms; its bytes alone take {self.bound_s * 1e3:.3f} ms at "
                "the rate of a host's link",
                f"  worst link {u} -> {v}: {self.worst_util:.0%} busy, "
                f"{self.worst_queue_bytes / 1e3:.1f} kB ahead of a packet, "
                f"{self.worst_mark_frac:.1%} of packets marked",
                f"  windows full for {self.window_limited:.0%} of the communication, "
                f"{self.marked:.1%} of results marked",
                f"  sums wait {self.skew_s * 1e6:.1f} us from first to last part; "
                f"{self.resent} packets sent again",
            )
        )


class Result:
    """A run: tables of jobs, flows and links.

    truncated: the budget of events was used up before the end
    plan, outcome: what the event core was given, and gave
    """

    def __init__(
        self,
        cluster: Cluster,
        jobs: Sequence[Job],
        placed: Sequence[Placed],
        plan: Plan,
        outcome: Outcome,
        scheme: Scheme,
    ) -> None:
        self.cluster = cluster
        self.scheme = scheme
        self.plan = plan
        self.outcome = outcome
        self.truncated = outcome.reason == "budget"
        self._specs = jobs
        self._placed = list(placed)

    def __repr__(self) -> str:
        done = int(self.jobs["done"].sum())
        return (
            f"Result({self.scheme.name}: {done} of {len(self.jobs)} iterations, "
            f"{len(self.flows)} flows, {self.outcome.now_ps * 1e-12:g} s)"
        )

    @property
    def events(self) -> int:
        """Events of the core."""
        return self.outcome.events

    @property
    def resent(self) -> int:
        """Packets sent again by workers, between hosts of a job, and by ordinary flows."""
        found = self.outcome
        return int(found.worker["resent"].sum() + found.conn_resent.sum() + found.flow_resent.sum())

    @cached_property
    def jobs(self) -> pd.DataFrame:
        """A row for each iteration of each job, in the order given.

        job (its place), model, workers, iter, start_s, end_s; comm_s: from the first gradients to
        the slowest worker's last result; compute_s; jct_s: from start to end; done. NaN: did not
        happen by the horizon. Scheme "none" has no jobs.
        """
        import pandas as pd

        found = self.outcome
        known = {p.number: i for i, p in enumerate(self._placed)}
        parts: list[dict[str, Any]] = []
        for number, job in enumerate(self._specs if self.scheme.name != "none" else ()):
            n = job.iterations
            begin = comm = summed = end = np.full(n, -1, dtype=np.int64)
            compute_ps = job.compute_ps(int(self.cluster.host_ps_per_byte.max()))
            if number in known:
                i = known[number]
                at = slice(int(found.iteration_ptr[i]), int(found.iteration_ptr[i + 1]))
                begin, comm = found.begin_ps[at], found.comm_ps[at]
                summed, end = found.sum_ps[at], found.end_ps[at]
            parts.append(
                {
                    "job": np.full(n, number),
                    "model": [job.model] * n,
                    "workers": np.full(n, job.workers),
                    "iter": np.arange(n),
                    "start_s": _seconds(begin),
                    "end_s": _seconds(end),
                    "comm_s": _seconds(summed) - _seconds(comm),
                    "compute_s": np.full(n, compute_ps * 1e-12),
                    "jct_s": _seconds(end) - _seconds(begin),
                    "done": end >= 0,
                }
            )
        if not parts:
            return pd.DataFrame({name: [] for name in JOB_COLUMNS})
        return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)

    @cached_property
    def flows(self) -> pd.DataFrame:
        """A row for each ordinary flow: src, dst, bytes, start_s, fct_s, ideal_s, slowdown, resent,
        done. slowdown is over the same flow alone, all of it sent at once."""
        import pandas as pd

        flows, net = self.plan.flows, self.plan.network
        first, last = flows.path[flows.path_ptr[:-1]], flows.path[flows.path_ptr[1:] - 1]
        fct = _seconds(self.outcome.flow_end_ps) - flows.start_ps * 1e-12
        ideal = flow_seconds(net, flows, self.plan.wire)
        return pd.DataFrame(
            {
                "src": self._names(net.src[first]),
                "dst": self._names(net.dst[last]),
                "bytes": flows.n_bytes,
                "start_s": flows.start_ps * 1e-12,
                "fct_s": fct,
                "ideal_s": ideal,
                "slowdown": fct / ideal,
                "resent": self.outcome.flow_resent,
                "done": self.outcome.flow_end_ps >= 0,
            }
        )

    @cached_property
    def links(self) -> pd.DataFrame:
        """A row for each directed link: u, v, gbps, util, bytes, packets, max_q_bytes, mean_q_bytes
        (ahead of a packet), mark_frac, drops, from_switch."""
        import pandas as pd

        net, link = self.plan.network, self.outcome.link
        packets = np.maximum(1, link["packets"])
        return pd.DataFrame(
            {
                "u": self._names(net.src),
                "v": self._names(net.dst),
                "gbps": PS_PER_BYTE_AT_1_GBPS / net.ps_per_byte,
                "util": link["n_bytes"] * net.ps_per_byte / max(1, self.outcome.now_ps),
                "bytes": link["n_bytes"],
                "packets": link["packets"],
                "max_q_bytes": link["max_queue"],
                "mean_q_bytes": link["sum_queue"] / packets,
                "mark_frac": link["marks"] / packets,
                "drops": link["drops"],
                "from_switch": net.is_host[net.src] == 0,
            }
        )

    def explain(self, job: int = 0) -> Explanation:
        """Where a job's time went. ValueError where it has not done an iteration, or is none."""
        if not 0 <= job < len(self._specs):
            raise ValueError(f"there are jobs 0 to {len(self._specs) - 1}, got job={job}")
        rows = self.jobs[(self.jobs["job"] == job) & self.jobs["done"]]
        if rows.empty:
            raise ValueError(
                f"job {job} has done no iteration by {self.outcome.now_ps * 1e-12:g} s of scheme "
                f"{self.scheme.name!r}: nothing to explain yet"
            )
        i = next(i for i, p in enumerate(self._placed) if p.number == job)
        ptr = self.plan.jobs.worker_ptr
        mine = slice(int(ptr[i]), int(ptr[i + 1]))
        worker = {name: values[mine] for name, values in self.outcome.worker.items()}
        table = self.links.iloc[self._links_of(i)]
        worst = table.iloc[int(table["mean_q_bytes"].to_numpy().argmax())]
        spec = self._specs[job]
        comm_s = float(rows["comm_s"].sum())
        slowest = int(self.cluster.host_ps_per_byte.max())
        nodes = self.plan.trees.tree_job[self.plan.trees.node_tree] == i
        sums = max(1, int(self.outcome.node["sums"][nodes].sum()))
        conns = self.plan.messages.conn_job == i
        blocked = float(worker["window_ps"].mean()) * 1e-12
        return Explanation(
            job=job,
            scheme=self.scheme.name,
            iterations=len(rows),
            iteration_s=float(rows["jct_s"].mean()),
            compute_s=float(rows["compute_s"].mean()),
            comm_s=float(rows["comm_s"].mean()),
            bound_s=exchange_seconds(spec, self.scheme, self.plan.wire, slowest),
            worst_link=(worst["u"], worst["v"]),
            worst_util=float(worst["util"]),
            worst_queue_bytes=float(worst["mean_q_bytes"]),
            worst_mark_frac=float(worst["mark_frac"]),
            window_limited=min(1.0, blocked / comm_s) if comm_s else 0.0,
            marked=float(worker["marked"].sum()) / max(1, int(worker["results"].sum())),
            skew_s=float(self.outcome.node["skew_ps"][nodes].sum()) / sums * 1e-12,
            resent=int(worker["resent"].sum() + self.outcome.conn_resent[conns].sum()),
        )

    def _links_of(self, i: int) -> Int64:
        """Links that job i of the plan sends over, both ways."""
        trees, messages = self.plan.trees, self.plan.messages
        node = trees.tree_job[trees.node_tree] == i
        join = np.repeat(trees.tree_job, self._workers_of_tree()) == i
        conn = messages.conn_job == i
        used = np.concatenate(
            [
                trees.up[np.repeat(node, np.diff(trees.up_ptr))],
                trees.join[np.repeat(join, np.diff(trees.join_ptr))],
                messages.conn_path[np.repeat(conn, np.diff(messages.conn_path_ptr))],
            ]
        )
        return np.unique(np.concatenate([used, self.plan.network.back[used]])).astype(np.int64)

    def _workers_of_tree(self) -> Int64:
        return np.diff(self.plan.jobs.worker_ptr)[self.plan.trees.tree_job]

    def _names(self, nodes: Any) -> list[Any]:
        return [self.cluster.nodes[node] for node in nodes]


def _seconds(ps: Int64) -> Any:
    """Seconds, NaN for -1."""
    return np.where(ps >= 0, ps * 1e-12, np.nan)
