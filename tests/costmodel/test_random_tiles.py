"""Register tiles of random blocks on domains with random borders, compiled and compared."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel import codegen
from costmodel.errors import ScheduleError
from costmodel.execution import Execution
from costmodel.ir import Program
from costmodel.schedule import ScheduledProgram, apply
from tests.costmodel.variants import assert_same_results


def random_sum(rng: np.random.Generator) -> Program:
    """Three loops, each inner bound fixed or moved by a loop around it; a sum over one or none."""
    dtype = rng.choice(["int32", "float32", "float64"])
    low_j, high_j, low_k, high_k = (
        str(rng.choice([f"{a}", f"{a}", f"{b}"]))
        for a, b in (
            (rng.integers(0, 5), "i"),
            (rng.integers(12, 20), f"i + {rng.integers(1, 8)}"),
            (rng.integers(0, 3), rng.choice(["i", "j", "i + 1"])),
            (rng.integers(6, 12), rng.choice(["i + 1", "j + 2", "i"])),
        )
    )
    guard = rng.choice(["", "", f"if i + k - {rng.integers(1, 6)} >= 0:"])
    other = rng.choice(["A[k, j]", "A[i + k, j + 1]", "C[i + 12, j]", "C[k + 1, j]", "C[i + 1, j]"])
    factor = rng.choice(["x[k]", "A[i, k]", "A[k, i]", "2"])
    statement = f"C[i, j] = C[i, j] + {other} * {factor}"
    lines = [
        f'def f(A: "in {dtype}[40, 40]", x: "in {dtype}[40]", C: "inout {dtype}[40, 40]"):',
        f"    for i in range({rng.integers(0, 4)}, {rng.integers(8, 13)}):",
        f"        for j in range({low_j}, {high_j}):",
        f"            for k in range({low_k}, {high_k}):",
        f"                {guard}" if guard else "",
        f"                {'    ' if guard else ''}{statement}",
    ]
    return Program.parse("\n".join(line for line in lines if line) + "\n")


def random_tile(rng: np.random.Generator) -> str:
    rows, columns = rng.choice([2, 3, 4, 6]), rng.choice([3, 4, 6, 8, 16, 24])
    steps = [
        rng.choice(
            [
                f"register_tile(S0, 0, {rows}, 1, {columns})",
                f"register_tile(S0, 1, {columns})",
                f"interchange(S0, 1, 2); register_tile(S0, 0, {rows}, 1, 2, 2, {columns})",
                f"interchange(S0, 1, 2); register_tile(S0, 2, {columns})",
                f"interchange(S0, 0, 2); register_tile(S0, 0, {rows}, 1, {columns})",
            ]
        )
    ]
    if rng.random() < 0.4:
        steps.append("interchange(S0, 0, 1)")
    if rng.random() < 0.4:
        steps.append(f"pack(S0, A, {rng.integers(0, 4)})")
    return "; ".join(steps)


def random_cases(seeds: range) -> list[ScheduledProgram]:
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        program = random_sum(rng)
        for _ in range(4):
            try:
                found.append(apply(program, random_tile(rng), reassociate=True))
            except ScheduleError:
                continue
    return found


def test_blocks_at_random_borders_compute_what_the_program_does() -> None:
    found = random_cases(range(40))
    assert len(found) >= 40
    assert_same_results(found)


TRIANGLE = """
def f(A: "in float32[40, 40]", x: "in float32[40]", C: "inout float32[40, 40]"):
    for i in range(11):
        for j in range(i, 17):
            for k in range(1, 9):
                C[i, j] += A[i, k] * x[k]
"""


def test_a_triangle_that_isl_finds_no_loops_for_is_asked_for_in_one_piece() -> None:
    scheduled = apply(Program.parse(TRIANGLE), "register_tile(S0, 0, 2, 1, 3)", reassociate=True)
    assert_same_results([scheduled])


def test_a_nest_without_loops_is_refused_and_scores_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Program.parse(TRIANGLE)
    plain = apply(program, "")
    tiled = apply(program, "register_tile(S0, 0, 2, 1, 3)", reassociate=True)
    monkeypatch.setattr(codegen, "_in_one_piece", lambda domains: domains)  # isl fails again
    with pytest.raises(ScheduleError, match=r"isl finds no loops .* choose other sizes of tiles"):
        codegen.c_function(tiled, "f")
    speedups = Execution(program)([tiled, plain, tiled])
    assert speedups[0] == speedups[2] == 0 < speedups[1]


@pytest.mark.soak
@pytest.mark.parametrize("first", range(100, 500, 50))
def test_many_blocks_at_random_borders_compute_what_the_program_does(first: int) -> None:
    assert_same_results(random_cases(range(first, first + 50)))
