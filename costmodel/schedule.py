"""Schedules: a list of steps as a value with a text, and their application to a program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache

import attrs

from costmodel import legality
from costmodel.errors import IllegalSchedule, ScheduleError
from costmodel.inline import inlined
from costmodel.ir import Program
from costmodel.nest import Nest, Placed
from costmodel.poly import Polyhedral, polyhedral
from costmodel.register_tile import RegisterTile
from costmodel.steps import Contract, Inline, Step, parse_step


@attrs.frozen
class Schedule:
    """Transformations in the order they are taken; () leaves the program as it is."""

    steps: tuple[Step, ...] = ()

    @staticmethod
    def parse(text: str, program: Program | None = None) -> Schedule:
        """The schedule `str` wrote: `fuse(S0, S1, 1); tile(S0, 0, 32, 32)`; "" has no step.

        Raises ScheduleError for a text of `for_program` that is another program's.
        """
        head, colon, rest = text.partition(":")
        if colon:
            text = rest
            if program is not None and head.strip() != _short_hash(program):
                raise ScheduleError(
                    f"the schedule is of the program with hash {head.strip()}, and this one has "
                    f"{_short_hash(program)}"
                )
        return Schedule(tuple(parse_step(part) for part in text.split(";") if part.strip()))

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))

    def for_program(self, program: Program) -> str:
        """The text with the program's hash before it: `b1946ac92492d234: tile(S0, 0, 32, 32)`."""
        return f"{_short_hash(program)}: {self}"

    def then(self, *steps: Step) -> Schedule:
        return Schedule((*self.steps, *steps))


def _short_hash(program: Program) -> str:
    return program.hash[:16]


@attrs.frozen
class ScheduledProgram:
    """A program with the legal nest that a schedule makes of it.

    source:  the program the schedule is for
    program: the same after inlining
    """

    source: Program
    program: Program
    schedule: Schedule
    nest: Nest


def apply(
    program: Program,
    schedule: Schedule | str = "",
    *,
    reassociate: bool | None = None,
    explain: bool = True,
) -> ScheduledProgram:
    """Take the steps and prove that the result computes the same.

    reassociate: whether reductions may be summed in another order; by default only where that is
                 exact, so where all data are integers
    explain:     whether an IllegalSchedule says what is wrong, which takes longer than the proof

    Raises ScheduleError for a step that does not fit the program, and IllegalSchedule, naming the
    step and one pair of instances in the wrong order, for a schedule that changes the result.
    """
    if isinstance(schedule, str):
        schedule = Schedule.parse(schedule, program)
    if reassociate is None:
        reassociate = all(array.dtype == "int32" for array in program.arrays)
    source, steps = program, list(schedule.steps)
    while steps and isinstance(steps[0], Inline):
        with _named(steps[0]):
            program = inlined(program, steps[0].statement)
        del steps[0]
    nests = [Nest.of(program)]
    for step in steps:
        with _named(step):
            if isinstance(step, Contract):
                _check_contraction(program, step)
            nests.append(step.apply(nests[-1]))
    poly = polyhedral(program)
    if not legality.kept_is_legal(poly, nests[-1], reassociate):
        if not explain:
            raise IllegalSchedule(f"{schedule} changes the result")
        taken = zip(steps, nests[1:], strict=True)
        at = next(s for s, nest in taken if not legality.kept_is_legal(poly, nest, reassociate))
        raise IllegalSchedule(f"{at}: {legality.violation(poly, nests[-1], reassociate)}")
    _check_loops(poly, nests[-1], schedule)
    _check_tiles(program, nests[-1], schedule)
    return ScheduledProgram(source, program, schedule, nests[-1])


def _check_tiles(program: Program, nest: Nest, schedule: Schedule) -> None:
    """Registers and buffers must be able to hold what statements with register tiles need."""
    for placed in nest.placed:
        if any(dim.register for dim in placed.dims):
            own = [s for s in schedule.steps if getattr(s, "statement", "") == placed.name]
            with _named(next(s for s in own[::-1] if s.word == "register_tile")):
                tile = kept_tile(program, placed)
                if isinstance(tile, str):
                    raise ScheduleError(tile)
                tile.check_alone(nest)
            if placed.packs:
                with _named(next(s for s in own[::-1] if s.word == "pack")):
                    tile.packs  # noqa: B018 - buffers too large are refused


@lru_cache(maxsize=1024)
def kept_tile(program: Program, placed: Placed) -> RegisterTile | str:
    """The tile, or why there is none; remembered, since a search asks for few again and again."""
    try:
        return RegisterTile(program, placed)
    except ScheduleError as problem:
        return str(problem)


@contextlib.contextmanager
def _named(step: Step) -> Iterator[None]:
    """Errors of a step begin with its text."""
    try:
        yield
    except ScheduleError as problem:
        if str(problem).startswith(str(step)):
            raise
        raise type(problem)(f"{step}: {problem}") from None


def _check_contraction(program: Program, step: Contract) -> None:
    array = next((a for a in program.arrays if a.name == step.array), None)
    if array is None or array.role != "temp":
        temps = ", ".join(a.name for a in program.arrays if a.role == "temp") or "none"
        raise ScheduleError(f"only a temp can be contracted, and the program's are: {temps}")
    if not 0 <= step.dimension < len(array.shape):
        raise ScheduleError(f"{step.array} has dimensions 0 to {len(array.shape) - 1}")


def _check_loops(poly: Polyhedral, nest: Nest, schedule: Schedule) -> None:
    """Loops marked parallel or vector must be so in the nest as it came out."""
    seen: set[tuple[int, ...]] = set()
    for placed in nest.placed:
        for level, dim in enumerate(placed.dims):
            loop = placed.order[: level + 1]
            if loop in seen:
                continue
            seen.add(loop)
            if dim.is_parallel and dim.unroll > 1:
                unroll = next(s for s in schedule.steps[::-1] if s.word == "unroll")
                raise ScheduleError(
                    f"{unroll}: loop {level} around {placed.name} is parallel, and gcc does not "
                    f"unroll such loops; unroll another one"
                )
            for wanted, word, why_not in (
                (dim.is_parallel, "parallel", legality.why_not_parallel),
                (dim.is_vector, "vectorize", legality.why_not_vector),
            ):
                reason = why_not(poly, nest, placed.name, level) if wanted else None
                if reason is not None:
                    step = next((s for s in schedule.steps[::-1] if s.word == word), word)
                    raise IllegalSchedule(f"{step}: loop {level} around {placed.name} {reason}")
