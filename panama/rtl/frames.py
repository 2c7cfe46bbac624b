"""Frames as the accelerator reads and writes them, byte by byte; its tables; what it counts."""

from __future__ import annotations

import struct
from enum import IntEnum

import attrs

BEAT_BYTES = 64
UDP_PORT = 20558
VERSION = 1
TTL = 64
UP, DOWN, RETX = 1, 2, 4
CE = 3  # the ECN codepoint of a packet that met congestion


class Fate(IntEnum):
    """What became of a frame: the order of the counters of a port."""

    ACCEPTED = 0
    BYPASSED = 1
    BYPASS_FULL = 2
    HEADER = 3
    UNKNOWN_JOB = 4
    NOT_MEMBER = 5
    CONTRIBUTORS = 6
    LENGTH = 7
    AHEAD = 8
    DUPLICATE = 9
    CUT = 10
    OVERLONG = 11
    REPAIR = 12
    REPAIR_FULL = 13
    RELAYED = 14
    RELAY_FULL = 15


class Total(IntEnum):
    """The order of the counters of the whole."""

    SUMS = 0
    SUMS_AGAIN = 1
    DISCARDED = 2
    SENT_DOWN = 3
    REPAIR_MISSED = 4
    SUM_GONE = 5
    RESULT_GONE = 6
    STALLED = 7


@attrs.frozen
class Packet:
    """A packet of aggregation; the header fields of section 3.7 and those around them."""

    job: int
    psn: int
    nelem: int
    flags: int = UP
    tree: int = 0
    fmt: int = 0
    child: int = 0
    msg: int = 0
    contributors: int = 1
    pad: int = 0
    tos: int = 0
    mac_to: int = 0x0200000000FE
    mac_from: int = 0x020000000001
    ip_to: int = 0x0A0000FE
    ip_from: int = 0x0A000001
    version: int = VERSION
    udp_port: int = UDP_PORT

    def header(self, payload_bytes: int) -> bytes:
        """The first 64 bytes of the frame, checksum included."""
        ip = struct.pack(
            ">BBHHHBBHII", 0x45, self.tos, 50 + payload_bytes, 0, 0, TTL, 17, 0,
            self.ip_from, self.ip_to,
        )  # fmt: skip
        ip = ip[:10] + struct.pack(">H", ipv4_checksum(ip)) + ip[12:]
        udp = struct.pack(">HHHH", UDP_PORT, self.udp_port, 30 + payload_bytes, 0)
        ours = struct.pack(
            ">BBHBBIHHIHH", self.version, self.flags, self.job, self.tree, self.fmt, self.psn,
            self.child, self.nelem, self.msg, self.contributors, self.pad,
        )  # fmt: skip
        ethernet = self.mac_to.to_bytes(6, "big") + self.mac_from.to_bytes(6, "big") + b"\x08\x00"
        return ethernet + ip + udp + ours

    def frame(self, payload: bytes) -> bytes:
        """Header and payload, which must be whole beats of 64 bytes."""
        if not payload or len(payload) % BEAT_BYTES:
            raise ValueError(f"payload must be whole beats of 64 bytes, got {len(payload)} bytes")
        return self.header(len(payload)) + payload


def ipv4_checksum(header: bytes) -> int:
    """Of a header whose checksum field is zero."""
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@attrs.frozen
class JobEntry:
    """One entry of the tables: a (job, tree) and what this switch is to it.

    members: ports of its children; workers: how many workers lie below each of them
    parent:  port of the next switch up; None at the root
    """

    job: int
    tree: int
    members: tuple[int, ...]
    workers: tuple[int, ...]
    parent: int | None = None
    worst: bool = False
    log_trees: int = 0
    ect: int = 2
    child: int = 0
    mac_from: int = 0x0200000000AA
    mac_up: int = 0x0200000000BB
    mac_down: int = 0x01005E0000CC
    ip_from: int = 0x0A0000AA
    ip_up: int = 0x0A0000BB
    ip_down: int = 0xEF0000CC

    def words(self) -> dict[int, int]:
        """Word number -> value, as tables.v lists them; word 0, which switches on, comes last."""
        bits = sum(1 << port for port in self.members)
        low = 0xFFFFFFFF
        words = {
            1: self.job << 16 | self.tree,
            2: bits & low, 3: bits >> 32,
            4: self.mac_from & low, 5: self.mac_from >> 32,
            6: self.mac_up & low, 7: self.mac_up >> 32,
            8: self.mac_down & low, 9: self.mac_down >> 32,
            10: self.ip_from, 11: self.ip_up, 12: self.ip_down, 13: self.child,
        }  # fmt: skip
        words |= {64 + port: n for port, n in zip(self.members, self.workers, strict=True)}
        words[0] = (
            1
            | (self.parent is None) << 1
            | self.worst << 2
            | self.log_trees << 4
            | self.ect << 8
            | (self.parent or 0) << 16
        )
        return words
