"""Quotients of floats as products: where, and by how much the values may change."""

import numpy as np

from costmodel import interpreter
from costmodel.fast_math import with_reciprocals
from costmodel.ir import Program
from tests.costmodel.small_programs import copies

TEXT = """
def p(a: "in float32[40]", n: "inout int32[40]", b: "out float32[40]", c: "out float32[40]"):
    for i in range(0, 40):
        b[i] = a[i] / 3 + sqrt(a[i] / 7)
        c[i] = a[i] / 8 + a[i] / a[0]
        n[i] = n[i] / 3
"""


def test_only_floats_over_constants_change_and_only_in_the_last_bits(rng):
    program = Program.parse(TEXT)
    changed = with_reciprocals(program)
    assert str(changed).count("/") == 2  # by an array's element, and of whole numbers
    start = {a.name: rng.uniform(1, 9, a.shape).astype(a.dtype) for a in program.arrays}
    exact, near = copies(start), copies(start)
    interpreter.run(program, exact)
    interpreter.run(changed, near)
    np.testing.assert_array_equal(near["n"], exact["n"])
    np.testing.assert_array_equal(near["c"], exact["c"])  # 1 / 8 is exact
    # Two roundings more in each quotient, half of one unit in the last place each.
    np.testing.assert_allclose(near["b"], exact["b"], rtol=3 * np.finfo(np.float32).eps)
    assert not np.array_equal(near["b"], exact["b"])


def test_twice_is_once():
    changed = with_reciprocals(Program.parse(TEXT))
    assert with_reciprocals(changed) == changed
