"""Register tiles and packed buffers on extents that blocks do not divide, compiled and compared."""

from __future__ import annotations

import pytest

from costmodel.codegen import c_function
from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.schedule import apply
from tests.costmodel.variants import assert_same_results

MATMUL = """
def f(A: "in {t}[{n}, {k}]", B: "in {t}[{k}, {m}]", C: "inout {t}[{n}, {m}]"):
    for i in range({n}):
        for j in range({m}):
            for k in range({k}):
                C[i, j] = C[i, j] + A[i, k] * B[k, j]
"""

# Around the block sizes and vector lengths below: one less, equal, one more, far smaller.
EXTENTS = [(4, 8, 3), (3, 7, 2), (5, 9, 1), (12, 32, 6), (13, 33, 7), (11, 31, 5), (1, 1, 1)]

MATMUL_SCHEDULES = [
    "register_tile(S0, 0, 4, 1, 8)",
    "register_tile(S0, 1, 8)",
    "register_tile(S0, 0, 6, 1, 16)",
    "register_tile(S0, 0, 3, 1, 4)",
    "register_tile(S0, 0, 2, 1, 3)",
    "interchange(S0, 1, 2); register_tile(S0, 0, 4, 1, 2, 2, 8)",
    "interchange(S0, 0, 2); register_tile(S0, 1, 8)",
    "tile(S0, 0, 5, 6, 4); register_tile(S0, 3, 4, 4, 8)",
    "tile(S0, 0, 6, 16); register_tile(S0, 2, 3, 3, 8)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, B, 0)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, A, 1); pack(S0, B, 2)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, A, 2); pack(S0, B, 3)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, A, 2); pack(S0, B, 2)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, B, 3); pack(S0, A, 3)",
    "register_tile(S0, 0, 4, 1, 8); pack(S0, A, 0); pack(S0, B, 0)",
    "tile(S0, 0, 6, 16, 4); register_tile(S0, 3, 3, 4, 8); pack(S0, B, 3); pack(S0, A, 2)",
    "interchange(S0, 1, 2); tile(S0, 1, 4, 8); register_tile(S0, 0, 2, 4, 8); pack(S0, B, 3)",
    "reverse(S0, 0); register_tile(S0, 0, 4, 1, 8); parallel(S0, 0)",
    "shift(S0, 1, 3); register_tile(S0, 0, 4, 1, 8); unroll(S0, 2)",
    "skew(S0, 0, 1, 1); register_tile(S0, 0, 2, 1, 8)",
]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("first", range(0, len(EXTENTS), 2))
def test_matmul_of_awkward_extents(first: int, dtype: str) -> None:
    assert_same_results(
        [
            apply(Program.parse(MATMUL.format(t=dtype, n=n, m=m, k=k)), schedule, reassociate=True)
            for n, m, k in EXTENTS[first : first + 2]
            for schedule in MATMUL_SCHEDULES
        ]
    )


OTHERS = {
    "triangle": (
        """
        def f(A: "in float64[19, 5]", C: "inout float64[19, 19]"):
            for i in range(19):
                for j in range(i + 1):
                    for k in range(5):
                        C[i, j] = C[i, j] + A[i, k] * 2.0
        """,
        ["register_tile(S0, 0, 4, 1, 4)", "register_tile(S0, 0, 2, 1, 8); pack(S0, A, 1)"],
    ),
    "triangular sum": (
        """
        def f(A: "in float64[19, 19]", B: "in float64[19, 19]", C: "inout float64[19, 19]"):
            for i in range(19):
                for j in range(19):
                    for k in range(i, 19):
                        C[i, j] = C[i, j] - A[i, k] * B[k, j]
        """,
        ["register_tile(S0, 0, 4, 1, 4)", "register_tile(S0, 0, 3, 1, 8); pack(S0, B, 2)"],
    ),
    "guarded": (
        """
        def f(A: "in int32[20, 20]", C: "inout int32[20, 20]"):
            for i in range(20):
                for j in range(20):
                    if i + j - 7 >= 0 and 30 - i - 2*j >= 0:
                        C[i, j] = A[i, j] * 3 - C[i, j]
        """,
        ["register_tile(S0, 0, 2, 1, 4)", "register_tile(S0, 0, 3, 1, 8); pack(S0, A, 1)"],
    ),
    "no sum": (
        """
        def f(A: "in float32[20, 21]", x: "in float32[20]", C: "inout float32[20, 19]"):
            for i in range(20):
                for j in range(19):
                    C[i, j] = (A[i, j] + A[i, j + 1] + A[i, j + 2]) * x[i] + 2
        """,
        ["register_tile(S0, 0, 3, 1, 8)", "register_tile(S0, 1, 16); parallel(S0, 0)"],
    ),
    "constant": (
        """
        def f(C: "inout int32[7, 21]"):
            for i in range(7):
                for j in range(21):
                    C[i, j] = 4
        """,
        ["register_tile(S0, 0, 2, 1, 8)"],
    ),
    "same text at two places of a block": (
        """
        def f(A: "in int32[21]", C: "inout int32[21]"):
            for k in range(7):
                for j in range(21):
                    C[j] = C[j] + A[j]
        """,
        ["register_tile(S0, 0, 2, 1, 8)", "register_tile(S0, 0, 3, 1, 4); pack(S0, A, 0)"],
    ),
    "window": (
        """
        def f(A: "in int32[40]", w: "in int32[3]", C: "inout int32[38]"):
            for x in range(38):
                for q in range(3):
                    C[x] = C[x] + A[x + q] * w[q]
        """,
        [
            "register_tile(S0, 0, 8)",
            "register_tile(S0, 0, 4); pack(S0, A, 1); pack(S0, w, 0)",
            "interchange(S0, 0, 1); register_tile(S0, 0, 3, 1, 8); pack(S0, A, 2)",
        ],
    ),
    "blocks that begin late": (
        """
        def f(some_in: "in float32[11, 30]", C: "inout float32[11, 30]"):
            for i in range(2, 9):
                for j in range(3, 29):
                    for k in range(4):
                        C[i, j] = C[i, j] + some_in[k, j] * some_in[i, k]
        """,
        [
            "register_tile(S0, 0, 4, 1, 16)",
            "register_tile(S0, 0, 2, 1, 12)",
            "register_tile(S0, 0, 5, 1, 32)",
            "interchange(S0, 0, 1); register_tile(S0, 0, 12)",
            "tile(S0, 0, 3, 8); register_tile(S0, 2, 2, 3, 8)",
        ],
    ),
    "rows that end one after the other": (
        """
        def f(A: "in float64[23, 23]", B: "in float64[23, 23]", C: "inout float64[23, 23]"):
            for i in range(23):
                for j in range(23):
                    for k in range(i):
                        C[i, j] = C[i, j] + A[i, k] * B[k, j]
        """,
        [
            "register_tile(S0, 0, 4, 1, 8)",
            "register_tile(S0, 0, 6, 1, 4); pack(S0, B, 1); pack(S0, A, 2)",
            "register_tile(S0, 0, 6, 1, 4); pack(S0, B, 3); pack(S0, A, 0)",
            "register_tile(S0, 0, 4, 1, 8); interchange(S0, 0, 1); pack(S0, B, 1); parallel(S0, 0)",
            "reverse(S0, 2); register_tile(S0, 0, 4, 1, 8)",
            "tile(S0, 0, 8, 8, 8); register_tile(S0, 3, 4, 4, 8); pack(S0, B, 3)",
        ],
    ),
    "one row of a block in two iterations of a shared loop": (
        """
        def f(A: "in int32[13, 13, 9]", C: "inout int32[13, 9]"):
            for i in range(13):
                for k in range(i, 13):
                    for j in range(9):
                        C[i, j] = C[i, j] + A[i, k, j]
        """,
        [
            "register_tile(S0, 0, 4, 2, 4)",
            "register_tile(S0, 0, 3, 1, 2, 2, 4)",
            "register_tile(S0, 1, 4, 2, 8); interchange(S0, 1, 2)",
        ],
    ),
    "rows read that are written in other blocks": (
        """
        def f(A: "in int32[13, 13]", B: "inout int32[13, 21]"):
            for i in range(13):
                for j in range(21):
                    for k in range(i + 1, 13):
                        B[i, j] = B[i, j] + A[k, i] * B[k, j]
        """,
        [
            "register_tile(S0, 1, 8)",
            "register_tile(S0, 1, 20)",
            "interchange(S0, 0, 1); register_tile(S0, 0, 12)",
        ],
    ),
    "a row read that was written before": (
        """
        def f(A: "inout float64[9, 30]", x: "in float64[5]"):
            for i in range(1, 9):
                for k in range(5):
                    for j in range(30):
                        A[i, j] = A[i, j] + A[i - 1, j] * x[k]
        """,
        ["register_tile(S0, 2, 16)", "interchange(S0, 1, 2); register_tile(S0, 1, 12)"],
    ),
    "beside others": (
        """
        def f(A: "in int32[9, 9]", B: "in int32[9, 17]", C: "inout int32[9, 17]",
              D: "inout int32[9, 17]"):
            for i in range(9):
                for j in range(17):
                    C[i, j] = 0
                    for k in range(9):
                        C[i, j] = C[i, j] + A[i, k] * B[k, j]
                    D[i, j] = D[i, j] + C[i, j]
        """,
        [
            "unfuse(S1, 1); unfuse(S2, 1); register_tile(S1, 1, 8)",
            "unfuse(S1, 1); unfuse(S2, 1); unfuse(S1, 0); unfuse(S2, 0); "
            "register_tile(S1, 0, 4, 1, 8); pack(S1, B, 1)",
            "unfuse(S1, 1); unfuse(S2, 1); unfuse(S1, 0); unfuse(S2, 0); "
            "register_tile(S1, 0, 4, 1, 8); "
            "register_tile(S2, 0, 2, 1, 4); register_tile(S0, 1, 16)",
        ],
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_loop_nests(name: str) -> None:
    text, schedules = OTHERS[name]
    program = Program.parse(text)
    assert_same_results([apply(program, s, reassociate=True) for s in schedules])


PRODUCT = """
def f(a: "in int32[9]", b: "in int32[17]", c: "inout int32[25]"):
    for i in range(9):
        for j in range(17):
            c[i + j] = c[i + j] + a[i] * b[j]
"""

REFUSED = {
    "registers of a block overlap": (PRODUCT, "register_tile(S0, 0, 2, 1, 8)"),
    "which registers hold": (
        """
        def f(A: "in int32[13, 13]", B: "inout int32[13, 21]"):
            for i in range(13):
                for j in range(21):
                    for k in range(i + 1, 13):
                        B[i, j] = B[i, j] + A[k, i] * B[k, j]
        """,
        "register_tile(S0, 0, 2, 1, 8)",
    ),
    "reads A": (
        """
        def f(A: "inout int32[9, 30]"):
            for i in range(1, 9):
                for j in range(30):
                    A[i, j] = A[i, j] + A[i - 1, j]
        """,
        "register_tile(S0, 0, 2, 1, 8)",
    ),
    "at least 2": (MATMUL.format(t="int32", n=9, m=9, k=9), "register_tile(S0, 0, 1, 1, 8)"),
    "loops changed after": (
        MATMUL.format(t="int32", n=9, m=9, k=9),
        "register_tile(S0, 0, 2, 1, 8); interchange(S0, 2, 3)",
    ),
    "is packed already": (
        MATMUL.format(t="int32", n=9, m=9, k=9),
        "register_tile(S0, 0, 2, 1, 8); pack(S0, A, 0); pack(S0, A, 1)",
    ),
    "is one number": (
        """
        def f(a: "in float32", C: "inout float32[9, 9]"):
            for i in range(9):
                for j in range(9):
                    C[i, j] = C[i, j] * a
        """,
        "register_tile(S0, 0, 2, 1, 8); pack(S0, a, 1)",
    ),
    "along the vectors": (
        MATMUL.format(t="int32", n=9, m=9, k=9),
        "interchange(S0, 0, 1); register_tile(S0, 0, 2, 1, 8)",
    ),
    "more than 1048576": (
        MATMUL.format(t="int32", n=700, m=700, k=700),
        "register_tile(S0, 0, 2, 1, 8); pack(S0, B, 0)",
    ),
    "in the loops that registers live in": (
        """
        def f(A: "in int32[9, 8]", C: "inout int32[8]", D: "inout int32[8, 9]"):
            for k in range(9):
                for j in range(8):
                    C[j] = C[j] + A[k, j]
            for j in range(8):
                for k in range(9):
                    D[j, k] = 1
        """,
        "interchange(S0, 0, 1); register_tile(S0, 0, 8); fuse(S0, S1, 2)",
    ),
    "constants with a fraction": (
        """
        def f(C: "inout int32[9]"):
            for i in range(9):
                C[i] = C[i] * 0.5
        """,
        "register_tile(S0, 0, 8)",
    ),
    "computes more than": (
        """
        def f(A: "in float32[9]", C: "inout float32[9]"):
            for i in range(9):
                C[i] = sqrt(A[i])
        """,
        "register_tile(S0, 0, 8)",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_registers_cannot_hold_is_refused_by_apply(reason: str) -> None:
    text, schedule = REFUSED[reason]
    program = Program.parse(text)
    with pytest.raises(ScheduleError, match=reason) as caught:
        apply(program, schedule, reassociate=True)
    assert str(caught.value).split(":")[0] in schedule


def test_a_product_of_polynomials_may_hold_one_row_of_its_block() -> None:
    program = Program.parse(PRODUCT)
    assert_same_results([apply(program, "register_tile(S0, 1, 8)")])


@pytest.mark.parametrize(
    "schedule",
    [
        "register_tile(S0, 0, 6, 1, 16)",
        "register_tile(S0, 0, 5, 1, 8); pack(S0, B, 1)",
        "register_tile(S0, 1, 24); pack(S0, A, 1)",
    ],
)
def test_the_border_of_a_rectangle_is_updated_in_registers_too(schedule: str) -> None:
    program = Program.parse(MATMUL.format(t="float32", n=32, m=45, k=7))
    text = c_function(apply(program, schedule), "f")
    assert "C[" in text
    for line in text.splitlines():
        assert "C[" not in line or "(floatx" in line or "void" in line


def test_rows_of_a_shortened_temporary_are_held_and_read() -> None:
    program = Program.parse(
        """
        def f(A: "in int32[12, 20]", T: "temp int32[12, 20]", B: "out int32[12, 20]"):
            for j in range(20):
                T[0, j] = A[0, j]
            for i in range(1, 12):
                for j in range(20):
                    T[i, j] = A[i, j]
                    for k in range(3):
                        T[i, j] = T[i, j] + T[i - 1, j] * A[i, k]
                    B[i, j] = T[i, j]
        """
    )
    steps = "unfuse(S2, 1); unfuse(S3, 1); register_tile(S2, 1, 12); contract(T, 0, {})"
    assert_same_results([apply(program, steps.format(2), reassociate=True)])
    with pytest.raises(ScheduleError, match="another value in"):
        apply(program, steps.format(1), reassociate=True)
