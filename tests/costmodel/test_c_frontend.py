"""C as programs: constructs, arithmetic, the same program in Python, and what is refused."""

# Annotations here are types of a program, not of Python.
# ruff: noqa: F821

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import interpreter, plain_c, programs
from costmodel.c_frontend import from_c
from costmodel.errors import (
    CompileError,
    CostModelError,
    NotAffine,
    OutOfBounds,
    UnboundParameter,
    UnsupportedProgram,
)
from costmodel.ir import Program
from costmodel.python_frontend import kernel
from tests.costmodel.compiled import C_NUMBERS, call
from tests.costmodel.small_programs import copies, random_inputs, random_program


def normal(body: str, before: str = "", **params: int) -> str:
    """The text of a C body over a[20], b[20][20], whole numbers k[20] and a number s, N = 20."""
    source = f"""{before}
void f(double a[20], double b[20][20], int k[20], double s) {{
  {body}
}}"""
    text = str(from_c(source, params={"N": 20, **params}))
    return "; ".join(line.strip() for line in text.splitlines()[1:])


FOR = "for (int i = 0; i < N; i++)"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (f"{FOR} a[i] += s * 2;", "for i in range(0, 20):; a[i] = a[i] + (s[()] * 2)"),
        ("int i; for (i = 2; i <= N - 3; ++i) a[i] = 0;", "for i in range(2, 18):; a[i] = 0"),
        ("for (int i = N - 1; i >= 0; i--) a[i] = 0;", "for i in range(0, 20):; a[-i + 19] = 0"),
        ("for (int i = N; i > 5; i -= 3) a[i - 1] = 0;", "for i in range(0, 5):; a[-3*i + 19] = 0"),
        ("for (int i = 1; i < N; i = i + 2) a[i] = 0;", "for i in range(0, 10):; a[2*i + 1] = 0"),
        ("for (int i = 1; N > i; i += 4) a[i] = 0;", "for i in range(0, 5):; a[4*i + 1] = 0"),
        ("for (int i = 0; i != N; i++) a[i] = 0;", "for i in range(0, 20):; a[i] = 0"),
        (
            f"{FOR} for (int j = i; j < N && j <= i + 3; j++) b[i][j] = 1;",
            "for i in range(0, 20):; for j in range(i, 20):"
            "; if i - j + 3 >= 0:; b[i, j] = 1",
        ),
        (
            f"{FOR} for (int j = max(0, i - 1); j < min(N, i + 4); j++) b[i][j] = min(s, 2);",
            "for i in range(0, 20):; for j in range(0, 20):"
            "; if -i + j + 1 >= 0 and i - j + 3 >= 0:; b[i, j] = min(s[()], 2)",
        ),
        (
            f"{FOR} for (int j = i; j < N; j += 2) b[i][j] = 1;",
            "for i in range(0, 20):; for j in range(0, -i + 20):"
            "; if -i - 2*j + 19 >= 0:; b[i, i + 2*j] = 1",
        ),
        (
            f"{FOR} {{ double t = a[i]; a[i] = t; }}",
            "for i in range(0, 20):; t[()] = a[i]; a[i] = t[()]",
        ),
        ("const int m = N / 3; a[m] = -1.5e3;", "a[6] = -1500.0"),
        (
            f"{FOR} {{ int m = N - 1 - i; a[m] = m; }}",
            "for i in range(0, 20):; a[-i + 19] = index(-i + 19)",
        ),
        ("int m = k[0]; k[1] = m;", "m[()] = k[0]; k[1] = m[()]"),
        ("int m = 1; m = k[0]; k[1] = m;", "m[()] = 1; m[()] = k[0]; k[1] = m[()]"),
        ("a[0] = a[1] = 0x10;", "a[1] = 16; a[0] = a[1]"),
        ("a[3]++;", "a[3] = a[3] + 1"),
        ("a[0] = s > 0 ? s : -s;", "a[0] = (s[()] if s[()] > 0 else -s[()])"),
        ("a[0] = !(s > 0) ? 1 : 2;", "a[0] = (2 if s[()] > 0 else 1)"),
        ("a[0] = fmaxf(sqrtf(s), fabs(s));", "a[0] = max(sqrt(s[()]), abs(s[()]))"),
        (f"{FOR} a[i] = (double)i / N;", "for i in range(0, 20):; a[i] = index(i) / 20"),
        (f"{FOR} k[i] = i / 2;", "for i in range(0, 20):; k[i] = index(i) / 2"),
        ("a[0] = 1 / (double)N;", "a[0] = 1 / 20.0"),
        ("if (N > 10) a[0] = 1; else a[0] = 2;", "a[0] = 1"),
        ("{ double s = 1; a[0] = s; } a[1] = s;", "s_[()] = 1; a[0] = s_[()]; a[1] = s[()]"),
        ("#pragma omp parallel for\n" + FOR + " a[i] = 0;", "for i in range(0, 20):; a[i] = 0"),
        ("a[0] = 1; return;", "a[0] = 1"),
    ],
)  # fmt: skip
def test_c_becomes_normal(body: str, wanted: str) -> None:
    assert normal(body) == wanted


def test_an_affine_if_and_its_else_become_guards() -> None:
    text = normal(f"{FOR} {{ if (i > 3 && i < 9) a[i] = 1; else if (i == 12) a[i] = 2; }}")
    assert text == (
        "for i in range(0, 20):"
        "; if i - 4 >= 0 and -i + 8 >= 0:; a[i] = 1"
        "; if -i + 3 >= 0 and i - 12 == 0:; a[i] = 2"
        "; if i - 9 >= 0 and i - 12 == 0:; a[i] = 2"
    )


def test_parameters_go_before_definitions_and_macros_are_replaced() -> None:
    source = """
#include <math.h>
#define N 8
#define SQUARE(x) ((x) * \\
                   (x))
#ifdef LARGE
#  define N 800
#endif
typedef float number;
void f(number a[restrict N], const number *restrict, int unused);
void f(number a[N]) { for (int i = 0; i < N; i++) a[i] = SQUARE(a[i]); }
"""
    assert from_c(source).array("a").shape == (8,)
    program = from_c(source, params={"N": 5})
    assert program.array("a") == Program.parse('def f(a: "inout float32[5]"): pass').array("a")


def test_polybench_sources_read_as_they_are() -> None:
    source = """
#include <polybench.h>
#include "gemver.h"
static void init_array(int n, DATA_TYPE POLYBENCH_1D(x,N,n)) { x[0] = n; }
static
void kernel_trisolv(int n, DATA_TYPE POLYBENCH_2D(L,N,N,n,n), DATA_TYPE POLYBENCH_1D(x,N,n),
                    DATA_TYPE POLYBENCH_1D(b,N,n))
{
  int i, j;
#pragma scop
  for (i = 0; i < _PB_N; i++)
    {
      x[i] = b[i];
      for (j = 0; j <i; j++)
        x[i] -= L[i][j] * x[j];
      x[i] = x[i] / L[i][i];
    }
#pragma endscop
}
int main(int argc, char** argv)
{
  int n = N;
  POLYBENCH_2D_ARRAY_DECL(L, DATA_TYPE, N, N, n, n);
  init_array (n, POLYBENCH_ARRAY(x));
  if (argc > 42 && ! strcmp(argv[0], "")) kernel_trisolv (n, POLYBENCH_ARRAY(L));
  return 0;
}
"""
    program = from_c(source, params={"N": 40})
    assert program.hash == programs.load("trisolv", "mini").hash
    assert program.name == "kernel_trisolv"
    assert program.array("x").role == "out"


def test_only_the_region_is_read_and_its_surroundings_are_arguments() -> None:
    source = """
double a[8], unused[8];
static const int M = 4;
static const double half = 0.5;
FILE *log(struct file { int x; } *to, uint8_t c) { fprintf(to, "(%d{", '}'); return 0; }
int main(void) {
  double s, t[4], before[4], inside;
  double eps = 0.25;
  int i;
  scanf("%f", &s);
  fill(before);
#pragma scop
  for (i = 0; i < M; i++) {
    inside = before[i] * half;
    a[i] = s + eps;
    t[i] = a[i + 4] + inside;
  }
#pragma endscop
  print(t);
  return 0;
}
double later(void) { return a[0] ++ 1; }
"""
    program = from_c(source)
    assert [(a.name, a.shape, a.role) for a in program.arrays] == [
        ("a", (8,), "inout"),
        ("s", (), "in"),
        ("t", (4,), "out"),
        ("before", (4,), "in"),
        ("half", (), "temp"),
        ("inside", (), "temp"),
        ("eps", (), "temp"),
    ]
    arrays = {"a": np.arange(8.0), "s": np.array(3.0), "t": np.zeros(4), "before": np.ones(4)}
    interpreter.run(program, arrays)
    assert arrays["a"].tolist() == [3.25] * 4 + [4, 5, 6, 7]
    assert arrays["t"].tolist() == [4.5, 5.5, 6.5, 7.5]


def test_a_file_names_itself_in_messages_and_finds_its_headers(tmp_path: Path) -> None:
    (tmp_path / "sizes.h").write_text("#define N 6\n")
    source = tmp_path / "scale.c"
    source.write_text('#include "sizes.h"\n\nvoid f(double a[N]) {\n  a[N] = 0;\n}\n')
    with pytest.raises(OutOfBounds, match=r"scale\.c:4: 'a\[6\] = 0': a\[6\] leaves a of shape"):
        from_c(source)
    with pytest.raises(OutOfBounds, match=r"scale\.c:4: 'a\[N\] = 0': a\[9\] leaves a of shape"):
        from_c(str(source), params={"N": 9})


def test_names_that_python_c_or_isl_need_get_another_name() -> None:
    source = (
        "void f(double lambda[4], double mod[4], double exp[4]) { for (int in = 0; in < 4; in++)"
    )
    program = from_c(source + " lambda[in] = mod[in] + exp[in]; }")
    assert [a.name for a in program.arrays] == ["lambda_", "mod_", "exp_"]
    assert Program.parse(str(program)) == program
    arrays = {n: np.arange(4.0) for n in ("lambda_", "mod_", "exp_")}
    call(program, plain_c.source(program), "f", arrays)
    np.testing.assert_array_equal(arrays["lambda_"], np.arange(4.0) * 2)


@kernel(N=40)
def trisolv(L: "float64[N, N]", b: "float64[N]", x: "float64[N]"):
    for i in range(N):
        x[i] = b[i]
        for j in range(i):
            x[i] -= L[i, j] * x[j]
        x[i] /= L[i, i]


@kernel(NI=20, NJ=25, NK=30)
def gemm(
    a: "float64",
    b: "float64",
    A: "float64[NI, NK]",
    B: "float64[NK, NJ]",
    C: "float64[NI, NJ]",
):
    for row in range(NI):
        for column in range(NJ):
            C[row, column] *= b
        for k in range(NK):
            for column in range(NJ):
                C[row, column] += a * A[row, k] * B[k, column]


@kernel(N=30, TSTEPS=20)
def jacobi(A: "float64[N, N]", B: "float64[N, N]"):
    for _t in range(TSTEPS):
        for i in range(1, N - 1):
            for j in range(1, N - 1):
                B[i, j] = 0.2 * (A[i, j] + A[i, j - 1] + A[i, j + 1] + A[i + 1, j] + A[i - 1, j])
        for i in range(1, N - 1):
            for j in range(1, N - 1):
                A[i, j] = 0.2 * (B[i, j] + B[i, j - 1] + B[i, j + 1] + B[i + 1, j] + B[i - 1, j])


@kernel(N=60)
def nussinov(seq: "int32[N]", table: "int32[N, N]"):
    for i in range(N - 1, -1, -1):
        for j in range(i + 1, N):
            if j - 1 >= 0:
                table[i, j] = table[i, j] if table[i, j] >= table[i, j - 1] else table[i, j - 1]
            if i + 1 < N:
                table[i, j] = table[i, j] if table[i, j] >= table[i + 1, j] else table[i + 1, j]
            if j - 1 >= 0 and i + 1 < N:
                if i < j - 1:
                    table[i, j] = (
                        table[i, j]
                        if table[i, j] >= table[i + 1, j - 1] + (1 if seq[i] + seq[j] == 3 else 0)
                        else table[i + 1, j - 1] + (1 if seq[i] + seq[j] == 3 else 0)
                    )
                else:
                    table[i, j] = (
                        table[i, j] if table[i, j] >= table[i + 1, j - 1] else table[i + 1, j - 1]
                    )
            for k in range(i + 1, j):
                table[i, j] = (
                    table[i, j]
                    if table[i, j] >= table[i, k] + table[k + 1, j]
                    else table[i, k] + table[k + 1, j]
                )


@kernel(N=40)
def durbin(r: "float64[N]", y: "float64[N]"):
    z: float64[N]
    beta = 1
    alpha = -r[0]
    y[0] = -r[0]
    for k in range(1, N):
        beta = (1 - alpha * alpha) * beta
        total = 0
        for i in range(k):
            total += r[k - i - 1] * y[i]
        alpha = -(r[k] + total) / beta
        for i in range(k):
            z[i] = y[i] + alpha * y[k - i - 1]
        for i in range(k):
            y[i] = z[i]
        y[k] = alpha


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (trisolv, "trisolv"),
        (gemm, "gemm"),
        (jacobi, "jacobi-2d"),
        (nussinov, "nussinov"),
        (durbin, "durbin"),
    ],
)
def test_python_and_c_of_the_same_kernel_have_the_same_hash(ours, name: str) -> None:
    assert ours.program.hash == programs.load(name, "mini").hash


def test_renaming_in_the_source_keeps_the_hash() -> None:
    source = programs.source_path("gemm").read_text()
    other = source.replace("int k", "int m").replace("[k]", "[m]").replace("k < NK; k", "m < NK; m")
    other = other.replace("alpha", "first").replace("void gemm", "void product")
    assert other != source
    assert from_c(other).hash == from_c(source).hash
    assert from_c(source.replace("*= beta", "+= beta")).hash != from_c(source).hash


def test_float_constants_take_the_type_of_what_is_written() -> None:
    program = from_c("void f(float a[1]) { a[0] = a[0] * 0.1 + 1; }")
    assert "* 0.1f" in plain_c.function(program)
    arrays = {"a": np.array([3.0], "float32")}
    interpreter.run(program, arrays)
    assert arrays["a"][0] == np.float32(3) * np.float32(0.1) + np.float32(1)


def test_a_short_constant_is_rounded_before_it_is_a_double() -> None:
    assert normal("a[0] = 0.1f;") == f"a[0] = {float(np.float32(0.1))!r}"
    program = from_c("void f(float a[1]) { a[0] = 0.1f; }")
    assert program.hash == from_c("void f(float a[1]) { a[0] = 0.1; }").hash


def as_c(program: Program) -> str:
    """C with the shapes of arrays in its head, and scalar temps as locals."""
    head = ", ".join(
        f"{C_NUMBERS[a.dtype]} {a.name}" + "".join(f"[{extent}]" for extent in a.shape)
        for a in program.arrays
        if a.role != "temp"
    )
    locals_ = " ".join(
        f"{C_NUMBERS[a.dtype]} {a.name} = 0;" for a in program.arrays if a.role == "temp"
    )
    body = plain_c.function(program).split("{", 1)[1]
    for array in program.arrays:
        if array.role == "temp":
            body = body.replace(f"{array.name}[0]", array.name)
    return f"void {program.name}({head}) {{ {locals_} {body}"


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "mixed"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_c_of_a_program_means_the_program(dtype: str, seed: int) -> None:
    program = random_program(seed, dtype)
    again = from_c(as_c(program))
    ours = random_inputs(program, np.random.default_rng(seed))
    theirs = copies(ours)
    for array in program.arrays:
        if array.role == "temp":
            ours[array.name][...] = 0
    interpreter.run(program, ours)
    interpreter.run(again, theirs)
    for array in program.arrays:
        if array.role != "temp":
            np.testing.assert_array_equal(
                ours[array.name], theirs[array.name], err_msg=str(program)
            )


REFUSED: list[tuple[str, type[CostModelError], str]] = [
    # Not linear
    (f"{FOR} for (int j = 0; j < N; j++) a[i * j] = 0;", NotAffine, r"'i \* j' is not linear"),
    (f"{FOR} a[k[i]] = 0;", NotAffine, r"'k\[i\]' is not linear"),
    (f"{FOR} a[i % 3] = 0;", NotAffine, "'i % 3' is not linear"),
    (f"{FOR} a[i / 2] = 0;", NotAffine, "'i / 2' is not linear"),
    ("int m; m = 3; a[m] = 0;", NotAffine, "'m' depends on data"),
    ("a[(int)s] = 0;", NotAffine, "'s' depends on data"),
    ("while (s > 0) a[0] = s;", NotAffine, "'s > 0' is the condition of a while"),
    ("for (int i = 0; i < k[0]; i++) a[i] = 0;", NotAffine, r"'k\[0\]' is not linear"),
    # No number
    ("for (int i = 0; i <= n * n; i++) a[i] = 0;", UnboundParameter, "'n' needs the number n"),
    ("a[0] = q;", UnboundParameter, "'q' names q, which is no array"),
    # Control
    ("if (s > 0) a[0] = 1;", UnsupportedProgram, "'s > 0' decides by data whether"),
    (f"{FOR} {{ if (a[i] > 0) a[i] = 1; }}", UnsupportedProgram, r"'a\[i\] > 0' decides by data"),
    (f"{FOR} {{ break; }}", UnsupportedProgram, "is break, which a program cannot have"),
    (f"{FOR} {{ continue; }}", UnsupportedProgram, "is continue"),
    ("goto end; end: a[0] = 1;", UnsupportedProgram, "is goto"),
    ("switch (2) { case 1: a[0] = 1; }", UnsupportedProgram, "is switch"),
    ("return; a[0] = 1;", UnsupportedProgram, "is a return before the end"),
    # Functions and pointers
    ("g(a);", UnsupportedProgram, r"'g\(a\)' is a call whose effects are unknown"),
    ("a[0] = rand();", UnsupportedProgram, r"'rand\(\)' calls rand, whose effects are unknown"),
    ("*a = 1;", UnsupportedProgram, r"'\*a' is pointer arithmetic"),
    ("*(a + 1) = 1;", UnsupportedProgram, "is pointer arithmetic"),
    ("(a + 1)[0] = 1;", UnsupportedProgram, "is pointer arithmetic"),
    ("double *p = a; p[0] = 1;", UnsupportedProgram, "p may be another name of an array"),
    ("a[k[0]++] = 1;", UnsupportedProgram, "changes a variable inside an expression"),
    ("a[0] = (s, 1);", UnsupportedProgram, "is the comma operator"),
    # Loops
    ("for (;;) a[0] = 1;", UnsupportedProgram, "must have the form"),
    ("for (int i = 0; i < N; i *= 2) a[i] = 1;", UnsupportedProgram, "must step i by a fixed"),
    ("for (int i = 0; i < N; i += k[0]) a[i] = 1;", UnsupportedProgram, "fixed whole number"),
    ("for (int i = 0; i < N; i--) a[i] = 1;", UnsupportedProgram, "which steps by -1"),
    ("for (int i = 0; N; i++) a[i] = 1;", UnsupportedProgram, "must be a limit of i"),
    (f"{FOR} i = 3;", UnsupportedProgram, "writes i, which is an iterator"),
    (f"{FOR} {FOR} a[i] = 0;", UnsupportedProgram, "uses the iterator of a loop around it"),
    # Types
    ("s = 1;", UnsupportedProgram, "writes s, which is passed by value: copy it"),
    ("char c; c = 1;", UnsupportedProgram, "has element type char"),
    ("double t[2] = {0, 0};", UnsupportedProgram, "fills an array at its declaration"),
    ("static double t; t = 1;", UnsupportedProgram, "keeps its value between calls"),
    (f"{FOR} a[i] = i / 2 * 0.5;", UnsupportedProgram, "'i / 2' applies / to whole numbers"),
    (f"{FOR} a[i] = k[i] * i;", UnsupportedProgram, r"applies \* to whole numbers"),
    ("a[0] = (float)s;", UnsupportedProgram, "converts float64 to float32"),
    ("k[0] = (int)s;", UnsupportedProgram, "converts float64 to int32"),
    ("a[0] = abs(s);", UnsupportedProgram, "C's is fabs"),
    ("k[0] = fabs(k[0]);", UnsupportedProgram, "takes fabs in a statement of ints"),
    ("k[0] <<= 1;", UnsupportedProgram, "assigns by <<="),
    ("k[0] = k[0] >> 1;", UnsupportedProgram, "BinaryOp"),
    ("a[0] = b[0];", UnsupportedProgram, "has 1 subscripts and b has 2 dimensions"),
    ("a[0] = s +;", UnsupportedProgram, "this is no plain C"),
    # Bounds
    (f"{FOR} a[i + 1] = 0;", OutOfBounds, r"a\[i \+ 1\] leaves a of shape \(20,\) at i = 19"),
    (
        f"{FOR} b[i][N - 1] = b[i][i - 1];",
        OutOfBounds,
        r"b\[i, i - 1\] .* i = 0: subscript 1 is below 0",
    ),
    (f"{FOR} if (i > 4) a[i + 1] = 0;", OutOfBounds, r"at i = 19"),
    ("a[20] = 0;", OutOfBounds, "at its only iteration"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "error", "message"), REFUSED)
def test_what_is_refused_is_named_with_its_line(
    body: str, error: type[CostModelError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        normal(body)
    assert type(caught.value) is error
    assert str(caught.value).startswith("<source>:3:"), str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("void f(double *a) { a[0] = 1; }", "a pointer, whose extent is unknown.*such as a\\[N\\]"),
        ("void f(double a[]) { a[0] = 1; }", "leaves an extent of a open"),
        ("void f(double a[4 - 5]) { a[0] = 1; }", "array a has extent -1"),
        ("void f(const double a[4]) { a[0] = 1; }", "writes a, which is declared an input"),
        ("void f(char a[4]) { a[0] = 1; }", "has element type char"),
        ("void f(void) {} void g(void) {}", "has 2 functions .f, g.: say which"),
        ("int x;", "has 0 functions"),
        ("#if\nvoid f(void) {}", "-E refused the source: <source>:1:"),
        ("void f(double a[4]) {\n#pragma scop\na[0] = 1; }", "one #pragma endscop"),
    ],
)
def test_sources_that_cannot_be_read(source: str, message: str) -> None:
    with pytest.raises(UnsupportedProgram, match=message):
        from_c(source)


def test_an_absent_function_is_named_with_those_there() -> None:
    with pytest.raises(UnsupportedProgram, match="has no function g: it has f"):
        from_c("void f(void) {}", "g")


def test_without_a_compiler_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match=r"needs a C preprocessor.*no-such-compiler"):
        from_c("void f(void) {}")


def test_empty_domains_are_legal() -> None:
    program = from_c("void f(double a[4]) { for (int i = 3; i < 1; i++) a[i + 9] = 0; }")
    arrays = {"a": np.ones(4)}
    interpreter.run(program, arrays)
    assert arrays["a"].tolist() == [1] * 4
    assert program.array("a").role == "inout"
