"""Aggregation trees: what switches and workers do with packets of sums (RULES.md, 6).

Packets may carry real numbers, which the switches add as the datapath would.
"""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from panama.plan import ECN_MODES, LAWS, Plan
from panama.reference.event_loop import Clock, Link, Packet
from panama.reference.senders import Card, Law, Sender
from panama.wire import tree_add_reference

_COUNTS = (
    "sums",
    "duplicates",
    "out_of_window",
    "stale",
    "repairs",
    "max_open",
    "skew_ps",
    "wrong",
)


def _toward_zero(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


@attrs.define
class Entry:
    """What a switch knows of one number of its tree."""

    number: int = -1
    state: str = "open"
    marks: dict[int, int] = attrs.Factory(dict)
    data: dict[int, Any] = attrs.Factory(dict)
    total: Any = None
    mark: int = 0
    first_ps: int = 0


class Node:
    """A switch in one tree. Children are nodes or windows of workers, by their place."""

    def __init__(self, clock: Clock, fan_in: int, slots: int, mode: str) -> None:
        self.clock, self.slots, self.mode = clock, slots, mode
        self.down: list[Callable[[int, int, int, int, Any], None]] = [_nowhere] * fan_in
        self.workers_below = [0] * fan_in
        self.up_route: list[Link] = []
        self.parent: Node | None = None
        self.place = 0
        self.summed: Callable[[int, int], None] = _ignore  # of the root: (index, mark)
        self.base = 0
        self.entries = [Entry() for _ in range(2 * slots)]
        self.often_marked = [0] * fan_in
        self.n_open = 0
        self.found = dict.fromkeys(_COUNTS, 0)

    def _entry(self, index: int) -> Entry:
        return self.entries[index % (2 * self.slots)]

    def on_up(self, packet: Packet) -> None:
        i, child = packet.index, packet.child
        entry = self._entry(i)
        if i >= self.base + self.slots:
            self.found["out_of_window"] += 1
            return
        if entry.number > i:
            self.found["stale"] += 1
            return
        if entry.number != i:
            entry = self.entries[i % (2 * self.slots)] = Entry(i)
        if entry.state == "done":
            self.found["repairs"] += 1
            self._send_up(entry, packet)
        elif entry.state == "result":
            self.found["repairs"] += 1
            self.down[child](packet.number, i, entry.mark, packet.size, entry.total)
        elif child in entry.marks:
            self.found["duplicates"] += 1
        elif packet.workers != self.workers_below[child]:
            self.found["wrong"] += 1
        else:
            self._take(entry, packet)

    def _take(self, entry: Entry, packet: Packet) -> None:
        child = packet.child
        if not entry.marks:
            entry.first_ps = self.clock.now
            self.n_open += 1
            self.found["max_open"] = max(self.found["max_open"], self.n_open)
        entry.marks[child] = packet.mark
        entry.data[child] = packet.data
        often = self.often_marked
        often[child] += _toward_zero((packet.mark << 16) - often[child], 50)
        if len(entry.marks) < len(self.down):
            return
        worst = max(range(len(often)), key=lambda c: (often[c], -c))
        entry.mark = int(any(entry.marks.values())) if self.mode == "or" else entry.marks[worst]
        if packet.data is not None:
            entry.total = tree_add_reference([entry.data[c] for c in range(len(self.down))])
        self.found["sums"] += 1
        self.found["skew_ps"] += self.clock.now - entry.first_ps
        self.n_open -= 1
        entry.state = "done" if self.parent else "result"
        while (at := self._entry(self.base)).number == self.base and at.state != "open":
            self.base += 1
        if self.parent:
            self._send_up(entry, packet)
        else:
            self.summed(packet.index, entry.mark)
            self._send_down(entry, packet)

    def _send_up(self, entry: Entry, came: Packet) -> None:
        assert self.parent is not None
        self.up_route[0].join(
            Packet(
                came.size, self.up_route, self.parent.on_up, came.number, entry.mark,
                index=came.index, child=self.place, workers=sum(self.workers_below),
                data=entry.total,
            )
        )  # fmt: skip

    def _send_down(self, entry: Entry, came: Packet) -> None:
        for down in self.down:
            down(came.number, came.index, entry.mark, came.size, entry.total)

    def on_down(self, packet: Packet) -> None:
        entry = self._entry(packet.index)
        if entry.number != packet.index or entry.state != "done":
            self.found["stale"] += 1
            return
        entry.state, entry.mark, entry.total = "result", packet.mark, packet.data
        self._send_down(entry, packet)


def _receiver_of(node: Node) -> Callable[[], Any]:
    return lambda: node.on_down


def _nowhere(number: int, index: int, mark: int, size: int, data: Any) -> None:
    raise AssertionError("a child is missing")


def _ignore(index: int, mark: int) -> None:
    pass


class Spraying:
    """Which packet goes over which tree, as what number there."""

    def __init__(self, trees: int, adaptive: bool, most_window: int) -> None:
        self.trees, self.adaptive = trees, adaptive
        self.epoch = -(-max(most_window, 2 * trees) // 64) * 64
        self.weights: dict[tuple[int, int], int] = {}
        self.order: list[tuple[int, int]] = []  # (tree, index) of each packet
        self.ends: list[list[int]] = []  # [epoch][tree]: packets of that tree up to there
        self.often_marked = [0] * trees

    def at(self, number: int) -> tuple[int, int]:
        if not self.adaptive:
            return number % self.trees, number // self.trees
        while len(self.order) <= number:
            self._add_epoch()
        return self.order[number]

    def _add_epoch(self) -> None:
        k, count, size = len(self.ends), range(self.trees), self.epoch
        weight = [65536 if k < 2 else self.weights[k, t] for t in count]
        share = [1 + weight[t] * (size - self.trees) // sum(weight) for t in count]
        for t in range(size - sum(share)):
            share[t] += 1
        ends = list(self.ends[-1]) if self.ends else [0] * self.trees
        credit = [0] * self.trees
        for _ in range(size):
            credit = [c + n for c, n in zip(credit, share, strict=True)]
            tree = max(count, key=lambda t: (credit[t], -t))
            credit[tree] -= size
            self.order.append((tree, ends[tree]))
            ends[tree] += 1
        self.ends.append(ends)

    def summed(self, tree: int, index: int, mark: int) -> None:
        """The root of a tree has the sum of this index."""
        if not self.adaptive:
            return
        m = self.often_marked
        m[tree] += _toward_zero((mark << 16) - m[tree], 64)
        for k, ends in enumerate(self.ends):
            if ends[tree] == index + 1:
                self.weights[k + 2, tree] = max(65536 - m[tree], 1024)


class Window:
    """What one worker sends and has back, over all trees (tree None) or over one."""

    def __init__(self, job: "TreeJob", worker: int, tree: int | None, card: Card) -> None:
        self.job, self.worker, self.tree = job, worker, tree
        self.there: set[int] = set()
        self.results = self.marked = 0
        self.sender = Sender(
            job.clock, card, job.plan.wire, job.law, self._make, self._size_of, job.stall
        )

    def _number(self, x: int) -> int:
        return x if self.tree is None else x * self.job.n_trees + self.tree

    def _size_of(self, x: int) -> int:
        return self.job.size_of(self._number(x))

    def _make(self, x: int) -> Packet:
        number = self._number(x)
        tree, index = self.job.spraying.at(number)
        node, child, route = self.job.joins[tree][self.worker]
        return Packet(
            self._size_of(x), route, node.on_up, number, index=index, child=child, workers=1,
            data=self.job.data_of(self.worker, number),
        )  # fmt: skip

    def on_down(self, packet: Packet) -> None:
        x = packet.number if self.tree is None else packet.index
        s = self.sender
        if x < s.una or x in self.there:
            return
        self.there.add(x)
        self.results += 1
        self.marked += packet.mark
        self.job.take_result(self.worker, packet)
        una = s.una
        while una in self.there:
            self.there.remove(una)
            una += 1
        moved = una > s.una
        s.acknowledge(1, packet.mark, una)
        if moved:
            s.want_resend = s.una < s.recover and bool(self.there)
        self.job.look_if_all_there()
        s.offer()


class TreeJob:
    """One job over its trees; `ended` is called when an iteration has all its results.

    data: (workers, packets, n) numbers of the packets, or None
    """

    def __init__(
        self, clock: Clock, plan: Plan, j: int, links: list[Link], cards: dict[int, Card],
        data: Any, ended: Callable[[], None], stall: Callable[[], None],
    ) -> None:  # fmt: skip
        jobs = plan.jobs
        self.clock, self.plan, self.data, self.ended, self.stall = clock, plan, data, ended, stall
        self.law = Law(
            LAWS[jobs.law[j]], int(jobs.min_window[j]), int(jobs.max_window[j]),
            int(jobs.fixed_window[j]), int(jobs.weight[j]),
        )  # fmt: skip
        self.sizes: list[int] = []  # of the packets released so far
        self.results: dict[tuple[int, int], Any] = {}
        self.n_workers = int(jobs.worker_ptr[j + 1] - jobs.worker_ptr[j])
        mine = np.flatnonzero(plan.trees.tree_job == j)
        self.n_trees = len(mine)
        self.spraying = Spraying(self.n_trees, bool(jobs.adaptive[j]), self.law.most)
        self.joins: list[list[tuple[Node, int, list[Link]]]] = []
        self.nodes: dict[int, Node] = {}
        for t, tree in enumerate(mine.tolist()):
            self._build(t, tree, j, links)
        per_tree: list[int | None] = list(range(self.n_trees)) if jobs.per_tree[j] else [None]
        self.windows = [
            [Window(self, w, t, cards[self.joins[0][w][2][0].number]) for t in per_tree]
            for w in range(self.n_workers)
        ]
        self.n_all = int(sum(self._packets(b) for b in self._buckets(j)))
        self.n_iterations = 0

    def _buckets(self, j: int) -> list[int]:
        part = slice(self.plan.jobs.bucket_ptr[j], self.plan.jobs.bucket_ptr[j + 1])
        sizes: list[int] = self.plan.jobs.bucket_bytes[part].tolist()
        return sizes

    def _packets(self, n_bytes: int) -> int:
        return -(-n_bytes // self.plan.wire.sum_payload)

    def _build(self, t: int, tree: int, j: int, links: list[Link]) -> None:
        trees, jobs, back = self.plan.trees, self.plan.jobs, self.plan.network.back

        def route(values: Any, ptr: Any, at: int) -> list[Link]:
            return [links[k] for k in values[ptr[at] : ptr[at + 1]]]

        def reverse(way: list[Link]) -> list[Link]:
            return [links[back[link.number]] for link in reversed(way)]

        numbers = np.flatnonzero(trees.node_tree == tree).tolist()
        for k in numbers:
            mode = ECN_MODES[jobs.ecn_mode[j]]
            self.nodes[k] = Node(self.clock, int(trees.fan_in[k]), int(jobs.slots[j]), mode)
        for k in numbers:
            node, above = self.nodes[k], int(trees.parent[k])
            if above < 0:
                node.summed = lambda i, mark: self.spraying.summed(t, i, mark)
                continue
            node.parent, node.place = self.nodes[above], int(trees.child_of_parent[k])
            node.up_route = route(trees.up, trees.up_ptr, k)
            self._hang(node.parent, node.place, reverse(node.up_route), _receiver_of(node))
        first = int((self.plan.jobs.worker_ptr[trees.tree_job[:tree] + 1]
                     - self.plan.jobs.worker_ptr[trees.tree_job[:tree]]).sum())  # fmt: skip
        of_tree = []
        for w in range(self.n_workers):
            at = first + w
            node, child = self.nodes[int(trees.join_node[at])], int(trees.join_child[at])
            way = route(trees.join, trees.join_ptr, at)
            of_tree.append((node, child, way))
            self._hang(node, child, reverse(way), self._receiver(w, t))
            up: Node | None = node
            place = child
            while up is not None:
                up.workers_below[place] += 1
                place, up = up.place, up.parent
        self.joins.append(of_tree)

    def _receiver(self, worker: int, tree: int) -> Callable[[], Any]:
        """Gives what takes results there: windows are made after the trees."""

        def receiver() -> Callable[[Packet], None]:
            of_worker = self.windows[worker]
            return of_worker[tree if len(of_worker) > 1 else 0].on_down

        return receiver

    def _hang(self, node: Node, child: int, way: list[Link], receive: Callable[[], Any]) -> None:
        """Results of the node go that way to the child at this place."""

        def down(number: int, index: int, mark: int, size: int, data: Any) -> None:
            way[0].join(Packet(size, way, receive(), number, mark, index=index, data=data))

        node.down[child] = down

    def size_of(self, number: int) -> int:
        return self.sizes[number]

    def data_of(self, worker: int, number: int) -> Any:
        return None if self.data is None else self.data[worker][number]

    def release(self, n_bytes: int) -> None:
        wire = self.plan.wire
        full, last = divmod(n_bytes, wire.sum_payload)
        payloads = [wire.sum_payload] * full + ([last] if last else [])
        self.sizes += [payload + wire.sum_header for payload in payloads]
        for window in (w for of_worker in self.windows for w in of_worker):
            released = len(self.sizes)
            if window.tree is not None:
                released = len(range(window.tree, released, self.n_trees))
            window.sender.limit = released
        for window in (w for of_worker in self.windows for w in of_worker):
            window.sender.offer()

    def take_result(self, worker: int, packet: Packet) -> None:
        assert (worker, packet.number) not in self.results, "a result was taken twice"
        self.results[worker, packet.number] = packet.data

    def look_if_all_there(self) -> None:
        if len(self.results) == self.n_workers * self.n_all * (self.n_iterations + 1):
            self.n_iterations += 1
            self.ended()
