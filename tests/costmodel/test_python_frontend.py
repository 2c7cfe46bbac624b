"""Python functions as programs: the text of a program, richer Python, and what is refused."""

# Annotations here are types of a program, not of Python.
# ruff: noqa: F821, F722

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.errors import NotAffine, OutOfBounds, UnboundParameter, UnsupportedProgram
from costmodel.ir import Program
from costmodel.python_frontend import kernel, parse_function
from tests.costmodel.small_programs import random_program


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), dtype=st.sampled_from(["float32", "int32", "mixed"]))
def test_the_text_of_a_program_is_the_program(seed: int, dtype: str) -> None:
    program = random_program(seed, dtype)
    assert Program.parse(str(program)) == program


def test_loops_without_a_body_keep_their_text() -> None:
    text = 'def f(a: "inout int32[4]"):\n    for i in range(0, 2):\n        pass\n'
    assert str(Program.parse(text)) == text
    assert str(Program.parse("def f():\n    pass\n")) == "def f():\n    pass\n"


def normal(body: str, head: str = 'a: "inout float64[20]", s: "inout float64[()]"') -> str:
    """The body of a function of array a[20] and scalar s, in normal form, with N = 20."""
    program = parse_function(f"def f({head}):\n    {body}", {"N": 20})
    return "; ".join(line.strip() for line in str(program).splitlines()[1:])


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("a[3] += s", "a[3] = a[3] + s[()]"),
        ("s *= 2", "s[()] = s[()] * 2"),
        ("for i in range(N): a[i] = 0", "for i in range(0, 20):; a[i] = 0"),
        ("for i in range(N - 1, -1, -1): a[i] = 0", "for i in range(0, 20):; a[-i + 19] = 0"),
        ("for i in range(1, N, 2): a[i] = 0", "for i in range(0, 10):; a[2*i + 1] = 0"),
        ("for i in range(N - 1, 3, -4): a[i] = 0", "for i in range(0, 4):; a[-4*i + 19] = 0"),
        ("for i in range(N * 2 // 3): a[i] = 0", "for i in range(0, 13):; a[i] = 0"),
        (
            "for i in range(min(N, 5), max(9, 7)): a[i] = i",
            "for i in range(5, 9):; a[i] = index(i)",
        ),
        ("a[0] = s if s > a[1] else a[1]", "a[0] = (s[()] if s[()] > a[1] else a[1])"),
        (
            "a[0] = 1 if 0 <= s < 2 else 3",
            "a[0] = ((1 if s[()] < 2 else 3) if 0 <= s[()] else 3)",
        ),
        ("a[0] = math.sqrt(fabs(s)) + N / 2", "a[0] = sqrt(abs(s[()])) + (20 / 2)"),
        ("a[0] = min(s, a[0], 1.5)", "a[0] = min(min(s[()], a[0]), 1.5)"),
        ("if N > 10: s = 1\n    else: s = 2", "s[()] = 1"),
        ("t = s; s = t", "t[()] = s[()]; s[()] = t[()]"),
    ],
)
def test_richer_python_becomes_normal(body: str, wanted: str) -> None:
    assert normal(body) == wanted


def test_an_affine_if_becomes_guards() -> None:
    text = normal(
        "for i in range(N):\n        if i > 3 and i != 7: a[i] = 1\n        else: a[i] = 2"
    )
    assert text == (
        "for i in range(0, 20):"
        "; if i - 4 >= 0 and i - 8 >= 0:; a[i] = 1"
        "; if i - 4 >= 0 and -i + 6 >= 0:; a[i] = 1"
        "; if -i + 3 >= 0:; a[i] = 2"
        "; if -i + 7 == 0:; a[i] = 2"
    )


@kernel(N=8)
def decorated(n_unused, A: "float32[N, N]", B: "out float32[N, N]"):
    for i in range(1, N):
        for j in range(N):
            t = A[i - 1, j] * 0.5
            B[i, j] = t + A[i, j]


def test_a_decorated_function_has_a_program() -> None:
    program = decorated.program
    assert [(a.name, a.shape, a.dtype, a.role) for a in program.arrays] == [
        ("A", (8, 8), "float32", "in"),
        ("B", (8, 8), "float32", "out"),
        ("t", (), "float32", "temp"),
    ]
    assert decorated.bind(N=4).program.array("A").shape == (4, 4)


@kernel
def beyond(A: "float32[8]"):
    for i in range(8):
        A[i] = A[i + 1]


def test_a_decorated_function_is_checked_for_its_bounds() -> None:
    with pytest.raises(OutOfBounds, match=r"A\[i \+ 1\] leaves A of shape \(8,\) at i = 7"):
        _ = beyond.program


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("a[s] = 0", NotAffine, "f.py:2: 's' depends on data"),
        ("for i in range(4): a[i * i] = 0", NotAffine, r"f.py:2: 'i \* i' is not linear"),
        ("for i in range(4): a[i // 2] = 0", NotAffine, "f.py:2: 'i // 2' is not linear"),
        ("for i in range(M): a[i] = 0", UnboundParameter, "f.py:2: 'M' needs the number M"),
        ("a[0] = b", UnboundParameter, "names b, which is no array"),
        ("while s > 0: s = 0", UnsupportedProgram, "is no loop, assignment or affine if"),
        ("if s > 0: a[0] = 1", UnsupportedProgram, "decides by data whether statements run"),
        ("for i in a: s = i", UnsupportedProgram, r"must loop over range\(...\)"),
        ("for i in range(0, 4, N): s = i", UnsupportedProgram, "whole number written out"),
        ("for i in range(0, 4, 0): s = i", UnsupportedProgram, "never reaches its end"),
        ("a[0, 1] = 1", UnsupportedProgram, "has 2 subscripts and a has 1 dimensions"),
        ("a[0] = tan(s)", UnsupportedProgram, "uses tan, which has no meaning"),
        ("a[0] = pow(s)", UnsupportedProgram, "pow takes 2 arguments, got 1"),
        ("a[0] = s < 1", UnsupportedProgram, "uses <, which has no meaning in a value"),
        ("for i in range(4): i = 3", UnsupportedProgram, "writes i, which is an iterator or size"),
        ("for i in range(4):\n        for i in range(4): a[i] = 0", UnsupportedProgram, "iterator"),
        ("a[0] = 'x'", UnsupportedProgram, "is outside the expressions"),
        ("a[0] = 1 +", UnsupportedProgram, "is no Python"),
    ],
)
def test_what_is_refused_is_named(body: str, error: type[Exception], message: str) -> None:
    text = f'def f(a: "inout float64[20]", s: "inout float64[()]"):\n    {body}'
    with pytest.raises(error, match=message):
        parse_function(text, {"N": 20}, file="f.py")


def test_a_negative_extent_names_its_array() -> None:
    with pytest.raises(ValueError, match="array a has extent -1"):
        parse_function('def f(a: "float64[N - 5]"): pass', {"N": 4})


def test_arrays_give_the_shapes_that_annotations_leave_out() -> None:
    import numpy as np

    text = "def f(a, n):\n for i in range(n): a[i] = 1"
    program = parse_function(text, {"n": 3}, {"a": np.zeros(3, "float32")})
    assert str(program.arrays[0]) == str(
        Program.parse('def f(a: "out float32[3]"): pass').arrays[0]
    )


def test_the_hash_ignores_names_and_sees_everything_else() -> None:
    text = 'def f(A: "in int32[4]", B: "out int32[4]"):\n for i in range(0, 4): B[i] = A[i] * 2'
    program = Program.parse(text)
    other = text.replace("A", "Q").replace("B", "A").replace("[i]", "[k]").replace("for i", "for k")
    assert Program.parse(other.replace("def f", "def g")).hash == program.hash
    for old, new in [
        ("* 2", "* 3"),
        ("range(0", "range(1"),
        ("int32[4]", "int32[5]"),
        ("out", "inout"),
    ]:
        assert Program.parse(text.replace(old, new)).hash != program.hash, new
