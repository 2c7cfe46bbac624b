"""The whole switch in simulation: scenarios of section 7, test 9, and its rate per cycle."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from panama.rtl.bench.mixture import Sending, judge, mixture
from panama.rtl.bench.traffic import Checker, Job, random_entries
from panama.rtl.player import Played, play_frames
from panama.rtl.registers import Fate, JobEntry, Total
from panama.rtl.simulator import build, run
from panama.wire import FORMATS


@attrs.frozen
class Size:
    """How large a switch is built.

    ports, lanes: lanes are the 32-bit words of a beat that are added, 16 for all of them
    stages:       registers of one addition
    log_jobs, log_slots, log_buffer: log2 of the jobs, of the slots of a job, of the beats that the
                  bypass and relay buffers of a port hold
    beats:        payload beats that a frame may have
    """

    ports: int = 4
    lanes: int = 16
    fmt: str = "fp32"
    stages: int = 10
    log_jobs: int = 2
    log_slots: int = 5
    beats: int = 22
    log_buffer: int = 7

    def parameters(self) -> dict[str, int]:
        """Of the Verilog modules."""
        return {
            "P": self.ports, "L": self.lanes, "FMT": FORMATS[self.fmt].code,
            "FADD_STAGES": self.stages, "LOG_JOBS": self.log_jobs, "LOG_SLOTS": self.log_slots,
            "BEATS": self.beats, "LOG_BUFFER": self.log_buffer,
        }  # fmt: skip


@attrs.frozen
class LineRate:
    """Beats and cycles of the output from the end of the fill to the last beat."""

    beats: int
    cycles: int
    packets: int

    @property
    def beats_per_cycle(self) -> float:
        return self.beats / self.cycles


def play(
    scenario: str,
    size: Size,
    *,
    tool: str = "icarus",
    seed: int = 1,
    order_seed: int | None = None,
    pauses: float = 0.3,
    patience: int = 30_000,
    **more: object,
) -> dict[str, Any]:
    """Run a scenario of bench/switch.py; what it reports. RuntimeError says what went wrong.

    seed:       of what is sent;  order_seed: of the order and the pauses (None: as seed)
    pauses:     share of cycles in which a stream holds back
    patience:   cycles without what is waited for, after which the switch counts as wedged
    """
    told: dict[str, object] = {
        "scenario": scenario, "ports": size.ports, "words": size.lanes, "fmt": size.fmt,
        "log_slots": size.log_slots, "beats": size.beats, "pauses": pauses, "seed": seed,
        "order_seed": seed if order_seed is None else order_seed, "patience": patience, **more,
    }  # fmt: skip
    design = build("switch", size.parameters(), tool)
    return run(design, "panama.rtl.bench.switch", told)


def play_mixed(
    size: Size,
    *,
    jobs: int = 3,
    packets: int = 12,
    noise: float = 0.3,
    tool: str = "icarus",
    seed: int = 1,
    order_seed: int | None = None,
    pauses: float = 0.3,
) -> dict[str, Any]:
    """Random jobs among ordinary, malformed and repeated frames; beats checked and a digest.

    packets: of each job;  noise: odd frames for each sound one
    """
    return play(
        "mixed", size, tool=tool, seed=seed, order_seed=order_seed, pauses=pauses, jobs=jobs,
        packets=packets, noise=noise, patience=1000 * packets,
    )  # fmt: skip


def soak_mixed(
    size: Size,
    *,
    jobs: int = 3,
    packets: int = 12,
    noise: float = 0.3,
    tool: str = "icarus",
    seed: int = 1,
    pauses: float = 0.25,
) -> dict[str, Any]:
    """As play_mixed, but played from memory, for runs of many beats.

    Raises AssertionError with the first bits, frames or counters that are wrong.
    """
    rng = random.Random(seed)
    entries = [
        attrs.evolve(entry, job=number, tree=0, log_trees=0)
        for number, entry in enumerate(random_entries(size.ports, jobs, rng))
    ]
    lengths = [[rng.randint(1, size.beats) for _ in range(packets)] for _ in entries]
    made = _jobs(size, entries, lengths, seed)
    plan = mixture(made, size.ports, 1 << size.log_slots, noise, rng)
    of_ports = [0x8000 + 0x80 * port + 4 * fate for port in range(size.ports) for fate in Fate]
    of_whole = [0xC080 + 4 * total for total in Total]
    heard = play_frames(
        size.parameters(),
        entries,
        [[_played(size, one) for one in sent] for sent in plan],
        of_ports + of_whole,
        pauses=pauses,
        seed=seed,
        tool=tool,
    )
    checker = Checker(made, size.log_slots)
    for sum_ in heard.sums:
        checker.see(sum_.frame, sum_.user)
    fates = [_counted(Fate, heard.answers, 0x8000 + 0x80 * port) for port in range(size.ports)]
    totals = _counted(Total, heard.answers, 0xC080)
    passed = [[each.frame for each in of_port] for of_port in heard.bypass]
    due = judge(plan, checker, fates, totals, passed)
    return {"beats": checker.beats, "digest": checker.digest(), "fates": dict(due)}


def line_rate(
    ports: int,
    lanes: int,
    packets: int,
    tool: str = "icarus",
    *,
    jobs: int = 2,
    beats: int = 22,
    least: int = 1,
    stages: int = 10,
    fmt: str = "fp32",
    seed: int = 1,
) -> LineRate:
    """Beats a cycle at the output with every input sending without pause, every bit checked.

    packets: of each job; jobs take turns packet by packet, so that each packet is a job switch
    least:   payload beats of the shortest packet, the longest has `beats`

    Raises RuntimeError with the first bits that are wrong.
    """
    log_jobs = max(2, (jobs - 1).bit_length())
    size = Size(ports, lanes, fmt, stages, log_jobs=log_jobs, beats=beats)
    rng = random.Random(seed)
    every = tuple(range(ports))
    entries = [JobEntry(job=n, tree=0, members=every, workers=(1,) * ports) for n in range(jobs)]
    # Packets go out once they are in, so a short one before a long one leaves a gap unless the
    # output starts late by one packet: the first three are of full length, and held for two.
    fill = 3
    lengths = [
        [beats if i < fill else rng.randint(least, beats) for i in range(packets)] for _ in entries
    ]
    made = _jobs(size, entries, lengths, seed)
    turns = [(number, index) for index in range(packets) for number in range(jobs)]
    frames = [
        [
            _played(size, Sending(number, index, made[number].frame(index, port)))
            for number, index in turns
        ]
        for port in range(ports)
    ]
    heard = play_frames(size.parameters(), entries, frames, [], hold=2 * beats + 12, tool=tool)
    checker = Checker(made, size.log_slots)
    for sum_ in heard.sums:
        checker.see(sum_.frame, sum_.user)
    if not checker.complete or checker.wrong:
        raise RuntimeError(f"{len(heard.sums)} of {len(turns)} sums came out: {checker.wrong[:5]}")
    cycles = [cycle for sum_ in heard.sums for cycle in sum_.cycles]
    after = cycles[fill * (beats + 1) :]
    span = after[-1] - cycles[fill * (beats + 1) - 1]
    return LineRate(beats=len(after), cycles=span, packets=len(turns))


def _jobs(
    size: Size, entries: Sequence[JobEntry], lengths: Sequence[list[int]], seed: int
) -> list[Job]:
    return [
        Job(entry, size.ports, lengths[n], size.fmt, size.lanes, seed * 64 + n)
        for n, entry in enumerate(entries)
    ]


def _played(size: Size, one: Sending) -> Played:
    slot = one.index & ((1 << size.log_slots) - 1)
    key = one.number << size.log_slots | slot
    return Played(one.frame, key, one.index >> size.log_slots, one.damaged)


def _counted(
    names: type[Fate] | type[Total], answers: Mapping[int, int], base: int
) -> dict[str, int]:
    """Counters by name, without zeros."""
    counts = {each.name: answers[base + 4 * each] for each in names}
    return {name: count for name, count in counts.items() if count}
