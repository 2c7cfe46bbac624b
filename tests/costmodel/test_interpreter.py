"""The interpreter against the C compiler, on random programs and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import interpreter, plain_c
from costmodel.errors import OutOfBounds
from costmodel.ir import Program
from tests.costmodel.compiled import call
from tests.costmodel.small_programs import copies, random_inputs, random_program


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "mixed"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_interpreter_equals_compiled_c_to_the_bit(dtype: str, seed: int) -> None:
    program = random_program(seed, dtype)
    ours = random_inputs(program, np.random.default_rng(seed))
    theirs = copies(ours)
    interpreter.run(program, ours)
    call(program, plain_c.source(program), "small", theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=str(program), strict=True)


def run(text: str, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    interpreter.run(Program.parse(text), arrays)
    return arrays


def test_int32_wraps_and_divides_towards_zero() -> None:
    text = 'def f(a: "inout int32[3]"):\n a[0] = a[0] * 2\n a[1] = a[1] / 2\n a[2] = -a[2]\n'
    done = run(text, a=np.array([2**30, -7, -(2**31)], "int32"))
    assert done["a"].tolist() == [-(2**31), -3, -(2**31)]


def test_every_float32_operation_is_rounded() -> None:
    text = 'def f(a: "inout float32[1]"):\n a[0] = (a[0] + 1.0) - 16777216.0\n'
    assert run(text, a=np.array([2.0**24], "float32"))["a"][0] == 0.0


def test_values_are_converted_when_stored_and_constants_when_read() -> None:
    text = """
def f(d: "inout float64[3]", f: "inout float32[2]", k: "inout int32[2]"):
    f[0] = d[0]
    d[1] = f[0]
    f[1] = f[0] * 0.1
    k[0] = d[2]
    k[1] = k[1] / 2 + 0.75
"""
    d, f, k = np.array([0.1, 0, -2.7]), np.zeros(2, "float32"), np.array([0, 7], "int32")
    run(text, d=d, f=f, k=k)
    assert d[1] == float(np.float32(0.1))
    assert f[1] == np.float32(0.1) * np.float32(0.1)
    assert k.tolist() == [-2, 3]


def test_equal_numbers_of_other_types_are_other_programs() -> None:
    text = 'def f(d: "inout float64[1]"):\n d[0] = 1 / 2'
    whole, floating = Program.parse(text), Program.parse(text.replace("1 /", "1.0 /"))
    assert whole != floating
    assert run(str(whole), d=np.ones(1))["d"][0] == 0
    assert run(str(floating), d=np.ones(1))["d"][0] == 0.5


def test_functions_are_those_of_the_c_library() -> None:
    names = ["sqrt", "exp", "log", "sin", "cos", "abs"]
    for dtype in ("float32", "float64"):
        lines = [f"    out[{i}] = {name}(x[{i}])" for i, name in enumerate(names)]
        lines.append("    out[6] = pow(x[6], x[0])")
        text = f'def f(x: "in {dtype}[7]", out: "out {dtype}[7]"):\n' + "\n".join(lines)
        program = Program.parse(text)
        x = np.linspace(0.3, 2.7, 7).astype(dtype)
        ours, theirs = np.zeros(7, dtype), np.zeros(7, dtype)
        interpreter.run(program, {"x": x, "out": ours})
        call(program, plain_c.source(program), "f", {"x": x, "out": theirs})
        np.testing.assert_array_equal(ours, theirs)


def test_instances_come_in_the_order_of_the_text() -> None:
    text = """
def f(a: "inout int32[4]"):
    for i in range(0, 2):
        a[i] = 1
        for j in range(i, 2):
            if j - 1 >= 0:
                a[j] = 2
"""
    found = list(interpreter.instances(Program.parse(text)))
    assert found == [("S0", (0,)), ("S1", (0, 1)), ("S0", (1,)), ("S1", (1, 1))]


def test_leaving_an_array_is_an_error_and_not_a_negative_index() -> None:
    with pytest.raises(
        OutOfBounds, match=r"a\[i - 1\] has a subscript of -1 where 0 to 3 is allowed"
    ):
        run(
            'def f(a: "inout int32[4]"):\n for i in range(0, 2): a[i] = a[i - 1]',
            a=np.zeros(4, "int32"),
        )


def test_a_wrong_array_is_named() -> None:
    with pytest.raises(ValueError, match=r"a must be int32\[4\] as in the program, got int64\[4\]"):
        run('def f(a: "inout int32[4]"): a[0] = 1', a=np.zeros(4, "int64"))
