"""How long it takes to prove a schedule legal and to write its C, on one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from costmodel import legality
from costmodel.codegen import c_function
from costmodel.nest import Nest
from costmodel.poly import polyhedral
from costmodel.random_programs import random_program
from costmodel.random_schedules import random_schedule
from costmodel.schedule import apply

N_PROGRAMS, N_SCHEDULES = 50, 4


def seconds(call: Callable[[], object]) -> float:
    """The least of three, in time of this process alone: others may share the core."""
    found = []
    for _ in range(3):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.bench
@pytest.mark.slow
def test_legality_takes_a_millisecond_and_code_a_few() -> None:
    proofs, whole = [], []
    for seed in range(N_PROGRAMS):
        program = random_program(seed, "small")
        poly = polyhedral(program)
        for draw in range(N_SCHEDULES):
            schedule = random_schedule(program, [seed, draw], reassociate=True)
            nest = Nest.of(program)
            for step in schedule.steps:
                nest = step.apply(nest)
            proof = seconds(lambda: legality.is_legal(poly, nest, True))  # noqa: B023
            scheduled = apply(program, schedule, reassociate=True)
            proofs.append(proof)
            whole.append(proof + seconds(lambda: c_function(scheduled, "f")))  # noqa: B023
    assert len(whole) == 200
    assert statistics.median(proofs) <= 1.2e-3
    assert statistics.median(whole) <= 6e-3
