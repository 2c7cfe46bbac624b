"""The C that is written is called as the function it was read from, and does the same."""

from __future__ import annotations

import numpy as np
import pytest

from common import native
from common.native import Library
from costmodel.c_frontend import from_c_with_parameters
from costmodel.c_text import PRELUDE
from costmodel.drop_in import drop_in
from costmodel.schedule import apply
from tests.costmodel.compiled import EXACT

SCALED = """
#define N 20
#define M 37
typedef float real;
static int helper(void) { return 1; }

void scaled(real alpha, const int n, real A[N][M], unsigned long m, const real x[M], int shift) {
  real sum[M];
  real factor = alpha + shift;
  for (int j = 0; j < M; j++)
    sum[j] = 0;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < m; j++)
      sum[j] += factor * x[j] * A[i][j];
  for (int i = 0; i < N; i++)
    for (int j = 0; j < M; j++)
      A[i][j] = sum[j] - A[i][j];
}
"""
CALLED = "void scaled(float alpha, int32_t n, float* A, uint64_t m, float* x, int32_t shift)"


def built(text: str) -> Library:
    text = text.replace("\nvoid scaled(", "\nEXPORT void scaled(")
    return native.build_source("drop_in", text, flags=EXACT)


@pytest.mark.parametrize(
    "schedule",
    ["", "interchange(S2, 0, 1); vectorize(S3)", "register_tile(S2, 0, 2, 1, 16)"],
)
def test_parameters_stay_those_of_the_user(schedule: str) -> None:
    sizes = {"n": 18, "m": 35}
    program, parameters = from_c_with_parameters(SCALED, "scaled", sizes)
    text = drop_in(apply(program, schedule), parameters)
    assert "\nvoid scaled(float alpha, const int n, float A[20][37], long unsigned m, " in text
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, 37).astype(np.float32)
    wanted = rng.integers(-8, 9, (20, 37)).astype(np.float32)
    got = wanted.copy()
    built(SCALED).function(CALLED)(2.0, 18, wanted, 35, x, 3)
    built(PRELUDE + text).function(CALLED)(2.0, 18, got, 35, x, 3)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "source",
    [
        "double a[9]; void f(double b[9]) { for (int i = 0; i < 9; i++) b[i] = a[i]; }",
        "int f(double b[9]) { for (int i = 0; i < 9; i++) b[i] = 1; }",
    ],
)
def test_a_function_whose_parameters_are_not_all_takes_pointers(source: str) -> None:
    program, parameters = from_c_with_parameters(source)
    text = drop_in(apply(program), parameters)
    assert text.startswith("void f(")
    assert "double *restrict b" in text
