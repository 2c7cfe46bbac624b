"""One wrong schedule a transformation: it does change the result, and apply refuses it."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.errors import IllegalSchedule
from costmodel.ir import Program
from costmodel.nest import Nest
from costmodel.schedule import Schedule, ScheduledProgram, apply
from tests.costmodel.variants import run_both

SHIFTED_COPY = """
def f(A: "inout int32[12]"):
    for i in range(1, 12):
        A[i] = A[i - 1] + 1
"""
DIAGONAL = """
def f(A: "inout int32[12, 12]"):
    for i in range(1, 12):
        for j in range(11):
            A[i, j] = A[i - 1, j + 1] + 1
"""
TWO_LOOPS = """
def f(A: "inout int32[12]", B: "inout int32[12]"):
    for i in range(12):
        A[i] = B[i] * 2
    for i in range(11):
        B[i] = A[i + 1] + 1
"""
ONE_LOOP = """
def f(A: "inout int32[12]", B: "inout int32[12]"):
    for i in range(1, 12):
        A[i] = B[i - 1] * 2
        B[i] = A[i] + 1
"""
SEIDEL = """
def f(A: "inout int32[11, 11]"):
    for t in range(4):
        for i in range(1, 10):
            for j in range(1, 10):
                A[i, j] = A[i - 1, j - 1] + A[i - 1, j] + A[i - 1, j + 1] + A[i, j - 1] + A[i, j] \
                    + A[i, j + 1] + A[i + 1, j - 1] + A[i + 1, j] + A[i + 1, j + 1]
"""
PRODUCER = """
def f(A: "inout int32[13]", B: "inout int32[13]"):
    for i in range(12):
        A[i] = B[i] * 2
        B[i + 1] = A[i] + 1
"""
# name: program, schedule, the step at fault, statements of the pair that is turned round
CASES = {
    "reversed stencil": (SHIFTED_COPY, "reverse(S0, 0)", "reverse(S0, 0)", ("S0", "S0")),
    "interchanged (1, -1)": (DIAGONAL, "interchange(S0, 0, 1)", "interchange(S0, 0, 1)", None),
    "tiled (1, -1)": (DIAGONAL, "tile(S0, 0, 3, 3)", "tile(S0, 0, 3, 3)", None),
    "tiled seidel without skew": (SEIDEL, "tile(S0, 0, 2, 3, 3)", "tile(S0, 0, 2, 3, 3)", None),
    "skewed backwards": (
        SEIDEL,
        "skew(S0, 1, 2, -2); interchange(S0, 1, 2)",
        "interchange(S0, 1, 2)",
        None,
    ),
    "consumer before producer": (TWO_LOOPS, "fuse(S0, S1, 1)", "fuse(S0, S1, 1)", ("S0", "S1")),
    "cut recurrence": (ONE_LOOP, "unfuse(S1, 0)", "unfuse(S1, 0)", ("S1", "S0")),
    "delayed producer": (PRODUCER, "shift(S0, 0, 2)", "shift(S0, 0, 2)", ("S0", "S1")),
    "register tile of a reversed recurrence": (
        """
        def f(A: "in int32[9, 9]", C: "inout int32[9]"):
            for k in range(8):
                for j in range(8):
                    C[j] = A[k, j] - C[j]
        """,
        "reverse(S0, 0); register_tile(S0, 0, 2, 1, 4)",
        "reverse(S0, 0)",
        None,
    ),
}


def taken(program: Program, schedule: Schedule) -> ScheduledProgram:
    """The nest of a schedule, whether it is legal or not."""
    nest = Nest.of(program)
    for step in schedule.steps:
        nest = step.apply(nest)
    return ScheduledProgram(program, program, schedule, nest)


@pytest.mark.parametrize("name", CASES)
def test_illegal_schedule_changes_the_result_and_is_refused(name: str) -> None:
    text, schedule, step, pair = CASES[name]
    program = Program.parse(text)
    wanted, got = run_both(taken(program, Schedule.parse(schedule)))
    assert any(not np.array_equal(got[a], wanted[a]) for a in wanted)
    with pytest.raises(IllegalSchedule) as caught:
        apply(program, schedule, reassociate=True)
    message = str(caught.value)
    assert message.startswith(f"{step}: ")
    first, second = pair or ("S0", "S0")
    assert f"{first}[" in message.split(" must run before ")[0]
    assert message.split(" must run before ")[1].startswith(f"{second}[")


RACES = {
    "parallel sum": (
        """
        def f(A: "in int32[9]", s: "inout int32[()]"):
            for i in range(9):
                s[()] = s[()] + A[i]
        """,
        "parallel(S0, 0)",
    ),
    "parallel recurrence": (SHIFTED_COPY, "parallel(S0, 0)"),
    "vectors of a recurrence": (SHIFTED_COPY, "vectorize(S0)"),
    "vectors of a sum": (
        """
        def f(A: "in int32[9, 9]", x: "inout int32[9]"):
            for i in range(9):
                for j in range(9):
                    x[i] = x[i] + A[i, j]
        """,
        "vectorize(S0)",
    ),
    "vectors along columns": (
        """
        def f(A: "in int32[9, 9]", B: "inout int32[9, 9]"):
            for i in range(9):
                for j in range(9):
                    B[j, i] = A[j, i]
        """,
        "vectorize(S0)",
    ),
}


@pytest.mark.parametrize("name", RACES)
def test_loops_that_carry_dependences_are_not_run_side_by_side(name: str) -> None:
    text, step = RACES[name]
    with pytest.raises(IllegalSchedule, match=rf"^{step.split('(')[0]}\(S0.*: loop \d around S0 "):
        apply(Program.parse(text), step, reassociate=True)


def test_a_later_step_may_repair_an_earlier_one() -> None:
    program = Program.parse(TWO_LOOPS)
    text = "shift(S1, 0, 1); fuse(S0, S1, 1)"
    with pytest.raises(IllegalSchedule):
        apply(program, "fuse(S0, S1, 1)")
    wanted, got = run_both(apply(program, text))
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name])
    apply(program, "fuse(S0, S1, 1); shift(S1, 0, 1)")


def test_the_pair_named_is_a_real_one() -> None:
    program = Program.parse(DIAGONAL)
    with pytest.raises(IllegalSchedule) as caught:
        apply(program, "interchange(S0, 0, 1)")
    numbers = [
        int(n) for n in "".join(c if c.isdigit() else " " for c in str(caught.value)).split()
    ]
    # interchange(S0, 0, 1), then S0[i, j] before S0[i', j'], then the cell A[x, y]
    _, _, _, _, i, j, _, i2, j2, x, y = numbers
    assert (i2, j2) == (i + 1, j - 1)
    assert (x, y) == (i, j)
