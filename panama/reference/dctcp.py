"""DCTCP: one way data, the other way ACKs (RULES.md, 5)."""

from collections.abc import Callable

from panama.plan import Wire
from panama.reference.event_loop import Clock, Link, Packet
from panama.reference.senders import ONE, Card, Law, Sender


class Stream:
    """A flow or a connection: a sender here, a receiver there.

    took: called after a packet has come and its ACK has left, with the lowest number missing
    """

    def __init__(
        self,
        clock: Clock,
        card: Card,
        wire: Wire,
        most_window: int,
        routes: tuple[list[Link], list[Link]],
        took: Callable[[int], None],
        is_flow: bool,
    ) -> None:
        self.wire, self.took, self.is_flow = wire, took, is_flow
        self.there, self.back = routes
        self.bytes_of: list[int] = []  # payload of each packet
        self.expected = 0
        self.above: set[int] = set()
        self.sender = Sender(clock, card, wire, Law(most=most_window), self._make, self._size_of)

    def give(self, n_bytes: int) -> None:
        """So much more to send, cut in packets of its own."""
        full, last = divmod(n_bytes, self.wire.payload)
        self.bytes_of += [self.wire.payload] * full + ([last] if last else [])
        self.sender.limit = len(self.bytes_of)

    def _size_of(self, number: int) -> int:
        return self.bytes_of[number] + self.wire.header

    def _make(self, number: int) -> Packet:
        return Packet(self._size_of(number), self.there, self._receive, number)

    def _is_over(self) -> bool:
        return self.is_flow and self.sender.una == len(self.bytes_of)

    def _receive(self, packet: Packet) -> None:
        if self._is_over():
            return
        if packet.number >= self.expected:
            self.above.add(packet.number)
        while self.expected in self.above:
            self.above.remove(self.expected)
            self.expected += 1
        ack = Packet(
            self.wire.ack, self.back, self._answer, self.expected, packet.mark, is_ack=True
        )
        self.back[0].join(ack)
        self.took(self.expected)

    def _answer(self, ack: Packet) -> None:
        s = self.sender
        if self._is_over():
            return
        if ack.number > s.una:
            s.acknowledge(ack.number - s.una, ack.mark, ack.number)
            s.dup = 0
            s.want_resend = s.una < s.recover
        elif ack.number == s.una < s.next:
            s.dup += 1
            if s.dup == 3 and s.una >= s.recover:
                s.recover, s.frozen, s.want_resend = s.next, True, True
                s.cwnd = s.ssthresh = max(ONE, s.cwnd // 2)
        s.offer()
