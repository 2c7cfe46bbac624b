"""Frames played from memory into a switch, and all that came out: for runs of many beats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from panama.rtl.registers import JobEntry
from panama.rtl.simulator import build, run

#: Address of the entries of the tables, one each 512 bytes, and bytes of a beat.
_ENTRY, _BEAT = 0x200, 64


@attrs.frozen
class Played:
    """A frame to play.

    key, need: it waits until so many sums have come out for this slot, job << log_slots | slot
    damaged:   marked so by its port
    """

    frame: bytes
    key: int = 0
    need: int = 0
    damaged: bool = False


@attrs.frozen
class Heard:
    """A frame that came out: its bytes, the ports it goes to, and the cycle of each beat."""

    frame: bytes
    user: int
    cycles: tuple[int, ...]


@attrs.frozen
class Recording:
    """What came out.

    sums, down: of m_axis and m_down_axis;  bypass: of each port
    answers:    address -> what was read there at the end
    """

    sums: list[Heard]
    down: list[Heard]
    bypass: list[list[Heard]]
    answers: Mapping[int, int]


def play_frames(
    parameters: Mapping[str, int],
    entries: Sequence[JobEntry],
    frames: Sequence[Iterable[Played]],
    asked: Sequence[int],
    *,
    hold: int = 0,
    pauses: float = 0.0,
    seed: int = 1,
    tool: str = "icarus",
) -> Recording:
    """Fill the tables, play the frames of each port, and listen until all is quiet.

    entries: job i has the number i and one tree, which is how the bench knows its sums
    asked:   addresses to read at the end
    hold:    cycles for which sums are held back at the start
    pauses:  share of cycles in which a stream holds back, to a sixteenth

    Raises RuntimeError if the switch is not quiet after many times the cycles that all beats take.
    """
    for number, entry in enumerate(entries):
        if (entry.job, entry.tree, entry.log_trees) != (number, 0, 0):
            raise ValueError(
                f"entry {number} must be job {number}, tree 0 of 1, got job {entry.job}, "
                f"tree {entry.tree} of {1 << entry.log_trees}"
            )
    ports = parameters["P"]
    lines = [[line for one in of_port for line in _lines(one)] for of_port in frames]
    most = max(len(of_port) for of_port in lines)
    room = 1 << max(8, most.bit_length())  # so that other frames need no other build
    given = "\n".join(
        line
        for port, of_port in enumerate(lines)
        for line in (f"@{room * port:x}", *of_port, "0")  # the last ends what the port sends
    )
    table = [
        f"{_ENTRY * number + 4 * word:04x}{value:08x}"
        for number, entry in enumerate(entries)
        for word, value in entry.words().items()
    ]
    numbers = (len(table), len(asked), hold, round(16 * pauses), seed)
    design = build("player", {**parameters, "LINES": room}, tool)
    seen = run(
        design,
        "panama.rtl.bench.clocked",
        {"cycles": 40 * ports * most + 100_000, "counters": []},
        {
            "given.hex": given + "\n",
            "table.hex": "\n".join(table) + "\n",
            "asked.hex": "\n".join(f"{address:04x}" for address in asked) + "\n",
            "numbers.hex": "\n".join(f"{number:08x}" for number in numbers) + "\n",
        },
        ["out.txt", "read.txt"],
    )
    streams = _frames(seen["out.txt"], ports + 2)
    words = [int(word, 16) for word in seen["read.txt"].split()]
    return Recording(
        sums=streams[ports],
        down=streams[ports + 1],
        bypass=streams[:ports],
        answers=dict(zip(asked, words, strict=True)),
    )


def _lines(one: Played) -> list[str]:
    """The lines of given.hex for a frame; the last beat may be short."""
    lines = []
    for at in range(0, len(one.frame), _BEAT):
        beat = one.frame[at : at + _BEAT]
        last = at + _BEAT >= len(one.frame)
        gated = at == 0 and one.need > 0
        control = 1 << 2 | (one.damaged and last) << 1 | last
        head = gated << 51 | one.need << 19 | one.key << 3 | control
        keep = (1 << len(beat)) - 1
        lines.append(f"{head:013x}{keep:016x}{beat[::-1].hex():>0128}")
    return lines


def _frames(text: str, streams: int) -> list[list[Heard]]:
    """The frames of each stream in out.txt."""
    found: list[list[Heard]] = [[] for _ in range(streams)]
    beats: list[list[bytes]] = [[] for _ in range(streams)]
    cycles: list[list[int]] = [[] for _ in range(streams)]
    for line in text.splitlines():
        cycle, number, last, user, keep, data = line.split()
        stream = int(number)
        beats[stream].append(bytes.fromhex(data)[::-1][: int(keep, 16).bit_count()])
        cycles[stream].append(int(cycle))
        if last == "1":
            whole = b"".join(beats[stream])
            found[stream].append(Heard(whole, int(user, 16), tuple(cycles[stream])))
            beats[stream], cycles[stream] = [], []
    return found
