"""Searches over schedules with one evaluator, by model or by execution: beam, random, all.

The tree search is in costmodel.tree_search.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import legality
from costmodel.blocks import kept_blocks
from costmodel.codegen import kept_c_function
from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.schedule import Schedule, ScheduledProgram, apply, kept_tile
from costmodel.space import KINDS, Kind, Space, by_work, inlinings, resized

T = TypeVar("T")

MAX_FORMS = 3  # of the program with a temporary inlined that a search begins from

#: Of two legal schedules with equal keys a search tries one.
Key = Callable[[ScheduledProgram], Hashable]


def by_text(scheduled: ScheduledProgram) -> Hashable:
    """The C: what costs a compiler call should be new."""
    return kept_c_function(scheduled, "f")


def by_nest(scheduled: ScheduledProgram) -> Hashable:
    """The nest, of which C is made: a model scores several in the time it takes to make C once."""
    return scheduled.program, scheduled.nest


def forget() -> None:
    """Forget what earlier searches proved and wrote, to time one as if it were the first."""
    legality.forget()
    for kept in (kept_tile, kept_blocks, kept_c_function):
        kept.cache_clear()


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
    """Everything a search tried, in order; the first is the program as it is written.

    measured: those of the best that were run at the end, with what was measured
    """

    tried: list[Tried] = attrs.field(factory=list)
    measured: list[Tried] = attrs.field(factory=list)

    @property
    def best(self) -> Tried:
        """The fastest, of those measured if any were; of equals, the one with the shorter text."""
        return max(
            self.measured or self.tried, key=lambda t: (t.speedup, -len(str(t.scheduled.schedule)))
        )

    def top(self, n: int) -> list[Tried]:
        return sorted(self.tried, key=lambda t: -t.speedup)[:n]


class Candidates:
    """Legal schedules of one program, each handed out once: no two have the same key.

    n_illegal: how many were refused
    """

    def __init__(
        self, program: Program, reassociate: bool | None = None, key: Key = by_text
    ) -> None:
        self._program = program
        self._reassociate = reassociate
        self._key = key
        self._seen: set[Hashable] = set()
        self.n_illegal = 0

    def legal(self, options: Iterable[Sequence[Schedule]]) -> Iterator[ScheduledProgram]:
        """Of each option the first alternative that is legal, unless it was handed out before."""
        for alternatives in options:
            for schedule in alternatives:
                try:
                    scheduled = apply(
                        self._program, schedule, reassociate=self._reassociate, explain=False
                    )
                    key = self._key(scheduled)
                except ScheduleError:
                    self.n_illegal += 1
                    continue
                if key not in self._seen:
                    self._seen.add(key)
                    yield scheduled
                break


def beam_search(
    program: Program,
    evaluate: Evaluator,
    *,
    space: Space = "extended",
    beam: int = 2,
    limit: int = 512,
    recursive: bool = False,
    reassociate: bool | None = None,
    key: Key = by_text,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Decide one kind of transformation for one statement after the other (paper, beam search).

    All candidates of a level are evaluated at once, those that change nothing among them; the
    `beam` best go on.

    limit:     candidates a level, evenly taken from all
    recursive: the authors' form: the `beam` best of every one that went on go on, so that their
               number grows by this factor with each level; limit is then of each one's candidates
    stop:      asked before each level; what was found until then is returned
    report:    called after each level
    """
    candidates = Candidates(program, reassociate, key)
    found = Found()
    found.tried += evaluated(evaluate, list(candidates.legal([[Schedule()]])))
    if recursive:
        decisions = list(levels(program, KINDS[space]))

        def descend(at: Tried, depth: int) -> None:
            if depth == len(decisions) or stop():
                return
            options = list(extended(at.scheduled, *decisions[depth]))
            new = evaluated(evaluate, list(candidates.legal(evenly(options, limit))))
            found.tried += new
            if new:
                report(found)
            for tried in sorted([at, *new], key=worse)[:beam]:
                descend(tried, depth + 1)

        descend(found.tried[0], 0)
        return found
    front = list(found.tried)
    for kind, name in levels(program, KINDS[space]):
        if stop():
            break
        options = [
            alternatives
            for tried in front
            for alternatives in extended(tried.scheduled, kind, name)
        ]
        level = list(candidates.legal(evenly(options, limit)))
        if not level:
            continue
        new = evaluated(evaluate, level)
        found.tried += new
        front = sorted([*front, *new], key=worse)[:beam]
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
    key: Key = by_text,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Beam search in which every level offers the decisions of all kinds that are still to come.

    Where running a batch costs more than the schedules in it, few full levels find more than the
    paper's many narrow ones: a decision that pays only together with a later kind is not dropped
    for want of a gain of its own, since the later kind was offered from the start as well. Inlining
    is a decision on the program and gains by what follows: each form of the program goes on from
    the first level, however fast it is by itself. Sizes of steps taken are tried anew at each
    level, since a large group of decisions is thinned; of schedules with the same kinds of steps
    only the best goes on, so that they do not fill the beam.

    depth: levels; the search ends before if one brings nothing better
    limit: candidates a level, evenly taken from those of each kind
    """
    candidates = Candidates(program, reassociate, key)
    decisions = list(levels(program, KINDS[space]))
    forms = [[Schedule()], *_inlined(program, [name for _, name in decisions], space)]
    found = Found(evaluated(evaluate, list(candidates.legal(forms))))
    front = [(tried, 0) for tried in found.tried]  # with the place of the first decision to come
    for _ in range(depth):
        if stop():
            break
        groups = [
            [(alternatives, place + 1) for alternatives in extended(t.scheduled, kind, name)]
            for t, start in front
            for place, (kind, name) in enumerate(decisions[start:], start)
            if (kind, name) not in decisions[start:place]
        ]
        groups += [
            [((schedule,), start) for schedule in resized(t.scheduled)] for t, start in front
        ]
        level: list[tuple[ScheduledProgram, int]] = []
        for group in _shared(groups, limit):
            for alternatives, place in group:
                level += [(scheduled, place) for scheduled in candidates.legal([alternatives])]
        new = evaluated(evaluate, [scheduled for scheduled, _ in level])
        best = found.best.speedup
        found.tried += new
        ranked = [*front, *zip(new, (place for _, place in level), strict=True)]
        front = _of_each_shape(sorted(ranked, key=lambda pair: worse(pair[0])))[:beam]
        report(found)
        if found.best.speedup <= best:
            break
    return found


def _of_each_shape(ranked: Iterable[tuple[Tried, int]]) -> list[tuple[Tried, int]]:
    """The first of those whose steps are of the same kinds."""
    first: dict[tuple[str, ...], tuple[Tried, int]] = {}
    for tried, place in ranked:
        words = tuple(step.word for step in tried.scheduled.schedule.steps)
        first.setdefault(words, (tried, place))
    return list(first.values())


def random_search(
    program: Program,
    evaluate: Evaluator,
    *,
    n: int,
    space: Space = "extended",
    seed: int = 0,
    reassociate: bool | None = None,
    key: Key = by_text,
) -> Found:
    """n schedules that take every decision by chance, evaluated at once."""
    rng = np.random.default_rng(seed)
    candidates = Candidates(program, reassociate, key)
    scheduled = list(candidates.legal([[Schedule()]]))
    (plain,) = scheduled
    for _ in range(20 * n):
        if len(scheduled) > n:
            break
        scheduled += candidates.legal([[_by_chance(plain, KINDS[space], rng, reassociate)]])
    return Found(evaluated(evaluate, scheduled))


def exhaustive_search(
    program: Program,
    evaluate: Evaluator,
    *,
    space: Space = "paper",
    limit: int = 20_000,
    reassociate: bool | None = None,
    key: Key = by_text,
) -> Found:
    """Every combination of decisions, evaluated at once.

    Raises ValueError for more schedules than limit.
    """
    candidates = Candidates(program, reassociate, key)
    every = list(candidates.legal([[Schedule()]]))
    for kind, name in levels(program, KINDS[space]):
        for scheduled in list(every):
            every += candidates.legal(extended(scheduled, kind, name))
            if len(every) > limit:
                raise ValueError(
                    f"{program.name} has more than {limit} schedules in the {space} space: raise "
                    f"the limit, or take a search that tries some of them"
                )
    return Found(evaluated(evaluate, every))


def _by_chance(
    plain: ScheduledProgram,
    kinds: Sequence[Kind],
    rng: np.random.Generator,
    reassociate: bool | None,
) -> Schedule:
    at = plain
    for kind, name in levels(plain.source, kinds):
        if rng.random() < 0.5:
            continue
        options = list(extended(at, kind, name))
        for choice in rng.permutation(len(options))[:4]:
            legal = list(Candidates(plain.source, reassociate, by_nest).legal([options[choice]]))
            if legal:
                (at,) = legal
                break
    return at.schedule


def _inlined(program: Program, names: Iterable[str], space: Space) -> list[list[Schedule]]:
    """The program with one temporary computed where it is read, for each of the first few."""
    if inlinings not in KINDS[space]:
        return []
    (plain,) = Candidates(program, key=by_nest).legal([[Schedule()]])
    options = (list(extended(plain, inlinings, name)) for name in dict.fromkeys(names))
    return [list(schedules) for option in options for schedules in option][:MAX_FORMS]


def levels(program: Program, kinds: Iterable[Kind]) -> Iterator[tuple[Kind, str]]:
    """Every decision in its order: kind by kind, of each the statement with most work first."""
    names = by_work(program)
    return ((kind, name) for kind in kinds for name in names)


def extended(scheduled: ScheduledProgram, kind: Kind, name: str) -> Iterator[tuple[Schedule, ...]]:
    """The schedule with each decision of a kind; none if inlining took the statement away."""
    if any(placed.name == name for placed in scheduled.nest.placed):
        for decision in kind(scheduled, name):
            yield tuple(scheduled.schedule.then(*steps) for steps in decision)


def evaluated(evaluate: Evaluator, scheduled: Sequence[ScheduledProgram]) -> list[Tried]:
    """With their speedups; nothing is asked of the evaluator for an empty list."""
    speedups = evaluate(scheduled) if scheduled else ()
    return [Tried(s, float(x)) for s, x in zip(scheduled, speedups, strict=True)]


def _shared(groups: Sequence[Sequence[T]], limit: int) -> Iterator[Sequence[T]]:
    """At most `limit` members in all: small groups whole, large ones thinned to a common size."""
    left, waiting = limit, sorted((g for g in groups if g), key=len)
    while waiting:
        group = waiting.pop(0)
        share = evenly(group, max(1, left // (len(waiting) + 1)))
        left -= len(share)
        yield share


def evenly(options: Sequence[T], limit: int) -> Sequence[T]:
    """At most `limit` of them, as far apart as they can be."""
    if len(options) <= limit:
        return options
    places = np.linspace(0, len(options) - 1, limit).round().astype(int)
    return [options[place] for place in dict.fromkeys(places.tolist())]


def worse(tried: Tried) -> tuple[float, str]:
    """Sorts the fastest first; of equals, by the text of the schedule."""
    return -tried.speedup, str(tried.scheduled.schedule)
