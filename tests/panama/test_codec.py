"""Compiled conversions against the definition in numpy, to the bit."""

import numpy as np
import pytest

from panama import codec, wire
from panama.kernels import tree_add

SIZES = [0, 1, 7, 8, 9, 17, 4099]
#: Zeros, subnormals, ties of bf16, its overflow, infinities.
EDGES = np.array(
    [0x0, 0x80000000, 0x1, 0x807FFFFF, 0x00800000, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001,
     0x7F7F8000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000],
    np.uint32,
).view(np.float32)  # fmt: skip
NANS = np.array([0x7FC00000, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)


@pytest.fixture(params=[True, False], ids=["compiled", "numpy"])
def compiled(request, monkeypatch):
    """Both ways to run; False acts as where there is no compiler."""
    if request.param:
        assert tree_add.available(), "these tests need a compiler"
    else:
        monkeypatch.setattr(tree_add, "available", lambda: False)


def numbers(rng, n, extra=()):
    x = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    return np.concatenate([x[np.isfinite(x)], np.array(extra, np.float32)])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("divisor", [1, 3, 4])
def test_bf16(compiled, rng, n, divisor):
    x = numbers(rng, n, np.concatenate([EDGES, NANS]))
    there = np.empty(x.size, np.uint16)
    codec.encode(x, there, 0)
    assert there.tobytes() == wire.to_bf16(x).tobytes()
    back = np.empty(x.size, np.float32)
    codec.decode(there, back, 0, divisor)
    wanted = wire.from_bf16(there) / np.float32(divisor)
    np.testing.assert_array_equal(back.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("exponent", [-182, -149, -31, 0, 5, 100])
def test_fixed_point(compiled, rng, n, exponent):
    # Halves of a unit, where rounding goes to even, and numbers far beyond the range.
    ties = np.ldexp(np.array([0.5, 1.5, 2.5, -0.5, -3.5, 2.0**31, -(2.0**31)]), exponent)
    x = numbers(rng, n, ties[np.abs(ties) < 3e38])
    there = np.empty(x.size, np.int32)
    codec.encode(x, there, exponent)
    np.testing.assert_array_equal(there, wire.to_fixed(x, exponent))
    limits = np.array([2**31 - 1, -(2**31), 2**24 + 1], np.int32)
    q = np.concatenate([there, limits])
    back = np.empty(q.size, np.float32)
    with np.errstate(over="ignore"):
        wanted = wire.from_fixed(q, exponent) / np.float32(3)
        codec.decode(q, back, exponent, 3)
    np.testing.assert_array_equal(back.view(np.uint32), wanted.view(np.uint32))


def test_fp32_is_itself_divided(compiled, rng):
    x = numbers(rng, 33, EDGES)
    there, back = np.empty_like(x), np.empty_like(x)
    codec.encode(x, there, 0)
    codec.decode(there, back, 0, 3)
    np.testing.assert_array_equal(back, x / np.float32(3))


@pytest.mark.parametrize("n", SIZES)
def test_exponents_are_those_of_the_largest(compiled, rng, n):
    x = rng.standard_normal(n).astype(np.float32)
    assert codec.exponent_of(x, 5) == wire.scale_exponent(x, 5)
    for bad in (np.nan, np.inf, -np.inf):
        assert codec.exponent_of(np.append(x, np.float32(bad)), 5) is None
