"""Generated C against the plain program, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from costmodel.ir import Program
from costmodel.random_programs import random_program
from costmodel.random_schedules import TINY, Space, random_schedule
from costmodel.schedule import ScheduledProgram, apply
from tests.costmodel.small_programs import random_program as free_program
from tests.costmodel.variants import assert_same_results, with_dtype

Make = Callable[[int], Program]

# Sums of whole numbers are exact in any order, so reductions may be re-associated there.
CASES: dict[str, tuple[Make, bool]] = {
    "paper_int32": (lambda seed: with_dtype(random_program(seed, "tiny"), "int32"), True),
    "paper_float64": (lambda seed: with_dtype(random_program(seed, "tiny"), "float64"), True),
    "free_int32": (lambda seed: free_program(seed, "int32"), True),
    "free_mixed": (lambda seed: free_program(seed, "mixed"), False),
}


def variants(make: Make, reassociate: bool, seeds: range, draws: int) -> Iterator[ScheduledProgram]:
    for seed in seeds:
        program = make(seed)
        for draw in range(draws):
            space: Space = "extended" if draw else "paper"
            schedule = random_schedule(
                program, [seed, draw], space, sizes=TINY, reassociate=reassociate
            )
            if schedule.steps:
                yield apply(program, schedule, reassociate=reassociate)


@pytest.mark.parametrize("case", CASES)
def test_legal_schedules_compute_what_the_program_does(case: str) -> None:
    found = list(variants(*CASES[case], range(25), 3))
    assert len(found) >= 40
    assert_same_results(found)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(100, 340, 40))
@pytest.mark.parametrize("case", CASES)
def test_many_legal_schedules_compute_what_the_program_does(case: str, first: int) -> None:
    assert_same_results(list(variants(*CASES[case], range(first, first + 40), 4)))
