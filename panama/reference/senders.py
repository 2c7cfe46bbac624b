"""Senders: a window, a timer, and a turn in the line of a network card (RULES.md, 3 and 4)."""

from collections import deque
from collections.abc import Callable

import attrs

from panama.plan import Wire
from panama.reference.event_loop import Clock, Link, Packet

ONE = 1 << 20  # a packet of window
_NEVER = 1 << 62
MOST_RETRIES = 24


@attrs.frozen
class Law:
    """How a window answers marks; windows in packets."""

    name: str = "dctcp"
    least: int = 1
    most: int = 1
    fixed: int = 0
    weight: int = 256


class Card:
    """A host's network card: senders take turns, and few packets wait in it."""

    def __init__(self, clock: Clock, link: Link, most_packets: int) -> None:
        self.clock, self.link, self.most_packets = clock, link, most_packets
        self.line: deque[Sender] = deque()
        self.will_wake = False

    def offer(self, sender: "Sender") -> None:
        if sender in self.line or not sender.is_ready():
            return
        self.line.append(sender)
        if not self.will_wake:
            self.serve()

    def serve(self) -> None:
        while self.line:
            sender = self.line[0]
            if not sender.is_ready():
                self.line.popleft()
                continue
            packet_ps = sender.size_of(sender.turn()) * self.link.ppb
            left = self.link.lane.left_ps()
            if left > (self.most_packets - 1) * packet_ps:
                self.will_wake = True
                wait = left - min(2, self.most_packets - 1) * packet_ps
                self.clock.later(self.clock.now + wait, self._wake)
                return
            self.line.popleft()
            sender.send()
            if sender.is_ready():
                self.line.append(sender)

    def _wake(self) -> None:
        self.will_wake = False
        self.serve()


class Sender:
    """Packets 0, 1, ... of which `limit` may be sent so far.

    make: the packet of a number;  size_of: its bytes on the wire
    stall: called when a window that aggregates has timed out too often; None for DCTCP
    """

    def __init__(
        self,
        clock: Clock,
        card: Card,
        wire: Wire,
        law: Law,
        make: Callable[[int], Packet],
        size_of: Callable[[int], int],
        stall: Callable[[], None] | None = None,
    ) -> None:
        self.clock, self.card, self.wire, self.law = clock, card, wire, law
        self.make, self.size_of, self.stall = make, size_of, stall
        first = max(law.least, min(wire.first_window, law.most))
        self.cwnd = ONE * (min(law.fixed, law.most) if law.name == "fixed" else first)
        self.ssthresh, self.alpha = _NEVER, ONE
        self.una = self.next = self.limit = self.wend = self.recover = 0
        self.acked = self.marked = self.dup = self.retries = self.deadline = 0
        self.frozen = self.want_resend = self.has_timer = False
        self.sent = self.resent = 0

    def is_ready(self) -> bool:
        fits = self.next < self.limit and self.next < self.una + (self.cwnd >> 20)
        return self.want_resend or fits

    def turn(self) -> int:
        """The packet it would send."""
        return self.una if self.want_resend else self.next

    def offer(self) -> None:
        self.card.offer(self)

    def send(self) -> None:
        number, repeats = self.turn(), self.want_resend
        self.want_resend = False
        if repeats:
            self.resent += 1
        else:
            if self.una == self.next:
                self.deadline = self.clock.now + self.wire.rto_ps
            self.next += 1
            self.sent += 1
        self.card.link.join(self.make(number))
        if not repeats and not self.has_timer:
            self.has_timer = True
            self.clock.later(self.deadline, self._timer)

    def _timer(self) -> None:
        if self.una == self.next:
            self.has_timer = False
            return
        if self.clock.now < self.deadline:
            self.clock.later(self.deadline, self._timer)
            return
        self.retries += 1
        self.recover, self.want_resend, self.frozen, self.dup = self.next, True, False, 0
        if self.stall is None:
            self.ssthresh, self.cwnd = max(2 * ONE, self.cwnd // 2), ONE
        elif self.retries == MOST_RETRIES:
            self.stall()
        self.deadline = self.clock.now + (self.wire.rto_ps << min(self.retries, 6))
        self.clock.later(self.deadline, self._timer)
        self.offer()

    def acknowledge(self, n: int, mark: int, una: int) -> None:
        """n more packets have been answered, and una is now the lowest that has not."""
        moved = una > self.una
        self.una = una
        if self.law.name != "fixed":
            self._adapt(n, mark, moved)
        if moved:
            self.retries, self.deadline = 0, self.clock.now + self.wire.rto_ps
            if una >= self.recover:
                self.frozen = False

    def _adapt(self, n: int, mark: int, moved: bool) -> None:
        self.acked += n
        if mark:
            self.marked += n
            self.ssthresh = min(self.ssthresh, self.cwnd)
        if not self.frozen:
            grows_slowly = self.cwnd >= self.ssthresh
            self.cwnd += n * ((self.law.weight << 32) // self.cwnd) if grows_slowly else n * ONE
        if moved and self.una >= self.wend:
            if self.law.name == "dctcp":
                share, gain = self.marked * ONE // self.acked, self.wire.gain_shift
                self.alpha += (share >> gain) - (self.alpha >> gain)
            if self.marked:
                cut = (self.cwnd * self.alpha >> 21) * 256 // self.law.weight
                least = self.law.least * ONE
                self.cwnd = max(least, self.cwnd - min(cut, self.cwnd // 2))
                self.ssthresh = self.cwnd
            self.acked = self.marked = 0
            self.wend = self.next
        self.cwnd = min(self.cwnd, self.law.most * ONE)
