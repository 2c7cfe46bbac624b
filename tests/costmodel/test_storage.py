"""Inlining and contraction: what is allowed, and that the values stay the same."""

import itertools

import numpy as np
import pytest

from costmodel import c_text, interpreter, legality, lost_values
from costmodel.codegen import c_function
from costmodel.errors import IllegalSchedule, ScheduleError
from costmodel.ir import Program
from costmodel.nest import Nest
from costmodel.poly import polyhedral
from costmodel.schedule import Schedule, apply
from tests.costmodel.compiled import call
from tests.costmodel.small_programs import copies

BLUR = """
def blur(img: "in float32[14, 11]", bx: "temp float32[14, 9]", out: "out float32[12, 9]"):
    for y in range(0, 14):
        for x in range(0, 9):
            bx[y, x] = img[y, x] + img[y, x + 1] * 2.0 + img[y, x + 2]
    for y in range(0, 12):
        for x in range(0, 9):
            out[y, x] = bx[y, x] + bx[y + 1, x] * 2.0 + bx[y + 2, x]
"""
LEGAL = (
    "inline(S0)",
    "inline(S0); tile(S0, 0, 4, 4)",
    "shift(S1, 0, 2); fuse(S0, S1, 1)",
    "shift(S1, 0, 2); fuse(S0, S1, 1); contract(bx, 0, 3)",
    "shift(S1, 0, 2); fuse(S0, S1, 1); contract(bx, 0, 4); vectorize(S0); vectorize(S1)",
    "shift(S1, 0, 2); fuse(S0, S1, 2); contract(bx, 0, 3)",
    "shift(S1, 0, 3); fuse(S0, S1, 1); contract(bx, 0, 4)",
)
ILLEGAL = (
    "shift(S1, 0, 1); fuse(S0, S1, 1)",
    "contract(bx, 0, 13)",
    "contract(bx, 1, 8)",
    "shift(S1, 0, 2); fuse(S0, S1, 1); contract(bx, 0, 2)",
    "shift(S1, 0, 3); fuse(S0, S1, 1); contract(bx, 0, 3)",
    "shift(S1, 0, 2); fuse(S0, S1, 1); contract(bx, 0, 3); parallel(S0, 0)",
)


@pytest.mark.parametrize("schedule", LEGAL)
def test_values_stay_the_same(schedule, rng):
    program = Program.parse(BLUR)
    start = {a.name: rng.integers(-8, 9, a.shape).astype(np.float32) for a in program.arrays}
    wanted, got = copies(start), copies(start)
    interpreter.run(program, wanted)
    text = c_text.PRELUDE + c_function(apply(program, schedule), "scheduled")
    call(program, text, "scheduled", got)
    np.testing.assert_array_equal(got["out"], wanted["out"])


@pytest.mark.parametrize("schedule", ILLEGAL)
def test_what_would_change_them_is_refused(schedule):
    with pytest.raises(IllegalSchedule, match=schedule.rpartition("; ")[2].partition("(")[0]):
        apply(Program.parse(BLUR), schedule)


def test_too_few_rows_really_change_the_values(rng):
    """The dataflow test refuses what the order of the old cells alone would let pass."""
    program = Program.parse(BLUR)
    legal = "shift(S1, 0, 2); fuse(S0, S1, 1); contract(bx, 0, 3)"
    text = c_function(apply(program, legal), "scheduled").replace("% 3", "% 2")
    start = {a.name: rng.integers(-8, 9, a.shape).astype(np.float32) for a in program.arrays}
    wanted, got = copies(start), copies(start)
    interpreter.run(program, wanted)
    call(program, c_text.PRELUDE + text, "scheduled", got)
    assert not np.array_equal(got["out"], wanted["out"])


INLINE = {
    "out is out": ("inline(S1)", BLUR),
    "no statement S7": ("inline(S7)", BLUR),
    "before any other": ("tile(S0, 0, 4); inline(S0)", BLUR),
    "only a temp can be contracted": ("contract(img, 0, 4)", BLUR),
    "dimensions 0 to 1": ("contract(bx, 2, 4)", BLUR),
    "at least one row": ("contract(bx, 0, 0)", BLUR),
}


@pytest.mark.parametrize("text", INLINE)
def test_a_form_that_does_not_allow_it_is_said(text):
    schedule, program = INLINE[text]
    with pytest.raises(ScheduleError, match=text):
        apply(Program.parse(program), schedule)


OVERWRITTEN = """
def late(a: "inout int32[9]", t: "temp int32[9]", b: "out int32[9]"):
    for i in range(0, 9):
        t[i] = a[i]
    for i in range(0, 9):
        a[i] = 0
    for i in range(0, 9):
        b[i] = t[i]
"""
UNSTORED = """
def short(a: "in int32[9]", t: "temp int32[9]", b: "out int32[9]"):
    for i in range(0, 8):
        t[i] = a[i]
    for i in range(0, 9):
        b[i] = t[i]
"""
EARLY = """
def early(a: "in int32[9]", t: "temp int32[9]", b: "out int32[9]"):
    for i in range(0, 9):
        b[i] = t[i]
        t[i] = a[i]
"""


@pytest.mark.parametrize(
    ("program", "statement", "reason"),
    [
        (OVERWRITTEN, "S0", "overwritten later"),
        (UNSTORED, "S0", "not stored"),
        (EARLY, "S1", "before they are stored"),
    ],
)
def test_a_reader_that_would_see_another_value_is_named(program, statement, reason):
    with pytest.raises(IllegalSchedule, match=reason):
        apply(Program.parse(program), f"inline({statement})")


def test_a_value_that_is_found_lost_is_lost_for_isl_too(monkeypatch):
    """The quick no is never wrong, and is what most refusals come from."""
    program = Program.parse(BLUR)
    poly = polyhedral(program)
    (reader,) = (s for s in program.statements if s.name == "S1")
    found = illegal = 0
    for depth, shift, column, rows in itertools.product((1, 2), range(4), range(2), range(1, 6)):
        nest = Nest.of(program)
        steps = f"shift(S1, 0, {shift}); shift(S1, 1, {column}); fuse(S0, S1, {depth}); "
        for step in Schedule.parse(steps + f"contract(bx, 0, {rows})").steps:
            nest = step.apply(nest)
        quick = [
            lost_values.loses_value(nest, read, legality._some_as_written(program, reader, read))
            for read in reader.reads
        ]
        with monkeypatch.context() as patch:
            patch.setattr(legality, "loses_value", lambda *given: False)
            differs = legality.why_flow_differs(poly, nest) is not None
        assert differs or not any(quick), nest
        assert (legality.why_flow_differs(poly, nest) is not None) == differs
        found, illegal = found + any(quick), illegal + differs
    assert 0.5 * illegal < found
    assert illegal < 80


def test_some_stores_and_their_reads_are_those_of_the_flow():
    program = Program.parse(BLUR)
    (reader,) = (s for s in program.statements if s.name == "S1")
    first, last = legality._some_as_written(program, reader, reader.reads[1])
    assert (first.store, first.read) == ({"y": 1, "x": 0}, {"y": 0, "x": 0})
    assert (last.store, last.read) == ({"y": 12, "x": 8}, {"y": 11, "x": 8})
