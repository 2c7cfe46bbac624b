"""Number formats against exact rational arithmetic, torch and bounds worked out by hand."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from panama import wire

# One pattern of each kind, and neighbours of every border.
HAND = [
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000,
    0x00800001, 0x80800001, 0x00FFFFFF, 0x01000000, 0x3F7FFFFF, 0x3F800000, 0xBF800000, 0x3F800001,
    0xBF800001, 0x33800000, 0xB3800000, 0x33800001, 0x33FFFFFF, 0x34000000, 0x4B000000, 0x4B7FFFFF,
    0x4B800001, 0xCB800001, 0x73000000, 0x73800000, 0x7F000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7FFFFE,
    0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF,
]  # fmt: skip


def exact_sum(a: int, b: int) -> int:
    """Bits of a + b by the rules of fp32, from their exact values in units of 2**-149."""

    def value(bits: int) -> int | float:
        exponent, mantissa = bits >> 23 & 255, bits & 0x7FFFFF
        sign = -1 if bits >> 31 else 1
        if exponent == 255:
            return math.nan if mantissa else sign * math.inf
        if exponent == 0:  # zero, or flushed to it
            return 0
        return sign * (mantissa + 2**23 << exponent - 1)

    x, y = value(a), value(b)
    if isinstance(x, float) or isinstance(y, float):
        total = float(x) + float(y)
        if math.isnan(total):
            return 0x7FC00000
        return 0x7F800000 if total > 0 else 0xFF800000
    exact = x + y
    if exact == 0:
        both_negative_zero = x == 0 and y == 0 and a >> 31 and b >> 31
        return 0x80000000 if both_negative_zero else 0
    sign, size = (0x80000000, -exact) if exact < 0 else (0, exact)
    if size < 2**23:  # below the smallest normal number, 2**-126
        return sign
    exponent = size.bit_length() - 23  # as stored
    mantissa = round(Fraction(size, 2 ** (exponent - 1)))  # of a Fraction: to nearest even
    if mantissa == 2**24:
        mantissa, exponent = 2**23, exponent + 1
    return sign | (0x7F800000 if exponent > 254 else exponent << 23 | mantissa - 2**23)


def random_pairs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Any bits; exponents a mantissa apart; equal but for the last bits; subnormal results."""
    any_bits = rng.integers(0, 2**32, (2, n), dtype=np.uint64)
    near = any_bits.copy()
    shift = rng.integers(-26, 27, n)
    exponent = np.clip((near[0] >> 23 & 255).astype(np.int64) + shift, 0, 255).astype(np.uint64)
    near[1] = near[1] & 0x807FFFFF | exponent << 23
    cancelling = any_bits.copy()
    cancelling[1] = (cancelling[0] ^ 0x80000000 ^ rng.integers(0, 16, n, dtype=np.uint64)) & (
        2**32 - 1
    )
    small = any_bits & 0x81FFFFFF
    return np.concatenate([any_bits, near, cancelling, small], axis=1).astype(np.uint32)


def add_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return wire.add(a.view(np.float32), b.view(np.float32)).view(np.uint32)


def test_fp32_adds_like_exact_rationals_on_hand_picked_values() -> None:
    pairs = np.array(list(itertools.product(HAND, HAND)), dtype=np.uint32).T.copy()
    wanted = [exact_sum(int(a), int(b)) for a, b in pairs.T]
    np.testing.assert_array_equal(add_bits(pairs[0], pairs[1]), wanted)


def test_fp32_adds_like_exact_rationals_on_random_bits(rng: np.random.Generator) -> None:
    a, b = random_pairs(rng, 1000)
    wanted = [exact_sum(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(add_bits(a, b), wanted)


def test_fp32_adds_like_numpy_where_nothing_is_flushed(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 10_000)).astype(np.float32)
    np.testing.assert_array_equal(wire.add(x[0], x[1]), x[0] + x[1])


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [
        (0x00000001, 0x00000000),
        (0x807FFFFF, 0x80000000),
        (0x00800000, 0x00800000),
        (0x7F800000, 0x7F800000),
        (0xFF800000, 0xFF800000),
        (0x7F800001, 0x7FC00000),
        (0xFFC12345, 0x7FC00000),
        (0x80000000, 0x80000000),
    ],
)
def test_canonical_flushes_and_has_one_nan(bits: int, wanted: int) -> None:
    x = np.array([bits], dtype=np.uint32).view(np.float32)
    assert wire.canonical(x).view(np.uint32)[0] == wanted


def test_bf16_rounds_and_widens_like_torch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    bits = np.concatenate(
        [
            rng.integers(0, 2**32, 100_000, dtype=np.uint32),
            # Every upper half with the lower halves around a tie.
            (np.arange(2**16, dtype=np.uint32)[:, None] << np.uint32(16))
            .__or__(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32))
            .ravel(),
        ]
    )
    x = bits.view(np.float32)
    tiny = (np.abs(x) < np.float32(2.0**-126)) & ~np.isnan(x)
    ours = wire.to_bf16(x)
    theirs = torch.from_numpy(x.copy()).to(torch.bfloat16)
    same = ~tiny & ~np.isnan(x)
    np.testing.assert_array_equal(
        ours[same], theirs.view(torch.int16).numpy().view(np.uint16)[same]
    )
    assert set(ours[np.isnan(x)].tolist()) == {0x7FC0}
    np.testing.assert_array_equal(ours[tiny], (bits[tiny] >> np.uint32(31)) << np.uint32(15))
    every = np.arange(2**16, dtype=np.uint16)
    widened = torch.from_numpy(every.view(np.int16).copy()).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wire.from_bf16(every), widened)


def test_int32_saturates() -> None:
    low, high = -(2**31), 2**31 - 1
    a = np.array([high, low, high, low, 5, high], dtype=np.int32)
    b = np.array([1, -1, high, low, -7, low], dtype=np.int32)
    assert wire.add(a, b).tolist() == [high, low, high, low, -2, -1]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 16, 64, 1000])
@pytest.mark.parametrize("largest", [1.0, 0.9999999, 3.4e38, 1e-40, 1.5e-45])
def test_sums_of_workers_at_the_agreed_exponent_do_not_saturate(
    workers: int, largest: float
) -> None:
    x = np.array([largest, -largest], dtype=np.float32)
    exponent = wire.scale_exponent(x, workers)
    q = wire.to_fixed(x, exponent).astype(object)
    assert workers * abs(q[0]) <= 2**31 - 1
    # Not wasteful: at two bits fewer some number of workers up to twice as many would not fit.
    assert 4 * 2 * workers * abs(q[0]) >= 2**31 or exponent == -182
    half_a_step = Fraction(2) ** exponent / 2
    assert abs(Fraction(int(q[0])) * Fraction(2) ** exponent - Fraction(float(x[0]))) <= half_a_step
    wire.Header(exponent=exponent)


def test_fixed_point_of_zeros_and_back() -> None:
    x = np.zeros(3, dtype=np.float32)
    exponent = wire.scale_exponent(x, 8)
    assert exponent == -182
    np.testing.assert_array_equal(wire.from_fixed(wire.to_fixed(x, exponent), exponent), x)


def test_fixed_point_goes_there_and_back(rng: np.random.Generator) -> None:
    x = (rng.integers(-(2**20), 2**20, 1000) / 2**15).astype(np.float32)
    exponent = wire.scale_exponent(x, 16)
    np.testing.assert_array_equal(wire.from_fixed(wire.to_fixed(x, exponent), exponent), x)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_fixed_point_refuses_what_it_cannot_hold(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        wire.scale_exponent(np.array([1.0, bad], dtype=np.float32), 2)
    with pytest.raises(ValueError, match="NaN"):
        wire.to_fixed(np.array([math.nan], dtype=np.float32), 0)


def test_other_dtypes_are_named() -> None:
    with pytest.raises(TypeError, match="float64"):
        wire.format_of(np.float64)
    with pytest.raises(TypeError, match="float32 and int32"):
        wire.add(np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.int32))
