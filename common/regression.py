"""Judge whether a speed gate became slower between two revisions, by measuring both in turn.

The unit of repetition is the process: repeats inside one share its luck with memory layout. Each
process gives one number, how many times faster ours is than a live peer, so that the state of the
machine cancels; the sides alternate in random order, so that its drift does too.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

import attrs

from common.gates import GateError, Reading
from common.rank_shift import shift

#: Batches of one gate, at most; a gate that does not look slower has one.
MOST_BATCHES = 3

Side = Literal["base", "head"]
Measure = Callable[[Side, str], Reading]


class Verdict(enum.StrEnum):
    """What the measurements of one gate say."""

    REGRESSED = "regressed"
    BROKEN = "broken"  # does not run in the working tree
    UNDECIDED = "undecided"  # the interval holds both a slowdown past the tolerance and none
    STEADY = "steady"
    FASTER = "faster"
    UNMEASURED = "unmeasured"


@attrs.frozen
class Batch:
    """Some processes of both sides, and the slowdown of head against base they show.

    base, head: peer time / our time of each process
    slowdown:   above 1 the head is slower; low, high: its 95% interval
    noisy:      how many of the processes could not settle their own comparison
    """

    base: tuple[float, ...]
    head: tuple[float, ...]
    slowdown: float
    low: float
    high: float
    noisy: int

    @classmethod
    def of(cls, base: Sequence[Reading], head: Sequence[Reading]) -> Batch:
        """Compare the estimates of two sets of processes."""
        logs = [[math.log(reading.estimate) for reading in side] for side in (head, base)]
        found = shift(*logs)
        return cls(
            base=tuple(reading.estimate for reading in base),
            head=tuple(reading.estimate for reading in head),
            slowdown=math.exp(found.estimate),
            low=math.exp(found.low),
            high=math.exp(found.high),
            noisy=sum(reading.noisy for reading in (*base, *head)),
        )


@attrs.frozen
class GateResult:
    """The verdict on one gate with what it rests on; reason is for those without a number."""

    name: str
    verdict: Verdict
    batches: tuple[Batch, ...] = ()
    reason: str = ""


@attrs.frozen
class Outcome:
    """Everything one call found out."""

    base: str
    head: str
    dirty: bool
    tolerance: float
    results: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_measured(self) -> int:
        return sum(bool(result.batches) for result in self.results)

    @property
    def exit_code(self) -> int:
        if any(r.verdict in (Verdict.REGRESSED, Verdict.BROKEN) for r in self.results):
            return 1
        return 0 if self.n_measured else 3


def judge_gate(
    name: str,
    measure: Measure,
    processes: int,
    tolerance: float,
    rng: random.Random,
    tell: Callable[[str], None] = lambda text: None,
) -> GateResult:
    """Measure a gate on both sides until its verdict stands: one batch, or more if it looks slower.

    Two batches of at most three must lie wholly above the tolerance. Some kernels run at one of two
    speeds, a quarter apart, by the luck of their process: a stray one can hide a slowdown in one
    batch but seldom in two, and one batch alone never makes up a slowdown.

    measure: runs one process of a side; a GateError of it ends the gate
    tell:    receives a line after every process
    """
    batches: list[Batch] = []
    while True:
        batch = _measure_batch(name, measure, processes, rng, tell)
        if isinstance(batch, GateResult):
            return attrs.evolve(batch, batches=tuple(batches))
        batches.append(batch)
        if batch.slowdown <= tolerance or _is_settled(batches, tolerance):
            return GateResult(name, _verdict(batches, tolerance), tuple(batches))


def _measure_batch(
    name: str, measure: Measure, processes: int, rng: random.Random, tell: Callable[[str], None]
) -> Batch | GateResult:
    sides: list[Side] = ["base", "head"]
    readings: dict[Side, list[Reading]] = {"base": [], "head": []}
    for _ in range(processes):
        # Pairs in random order: a machine that slows down over the batch slows both sides.
        for side in rng.sample(sides, 2):
            try:
                reading = measure(side, name)
            except GateError as error:
                broken = Verdict.BROKEN if side == "head" else Verdict.UNMEASURED
                return GateResult(name, broken, reason=f"at the {side}, {error}")
            readings[side].append(reading)
            tell(f"{name}: {side} {len(readings[side])}/{processes}, {reading.estimate:.3f}x")
    return Batch.of(readings["base"], readings["head"])


def _n_above(batches: Sequence[Batch], tolerance: float) -> int:
    return sum(batch.low > tolerance for batch in batches)


def _is_settled(batches: Sequence[Batch], tolerance: float) -> bool:
    """Whether two batches lie wholly above the tolerance, or no longer can."""
    above = _n_above(batches, tolerance)
    return above == 2 or above + MOST_BATCHES - len(batches) < 2


def _verdict(batches: Sequence[Batch], tolerance: float) -> Verdict:
    if _n_above(batches, tolerance) == 2:
        return Verdict.REGRESSED
    last = batches[-1]
    if last.high < 1 / tolerance:
        return Verdict.FASTER
    return Verdict.STEADY if last.high <= tolerance else Verdict.UNDECIDED
