"""Vector functions: their largest errors over all of float, and what the masked tails touch.

Each test runs in the builds for AVX-512 (or whatever this machine has), AVX2 and no vectors.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common import native

Floats = NDArray[np.float32]

SOURCE = """
#include "simd.h"
#define UNARY(name)                                                              \\
    EXPORT void f_##name(const float* x, float* y, int64_t n) {                  \\
        for (int64_t i = 0; i < n; i += simd::width) {                           \\
            const int m = n - i < simd::width ? n - i : simd::width;             \\
            simd::store_first(y + i, simd::name(simd::load_first(x + i, m)), m); \\
        }                                                                        \\
    }
UNARY(exp) UNARY(tanh) UNARY(sigmoid) UNARY(erf) UNARY(gelu)
EXPORT int64_t width(void) { return simd::width; }
EXPORT float sum(const float* x) { return simd::sum(simd::load(x)); }
EXPORT float largest(const float* x) { return simd::largest(simd::load(x)); }
"""

BUILDS = {
    "native": (),
    "avx2": ("-march=x86-64-v3",),
    "scalar": ("-march=x86-64-v3", "-DSIMD_SCALAR"),
    "baseline": ("-march=x86-64",),  # SSE2 alone: one lane, and no fused multiply-add
}


@pytest.fixture(params=BUILDS)
def library(request: pytest.FixtureRequest) -> native.Library:
    return native.build_source("simd", SOURCE, language="c++", flags=BUILDS[request.param])


def apply(library: native.Library, name: str, x: Floats) -> Floats:
    y = np.empty_like(x)
    library.function(f"void f_{name}(const float* x, float* y, int64_t n)")(x, y, x.size)
    return y


def every_so_many(step: int) -> Floats:
    """Finite floats of all magnitudes: every step-th of the 2^32 bit patterns."""
    patterns = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return patterns[np.isfinite(patterns)]


EXACT = {
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.special.erf,
    "gelu": lambda x: x * 0.5 * torch.special.erfc(-x / 2**0.5),
}


def exactly(name: str, x: Floats) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        result: NDArray[np.float64] = EXACT[name](torch.from_numpy(x).double()).numpy()
        return result


# The bounds are those the header states.
@pytest.mark.parametrize(
    ("name", "ulps"), [("exp", 1.1), ("tanh", 1.5), ("sigmoid", 2.5), ("erf", 1.5)]
)
def test_error_stays_below_its_bound_in_units_of_the_last_place(
    library: native.Library, name: str, ulps: float
) -> None:
    # A coprime step meets every exponent and every low bit; the dense part is where it is not
    # a constant or the argument itself.
    dense = np.linspace(-20, 20, 200_001, dtype=np.float32)
    x = np.concatenate([every_so_many(21_013), dense])
    y, exact = apply(library, name, x), exactly(name, x)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(rounded))
    finite = np.isfinite(rounded)
    error = np.abs(y[finite].astype(np.float64) - exact[finite])
    units = error / np.spacing(np.abs(rounded[finite])).astype(np.float64)
    worst = int(units.argmax())
    assert units[worst] <= ulps, f"{name}({x[finite][worst]!r}) is off by {units[worst]:.2f}"


def test_gelu_is_within_the_rounding_of_its_exact_form(library: native.Library) -> None:
    dense = np.linspace(-20, 20, 200_001, dtype=np.float32)
    x = np.concatenate([every_so_many(21_013), dense])
    error = np.abs(apply(library, "gelu", x).astype(np.float64) - exactly("gelu", x))
    assert (error <= 4e-7 * np.maximum(1.0, np.abs(x))).all()


@pytest.mark.parametrize(
    ("name", "at_minus_infinity", "at_infinity"),
    [
        ("exp", 0.0, np.inf),
        ("tanh", -1.0, 1.0),
        ("sigmoid", 0.0, 1.0),
        ("erf", -1.0, 1.0),
        ("gelu", -0.0, np.inf),
    ],
)
def test_infinities_give_the_limits_and_nan_stays(
    library: native.Library, name: str, at_minus_infinity: float, at_infinity: float
) -> None:
    x = np.array([-np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(
        apply(library, name, x), np.array([at_minus_infinity, at_infinity, np.nan], np.float32)
    )


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions_are_odd_bit_for_bit(library: native.Library, name: str) -> None:
    x = np.concatenate([[0.0], every_so_many(1_000_003)]).astype(np.float32)
    np.testing.assert_array_equal(
        apply(library, name, -x).view(np.int32), (-apply(library, name, x)).view(np.int32)
    )


def test_sigmoid_keeps_its_digits_where_it_is_tiny(library: native.Library) -> None:
    x = np.linspace(-87, -17, 1001, dtype=np.float32)
    # 1 / (1 + e^-x) in float would already be wrong by 1 / e^-x overflowing near -88.7.
    np.testing.assert_allclose(apply(library, "sigmoid", x), exactly("sigmoid", x), rtol=3e-7)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 33])
def test_masked_tail_touches_nothing_beyond_it(library: native.Library, n: int) -> None:
    x = np.linspace(-1, 1, n + 1, dtype=np.float32)[:n].copy()
    y = np.full(n + 32, 7.0, np.float32)
    library.function("void f_exp(const float* x, float* y, int64_t n)")(x, y, n)
    np.testing.assert_allclose(y[:n], np.exp(x), rtol=3e-7)
    assert (y[n:] == 7.0).all()


def test_horizontal_sum_and_largest(library: native.Library, rng: np.random.Generator) -> None:
    width = library.function("int64_t width(void)")()
    x = rng.integers(-100, 100, width).astype(np.float32)  # whole numbers: every order is exact
    assert library.function("float sum(const float* x)")(x) == x.sum()
    assert library.function("float largest(const float* x)")(x) == x.max()
    x[rng.integers(width)] = np.inf
    assert library.function("float largest(const float* x)")(x) == np.inf


def test_builds_differ_in_width() -> None:
    widths = {
        name: native.build_source("simd", SOURCE, language="c++", flags=flags).function(
            "int64_t width(void)"
        )()
        for name, flags in BUILDS.items()
    }
    assert widths["avx2"] == 8
    assert widths["scalar"] == widths["baseline"] == 1
    assert widths["native"] in (8, 16)
