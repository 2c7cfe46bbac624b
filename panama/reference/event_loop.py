"""Events in order, and links as queues that serve one packet after the other.

Where the native core computes when a packet will arrive as it joins a link, a packet here waits in
a queue, is sent when its turn comes, and arrives later: two events for each hop. RULES.md says what
both must come to.
"""

import copy
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from panama.plan import Plan

_WORD = 2**64 - 1
_COUNTS = ("n_bytes", "packets", "max_queue", "wait_ps", "marks", "drops")


class Clock:
    """Events by time, and by the order in which they were made where times are equal."""

    def __init__(self, first_seq: int) -> None:
        self.now = 0
        self._next_seq = first_seq
        self._heap: list[tuple[int, int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._pushed = 0

    def take_seq(self) -> int:
        self._next_seq += 1
        return self._next_seq - 1

    def at(self, time: int, seq: int, act: Callable[..., None], *args: Any) -> None:
        """Do act(*args) at that time. seq -1 comes before all else: the inner life of a link."""
        self._pushed += 1
        heapq.heappush(self._heap, (time, seq, self._pushed, act, args))

    def later(self, time: int, act: Callable[..., None], *args: Any) -> None:
        self.at(time, self.take_seq(), act, *args)

    def steps(self, until: int) -> Iterator[None]:
        """Do one event after the other, up to and including that time."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, _, act, args = heapq.heappop(self._heap)
            act(*args)
            yield


@attrs.define(eq=False)
class Packet:
    """On its way over `route`; at the end `receive(packet)` is called.

    number, child, workers, data: what the receiver needs of them
    """

    size: int
    route: "list[Link]"
    receive: "Callable[[Packet], None]"
    number: int = -1
    mark: int = 0
    is_ack: bool = False
    hop: int = 0
    index: int = -1
    child: int = -1
    workers: int = 0
    data: Any = None
    lost: Callable[[], None] | None = None


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _WORD
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _WORD
    return x ^ x >> 31


class Lane:
    """Serves what waits in it, in order; the length of an item is its time on the wire."""

    def __init__(self, clock: Clock, ppb: int) -> None:
        self.clock, self.ppb = clock, ppb
        self.waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self.waiting_bytes = 0
        self.free_at = 0  # when the item being served is out
        self.serves = False

    def put(self, size: int, sent: Callable[[], None]) -> None:
        self.waiting.append((size, sent))
        self.waiting_bytes += size
        if not self.serves:
            self._serve()

    def left_ps(self) -> int:
        """Time until all that is here is out."""
        current = self.free_at - self.clock.now if self.serves else 0
        return current + self.waiting_bytes * self.ppb

    def _serve(self) -> None:
        size, sent = self.waiting.popleft()
        self.waiting_bytes -= size
        self.serves = True
        self.free_at = self.clock.now + size * self.ppb
        self.clock.at(self.free_at, -1, self._out, sent)

    def _out(self, sent: Callable[[], None]) -> None:
        self.serves = False
        sent()
        if self.waiting:
            self._serve()


class Link:
    """A directed link: its queue, the lane of a host's ACKs, and the line of a host's senders."""

    def __init__(self, clock: Clock, plan: Plan, number: int) -> None:
        net, wire = plan.network, plan.wire
        self.clock, self.number = clock, number
        self.ppb, self.prop = int(net.ps_per_byte[number]), int(net.prop_ps[number])
        self.mark_at, self.cap = int(net.mark_bytes[number]), int(net.cap_bytes[number])
        self.from_host = bool(net.is_host[net.src[number]])
        self.lane, self.ack_lane = Lane(clock, self.ppb), Lane(clock, self.ppb)
        self.seed, self.offered = wire.seed & _WORD, 0
        self.lose_below = int(wire.drop * 2**32)
        self.double_below = int(wire.duplicate * 2**32)
        self.found = dict.fromkeys(_COUNTS, 0)

    def join(self, packet: Packet) -> None:
        if packet.is_ack and self.from_host:
            self._send(packet, self.ack_lane)
            self.lane.put(packet.size, lambda: None)  # holds up only what joins later
            return
        doubled = False
        if not self.from_host and (self.lose_below or self.double_below):
            h = mix(mix(mix(self.seed) ^ self.number) ^ self.offered)
            self.offered += 1
            if h % 2**32 < self.lose_below:
                self._gone(packet)
                return
            doubled = h >> 32 < self.double_below
        twin = copy.copy(packet)
        self._queue(packet)
        if doubled:
            self._queue(twin)

    def _queue(self, packet: Packet) -> None:
        ahead = self.lane.left_ps() // self.ppb
        if 0 <= self.cap < ahead + packet.size:
            self._gone(packet)
            return
        if 0 <= self.mark_at <= ahead and not packet.is_ack:
            packet.mark = 1
            self.found["marks"] += 1
        self._send(packet, self.lane)

    def _send(self, packet: Packet, lane: Lane) -> None:
        # What a packet finds ahead of it in its own lane.
        wait_ps = lane.left_ps()
        self.found["max_queue"] = max(self.found["max_queue"], wait_ps // self.ppb)
        self.found["wait_ps"] += wait_ps
        self.found["packets"] += 1
        self.found["n_bytes"] += packet.size
        seq = self.clock.take_seq()

        def sent() -> None:
            self.clock.at(self.clock.now + self.prop, seq, self._arrive, packet)

        lane.put(packet.size, sent)

    def _arrive(self, packet: Packet) -> None:
        packet.hop += 1
        if packet.hop == len(packet.route):
            packet.receive(packet)
        else:
            packet.route[packet.hop].join(packet)

    def _gone(self, packet: Packet) -> None:
        self.found["drops"] += 1
        if packet.lost is not None:
            packet.lost()
