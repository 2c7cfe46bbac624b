"""Schedules as values: their text, and what is wrong with them."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.errors import IllegalSchedule, ScheduleError
from costmodel.ir import Program
from costmodel.random_programs import random_program
from costmodel.random_schedules import Space, random_schedule, random_schedules
from costmodel.schedule import Schedule, apply
from costmodel.steps import STEPS, Step

names = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]*", fullmatch=True)
numbers = st.integers(-(10**6), 10**6)
VALUES: dict[str, st.SearchStrategy[object]] = {
    "str": names,
    "int": numbers,
    "tuple[int, ...]": st.lists(numbers, min_size=1, max_size=5).map(tuple),
}


def some(kind: type[Step]) -> st.SearchStrategy[Step]:
    return st.builds(kind, *(VALUES[str(field.type)] for field in attrs.fields(kind)))


@given(st.lists(st.one_of(*map(some, STEPS.values())), max_size=6))
def test_the_text_of_a_schedule_reads_back(steps: list[Step]) -> None:
    schedule = Schedule(tuple(steps))
    assert Schedule.parse(str(schedule)) == schedule
    spaced = str(schedule).replace(",", " , ").replace("; ", " ;\n ") + " ; "
    assert Schedule.parse(spaced) == schedule


def test_random_schedules_read_back_and_apply_again() -> None:
    for seed in range(30):
        program = random_program(seed, "small")
        schedule = random_schedule(program, seed, "extended")
        text = schedule.for_program(program)
        assert Schedule.parse(text, program) == schedule
        assert apply(program, text) == apply(program, schedule)


PROGRAM = """
def f(A: "inout int32[40, 40]", B: "inout int32[40]"):
    for i in range(40):
        B[i] = 1
        for j in range(40):
            A[i, j] = A[i, j] + 1
"""

WRONG = {
    # no step at all
    "tile S0": "'tile S0' is not a step: write one of fuse, unfuse",
    "stretch(S0, 1)": r"'stretch\(S0, 1\)' is not a step",
    "tile(S0)": r"'tile\(S0\)': tile takes statement, level, sizes",
    "unroll(S0, x)": r"factor must be int, got x",
    "interchange(S1, 0)": "interchange takes statement, outer, inner",
    "unroll(4, 4)": "statement must be str, got 4",
    # sizes and levels
    "tile(S1, 0, 0)": r"^tile\(S1, 0, 0\): tile sizes must be at least 1",
    "tile(S1, 0, 32, -8)": r"^tile\(S1, 0, 32, -8\): tile sizes must be at least 1",
    "tile(S1, 2, 8)": r"^tile\(S1, 2, 8\): level 2 is not a loop around S1: it has 0 to 1",
    "tile(S1, 1, 8, 8)": r"level 2 is not a loop around S1: it has 0 to 1",
    "unroll(S1, 0)": r"^unroll\(S1, 0\): the factor must be at least 1",
    "parallel(S1, 3)": r"^parallel\(S1, 3\): level 3 is not a loop around S1",
    "parallel(S1, -1)": r"^parallel\(S1, -1\): level -1 is not a loop around S1: it has 0 to 1",
    "reverse(S0, 1)": r"^reverse\(S0, 1\): level 1 is not a loop around S0: it has 0 to 0",
    # names
    "unroll(S7, 4)": r"^unroll\(S7, 4\): there is no statement S7: the program has S0, S1",
    "fuse(S0, S9, 1)": r"there is no statement S9",
    "inline(S9)": r"^inline\(S9\): there is no statement S9",
    "contract(A, 0, 2)": r"^contract\(A, 0, 2\): only a temp can be contracted",
    # the same loop twice
    "interchange(S1, 1, 1)": r"^interchange\(S1, 1, 1\): the outer level must be less",
    "interchange(S1, 1, 0)": r"the outer level must be less",
    "skew(S1, 1, 1, 2)": r"^skew\(S1, 1, 1, 2\): the outer level must be less",
    "register_tile(S1, 1, 4, 1, 8)": "level, size pairs with growing levels",
    "register_tile(S1, 1)": "level, size pairs with growing levels",
    "register_tile(S1, 1, 0)": "block sizes must be at least 2",
    "fuse(S0, S0, 1)": "a statement cannot be fused with itself",
    "fuse(S0, S1, 0)": "depth is the number of common loops, at least 1",
    # shapes of the nest
    "interchange(S1, 0, 1)": r"not perfectly nested: S0 stands between them; unfuse first",
    "unfuse(S0, 0)": r"^unfuse\(S0, 0\): nothing stands before S0 in that loop",
    "tile(S1, 1, 8); tile(S1, 1, 4)": r"^tile\(S1, 1, 4\): that loop counts tiles",
    "tile(S1, 1, 8); reverse(S1, 1)": r"^reverse\(S1, 1\): that loop counts tiles",
    "pack(S1, A, 0)": "only a statement with a register tile packs",
    "parallel(S0, 0); inline(S0)": r"^inline\(S0\): inline before any other step",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_steps_are_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ScheduleError, match=WRONG[text]) as caught:
        apply(Program.parse(PROGRAM), text)
    assert not isinstance(caught.value, IllegalSchedule)


def test_a_schedule_of_another_program_is_refused() -> None:
    ours, other = Program.parse(PROGRAM), random_program(0, "small")
    text = Schedule.parse("unroll(S1, 4)").for_program(other)
    with pytest.raises(
        ScheduleError, match=rf"{other.hash[:16]}, and this one has {ours.hash[:16]}"
    ):
        apply(ours, text)


def test_a_seed_gives_one_schedule() -> None:
    program = random_program(3, "small")
    first = [str(random_schedule(program, [5, i], "extended")) for i in range(10)]
    assert first == [str(random_schedule(program, [5, i], "extended")) for i in range(10)]


def test_schedules_of_a_program_differ_in_their_code_and_many_have_two_kinds() -> None:
    several, n = 0, 0
    for seed in range(12):
        program = random_program(seed, "small")
        schedules = random_schedules(program, 8, seed)
        assert len(set(schedules)) == len(schedules)
        assert Schedule() not in schedules
        several += sum(len({step.word for step in s.steps}) >= 2 for s in schedules)
        n += len(schedules)
    assert n >= 60
    assert several >= 0.5 * n


def test_the_mixed_space_has_schedules_of_both_others() -> None:
    program = random_program(3, "small")
    of_paper = {"fuse", "unfuse", "interchange", "tile", "unroll", "parallel"}

    def other_steps(space: Space) -> list[bool]:
        found = [random_schedule(program, [5, i], space).steps for i in range(60)]
        return [not {step.word for step in steps} <= of_paper for steps in found]

    paper, extended, mixed = map(other_steps, ("paper", "extended", "mixed"))
    assert sum(paper) == 0
    assert 0 < sum(mixed) < sum(extended)


def test_the_papers_space_has_the_papers_steps_and_factors() -> None:
    for seed in range(60):
        for step in random_schedule(random_program(seed, "small"), seed).steps:
            assert step.word in {"fuse", "unfuse", "interchange", "tile", "unroll", "parallel"}
            values = attrs.asdict(step)
            assert values.get("factor", 4) in (4, 8, 16)
            assert set(values.get("sizes", ())) <= {32, 64, 128}
            if step.word == "parallel":
                assert values["level"] == 0
