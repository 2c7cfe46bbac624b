"""Roles and bounds as isl finds them, against running over every instance."""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import bounds, interpreter
from costmodel.errors import OutOfBounds
from costmodel.ir import Array, Program
from costmodel.roles import with_roles
from tests.costmodel.small_programs import random_program


def cells(program: Program) -> list[tuple[str, str, tuple[int, ...]]]:
    """Every access in the order it happens: read or write, array, cell."""
    statements = {s.name: s for s in program.statements}
    found = []
    for name, values in interpreter.instances(program):
        statement = statements[name]
        point = dict(zip(statement.iterators, values, strict=True))
        accesses = [("read", r) for r in statement.reads] + [("write", statement.write)]
        for kind, access in accesses:
            found.append((kind, access.array, tuple(i.value(point) for i in access.index)))
    return found


def role_by_running(program: Program, array: Array) -> str:
    is_named = any(s.write.array == array.name for s in program.statements)
    written: set[tuple[int, ...]] = set()
    for kind, name, cell in cells(program):
        if name == array.name:
            if kind == "read" and cell not in written:
                return "inout" if is_named else "in"
            if kind == "write":
                written.add(cell)
    if not is_named:
        return "in"
    return "out" if len(written) == array.n_items else "inout"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_roles_follow_the_first_use_of_every_cell(seed: int) -> None:
    program = random_program(seed)
    for array in with_roles(program).arrays:
        assert array.role == role_by_running(program, array), (array, str(program))


def test_random_programs_reach_every_role() -> None:
    seen = {a.role for seed in range(80) for a in with_roles(random_program(seed)).arrays}
    assert seen == {"in", "out", "inout"}


def test_given_roles_stay() -> None:
    program = Program.parse('def f(a: "inout int32[2]"):\n for i in range(0, 2): a[i] = i')
    assert with_roles(program, {"a"}) == program
    assert with_roles(program).array("a").role == "out"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), cut=st.sampled_from(["A", "B", "x", "y", None]))
def test_bounds_are_refused_exactly_when_an_access_leaves(seed: int, cut: str | None) -> None:
    program = random_program(seed)
    arrays = tuple(
        attrs.evolve(a, shape=(*a.shape[:-1], a.shape[-1] - 1)) if a.name == cut else a
        for a in program.arrays
    )
    program = attrs.evolve(program, arrays=arrays)
    shapes = {a.name: a.shape for a in arrays}
    leaves = any(
        not all(0 <= i < extent for i, extent in zip(cell, shapes[name], strict=True))
        for _, name, cell in cells(program)
    )
    if leaves:
        with pytest.raises(OutOfBounds, match=rf"S\d+: {cut}\[.*leaves {cut} of shape"):
            bounds.check(program)
    else:
        bounds.check(program)


def test_the_first_violating_iteration_is_named() -> None:
    text = """
def f(a: "inout int32[9]"):
    for i in range(0, 9):
        for j in range(0, i):
            if j - 2 >= 0:
                a[i + j - 2] = 0
"""
    message = r"^S0: a\[i \+ j - 2\] leaves a of shape \(9,\) at i = 6, j = 5: .* is not below 9$"
    with pytest.raises(OutOfBounds, match=message):
        bounds.check(Program.parse(text))
