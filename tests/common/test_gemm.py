"""Products against float64 numpy: every layout, sizes around a block, epilogues and builds."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import gemm as module
from common import native
from common.gemm import (
    ACTIVATIONS,
    BACKENDS,
    Activation,
    Backend,
    PackedMatrix,
    gemm,
    onednn_takes,
    pack,
)

FLAGS = {
    "native": (),
    "avx2": ("-march=x86-64-v3",),
    "scalar": ("-march=x86-64-v3", "-DSIMD_SCALAR"),
}
WIDTHS = {"avx2": 8, "scalar": 1}
# Around the vectors (16, 8), panels (32, 16), rows of a block (14, 6) and their multiples.
ROWS = (0, 1, 2, 3, 5, 6, 7, 12, 13, 14, 15, 16, 17, 29, 33)
COLUMNS = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65)
DEPTHS = (0, 1, 2, 13, 14, 15, 16, 17, 33)
DTYPES = (torch.float32, torch.bfloat16)

EXACT: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
}


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Compile every build first: it takes a while, and no test is to blame for it."""
    recipes = [
        native.Recipe(
            name="gemm",
            sources=(module._SOURCE,),
            flags=(*flags, *module._FLAGS),
            link_flags=module._LINK_FLAGS,
            openmp=openmp,
        )
        for flags, openmp in (*((flags, False) for flags in FLAGS.values()), ((), True))
    ]
    for library in native.build_many(recipes):
        assert isinstance(library, native.Library), library


@pytest.fixture(params=FLAGS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The native back end built for one width of vectors."""
    flags = FLAGS[request.param]
    plain = module._library

    def library(openmp: bool) -> native.Library:
        return plain(False, flags)  # shares then run one after the other: fewer builds

    monkeypatch.setattr(module, "_library", library)
    monkeypatch.setattr(module, "_workspaces", module._Workspaces())
    return str(request.param)


def random(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(dtype)


def as_float64(x: Tensor) -> NDArray[np.float64]:
    return x.double().numpy()


def assert_product(
    found: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    old: Tensor | None = None,
    activation: Activation | None = None,
) -> None:
    """Within the rounding of a float32 sum of k terms, then of the result's own type."""
    sums = as_float64(a) @ as_float64(b)
    size = np.abs(as_float64(a)) @ np.abs(as_float64(b))
    for x in (bias, old):
        if x is not None:
            sums, size = sums + as_float64(x), size + np.abs(as_float64(x))
    expected = EXACT[activation](torch.from_numpy(sums)).numpy()
    # Each of k roundings is half a unit of a partial sum below `size`; they add up like a random
    # walk. Activations have slopes up to 1.13, and errors of their own below 4e-7 max(1, |x|).
    k = a.shape[1] + 2
    bound = 2.0**-24 * (3 + 2 * np.sqrt(k)) * size * 1.13
    if activation is not None:
        bound = bound + 4e-7 * np.maximum(1, np.abs(expected))
    if found.dtype is torch.bfloat16:
        bound = bound * 1.01 + 2.0**-8 * np.abs(expected) + 1e-38
    np.testing.assert_array_less(np.abs(as_float64(found) - expected), bound + 1e-30)


def layouts(x: Tensor) -> dict[str, Tensor]:
    """One matrix stored row-major, column-major, as a part of a larger one, and every other one."""
    rows, columns = x.shape
    part = torch.full((rows + 2, columns + 5), torch.nan, dtype=x.dtype)[1:-1, 3 : 3 + columns]
    sparse = torch.full((2 * rows + 1, 3 * columns + 1), torch.nan, dtype=x.dtype)[
        : 2 * rows : 2, : 3 * columns : 3
    ]
    part.copy_(x)
    sparse.copy_(x)
    return {"rows": x, "columns": x.t().contiguous().t(), "part": part, "sparse": sparse}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size_around_a_block(
    build: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    for m, k, n in itertools.product(ROWS, DEPTHS, COLUMNS):
        a, b = random(rng, m, k, dtype=dtype), random(rng, k, n, dtype=dtype)
        plain, packed = gemm(a, b), gemm(a, pack(b))
        assert_product(plain, a, b)
        assert torch.equal(plain, packed), (m, k, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 37, 70), (5, 64, 64), (14, 33, 96), (15, 50, 33), (61, 47, 65), (3, 16, 300)],
)
def test_every_layout_of_both_operands(
    build: str, dtype: torch.dtype, m: int, k: int, n: int, rng: np.random.Generator
) -> None:
    a, b = random(rng, m, k, dtype=dtype), random(rng, k, n, dtype=dtype)
    expected = gemm(a, b)
    assert_product(expected, a, b)
    for (how_a, x), (how_b, y) in itertools.product(layouts(a).items(), layouts(b).items()):
        assert torch.equal(gemm(x, y), expected), (how_a, how_b)
        assert torch.equal(gemm(x, pack(y)), expected), (how_a, how_b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    # Deeper than a pass, more rows than are packed at once, more columns than a group of panels.
    [
        (2, 1025, 40),
        (20, 2051, 70),
        (350, 513, 33),
        (180, 1100, 32),
        (180, 2100, 33),
        (30, 20, 600),
        (700, 7, 520),
        # One row, columns beyond a page: read row after row, in stretches.
        (1, 3, 2061),
        (1, 1100, 2100),
        (1, 2055, 4109),
    ],
)
def test_sizes_beyond_one_pass(
    build: str, dtype: torch.dtype, m: int, k: int, n: int, rng: np.random.Generator
) -> None:
    a, b = random(rng, m, k, dtype=dtype), random(rng, k, n, dtype=dtype)
    old = random(rng, m, n, dtype=dtype)
    plain = gemm(a, b)
    assert_product(plain, a, b)
    assert torch.equal(plain, gemm(a, pack(b)))
    assert torch.equal(plain, gemm(a.t().contiguous().t(), b))
    for right in (b, b.t().contiguous().t(), pack(b)):
        out = old.clone()
        gemm(a, right, out=out, accumulate=True)
        assert_product(out, a, b, old=old)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_bias_activation_and_accumulate(
    build: str, dtype: torch.dtype, activation: Activation | None, rng: np.random.Generator
) -> None:
    for m, n, has_bias, accumulates in itertools.product(
        (1, 4, 17), (1, 16, 33, 64), (False, True), (False, True)
    ):
        a, b = random(rng, m, 19, dtype=dtype), random(rng, 19, n, dtype=dtype)
        bias = random(rng, n, dtype=dtype) if has_bias else None
        old = random(rng, m, n, dtype=dtype)
        out = old.clone()
        found = gemm(a, b, bias=bias, activation=activation, out=out, accumulate=accumulates)
        assert found is out
        old_or_none = old if accumulates else None
        assert_product(out, a, b, bias=bias, old=old_or_none, activation=activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "k", "n"), [(3, 40, 200), (200, 40, 30), (5, 600, 33), (1, 9, 7), (1, 41, 4500)]
)
def test_bits_do_not_depend_on_the_number_of_threads(
    dtype: torch.dtype, m: int, k: int, n: int, rng: np.random.Generator
) -> None:
    a, b = random(rng, m, k, dtype=dtype), random(rng, k, n, dtype=dtype)
    packed = pack(b)
    expected = gemm(a, b, activation="gelu", threads=1)
    for threads in (2, 3, 7):
        assert torch.equal(gemm(a, b, activation="gelu", threads=threads), expected)
        assert torch.equal(gemm(a, packed, activation="gelu", threads=threads), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_a_row_do_not_depend_on_the_rows_beside_it(
    build: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    a, b = random(rng, 33, 1100, dtype=dtype), random(rng, 1100, 300, dtype=dtype)
    whole, packed = gemm(a, b), pack(b)
    for m in (1, 2, 7, 14, 15, 29):
        assert torch.equal(gemm(a[:m], b), whole[:m])
        assert torch.equal(gemm(a[:m], packed), whole[:m])


def test_result_stays_inside_its_rows(build: str, rng: np.random.Generator) -> None:
    for dtype, n in itertools.product(DTYPES, (1, 15, 17, 31, 33)):
        a, b = random(rng, 5, 8, dtype=dtype), random(rng, 8, n, dtype=dtype)
        frame = torch.full((7, n + 40), 7.0, dtype=dtype)
        gemm(a, b, out=frame[1:6, 3 : 3 + n])
        assert_product(frame[1:6, 3 : 3 + n], a, b)
        frame[1:6, 3 : 3 + n] = 7.0
        assert (frame == 7.0).all()


def multiplies_bf16(backend: Backend) -> bool:
    return backend != "numpy" and (backend != "onednn" or onednn_takes(torch.bfloat16))


@pytest.mark.parametrize("backend", BACKENDS)
def test_back_ends_without_bf16_say_so(backend: Backend) -> None:
    a = torch.ones(3, 3, dtype=torch.bfloat16)
    if multiplies_bf16(backend):
        assert torch.equal(gemm(a, a.clone(), backend=backend), 3 * a)
        return
    with pytest.raises(TypeError, match=f"{backend}.*bfloat16.*use backend"):
        gemm(a, a.clone(), backend=backend)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("backend", BACKENDS)
def test_back_ends_agree(
    backend: Backend, activation: Activation | None, rng: np.random.Generator
) -> None:
    for dtype in DTYPES[: 2 if multiplies_bf16(backend) else 1]:
        for m, accumulates in itertools.product((0, 1, 16), (False, True)):
            a, b = random(rng, m, 40, dtype=dtype), random(rng, 40, 24, dtype=dtype)
            bias, old = random(rng, 24, dtype=dtype), random(rng, m, 24, dtype=dtype)
            expected = EXACT[activation](
                a.double() @ b.double() + bias.double() + (old.double() if accumulates else 0)
            )
            for right in (b, pack(b, backend=backend, rows=m), b.t().contiguous().t()):
                out = old.clone()
                gemm(
                    a,
                    right,
                    bias=bias,
                    activation=activation,
                    out=out,
                    accumulate=accumulates,
                    backend=backend,
                )
                # Libraries round bf16 after the product, after the sum and after the activation.
                near = 1e-5 if dtype is torch.float32 else 0.15
                torch.testing.assert_close(out.double(), expected, rtol=near, atol=near)


def test_bf16_sums_are_kept_in_float32(build: str) -> None:
    # 1 + 4096 times 2^-12: every partial sum in bf16 would stay 1.
    a = torch.ones(1, 4097, dtype=torch.bfloat16)
    b = torch.full((4097, 3), 2.0**-12, dtype=torch.bfloat16)
    b[0] = 1.0
    assert (gemm(a, b) == 2.0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_numbers_spread_to_their_row_and_column_alone(build: str, value: float) -> None:
    for dtype in DTYPES:
        a, b = torch.ones(5, 9, dtype=dtype), torch.ones(9, 20, dtype=dtype)
        a[2, 3] = value
        found = gemm(a, b, activation="relu")
        torch.testing.assert_close(found[2], torch.full((20,), value, dtype=dtype), equal_nan=True)
        assert (found[[0, 1, 3, 4]] == 9).all()


def test_packed_matrix_tells_what_it_is() -> None:
    packed = pack(torch.ones(3, 5))
    assert packed.shape == (3, 5)
    assert repr(packed) == "PackedMatrix(3, 5, torch.float32)"


def test_builds_differ(build: str) -> None:
    library = module._library(openmp=False)
    width = library.function("int64_t gemm_width(void)")()
    terms = library.function("int64_t gemm_bf16_terms(void)")()
    if build == "native":
        assert width in (8, 16)
        flags = Path("/proc/cpuinfo").read_text().split()
        assert terms == (2 if "avx512_bf16" in flags else 1)
    else:
        assert width == WIDTHS[build]
        assert terms == 1


# ---- The choice of "auto" ----


@pytest.fixture
def no_choices() -> Iterator[None]:
    """What one test found out must not decide for the next."""
    module.forget()
    yield
    module.forget()


def slowed(monkeypatch: pytest.MonkeyPatch, waits: dict[str, float]) -> dict[str, int]:
    """Make libraries slower by some seconds a call; returns their calls, which go on counting."""
    calls = dict.fromkeys(waits, 0)

    def slow(name: str, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: object) -> Tensor:
            calls[name] += 1
            end = time.thread_time() + waits[name]
            while time.thread_time() < end:
                pass
            return product(*arguments)

        return call

    for name in waits:
        product = slow(name, module._LIBRARIES[name])
        monkeypatch.setitem(module._LIBRARIES, name, product)
    return calls


@pytest.mark.usefixtures("no_choices")
@pytest.mark.parametrize("dtype", DTYPES)
def test_auto_gives_the_product_of_the_three_uses_of_a_linear_layer(
    dtype: torch.dtype, rng: np.random.Generator
) -> None:
    x, w, dy = (random(rng, *s, dtype=dtype) for s in ((33, 40), (24, 40), (33, 24)))
    bias, dx = random(rng, 24, dtype=dtype), random(rng, 33, 40, dtype=dtype)
    for _ in range(2):  # measured, then remembered
        assert_product(gemm(x, w.t(), bias=bias, backend="auto"), x, w.t(), bias=bias)
        assert_product(gemm(dy.t(), x, backend="auto"), dy.t(), x)
        out = dx.clone()
        gemm(dy, w, out=out, accumulate=True, backend="auto")
        assert_product(out, dy, w, old=dx)
    assert len(module.chosen()) == 3


@pytest.mark.usefixtures("no_choices")
@pytest.mark.parametrize("fast", ["onednn", "aten"])
def test_auto_takes_a_library_that_is_faster(
    fast: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = random(rng, 64, 64), random(rng, 64, 64)
    slow = {"onednn": "aten", "aten": "onednn"}[fast]
    slowed(monkeypatch, {slow: 0.02})
    # The fast one does nothing at all; native multiplies.
    monkeypatch.setitem(module._LIBRARIES, fast, lambda a, *_: a)
    monkeypatch.setattr(module, "_workspaces", _Sluggish(0.005))
    gemm(a, b, backend="auto", threads=1)
    assert list(module.chosen().values()) == [fast]


class _Sluggish(module._Workspaces):
    """The native back end with a wait before every product."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.ready = _Waiting(seconds)


class _Waiting(dict):  # type: ignore[type-arg]  # stands in for one
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def get(self, key: object, default: object = None) -> object:
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        return super().get(key, default)


@pytest.mark.usefixtures("no_choices")
def test_auto_measures_a_shape_once_and_keeps_to_native_if_that_is_fastest(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = random(rng, 32, 48), random(rng, 48, 40)
    calls = slowed(monkeypatch, {"onednn": 0.01, "aten": 0.01})
    expected = gemm(a, b, threads=1)
    assert torch.equal(gemm(a, b, backend="auto", threads=1), expected)
    measured = dict(calls)
    assert min(measured.values()) >= 1
    assert torch.equal(gemm(a, b, backend="auto", threads=1), expected)
    assert calls == measured
    # Another size, layout, type or epilogue is another choice.
    gemm(a, b.t().contiguous().t(), backend="auto", threads=1)
    gemm(a[:31], b, backend="auto", threads=1)
    gemm(a, b, activation="relu", backend="auto", threads=1)
    gemm(a.bfloat16(), b.bfloat16(), backend="auto", threads=1)
    gemm(a, pack(b), backend="auto", threads=1)
    assert len(module.chosen()) == 6


@pytest.mark.usefixtures("no_choices")
def test_auto_does_without_a_library_that_cannot_run(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setitem(module._LIBRARIES, "onednn", fail)
    a, b = random(rng, 8, 8), random(rng, 8, 8)
    assert_product(gemm(a, b, backend="auto"), a, b)
    assert "onednn" not in module.chosen().values()


@pytest.mark.usefixtures("no_choices")
def test_auto_does_without_a_library_that_refuses_the_type(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As oneDNN does with bfloat16 on processors without AVX-512.
    monkeypatch.setattr(module, "onednn_takes", lambda dtype: False)
    a, b = (random(rng, 8, 8, dtype=torch.bfloat16) for _ in range(2))
    assert_product(gemm(a, b, backend="auto"), a, b)
    assert set(module.chosen().values()) <= {"native", "aten"}


@pytest.mark.usefixtures("no_choices")
def test_auto_does_without_a_compiler(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise native.CompilerNotFound("c++", ["c++"])

    monkeypatch.setattr(module, "_workspaces", module._Workspaces())
    monkeypatch.setattr(module, "_entry", fail)
    a, b = random(rng, 8, 8), random(rng, 8, 8)
    assert_product(gemm(a, b, backend="auto"), a, b)
    assert set(module.chosen().values()) <= {"onednn", "aten"}


@pytest.mark.usefixtures("no_choices")
@pytest.mark.parametrize("by_torch", [False, True])
def test_auto_is_native_where_results_must_repeat(
    by_torch: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = slowed(monkeypatch, {"onednn": 0.0, "aten": 0.0})
    a, b = random(rng, 9, 1100), random(rng, 1100, 33)
    if by_torch:
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        found = gemm(a, b, backend="auto")
    else:
        with module.deterministic():
            assert module.is_deterministic()
            found = gemm(a, b, backend="auto")
            with module.deterministic(False):
                assert not module.is_deterministic()
        assert not module.is_deterministic()
    assert torch.equal(found, gemm(a, b))
    assert set(calls.values()) == {0}
    assert not module.chosen()


@pytest.mark.usefixtures("no_choices")
def test_auto_of_empty_operands_measures_nothing() -> None:
    assert gemm(torch.ones(0, 3), torch.ones(3, 2), backend="auto").shape == (0, 2)
    assert (gemm(torch.ones(2, 0), torch.ones(0, 2), backend="auto") == 0).all()


@pytest.mark.parametrize(
    ("sizes", "most", "shortest", "expected"),
    [
        ((8, 8, 8), 2**30, 4, (8, 8, 8)),
        ((4096, 4096, 1024), 2**31, 512, (1024, 1024, 1024)),
        ((4096, 64, 64), 2**16, 512, (512, 64, 64)),
        ((100, 100, 100), 1, 64, (64, 64, 64)),
    ],
)
def test_corner_that_is_measured(
    sizes: tuple[int, int, int], most: int, shortest: int, expected: tuple[int, int, int]
) -> None:
    assert module._corner(sizes, most, shortest) == expected


def test_cut_keeps_the_layout_without_gaps() -> None:
    x = torch.arange(24.0).reshape(4, 6)
    part = torch.ones(5, 9)[:, :6]
    for whole, strides in ((x, (3, 1)), (x.t().contiguous().t(), (1, 2)), (part, (9, 1))):
        found = module._cut(whole, 2, 3)
        assert torch.equal(found, whole[:2, :3])
        assert found.stride() == strides
    assert module._cut(x, 4, 6) is x


def square(**options: object) -> Callable[..., Tensor]:
    return lambda: gemm(torch.ones(3, 3), torch.ones(3, 3), **options)  # type: ignore[arg-type]  # wrong on purpose


ONES = torch.ones(3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gemm(ONES, torch.ones(4, 3)), ValueError, r"share k.*\(3, 3\).*\(4, 3\)"),
        (lambda: gemm(ONES, ONES.bfloat16()), TypeError, "one type.*float32.*bfloat16"),
        (lambda: gemm(ONES.double(), ONES), TypeError, "a must be float32 or bfloat16.*float64"),
        (lambda: gemm(ONES[0], ONES), ValueError, r"a must be a matrix.*\(3,\)"),
        (lambda: gemm(ONES, ONES[0]), ValueError, "b must be a matrix"),
        (lambda: pack(ONES.half()), TypeError, "b must be float32 or bfloat16.*float16"),
        (lambda: gemm(ONES.clone().requires_grad_(), ONES), ValueError, "a requires grad"),
        (square(activation="gelo"), ValueError, "activation.*gelo.*did you mean 'gelu'"),
        (square(backend="onedn"), ValueError, "backend.*did you mean 'onednn'"),
        (square(backend="atuo"), ValueError, "backend must be one of auto.*did you mean 'auto'"),
        (lambda: pack(ONES, backend="mkl"), ValueError, "backend must be one of"),  # type: ignore[arg-type]  # wrong on purpose
        (square(bias=torch.ones(4)), ValueError, r"bias must be \(3,\).*\(4,\)"),
        (square(bias=torch.ones(3).double()), ValueError, "bias must be.*float64"),
        (square(out=torch.ones(3, 4)), ValueError, r"out must be \(3, 3\), got \(3, 4\)"),
        (square(out=ONES.double()), TypeError, "out must be torch.float32"),
        (square(out=torch.ones(3, 6)[:, ::2]), ValueError, "contiguous rows"),
        (square(accumulate=True), ValueError, "accumulate.*out="),
        (square(threads=0), ValueError, "threads must be at least 1, got 0"),
        (lambda: gemm(ONES, torch.ones(3, 3), out=ONES), ValueError, "share memory with a"),
        (lambda: gemm(torch.ones(3, 3), ONES, out=ONES), ValueError, "share memory with b"),
        (
            lambda: gemm(ONES, torch.ones(3, 3), out=ONES, backend="aten"),
            ValueError,
            "share memory with a",
        ),
        (lambda: gemm(ONES.bfloat16(), ONES.bfloat16(), backend="numpy"), TypeError, "bfloat16"),
    ],
)
def test_misuse_is_named(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_nothing_is_recorded_for_gradients() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    with torch.no_grad():
        assert not gemm(ONES, weight).requires_grad
    assert isinstance(pack(weight.detach()), PackedMatrix)
