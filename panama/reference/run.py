"""Run a plan by the rules of RULES.md: jobs, flows, and what was found (RULES.md, 1 and 7)."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from panama.plan import Plan
from panama.reference.aggregation import TreeJob, Window
from panama.reference.dctcp import Stream
from panama.reference.event_loop import Clock, Link, Packet
from panama.reference.senders import Card


@attrs.frozen(eq=False)
class Found:
    """What a run found; names as in plan.Outcome.

    results: {(job, worker, packet): the numbers that came back}, of jobs that were given numbers
    """

    reason: str
    now_ps: int
    flow_end_ps: list[int]
    flow_resent: list[int]
    conn_resent: list[int]
    begin_ps: list[int]
    comm_ps: list[int]
    sum_ps: list[int]
    end_ps: list[int]
    link: dict[str, list[int]]
    worker: dict[str, list[int]]
    node: dict[str, list[int]]
    results: dict[tuple[int, int, int], Any]


class Collective:
    """Messages of one job that aggregates on hosts."""

    def __init__(self, run: "Run", j: int, ended: Callable[[], None]) -> None:
        self.run, self.ended = run, ended
        plan, m = run.plan, run.plan.messages
        self.connections = np.flatnonzero(m.conn_job == j).tolist()
        self.streams = {}
        for c in self.connections:
            way = m.conn_path[m.conn_path_ptr[c] : m.conn_path_ptr[c + 1]].tolist()
            self.streams[c] = run.stream(way, int(m.conn_max_window[c]), self._took(c), False)
        self.messages = {c: np.flatnonzero(m.conn == c).tolist() for c in self.connections}
        self.all = [k for c in self.connections for k in self.messages[c]]
        self.following = {k: m.next[m.next_ptr[k] : m.next_ptr[k + 1]].tolist() for k in self.all}
        self.n_bytes = {k: int(m.n_bytes[k]) for k in self.all}
        self.bucket = {k: int(m.bucket[k]) for k in self.all}
        self.conn_of = {k: int(m.conn[k]) for k in self.all}
        self.sent_ends: dict[int, list[tuple[int, int]]] = {c: [] for c in self.connections}
        self.plan = plan

    def begin(self) -> None:
        self.released: set[int] = {-1}
        self.missing = len(self.all)
        self.waits = dict.fromkeys(self.all, 0)
        for k in self.all:
            for after in self.following[k]:
                self.waits[after] += 1
        self.left = {c: list(self.messages[c]) for c in self.connections}
        for c in self.connections:
            self.advance(c)

    def release(self, bucket: int) -> None:
        self.released.add(bucket)
        for c in self.connections:
            self.advance(c)

    def advance(self, c: int) -> None:
        stream, grew = self.streams[c], False
        while self.left[c]:
            k = self.left[c][0]
            if self.bucket[k] not in self.released or self.waits[k]:
                break
            self.left[c].pop(0)
            stream.give(self.n_bytes[k])
            self.sent_ends[c].append((stream.sender.limit, k))
            grew = True
        if grew:
            stream.sender.offer()

    def _took(self, c: int) -> Callable[[int], None]:
        def took(expected: int) -> None:
            while self.sent_ends[c] and self.sent_ends[c][0][0] <= expected:
                _, k = self.sent_ends[c].pop(0)
                for after in self.following[k]:
                    self.waits[after] -= 1
                    if not self.waits[after]:
                        self.advance(self.conn_of[after])
                self.missing -= 1
                if not self.missing:
                    self.ended()

        return took


class Run:
    """The whole of a plan, under way."""

    def __init__(self, plan: Plan, data: Mapping[int, Any]) -> None:
        self.plan = plan
        self.n_flows, self.n_jobs = len(plan.flows.start_ps), len(plan.jobs.start_ps)
        self.clock = Clock(self.n_flows + self.n_jobs)
        self.links = [Link(self.clock, plan, k) for k in range(len(plan.network.src))]
        self.cards = {
            link.number: Card(self.clock, link, plan.wire.nic_packets)
            for link in self.links
            if link.from_host
        }
        self.waiting = set(range(self.n_flows + self.n_jobs))
        self.is_stalled = False
        self.flow_end = [-1] * self.n_flows
        self.streams: dict[int, Stream] = {}
        self.parts: list[TreeJob | Collective] = []
        self.times: list[dict[str, list[int]]] = []
        for i in range(self.n_flows):
            self.clock.at(int(plan.flows.start_ps[i]), i, self._start_flow, i)
            if not plan.flows.raw[i]:
                self.streams[i] = self.stream(
                    self._path(i), int(plan.flows.max_window[i]), self._flow_took(i), True
                )
                self.streams[i].give(int(plan.flows.n_bytes[i]))
                self.streams[i].sender.limit = 0
        for j in range(self.n_jobs):
            self._add_job(j, data.get(j))

    def stream(
        self, way: list[int], most_window: int, took: Callable[[int], None], is_flow: bool
    ) -> Stream:
        there = [self.links[k] for k in way]
        back = [self.links[self.plan.network.back[k]] for k in reversed(way)]
        card = self.cards[way[0]]
        return Stream(self.clock, card, self.plan.wire, most_window, (there, back), took, is_flow)

    def _path(self, i: int) -> list[int]:
        flows = self.plan.flows
        way: list[int] = flows.path[flows.path_ptr[i] : flows.path_ptr[i + 1]].tolist()
        return way

    def _start_flow(self, i: int) -> None:
        if self.plan.flows.raw[i]:
            route = [self.links[k] for k in self._path(i)]
            size = int(self.plan.flows.n_bytes[i])
            lost = lambda: self.waiting.discard(i)  # noqa: E731 - one word for one act
            route[0].join(Packet(size, route, lambda _: self._end_flow(i), i, lost=lost))
            return
        stream = self.streams[i]
        stream.sender.limit = len(stream.bytes_of)
        stream.sender.offer()

    def _flow_took(self, i: int) -> Callable[[int], None]:
        def took(expected: int) -> None:
            if expected == len(self.streams[i].bytes_of):
                self._end_flow(i)

        return took

    def _end_flow(self, i: int) -> None:
        if self.flow_end[i] < 0:
            self.flow_end[i] = self.clock.now
        self.waiting.discard(i)

    def _add_job(self, j: int, data: Any) -> None:
        ended: Callable[[], None] = lambda: self._all_there(j)  # noqa: E731
        if self.plan.jobs.aggregates[j]:
            self.parts.append(
                TreeJob(self.clock, self.plan, j, self.links, self.cards, data, ended, self._stall)
            )
        else:
            self.parts.append(Collective(self, j, ended))
        n = int(self.plan.jobs.iterations[j])
        names = ("begin_ps", "comm_ps", "sum_ps", "end_ps")
        self.times.append({name: [-1] * n for name in names})
        self.iteration = [0] * self.n_jobs
        self.clock.at(int(self.plan.jobs.start_ps[j]), self.n_flows + j, self._begin, j)

    def _stall(self) -> None:
        self.is_stalled = True

    def _note(self, j: int, name: str) -> None:
        values = self.times[j][name]
        if values[self.iteration[j]] < 0:
            values[self.iteration[j]] = self.clock.now

    def _begin(self, j: int) -> None:
        jobs, part = self.plan.jobs, self.parts[j]
        self._note(j, "begin_ps")
        for b, at in enumerate(range(jobs.bucket_ptr[j], jobs.bucket_ptr[j + 1])):
            self.clock.later(self.clock.now + int(jobs.bucket_ps[at]), self._release, j, b)
        if isinstance(part, Collective):
            part.begin()

    def _release(self, j: int, bucket: int) -> None:
        self._note(j, "comm_ps")
        jobs, part = self.plan.jobs, self.parts[j]
        if isinstance(part, Collective):
            part.release(bucket)
        else:
            part.release(int(jobs.bucket_bytes[jobs.bucket_ptr[j] + bucket]))

    def _all_there(self, j: int) -> None:
        self._note(j, "sum_ps")
        begin = self.times[j]["begin_ps"][self.iteration[j]]
        at = max(self.clock.now, begin + int(self.plan.jobs.compute_ps[j]))
        self.clock.later(at, self._end, j)

    def _end(self, j: int) -> None:
        self._note(j, "end_ps")
        self.iteration[j] += 1
        if self.iteration[j] < self.plan.jobs.iterations[j]:
            self._begin(j)
        else:
            self.waiting.discard(self.n_flows + j)

    def run(self, until_ps: int) -> Found:
        reason = "done" if not self.waiting else ""
        if not reason:
            for _ in self.clock.steps(until_ps):
                if not self.waiting or self.is_stalled:
                    reason = "stalled" if self.is_stalled else "done"
                    break
        if not reason:
            reason = "horizon" if self.clock._heap else "stalled"
        now = until_ps if reason == "horizon" else self.clock.now
        windows: list[list[Window]] = []
        for j, part in enumerate(self.parts):
            n_workers = int(np.diff(self.plan.jobs.worker_ptr)[j])
            windows += part.windows if isinstance(part, TreeJob) else [[]] * n_workers
        nodes = {
            k: node
            for part in self.parts
            if isinstance(part, TreeJob)
            for k, node in part.nodes.items()
        }

        def per_worker(value: Callable[[Window], int]) -> list[int]:
            return [sum(value(window) for window in of_worker) for of_worker in windows]

        return Found(
            reason=reason,
            now_ps=now,
            flow_end_ps=self.flow_end,
            flow_resent=[
                self.streams[i].sender.resent if i in self.streams else 0
                for i in range(self.n_flows)
            ],
            conn_resent=[
                part.streams[c].sender.resent
                for part in self.parts
                if isinstance(part, Collective)
                for c in part.connections
            ],
            **{
                name: [t for times in self.times for t in times[name]]
                for name in ("begin_ps", "comm_ps", "sum_ps", "end_ps")
            },
            link={
                name: [link.found[name] for link in self.links]
                for name in ("n_bytes", "packets", "max_queue", "marks", "drops")
            }
            | {"sum_queue": [link.found["wait_ps"] // link.ppb for link in self.links]},
            worker={
                "sent": per_worker(lambda w: w.sender.sent),
                "resent": per_worker(lambda w: w.sender.resent),
                "marked": per_worker(lambda w: w.marked),
                "results": per_worker(lambda w: w.results),
            },
            node={
                name: [nodes[k].found[name] for k in sorted(nodes)]
                for name in ("sums", "duplicates", "out_of_window", "stale", "repairs", "max_open",
                             "skew_ps")
            },
            results={
                (j, worker, number): values
                for j, part in enumerate(self.parts)
                if isinstance(part, TreeJob)
                for (worker, number), values in part.results.items()
            },
        )  # fmt: skip


def run(plan: Plan, *, until_ps: int = 2**62, data: Mapping[int, Any] | None = None) -> Found:
    """Run a plan of few hosts to its end or the horizon.

    data: {job: numbers of its packets, [worker][packet] an array (n,)}; a job that is not named
          sends packets without content
    """
    return Run(plan, data or {}).run(until_ps)
