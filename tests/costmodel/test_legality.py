"""The dependence test against brute force over all pairs of instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from costmodel import legality
from costmodel.ir import Program
from costmodel.nest import Nest
from costmodel.poly import polyhedral
from costmodel.random_programs import random_program
from costmodel.random_schedules import random_steps
from costmodel.steps import Reverse, Step
from tests.costmodel.brute_force import backward_pairs
from tests.costmodel.small_programs import random_program as free_program


def cases(n: int) -> Iterator[tuple[Program, tuple[Step, ...], Nest]]:
    """Programs of the paper's class and free ones with guards and triangles, in turn."""
    for seed in range(n):
        program = random_program(seed, "tiny") if seed % 2 else free_program(seed, "int32")
        for draw in range(4):
            steps = random_steps(program, [seed, draw], "extended")
            nest = Nest.of(program)
            for step in steps:
                nest = step.apply(nest)
            yield program, steps, nest


@pytest.mark.parametrize("reassociate", [False, True])
def test_isl_agrees_with_brute_force(reassociate: bool) -> None:
    seen: Counter[bool] = Counter()
    for program, steps, nest in cases(150):
        wanted = next(backward_pairs(program, nest, reassociate), None) is None
        got = legality.is_legal(polyhedral(program), nest, reassociate)
        assert legality.kept_is_legal(polyhedral(program), nest, reassociate) == got
        assert got == wanted, f"{program}\n{'; '.join(map(str, steps))}"
        seen[got] += 1
    assert seen.total() >= 500
    assert seen[True] >= 100
    assert seen[False] >= 100


def test_every_nest_gives_each_instance_one_place() -> None:
    for program, _, nest in cases(40):
        legality.check_places(polyhedral(program), nest)


def test_a_sum_whose_fraction_each_store_cuts_off_keeps_its_order() -> None:
    text = 'def f(A: "in int32[4]", s: "inout int32[()]"):\n'
    text += "    for i in range(4):\n        s[()] = s[()] + {value}\n"
    for value, wanted in (("A[i]", True), ("0.5 * A[i]", False), ("sqrt(A[i])", False)):
        poly = polyhedral(Program.parse(text.format(value=value)))
        nest = Reverse("S0", 0).apply(Nest.of(poly.program))
        assert legality.is_legal(poly, nest, reassociate=True) == wanted
        assert not legality.is_legal(poly, nest, reassociate=False)
