"""Attention kernels against the plain version in float64, at sizes around every block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common import native
from transformer_dm import philox
from transformer_dm.kernels import attention as module
from transformer_dm.kernels.attention import (
    attention_backward,
    attention_forward,
    softmax_dropout_backward,
    softmax_dropout_forward,
)
from transformer_dm.reference import attention as reference

FLAGS: dict[str, tuple[str, ...]] = {
    "native": (),
    "avx2": ("-march=x86-64-v3",),
    "scalar": ("-march=x86-64-v3", "-DSIMD_SCALAR"),
}
if torch.backends.cpu.get_cpu_capability() == "AVX2":  # the build of its own is the same
    del FLAGS["avx2"]
SEED = -6_917_529_027_641_081_856 + 12_345  # both words of the key count
# Relative, of the norms. A score is a sum of P terms with a few roundings of 6e-8 each, an output
# one of L: some 1e-6 at the sizes here.
TOLERANCE = 5e-6


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Compile every build first: it takes a while, and no test is to blame for it."""
    recipes = [
        native.Recipe(name="attention", sources=(module._SOURCE,), flags=flags, openmp=True)
        for flags in FLAGS.values()
    ]
    for library in native.build_many(recipes):
        assert isinstance(library, native.Library), library


@pytest.fixture(params=FLAGS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernels built for one width of vectors."""
    plain = module._library
    monkeypatch.setattr(module, "_library", lambda: plain(FLAGS[request.param]))
    _forget()
    yield str(request.param)
    _forget()


def _forget() -> None:
    module._function.cache_clear()
    module._workspace_size.cache_clear()


@attrs.frozen(eq=False)
class Case:
    """Arguments of one call, and the gradient that comes back."""

    qkv: Tensor
    d_o: Tensor
    key_mask: Tensor | None = None
    mask: Tensor | None = None
    causal: bool = False
    p: float = 0.0

    @property
    def options(self) -> tuple[Any, ...]:
        return self.key_mask, self.mask, self.causal, self.p, SEED

    def results(self) -> dict[str, Tensor]:
        o, lse = attention_forward(self.qkv, *self.options)
        d_qkv, d_bias = attention_backward(self.d_o, self.qkv, o, lse, *self.options)
        return {"o": o, "lse": lse, "d_qkv": d_qkv, "d_bias": d_bias}

    def expected(self) -> dict[str, Tensor]:
        key_mask, mask, *rest = self.options
        options = (key_mask, None if mask is None else mask.double(), *rest)
        o, lse = reference.attention_forward(self.qkv.double(), *options)
        d_qkv, d_bias = reference.attention_backward(
            self.d_o.double(), self.qkv.double(), None, None, *options
        )
        return {"o": o, "lse": lse, "d_qkv": d_qkv, "d_bias": d_bias}


def draw(
    rng: np.random.Generator,
    length: int,
    size: int,
    *,
    batch: int = 2,
    heads: int = 2,
    key: bool = False,
    additive: str = "",
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Case:
    """key: one batch entry loses keys at random, the other its last third
    additive: "" for no mask, "shared" or "per head"; a few of its elements are -inf
    """

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    key_mask = mask = None
    if key:
        key_mask = torch.from_numpy(rng.random((batch, length)) < 0.7)
        key_mask[-1] = torch.arange(length) < length - length // 3
    if additive:
        mask = normal(*((batch * heads,) if additive == "per head" else ()), length, length)
        mask[torch.from_numpy(rng.random(mask.shape) < 0.1)] = -math.inf
    qkv = normal(batch, length, 3, heads, size).to(dtype)
    d_o = normal(batch, length, heads, size).to(dtype)
    return Case(qkv, d_o, key_mask, mask, **options)


def error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected; infinities must agree."""
    assert found.shape == expected.shape
    is_finite = expected.isfinite()
    assert torch.equal(found[~is_finite].double(), expected[~is_finite])
    found, expected = found[is_finite].double(), expected[is_finite]
    size = float(expected.norm())
    return float((found - expected).norm()) / (size or 1.0)


def assert_right(case: Case, tolerance: float = TOLERANCE) -> None:
    expected = case.expected()
    found = case.results()
    for name in ("o", "lse", "d_bias"):
        assert error(found[name], expected[name]) <= tolerance, name
    for i, name in enumerate(("d_q", "d_k", "d_v")):
        small = 1e-6  # one key: d_q and d_k are 0 but for rounding
        found_part, expected_part = found["d_qkv"][:, :, i], expected["d_qkv"][:, :, i]
        far = float((found_part.double() - expected_part).norm())
        assert far <= tolerance * float(expected_part.norm()) + small * far_scale(case), name


def far_scale(case: Case) -> float:
    """Size of the terms of d_q and d_k, which may cancel altogether."""
    return float(case.d_o.double().norm())


# ---- Values and gradients ----


@pytest.mark.parametrize("size", [1, 7, 15, 16, 17, 32, 33, 64, 80, 100, 128, 250, 256])
def test_every_head_size(build: str, size: int, rng: np.random.Generator) -> None:
    for length in (1, 7, 33, 129):
        assert_right(draw(rng, length, size, p=0.1))


@pytest.mark.parametrize("causal", [False, True])
def test_every_length_around_a_block(build: str, causal: bool, rng: np.random.Generator) -> None:
    for length in (1, 2, 5, 6, 8, 13, 14, 15, 16, 31, 32, 42, 63, 64, 65, 127, 128):
        assert_right(draw(rng, length, 16, causal=causal, p=0.2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1000, pytest.param(2048, marks=pytest.mark.slow)])
def test_long_rows(causal: bool, length: int, rng: np.random.Generator) -> None:
    assert_right(draw(rng, length, 64, batch=1, heads=1, causal=causal, p=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("length", [2049, 2100])
def test_rows_too_long_for_one_pass(build: str, length: int, rng: np.random.Generator) -> None:
    check_late_maximum(length, rng)


@pytest.mark.slow
def test_rows_of_two_whole_passes(rng: np.random.Generator) -> None:
    check_late_maximum(4096, rng)


def check_late_maximum(length: int, rng: np.random.Generator) -> None:
    case = draw(rng, length, 16, batch=1, heads=1, p=0.1)
    # The largest score comes late, so that what was summed before it must be rescaled.
    case.qkv[:, -1, 1] *= 8
    assert_right(case)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
def test_masks_in_every_combination(build: str, p: float, rng: np.random.Generator) -> None:
    for key, additive, causal in itertools.product(
        (False, True), ("", "shared", "per head"), (False, True)
    ):
        assert_right(draw(rng, 70, 24, key=key, additive=additive, causal=causal, p=p))


def test_gradient_is_that_of_finite_differences(build: str, rng: np.random.Generator) -> None:
    case = draw(rng, 67, 32, key=True, causal=True, p=0.3)
    direction = torch.from_numpy(rng.standard_normal(case.qkv.shape, dtype=np.float32))
    d_qkv = case.results()["d_qkv"]

    def loss(step: float) -> float:
        o, _ = attention_forward(case.qkv + step * direction, *case.options)
        return float((o.double() * case.d_o).sum())

    # The error of the difference is a third derivative times step^2 / 6, that of rounding
    # 1e-6 / step: both near 1e-4 of a derivative of this size.
    step = 5e-3
    slope = (loss(step) - loss(-step)) / (2 * step)
    scale = float(d_qkv.norm())  # the standard deviation of the slope over directions
    assert abs(slope - float((d_qkv.double() * direction).sum())) <= 2e-3 * scale


def test_large_scores_do_not_overflow(build: str, rng: np.random.Generator) -> None:
    case = draw(rng, 40, 16)
    case.qkv[:, :, :2] *= 30  # scores of some thousands
    found, expected = case.results(), case.expected()
    # Rounding a score of 4000 moves its exponential by 2e-4.
    assert error(found["o"], expected["o"]) <= 1e-3
    assert found["d_qkv"].isfinite().all()


# ---- Dropout ----


def test_forward_and_backward_drop_what_the_definition_drops(
    build: str, rng: np.random.Generator
) -> None:
    length = 130  # more than a group of 128
    case = draw(rng, length, 256, p=0.4)
    case.qkv[:, :, 2] = torch.eye(length, 256)[None, :, None]  # o[j, k] is the dropped probability
    kept = reference.keep_mask((2, 2, length, length), 0.4, SEED)
    o, lse = attention_forward(case.qkv, *case.options)
    assert torch.equal(o[..., :length].transpose(1, 2) != 0, kept)
    # With d_o of one query alone, d_v has a row for each key it kept.
    for query in (0, 5, 129):
        d_o = torch.zeros_like(o)
        d_o[:, query] = 1
        d_qkv, _ = attention_backward(d_o, case.qkv, o, lse, *case.options)
        d_v = d_qkv[:, :, 2]  # (B, L, H, P)
        assert torch.equal((d_v != 0).all(dim=-1).transpose(1, 2), kept[:, :, query])


def test_lse_does_not_depend_on_dropout(rng: np.random.Generator) -> None:
    case = draw(rng, 50, 16)
    _, plain = attention_forward(case.qkv, None, None, False, 0.0, 0)
    _, dropped = attention_forward(case.qkv, None, None, False, 0.5, SEED)
    assert torch.equal(plain, dropped)


def test_seeds_differ_and_repeat(rng: np.random.Generator) -> None:
    qkv = draw(rng, 64, 16).qkv
    first, again, other = (attention_forward(qkv, None, None, False, 0.5, s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("p", [1.0, 1 - 1e-6])
def test_dropping_everything_gives_zeros(p: float, rng: np.random.Generator) -> None:
    found = attrs.evolve(draw(rng, 20, 16), p=p).results()
    assert not found["o"].any()
    assert not found["d_qkv"].any()
    assert not found["d_bias"].any()
    assert found["lse"].isfinite().all()


def test_a_probability_that_rounds_to_zero_is_no_dropout(rng: np.random.Generator) -> None:
    case = draw(rng, 20, 16)
    for name, plain in case.results().items():
        assert torch.equal(plain, attrs.evolve(case, p=1e-6).results()[name]), name


# ---- Masked rows, NaN, empty input ----


@pytest.mark.parametrize("how", ["key", "additive"])
def test_a_row_without_keys_is_zero_and_has_no_gradient(
    build: str, how: str, rng: np.random.Generator
) -> None:
    case = draw(rng, 40, 16, p=0.1)
    if how == "key":
        key_mask = torch.ones(2, 40, dtype=torch.bool)
        key_mask[1] = False
        case, of_rows = attrs.evolve(case, key_mask=key_mask), (1,)
    else:
        mask = torch.zeros(40, 40)
        mask[3] = -math.inf
        case, of_rows = attrs.evolve(case, mask=mask), (slice(None), 3)
    found = case.results()
    assert not found["o"][of_rows].any()
    assert not found["d_qkv"][of_rows][..., 0, :, :].any()
    assert all(found[name].isfinite().all() for name in ("o", "d_qkv", "d_bias"))
    lse = found["lse"][1] if how == "key" else found["lse"][:, :, 3]
    assert (lse == -math.inf).all()
    assert_right(case)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_spreads_to_what_it_has_a_part_in(
    build: str, value: float, rng: np.random.Generator
) -> None:
    case = draw(rng, 40, 16)
    case.qkv[0, 7, 0, 1, 3] = value  # a query: its own row of one head
    o = case.results()["o"]
    assert o[0, 7, 1].isnan().all()
    o[0, 7, 1] = 0
    assert o.isfinite().all()
    case = draw(rng, 40, 16)
    case.qkv[0, 7, 1, 1, 3] = math.nan  # a key: every query of the head
    found = case.results()
    assert found["o"][0, :, 1].isnan().all()
    assert found["d_qkv"][0, :, :, 1].isnan().all()
    assert found["o"][0, :, 0].isfinite().all()
    assert found["d_qkv"][:, :, :, 0].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 3, 2, 16), (2, 0, 3, 2, 16)])
def test_empty_input_gives_empty_output(shape: tuple[int, ...]) -> None:
    case = Case(torch.empty(shape), torch.empty(shape[0], shape[1], *shape[3:]), p=0.1)
    found = case.results()
    assert found["o"].shape == (shape[0], shape[1], 2, 16)
    assert found["d_qkv"].shape == shape
    assert torch.equal(found["d_bias"], torch.zeros(96))


def test_strided_input_gives_the_same(rng: np.random.Generator) -> None:
    case = draw(rng, 20, 16, p=0.1)
    turned = case.qkv.transpose(0, 1).contiguous().transpose(0, 1)
    d_o = case.d_o.transpose(2, 3).contiguous().transpose(2, 3)
    for name, plain in case.results().items():
        assert torch.equal(plain, attrs.evolve(case, qkv=turned, d_o=d_o).results()[name])


@pytest.mark.parametrize(
    ("change", "error_type", "words"),
    [
        (lambda c: {"qkv": c.qkv[..., 0]}, ValueError, r"qkv must have shape \(B, L, 3, H, P\)"),
        (lambda c: {"qkv": c.qkv.double()}, TypeError, "qkv must be float32 or bfloat16"),
        (lambda c: {"key_mask": torch.ones(2, 9)}, TypeError, "key_mask must be torch.bool"),
        (lambda c: {"key_mask": torch.ones(1, 9) > 0}, ValueError, r"key_mask .*\(2, 9\)"),
        (lambda c: {"mask": torch.ones(9, 9) > 0}, TypeError, "mask must be torch.float32"),
        (lambda c: {"mask": torch.ones(3, 9, 9)}, ValueError, r"mask .*\(4, 9, 9\)"),
        (lambda c: {"mask": torch.ones(9)}, ValueError, r"mask .*\(9, 9\) or \(4, 9, 9\)"),
        (lambda c: {"d_o": c.d_o[:, :8]}, ValueError, "d_o must have shape"),
        (lambda c: {"d_o": c.d_o.bfloat16()}, TypeError, "d_o must be torch.float32"),
        (lambda c: {"p": 1.5}, ValueError, "from 0 to 1, got 1.5"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[[Case], dict[str, Any]],
    error_type: type[Exception],
    words: str,
    rng: np.random.Generator,
) -> None:
    case = draw(rng, 9, 16)
    with pytest.raises(error_type, match=words):
        attrs.evolve(case, **change(case)).results()


# ---- bf16 ----


@pytest.mark.parametrize(("length", "size"), [(129, 64), (200, 80), (64, 15)])
def test_bf16_is_about_as_near_as_torch(
    build: str, length: int, size: int, rng: np.random.Generator
) -> None:
    case = draw(rng, length, size, dtype=torch.bfloat16)
    found, expected = case.results(), case.expected()
    leaf = case.qkv.clone().requires_grad_()
    q, k, v = leaf.permute(2, 0, 3, 1, 4)
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    (d_qkv,) = torch.autograd.grad(o, leaf, case.d_o)
    assert found["o"].dtype is found["d_qkv"].dtype is torch.bfloat16
    assert error(found["o"], expected["o"]) <= 1.5 * error(o.detach(), expected["o"])
    for i in range(3):
        ours = error(found["d_qkv"][:, :, i], expected["d_qkv"][:, :, i])
        theirs = error(d_qkv[:, :, i], expected["d_qkv"][:, :, i])
        assert ours <= 1.5 * theirs, i


def test_bf16_with_masks_and_dropout(build: str, rng: np.random.Generator) -> None:
    case = draw(rng, 131, 32, key=True, additive="shared", causal=True, p=0.2, dtype=torch.bfloat16)
    found, expected = case.results(), case.expected()
    # Rounding the result alone is 2^-9 at most, 1.7e-3 on the average; o enters D rounded, and
    # where the processor multiplies bf16 so do the probabilities.
    for name in ("o", "d_qkv", "d_bias"):
        assert error(found[name], expected[name]) <= 6e-3, name


# ---- Threads and memory ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(dtype: torch.dtype, rng: np.random.Generator) -> None:
    case = draw(rng, 100, 32, batch=2, heads=3, key=True, causal=True, p=0.1, dtype=dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(case.results())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, plain in results[0].items():
            assert torch.equal(plain, other[name]), name


class _Allocated(TorchDispatchMode):
    """Adds up the bytes of every new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.n_bytes += out.untyped_storage().nbytes()
        return out


@pytest.mark.parametrize("is_backward", [False, True])
def test_memory_grows_with_the_length_not_its_square(
    is_backward: bool, rng: np.random.Generator
) -> None:
    lengths = [256, 512, 1024, 2048, 4096]
    n_bytes = []
    for length in lengths:
        case = draw(rng, length, 16, batch=1, heads=1, p=0.1)
        o, lse = attention_forward(case.qkv, *case.options)
        module._memory.block = torch.empty(0)  # what the workspace takes counts as well
        with _Allocated() as allocated:
            if is_backward:
                attention_backward(case.d_o, case.qkv, o, lse, *case.options)
            else:
                attention_forward(case.qkv, *case.options)
        n_bytes.append(allocated.n_bytes)
    slope, _ = np.polyfit(np.log(lengths), np.log(n_bytes), 1)
    assert n_bytes[0] >= 4 * case.d_o.numel() // 16  # it did count something: o at least
    assert slope <= 1.1


def test_the_workspace_is_kept_for_the_next_call(rng: np.random.Generator) -> None:
    case = draw(rng, 64, 16, p=0.1)
    case.results()
    address = module._memory.block.data_ptr()
    case.results()
    draw(rng, 10, 16).results()
    assert module._memory.block.data_ptr() == address


# ---- Softmax and dropout of stored scores ----


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length", [1, 7, 16, 33, 130])
def test_softmax_dropout(build: str, length: int, p: float, rng: np.random.Generator) -> None:
    scores = torch.from_numpy(rng.standard_normal((2, 3, length, length), dtype=np.float32)) * 8
    d = torch.from_numpy(rng.standard_normal(scores.shape, dtype=np.float32))
    for key, additive, causal in itertools.product(
        (False, True), ("", "shared", "per head"), (False, True)
    ):
        case = draw(rng, length, 1, heads=3, key=key, additive=additive)
        masks = case.key_mask, case.mask, causal
        found = softmax_dropout_forward(scores, *masks, 0.3, p, SEED)
        exact = reference.softmax_dropout_forward(scores.double(), *masks, 0.3, p, SEED)
        assert error(found[0], exact[0]) <= TOLERANCE
        assert error(found[1], exact[1]) <= TOLERANCE
        d_scores = softmax_dropout_backward(d, found[0], found[2], 0.3, p)
        expected = reference.softmax_dropout_backward(d.double(), exact[0], exact[2], 0.3, p)
        # One key alone has gradient 0, but for rounding.
        far = float((d_scores.double() - expected).norm())
        assert far <= TOLERANCE * float(expected.norm()) + 1e-6 * float(d.norm())


def test_softmax_dropout_is_what_attention_does(rng: np.random.Generator) -> None:
    case = draw(rng, 130, 32, p=0.3)
    q, k, v = case.qkv.permute(2, 0, 3, 1, 4)
    scale = 1 / math.sqrt(32)
    _, dropped, _ = softmax_dropout_forward(
        q @ k.transpose(-1, -2), None, None, False, scale, 0.3, SEED
    )
    o, _ = attention_forward(case.qkv, *case.options)
    assert error(o, (dropped.double() @ v.double()).transpose(1, 2)) <= TOLERANCE


def test_softmax_dropout_bits_are_those_of_the_definition(build: str) -> None:
    scores = torch.zeros(2, 3, 40, 40)
    _, dropped, bits = softmax_dropout_forward(scores, None, None, False, 1.0, 0.25, SEED)
    kept = philox.keep_mask(2 * 3 * 40, 40, 0.25, SEED, philox.ATTENTION)
    words = bits.numpy().view(np.uint32)
    assert words.shape == (240, 4)
    columns = np.arange(40)
    assert np.array_equal((words[:, columns // 32] >> (columns % 32)) & 1 == 1, kept)
    assert np.array_equal((dropped != 0).numpy().reshape(240, 40), kept)


def test_without_dropout_the_probabilities_are_not_copied() -> None:
    probabilities, dropped, bits = softmax_dropout_forward(
        torch.zeros(1, 1, 5, 5), None, None, False, 1.0, 0.0, SEED
    )
    assert dropped is probabilities
    assert bits.shape == (0,)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_softmax_dropout_in_bf16(build: str, p: float, rng: np.random.Generator) -> None:
    scores = torch.from_numpy(rng.standard_normal((2, 2, 70, 70), dtype=np.float32)).bfloat16()
    d = torch.from_numpy(rng.standard_normal(scores.shape, dtype=np.float32)).bfloat16()
    found = softmax_dropout_forward(scores, None, None, True, 1.0, p, SEED)
    exact = reference.softmax_dropout_forward(scores.double(), None, None, True, 1.0, p, SEED)
    d_scores = softmax_dropout_backward(d, found[0], found[2], 1.0, p)
    expected = reference.softmax_dropout_backward(d.double(), exact[0], exact[2], 1.0, p)
    assert found[1].dtype is d_scores.dtype is torch.bfloat16
    # Each result is rounded by at most 2^-9; the gradient has two such factors before it.
    assert error(found[1], exact[1]) <= 2.0**-8
    assert error(d_scores, expected) <= 3 * 2.0**-8


def test_softmax_dropout_of_nothing_is_nothing() -> None:
    for shape in ((0, 2, 4, 4), (2, 2, 0, 0)):
        scores = torch.empty(shape)
        probabilities, dropped, bits = softmax_dropout_forward(
            scores, None, None, False, 1.0, 0.5, SEED
        )
        assert probabilities.shape == dropped.shape == shape
        assert softmax_dropout_backward(dropped, probabilities, bits, 1.0, 0.5).shape == shape


def test_softmax_dropout_zeroes_a_row_without_keys_and_keeps_nan(build: str) -> None:
    scores = torch.zeros(1, 1, 20, 20)
    scores[0, 0, 3, 4] = math.nan
    mask = torch.zeros(20, 20)
    mask[5] = -math.inf
    probabilities, _, _ = softmax_dropout_forward(scores, None, mask, False, 1.0, 0.0, SEED)
    assert not probabilities[0, 0, 5].any()
    assert probabilities[0, 0, 3].isnan().all()
    assert probabilities[0, 0, 6].isfinite().all()
