"""Calls: every type survives the trip, every misuse is an error that names the parameter."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common import native
from common.native import cache

C_TYPES = {
    **{f"{s}int{b}_t": f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)},
    "float": "float32",
    "double": "float64",
}

SOURCE = """
#include <stdint.h>
#include <stddef.h>
#define COPY_AND_ADD(type, name)                                              \\
    EXPORT type name(const type* x, type* out, type add, int64_t n) {         \\
        for (int64_t i = 0; i < n; i++) out[i] = (type)(x[i] + add);          \\
        return add;                                                           \\
    }
COPY_AND_ADD(int8_t, f_int8_t) COPY_AND_ADD(uint8_t, f_uint8_t)
COPY_AND_ADD(int16_t, f_int16_t) COPY_AND_ADD(uint16_t, f_uint16_t)
COPY_AND_ADD(int32_t, f_int32_t) COPY_AND_ADD(uint32_t, f_uint32_t)
COPY_AND_ADD(int64_t, f_int64_t) COPY_AND_ADD(uint64_t, f_uint64_t)
COPY_AND_ADD(float, f_float) COPY_AND_ADD(double, f_double)

EXPORT void scale(const float* x, float* out, int64_t n, float by) {
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * by;
}
EXPORT int64_t is_null(const float* x) { return x == NULL; }
EXPORT float second_row(const float* x, int64_t row_stride) { return x[row_stride]; }
EXPORT void invert_bits(const uint16_t* x, uint16_t* out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = x[i] ^ 0x8000;
}
EXPORT int64_t wait_for(const int64_t* flag, int64_t spins) {
    const volatile int64_t* seen = flag;
    for (int64_t i = 0; i < spins; i++) if (*seen) return 1;
    return 0;
}
EXPORT int32_t answer(void) { return 42; }
"""


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Iterator[native.Library]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLSYS21_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield native.build_source("calls", SOURCE)


@pytest.fixture
def scale(lib: native.Library) -> native.NativeFunction:
    return lib.function("void scale(const float* x, float* out, int64_t n, float by)")


def extremes(dtype: str) -> NDArray[np.generic]:
    kind = np.dtype(dtype)
    info = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    return np.array([info.min, 0, 1, 7, info.max], kind)


@pytest.mark.parametrize("ctype", C_TYPES)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_every_type_survives_the_trip(lib: native.Library, ctype: str, framework: str) -> None:
    call = lib.function(
        f"{ctype} f_{ctype}(const {ctype}* x, {ctype}* out, {ctype} add, int64_t n)"
    )
    x = extremes(C_TYPES[ctype])
    out = np.zeros_like(x)
    add = float(x[3]) if x.dtype.kind == "f" else int(x[3])
    with np.errstate(over="ignore"):
        expected = x + x.dtype.type(add)

    arguments = (x, out) if framework == "numpy" else (torch.from_numpy(x), torch.from_numpy(out))
    returned = call(*arguments, add, len(x))

    assert returned == add
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("ctype", [name for name in C_TYPES if "int" in name])
def test_integers_at_both_ends_of_their_range(lib: native.Library, ctype: str) -> None:
    call = lib.function(
        f"{ctype} f_{ctype}(const {ctype}* x, {ctype}* out, {ctype} add, int64_t n)"
    )
    info = np.iinfo(C_TYPES[ctype])
    one = np.zeros(1, C_TYPES[ctype])
    for end in (info.min, info.max):
        assert call(one, one.copy(), end, 1) == end
        assert call(one, one.copy(), np.array(end, C_TYPES[ctype])[()], 1) == end
    for beyond in (info.min - 1, info.max + 1):
        with pytest.raises(OverflowError, match=f"'add' must fit {ctype}"):
            call(one, one.copy(), beyond, 1)


def test_no_arguments(lib: native.Library) -> None:
    assert lib.function("int32_t answer(void)")() == 42


def test_raw_takes_addresses(lib: native.Library, scale: native.NativeFunction) -> None:
    x, out = torch.arange(5.0), torch.zeros(5)
    scale.raw(x.data_ptr(), out.data_ptr(), 5, 2.0)
    torch.testing.assert_close(out, x * 2, rtol=0, atol=0)


def test_arguments_may_be_named(scale: native.NativeFunction) -> None:
    x, out = np.ones(2, np.float32), np.zeros(2, np.float32)
    scale(x, out, by=3.0, n=2)
    np.testing.assert_array_equal(out, [3, 3])


def test_tensors_and_arrays_mix(scale: native.NativeFunction) -> None:
    x, out = np.arange(3, dtype=np.float32), torch.zeros(3)
    scale(x, out, 3, 2.0)
    torch.testing.assert_close(out, torch.tensor([0.0, 2.0, 4.0]), rtol=0, atol=0)


def test_numbers_convert_as_in_python(scale: native.NativeFunction) -> None:
    x, out = np.ones(2, np.float32), np.zeros(2, np.float32)
    scale(x, out, np.int64(2), 3)
    np.testing.assert_array_equal(out, [3, 3])


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_empty_arrays(scale: native.NativeFunction, framework: str) -> None:
    x, out = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)
    if framework == "torch":
        scale(torch.from_numpy(x), torch.from_numpy(out), 0, 2.0)
    else:
        scale(x, out, 0, 2.0)


def test_const_pointers_take_read_only_arrays(scale: native.NativeFunction) -> None:
    x, out = np.ones(2, np.float32), np.zeros(2, np.float32)
    x.flags.writeable = False
    scale(x, out, 2, 2.0)
    np.testing.assert_array_equal(out, [2, 2])


def test_const_pointers_take_tensors_requiring_grad(scale: native.NativeFunction) -> None:
    x, out = torch.nn.Parameter(torch.ones(2)), torch.zeros(2)
    scale(x, out, 2, 2.0)
    torch.testing.assert_close(out, torch.full((2,), 2.0), rtol=0, atol=0)


def test_array_subclasses(scale: native.NativeFunction, tmp_path: Path) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(2,))
    x[:] = 1
    out = np.zeros(2, np.float32)
    scale(x, out, 2, 2.0)
    np.testing.assert_array_equal(out, [2, 2])


def test_equal_dtypes_need_not_be_identical(lib: native.Library) -> None:
    call = lib.function("int64_t f_int64_t(const int64_t* x, int64_t* out, int64_t add, int64_t n)")
    x = np.ones(1, np.longlong)  # as wide as int64, another object
    out = np.zeros(1, np.int64)
    call(x, out, 1, 1)
    assert out[0] == 2


BAD_ARRAYS = {
    "dtype": (
        lambda: np.ones(4, np.float64),
        TypeError,
        "must have dtype float32, got float64: pass array.astype",
    ),
    "byte order": (lambda: np.ones(4, ">f4"), TypeError, "must have dtype float32, got"),
    "every second": (
        lambda: np.ones(8, np.float32)[::2],
        ValueError,
        r"contiguous, got shape \(4,",
    ),
    "transposed": (lambda: np.ones((2, 3), np.float32).T, ValueError, "must be contiguous"),
    "list": (lambda: [1.0], TypeError, "must be a torch tensor or numpy array, got list"),
    "scalar": (lambda: 1.0, TypeError, "must be a torch tensor or numpy array, got float"),
    "nothing": (lambda: None, TypeError, "must be a torch tensor or numpy array, got NoneType"),
    "torch dtype": (
        lambda: torch.ones(4, dtype=torch.float64),
        TypeError,
        r"must have dtype float32, got torch.float64: pass tensor.to\(torch.float32\)",
    ),
    "torch strides": (lambda: torch.ones(2, 3).T, ValueError, r"strides \(1, 3\)"),
    "expanded": (lambda: torch.ones(1).expand(4), ValueError, "must be contiguous"),
    "meta": (lambda: torch.ones(4, device="meta"), TypeError, "must be on the CPU, got meta"),
    "sparse": (lambda: torch.ones(4).to_sparse(), TypeError, "must be a strided tensor"),
    "sparse rows": (lambda: torch.ones(2, 2).to_sparse_csr(), TypeError, "must be a strided"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("parameter", ["x", "out"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_arrays_that_do_not_fit_are_refused(
    scale: native.NativeFunction, case: str, parameter: str
) -> None:
    make, error, message = BAD_ARRAYS[case]
    arguments = {"x": np.ones(4, np.float32), "out": np.zeros(4, np.float32)}
    with pytest.raises(error, match=f"scale: '{parameter}' .*{message}"):
        scale(**{**arguments, parameter: make()}, n=4, by=1.0)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_without_memory_are_refused(scale: native.NativeFunction) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(4)
    with pytest.raises(TypeError, match="'x' must be a tensor with memory of its own"):
        scale(fake, torch.zeros(4), 4, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.broadcast_to(np.float32(1), (1,)), "read-only: pass array.copy"),
        (lambda: torch.zeros(1, requires_grad=True), "requires grad .* pass tensor.detach"),
        (lambda: torch.nn.Parameter(torch.zeros(1)), "requires grad"),
    ],
)
def test_outputs_must_be_writable(scale: native.NativeFunction, make: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"'out' is written, but .*{message}"):
        scale(np.ones(1, np.float32), make(), 1, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing 4 required positional arguments: 'x', 'out', 'n', and 'by'"),
        ((None, None, 1), "missing 1 required positional argument: 'by'"),
        ((None, None, 1, 1.0, 2), "takes 4 positional arguments but 5 were given"),
    ],
)
def test_a_wrong_count_names_the_parameter(
    scale: native.NativeFunction, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        scale(*arguments)


@pytest.mark.parametrize("value", [1.0, 1.5, np.float32(1), "1", None, torch.tensor(1.0)])
def test_only_integers_are_integers(scale: native.NativeFunction, value: object) -> None:
    with pytest.raises(TypeError, match="'n' must be an integer"):
        scale(np.ones(1, np.float32), np.ones(1, np.float32), value, 1.0)


@pytest.mark.parametrize("value", ["1", None, [1.0]])
def test_only_numbers_are_numbers(scale: native.NativeFunction, value: object) -> None:
    with pytest.raises(TypeError, match="'by' must be a number"):
        scale(np.ones(1, np.float32), np.ones(1, np.float32), 1, value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_floats_travel_as_integers(lib: native.Library, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    negate = lib.function(
        "void invert_bits(const uint16_t* x, uint16_t* out, int64_t n)",
        dtypes={"x": name, "out": name},
    )
    x = torch.tensor([1.5, -2.0, 0.0], dtype=dtype)
    out = torch.zeros_like(x)
    negate(x, out, 3)
    torch.testing.assert_close(out, -x, rtol=0, atol=0)
    other = torch.float16 if dtype is torch.bfloat16 else torch.bfloat16
    with pytest.raises(TypeError, match=f"'x' must have dtype {name}"):
        negate(x.to(other), out, 3)


def test_numpy_half_floats(lib: native.Library) -> None:
    negate = lib.function(
        "void invert_bits(const uint16_t* x, uint16_t* out, int64_t n)",
        dtypes={"x": "float16", "out": "float16"},
    )
    out = np.zeros(1, np.float16)
    negate(np.ones(1, np.float16), out, 1)
    assert out[0] == -1


def test_without_the_option_integers_are_integers(lib: native.Library) -> None:
    plain = lib.function("void invert_bits(const uint16_t* x, uint16_t* out, int64_t n)")
    with pytest.raises(TypeError, match=r"'x' must have dtype uint16, got torch\.bfloat16"):
        plain(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.uint16), 1)


def test_optional_pointers_may_be_none(lib: native.Library) -> None:
    call = lib.function("int64_t is_null(const float* x)", optional=["x"])
    assert call(None) == 1
    assert call(torch.ones(1)) == 0
    with pytest.raises(TypeError, match="numpy array or None, got list"):
        call([])


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_strided_pointers_skip_the_contiguity_check(lib: native.Library, make: object) -> None:
    call = lib.function("float second_row(const float* x, int64_t row_stride)", strided=["x"])
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)[:, :2]
    assert call(make(wide), 4) == 4.0


def test_temporaries_live_through_the_call(scale: native.NativeFunction) -> None:
    # The input exists only as an argument; were it freed early, the next allocation would reuse it.
    n = 4096
    out, reference = torch.zeros(n), torch.arange(float(n)) * 3
    for _ in range(200):
        scale(torch.arange(float(n)) * 3, out, n, 1.0)
        torch.testing.assert_close(out, reference, rtol=0, atol=0)


@pytest.mark.parametrize("make", [np.ones, torch.ones], ids=["numpy", "torch"])
def test_no_reference_is_kept(scale: native.NativeFunction, make: object) -> None:
    ones = (lambda: np.ones(8, np.float32)) if make is np.ones else (lambda: torch.ones(8))
    x, out = ones(), ones()
    scale(x, out, 8, 1.0)
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(out)
    for _ in range(50):
        scale(x, out, 8, 1.0)
        with pytest.raises(TypeError):
            scale(x, out, "8", 1.0)
    gc.collect()
    assert (sys.getrefcount(x), sys.getrefcount(out)) == before


def test_the_interpreter_lock_is_released(lib: native.Library) -> None:
    wait = lib.function("int64_t wait_for(const int64_t* flag, int64_t spins)")
    flag = np.zeros(1, np.int64)
    setter = threading.Timer(0.05, lambda: flag.__setitem__(0, 1))
    setter.start()
    seen = wait(flag, 10**10)
    setter.join()
    assert seen == 1


def test_a_function_is_made_once(lib: native.Library) -> None:
    text = "int32_t answer(void)"
    assert lib.function(text) is lib.function(text)
    assert lib.function(text).__name__ == "answer"
    assert str(lib.function(text).prototype) == text


def test_a_missing_function_is_named(lib: native.Library) -> None:
    for _ in range(2):
        with pytest.raises(AttributeError, match="calls exports no function 'nothing': write EX"):
            lib.function("void nothing(void)")


def test_two_declarations_of_one_function_are_refused(lib: native.Library) -> None:
    lib.function("float second_row(const float* x, int64_t row_stride)", strided=["x"])
    with pytest.raises(ValueError, match="second_row was declared otherwise before"):
        lib.function("double second_row(const float* x, int64_t row_stride)")


def test_importing_loads_neither_torch_nor_numpy() -> None:
    import subprocess

    script = (
        "import sys; from common import native\n"
        "lib = native.build_source('tiny', 'EXPORT int answer(void) { return 42; }')\n"
        "assert lib.function('int32_t answer(void)')() == 42\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'loaded'\n"
        "import numpy, torch\n"
    )
    root = Path(cache.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def test_torch_may_arrive_after_the_function_was_made(tmp_path: Path) -> None:
    import subprocess

    text = "EXPORT void one(float* x) { x[0] = 1; }"
    script = (
        "from common import native\n"
        f"one = native.build_source('late', {text!r}).function('void one(float* x)')\n"
        "import torch; x = torch.zeros(1)\n"
        "for _ in range(2):\n"
        "    x.zero_(); one(x); assert x.item() == 1\n"
    )
    root = Path(cache.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
