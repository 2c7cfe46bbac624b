"""Which loops may be parallel or in vectors, and that generated loops run what they must."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from common import native
from costmodel import codegen, interpreter
from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.legality import why_not_parallel, why_not_vector
from costmodel.poly import polyhedral
from costmodel.random_programs import random_program
from costmodel.random_schedules import TINY, random_schedule
from costmodel.schedule import ScheduledProgram, apply
from tests.costmodel.small_programs import random_program as free_program

SEIDEL = """
def seidel2d(A: "inout float64[20, 20]"):
    for t in range(5):
        for i in range(1, 19):
            for j in range(1, 19):
                A[i, j] = (A[i - 1, j - 1] + A[i - 1, j] + A[i - 1, j + 1] + A[i, j - 1] + A[i, j]
                    + A[i, j + 1] + A[i + 1, j - 1] + A[i + 1, j] + A[i + 1, j + 1]) / 9.0
"""
MATMUL = """
def matmul(A: "in float32[20, 30]", B: "in float32[30, 25]", C: "inout float32[20, 25]"):
    for i in range(20):
        for j in range(25):
            for k in range(30):
                C[i, j] = C[i, j] + A[i, k] * B[k, j]
"""
JACOBI = """
def jacobi2d(A: "inout float64[20, 20]", B: "inout float64[20, 20]"):
    for t in range(5):
        for i in range(1, 19):
            for j in range(1, 19):
                B[i, j] = 0.2 * (A[i, j] + A[i, j - 1] + A[i, j + 1] + A[i + 1, j] + A[i - 1, j])
        for i in range(1, 19):
            for j in range(1, 19):
                A[i, j] = 0.2 * (B[i, j] + B[i, j - 1] + B[i, j + 1] + B[i + 1, j] + B[i - 1, j])
"""
TRIANGLES = """
def triangles(A: "inout int32[40, 40]", x: "inout int32[40]"):
    for i in range(40):
        for j in range(i, 37):
            A[i, j] = A[i, j] + 1
        for j in range(i + 1):
            for k in range(j, i + 1):
                if 50 - j - k >= 0:
                    x[j] = x[j] + A[i, k]
"""


def parallel_loops(text: str, schedule: str, statement: str = "S0") -> list[int]:
    scheduled = apply(Program.parse(text), schedule, reassociate=True)
    poly = polyhedral(scheduled.program)
    n_loops = len(scheduled.nest.find(statement).dims)
    return [
        level
        for level in range(n_loops)
        if why_not_parallel(poly, scheduled.nest, statement, level) is None
    ]


@pytest.mark.parametrize(
    ("text", "schedule", "statement", "wanted"),
    [
        (SEIDEL, "", "S0", []),
        # One skew by (1, 1) makes tiles of rows and columns legal, two make diagonals parallel.
        (SEIDEL, "skew(S0, 0, 1, 1)", "S0", []),
        (SEIDEL, "skew(S0, 0, 1, 1); skew(S0, 1, 2, 1)", "S0", []),
        (SEIDEL, "skew(S0, 1, 2, 2); interchange(S0, 1, 2)", "S0", [2]),
        (MATMUL, "", "S0", [0, 1]),
        (MATMUL, "interchange(S0, 0, 2)", "S0", [1, 2]),
        (MATMUL, "tile(S0, 0, 8, 8, 8)", "S0", [0, 1, 3, 4]),
        (JACOBI, "", "S0", [1, 2]),
        (JACOBI, "", "S1", [1, 2]),
    ],
)
def test_loops_without_dependences_between_iterations(
    text: str, schedule: str, statement: str, wanted: list[int]
) -> None:
    assert parallel_loops(text, schedule, statement) == wanted


WAVE = """
def wave(A: "inout float64[20, 20]"):
    for i in range(1, 20):
        for j in range(1, 20):
            A[i, j] = A[i - 1, j] + A[i, j - 1]
"""


def test_a_wave_front_is_parallel_after_a_skew_and_an_interchange() -> None:
    assert parallel_loops(WAVE, "") == []
    assert parallel_loops(WAVE, "skew(S0, 0, 1, 1)") == []
    assert parallel_loops(WAVE, "skew(S0, 0, 1, 1); interchange(S0, 0, 1)") == [1]


def test_vectors_need_an_innermost_loop_of_stride_0_or_1() -> None:
    scheduled = apply(Program.parse(MATMUL), "interchange(S0, 1, 2)")
    poly, nest = polyhedral(scheduled.program), scheduled.nest
    assert why_not_vector(poly, nest, "S0", 2) is None
    assert why_not_vector(poly, nest, "S0", 1) == "has a loop inside"
    plain = apply(Program.parse(MATMUL)).nest
    assert why_not_vector(poly, plain, "S0", 2) == "carries a dependence between its iterations"
    columns = apply(Program.parse(MATMUL), "interchange(S0, 0, 2)").nest
    reason = why_not_vector(poly, columns, "S0", 2)
    assert reason is not None
    assert "moves C[i, j] by 25 elements" in reason


@pytest.mark.parametrize("schedule", ["parallel(S0, 0)", "tile(S0, 0, 8, 8); parallel(S0, 0)"])
def test_parallel_loops_compute_the_same(schedule: str) -> None:
    program = Program.parse(MATMUL)
    rng = np.random.default_rng(0)
    arrays = {a.name: rng.integers(-8, 9, a.shape).astype(np.float32) for a in program.arrays}
    wanted = {name: array.copy() for name, array in arrays.items()}
    interpreter.run(program, wanted)
    text = codegen.c_function(apply(program, schedule), "f")
    assert "#pragma omp parallel for" in text
    library = native.build_source(
        "costmodel_parallel", "#define min(a, b) ((a) < (b) ? (a) : (b))\n"
        + text.replace("void f", "EXPORT void f"), openmp=True,
    )  # fmt: skip
    library.function("void f(const float* A, const float* B, float* C)")(*arrays.values())
    np.testing.assert_array_equal(arrays["C"], wanted["C"])


# --- every instance once -------------------------------------------------------------------------


def counts(scheduled: ScheduledProgram, name: str) -> str:
    """C of a scheduled program that counts its instances instead of running them."""
    text = codegen.c_function(scheduled, name)
    lines = []
    for line in text.splitlines():
        head, mark, tail = line.rpartition("/* S")
        if mark:
            indent = head[: len(head) - len(head.lstrip())]
            lines.append(f"{indent}count[{tail.split()[0]}] += 1;")
        else:
            lines.append(line)
    body = "\n".join(lines[1:])
    return f"EXPORT void {name}(int64_t *count) {{\n{body}\n"


def assert_counts(variants: list[ScheduledProgram]) -> None:
    head = "#include <stdint.h>\n#include <stdlib.h>\n#include <math.h>\n"
    head += "#define floord(n, d) (((n) < 0) ? -((-(n) + (d) - 1) / (d)) : (n) / (d))\n"
    head += "#define min(x, y) ((x) < (y) ? (x) : (y))\n#define max(x, y) ((x) > (y) ? (x) : (y))\n"
    text = head + "".join(counts(v, f"count{at}") for at, v in enumerate(variants))
    library = native.build_source("costmodel_counts", text, flags=("-w",))
    for at, scheduled in enumerate(variants):
        statements = scheduled.program.statements
        wanted = np.zeros(len(statements), np.int64)
        domains = polyhedral(scheduled.program).domains.get_set_list()
        for place in range(domains.n_set()):
            domain = domains.get_at(place)
            wanted[int(domain.get_tuple_name()[1:])] = domain.count_val().to_python()
        got = np.zeros(len(statements), np.int64)
        library.function(f"void count{at}(int64_t* count)")(got)
        np.testing.assert_array_equal(
            got, wanted, err_msg=f"{scheduled.program}\n{scheduled.schedule}"
        )


def test_triangles_and_cut_tiles_run_every_instance_once() -> None:
    program = Program.parse(TRIANGLES)
    unfused = "unfuse(S1, 0)"
    schedules = [
        "",
        "tile(S0, 1, 7)",
        f"{unfused}; tile(S0, 0, 7, 16)",
        f"{unfused}; tile(S1, 0, 7, 3, 16)",
        f"{unfused}; skew(S1, 0, 2, 1); tile(S1, 1, 5, 4)",
        f"{unfused}; interchange(S1, 0, 2); tile(S1, 0, 41, 2); unroll(S1, 3)",
        f"{unfused}; reverse(S1, 1); shift(S0, 0, 3); interchange(S1, 0, 1)",
    ]
    assert_counts([apply(program, text, reassociate=True) for text in schedules])


def test_matmul_in_tiles_of_every_size_runs_every_instance_once() -> None:
    text = MATMUL.replace("20", "9").replace("30", "5").replace("25", "7")
    sizes = itertools.product((1, 2, 4, 9, 10), (3, 7, 8), (2, 5))
    program = Program.parse(text)
    assert_counts([apply(program, f"tile(S0, 0, {a}, {b}, {c})") for a, b, c in sizes])


def test_random_legal_schedules_run_every_instance_once() -> None:
    variants = []
    for seed in range(40):
        program = random_program(seed, "tiny") if seed % 2 else free_program(seed, "int32")
        for draw in range(3):
            space = "paper" if draw == 0 else "extended"
            schedule = random_schedule(program, [seed, draw], space, sizes=TINY, reassociate=True)
            if not any(step.word == "register_tile" for step in schedule.steps):
                variants.append(apply(program, schedule, reassociate=True))
    assert len(variants) >= 80
    assert_counts(variants)


def test_a_loop_cannot_be_parallel_and_unrolled() -> None:
    text = 'def f(A: "inout int32[40]"):\n    for i in range(40):\n        A[i] = 1\n'
    with pytest.raises(ScheduleError, match=r"^unroll\(S0, 4\): loop 0 around S0 is parallel"):
        apply(Program.parse(text), "unroll(S0, 4); parallel(S0, 0)")


@pytest.mark.parametrize(
    ("schedule", "pragma"),
    [
        ("vectorize(S0)", "omp simd"),
        ("unroll(S0, 4)", "GCC unroll 4"),
        ("unroll(S0, 4); vectorize(S0)", "GCC ivdep"),
        ("parallel(S0, 0); vectorize(S0)", "omp parallel for simd"),
    ],
)
def test_pragmas_stand_before_their_loop(schedule: str, pragma: str) -> None:
    text = 'def f(A: "inout int32[40]"):\n    for i in range(40):\n        A[i] = 1\n'
    lines = codegen.c_function(apply(Program.parse(text), schedule), "f").splitlines()
    at = next(at for at, line in enumerate(lines) if pragma in line)
    following = [line.strip() for line in lines[at:] if "#pragma" not in line]
    assert following[0].startswith("for (int c0 = 0; c0 <= 39; c0 += 1)")
