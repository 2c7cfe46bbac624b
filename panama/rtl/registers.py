"""The tables of the accelerator, and what it counts."""

from __future__ import annotations

from enum import IntEnum

import attrs


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
