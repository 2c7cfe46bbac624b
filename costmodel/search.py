"""Searches over schedules: beam and random search with one evaluator, by model or by execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.codegen import c_function
from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.schedule import Schedule, ScheduledProgram, apply
from costmodel.space import KINDS, Kind, Space, by_work

T = TypeVar("T")


class Evaluator(Protocol):
    """Speedups over the program as it is written, predicted or measured; 0 for one that failed."""

    def __call__(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[np.float64]: ...


@attrs.frozen
class Tried:
    """A schedule and what the evaluator said of it."""

    scheduled: ScheduledProgram
    speedup: float


@attrs.define
class Found:
    """Everything a search tried, in order; the first is the program as it is written."""

    tried: list[Tried] = attrs.field(factory=list)

    @property
    def best(self) -> Tried:
        """The fastest; of equals, the one with the shorter text."""
        return max(self.tried, key=lambda t: (t.speedup, -len(str(t.scheduled.schedule))))

    def top(self, n: int) -> list[Tried]:
        return sorted(self.tried, key=lambda t: -t.speedup)[:n]


class Candidates:
    """Legal schedules of one program, each handed out once: no two have the same C text.

    n_illegal: how many were refused
    """

    def __init__(self, program: Program, reassociate: bool | None = None) -> None:
        self._program = program
        self._reassociate = reassociate
        self._seen: set[str] = set()
        self.n_illegal = 0

    def legal(self, options: Iterable[Sequence[Schedule]]) -> Iterator[ScheduledProgram]:
        """Of each option the first alternative that is legal, unless it was handed out before."""
        for alternatives in options:
            for schedule in alternatives:
                try:
                    scheduled = apply(self._program, schedule, reassociate=self._reassociate)
                    text = c_function(scheduled, "f")
                except ScheduleError:
                    self.n_illegal += 1
                    continue
                if text not in self._seen:
                    self._seen.add(text)
                    yield scheduled
                break


def beam_search(
    program: Program,
    evaluate: Evaluator,
    *,
    space: Space = "extended",
    beam: int = 2,
    limit: int = 512,
    reassociate: bool | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Decide one kind of transformation for one statement after the other (paper, beam search).

    All candidates of a level are evaluated at once, those that change nothing among them; the
    `beam` best go on.

    limit:  candidates a level, evenly taken from all
    stop:   asked before each level; what was found until then is returned
    report: called after each level
    """
    candidates = Candidates(program, reassociate)
    found = Found()
    found.tried += _evaluated(evaluate, list(candidates.legal([[Schedule()]])))
    front = list(found.tried)
    for kind, name in _levels(program, KINDS[space]):
        if stop():
            break
        options = [
            alternatives
            for tried in front
            for alternatives in _extended(tried.scheduled, kind, name)
        ]
        level = list(candidates.legal(_evenly(options, limit)))
        if not level:
            continue
        new = _evaluated(evaluate, level)
        found.tried += new
        front = sorted([*front, *new], key=_worse)[:beam]
        report(found)
    return found


def free_search(
    program: Program,
    evaluate: Evaluator,
    *,
    space: Space = "extended",
    beam: int = 3,
    depth: int = 8,
    limit: int = 512,
    reassociate: bool | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Beam search in which every level offers the decisions of all kinds that are still to come.

    Where running a batch costs more than the schedules in it, few full levels find more than the
    paper's many narrow ones: a decision that pays only together with a later kind is not dropped
    for want of a gain of its own, since the later kind was offered from the start as well.

    depth: levels; the search ends before if one brings nothing better
    limit: candidates a level, evenly taken from those of each kind
    """
    candidates = Candidates(program, reassociate)
    decisions = list(_levels(program, KINDS[space]))
    found = Found(_evaluated(evaluate, list(candidates.legal([[Schedule()]]))))
    front = [(found.tried[0], 0)]  # with the place of the first decision still to come
    for _ in range(depth):
        if stop():
            break
        groups = [
            [(alternatives, place + 1) for alternatives in _extended(t.scheduled, kind, name)]
            for t, start in front
            for place, (kind, name) in enumerate(decisions[start:], start)
        ]
        level: list[tuple[ScheduledProgram, int]] = []
        for group in _shared(groups, limit):
            for alternatives, place in group:
                level += [(scheduled, place) for scheduled in candidates.legal([alternatives])]
        new = _evaluated(evaluate, [scheduled for scheduled, _ in level])
        best = found.best.speedup
        found.tried += new
        ranked = [*front, *zip(new, (place for _, place in level), strict=True)]
        front = sorted(ranked, key=lambda pair: _worse(pair[0]))[:beam]
        report(found)
        if found.best.speedup <= best:
            break
    return found


def random_search(
    program: Program,
    evaluate: Evaluator,
    *,
    n: int,
    space: Space = "extended",
    seed: int = 0,
    reassociate: bool | None = None,
) -> Found:
    """n schedules that take every decision by chance, evaluated at once."""
    rng = np.random.default_rng(seed)
    candidates = Candidates(program, reassociate)
    scheduled = list(candidates.legal([[Schedule()]]))
    (plain,) = scheduled
    for _ in range(20 * n):
        if len(scheduled) > n:
            break
        scheduled += candidates.legal([[_by_chance(plain, KINDS[space], rng, reassociate)]])
    return Found(_evaluated(evaluate, scheduled))


def _by_chance(
    plain: ScheduledProgram,
    kinds: Sequence[Kind],
    rng: np.random.Generator,
    reassociate: bool | None,
) -> Schedule:
    at = plain
    for kind, name in _levels(plain.source, kinds):
        if rng.random() < 0.5:
            continue
        options = list(_extended(at, kind, name))
        for choice in rng.permutation(len(options))[:4]:
            legal = list(Candidates(plain.source, reassociate).legal([options[choice]]))
            if legal:
                (at,) = legal
                break
    return at.schedule


def _levels(program: Program, kinds: Iterable[Kind]) -> Iterator[tuple[Kind, str]]:
    names = by_work(program)
    return ((kind, name) for kind in kinds for name in names)


def _extended(scheduled: ScheduledProgram, kind: Kind, name: str) -> Iterator[tuple[Schedule, ...]]:
    """The schedule with each decision of a kind; none if inlining took the statement away."""
    if any(placed.name == name for placed in scheduled.nest.placed):
        for decision in kind(scheduled, name):
            yield tuple(scheduled.schedule.then(*steps) for steps in decision)


def _evaluated(evaluate: Evaluator, scheduled: Sequence[ScheduledProgram]) -> list[Tried]:
    speedups = evaluate(scheduled)
    return [Tried(s, float(x)) for s, x in zip(scheduled, speedups, strict=True)]


def _shared(groups: Sequence[Sequence[T]], limit: int) -> Iterator[Sequence[T]]:
    """At most `limit` members in all: small groups whole, large ones thinned to a common size."""
    left, waiting = limit, sorted((g for g in groups if g), key=len)
    while waiting:
        group = waiting.pop(0)
        share = _evenly(group, max(1, left // (len(waiting) + 1)))
        left -= len(share)
        yield share


def _evenly(options: Sequence[T], limit: int) -> Sequence[T]:
    if len(options) <= limit:
        return options
    places = np.linspace(0, len(options) - 1, limit).round().astype(int)
    return [options[place] for place in dict.fromkeys(places.tolist())]


def _worse(tried: Tried) -> tuple[float, str]:
    return -tried.speedup, str(tried.scheduled.schedule)
