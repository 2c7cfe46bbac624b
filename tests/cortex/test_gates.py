"""Sigmoid and tanh of generated code: their largest errors over all floats, and their limits."""

from pathlib import Path

import numpy as np
import pytest

import cortex
from common import native

KERNELS = Path(cortex.__file__).parent / "kernels"

SOURCE = f"""
#include "{KERNELS / "gates.h"}"
#define UNARY(name)                                                                \\
    EXPORT void f_##name(const float* x, float* y, int64_t n) {{                   \\
        for (int64_t i = 0; i < n; i += simd::width) {{                            \\
            const int m = n - i < simd::width ? n - i : simd::width;               \\
            simd::store_first(y + i, cortex::name(simd::load_first(x + i, m)), m); \\
        }}                                                                         \\
    }}
UNARY(sigmoid) UNARY(tanh)
"""

BUILDS = {
    "native": (),
    "scalar": ("-march=x86-64-v3", "-DSIMD_SCALAR"),
    "baseline": ("-march=x86-64",),  # no fused multiply-add
}


@pytest.fixture(params=BUILDS)
def library(request):
    return native.build_source("gates", SOURCE, language="c++", flags=BUILDS[request.param])


def apply(library, name, x):
    y = np.empty_like(x)
    library.function(f"void f_{name}(const float* x, float* y, int64_t n)")(x, y, x.size)
    return y


def every_so_many(step):
    patterns = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return patterns[np.isfinite(patterns)]


def test_sigmoid_is_right_to_its_bound(library):
    x = every_so_many(4001)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    error = np.abs(apply(library, "sigmoid", x) - exact)
    assert (error[x >= -87] <= 3e-7 * exact[x >= -87]).all()
    assert (error[x < -87] <= 1.3e-38).all()


def test_tanh_is_right_to_its_bound(library):
    x = every_so_many(4001)
    exact = np.tanh(x.astype(np.float64))
    is_normal = np.abs(exact) > 2e-38
    error = np.abs(apply(library, "tanh", x) - exact)[is_normal]
    assert (error <= 4e-7 * np.abs(exact[is_normal])).all()


def test_limits(library):
    x = np.array([-np.inf, np.inf, np.nan, 0.0, -0.0, -100, 100], np.float32)
    found = apply(library, "tanh", x)
    np.testing.assert_array_equal(found, np.array([-1, 1, np.nan, 0, -0.0, -1, 1], np.float32))
    assert np.signbit(found[4])
    found = apply(library, "sigmoid", x)
    np.testing.assert_allclose(found, [0, 1, np.nan, 0.5, 0.5, 0, 1], atol=1.3e-38)
