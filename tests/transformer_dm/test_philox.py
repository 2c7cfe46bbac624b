"""The masks of dropout: the published generator, the same in C++, and fair coins."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from transformer_dm import philox
from transformer_dm.kernels import philox as kernel

MODULES = (kernel,)


@pytest.fixture(scope="module", autouse=True)
def compiled(compile_all: Callable[..., None]) -> None:
    compile_all(*MODULES)


def unpacked(bits: torch.Tensor) -> np.ndarray:
    return np.unpackbits(bits.numpy().view(np.uint8), axis=1, bitorder="little").astype(bool)


# Known answers published with the generator (Random123, kat_vectors, philox4x32 of 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],  # pi
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_published_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    found = philox.philox4x32(np.array([counter], np.uint32), np.array(key, np.uint32))
    assert found.dtype == np.uint32
    assert found.tolist() == [answer]


def test_an_element_owns_the_half_word_the_definition_gives_it() -> None:
    rows, columns, p, seed, stream = 3, 200, 0.3, 0x0123456789ABCDEF, 2
    mask = philox.keep_mask(rows, columns, p, seed, stream)
    for row, column in [(0, 0), (0, 1), (0, 31), (0, 32), (0, 127), (0, 128), (1, 0), (2, 199)]:
        e = 256 * row + column
        g, r = e // 128, e % 128
        c = 16 * g + r % 32 // 2
        words = philox.philox4x32(
            np.array([[c, 0, stream, 0]], np.uint32), np.array([0x89ABCDEF, 0x01234567], np.uint32)
        )[0]
        number = int(words[r // 32]) >> 16 * (r % 2) & 0xFFFF
        assert mask[row, column] == (number >= round(65536 * p)), (row, column)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 0x0123456789ABCDEF, -(2**63)])
@pytest.mark.parametrize(
    ("rows", "columns", "padded"), [(0, 5, None), (1, 1, None), (9, 129, None), (4, 100, 512)]
)
@pytest.mark.parametrize("p", [1 / 65536, 0.1, 0.5, 65535 / 65536])
def test_native_bits_are_those_of_the_definition(
    build: str, seed: int, rows: int, columns: int, padded: int | None, p: float
) -> None:
    bits = kernel.keep_bits(rows, columns, p, seed, 3, padded)
    width = padded or philox.padded_columns(columns)
    assert bits.dtype is torch.int32
    assert bits.shape == (rows, width // 32)
    assert (unpacked(bits) == philox.keep_mask(rows, width, p, seed, 3)).all()


def test_counters_beyond_32_bits_go_on_in_the_second_word(build: str) -> None:
    bits = torch.empty(1, 4, dtype=torch.int32)
    for g in (2**28 - 1, 2**28, 2**40 + 3):
        kernel._library().function(kernel._PROTOTYPE)(bits, g, 1, 5, 1, 30000, 1)
        c = np.arange(16 * g, 16 * g + 16, dtype=np.uint64)
        counter = np.stack([c % 2**32, c >> np.uint64(32), 0 * c + 1, 0 * c], axis=1)
        words = philox.philox4x32(counter.astype(np.uint32), np.array([5, 0], np.uint32))
        halves = words.T.copy().view(np.uint16).reshape(-1)  # little endian: low half first
        assert (unpacked(bits)[0] == (halves >= 30000)).all(), g


def test_any_number_of_threads_gives_the_same_bits(
    with_threads: Callable[[int], None],
) -> None:
    found = []
    for n in (1, 2, 3):
        with_threads(n)
        found.append(kernel.keep_bits(301, 1000, 0.2, 42, 0))
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_as_many_are_kept_as_asked(p: float) -> None:
    n = 1024 * 1024
    kept = unpacked(kernel.keep_bits(1024, 1024, p, 2026, 1)).sum()
    probability = 1 - philox.threshold(p) / 65536
    # Five standard deviations of a binomial: one honest seed in 1.7 million fails.
    assert abs(kept - n * probability) < 5 * math.sqrt(n * probability * (1 - probability))


@pytest.mark.parametrize("lag", [1, 2, 16, 32, 128, 1024])
def test_neighbours_do_not_know_of_each_other(lag: int) -> None:
    """Lag 1 shares a word, 2 are neighbouring counters, 128 groups, and 1024 is a row below."""
    kept = unpacked(kernel.keep_bits(1024, 1024, 0.5, 77, 0)).ravel() * 2.0 - 1
    products = kept[lag:] * kept[:-lag]
    # A mean of n products of +-1 that are themselves uncorrelated deviates by 1 / sqrt(n).
    assert abs(products.mean()) < 5 / math.sqrt(len(products))


@pytest.mark.parametrize("other", [{"seed": 8}, {"stream": 1}, {"seed": 7 + 2**32}])
def test_seeds_and_streams_are_unrelated(other: dict[str, int]) -> None:
    both = [
        unpacked(kernel.keep_bits(512, 1024, 0.5, **settings)).ravel() * 2.0 - 1
        for settings in ({"seed": 7, "stream": 0}, {"seed": 7, "stream": 0} | other)
    ]
    assert abs((both[0] * both[1]).mean()) < 5 / math.sqrt(512 * 1024)


def test_next_to_nothing_and_next_to_everything() -> None:
    assert philox.threshold(0.0) == philox.threshold(7e-6) == 0
    assert philox.threshold(1.0) == philox.threshold(0.999995) == 65536
    assert philox.threshold(8e-6) == 1
    assert philox.keep_mask(2, 130, 0.0, 1, 0).all()
    assert not philox.keep_mask(2, 130, 1.0, 1, 0).any()
    assert not philox.keep_mask(2, 130, 0.999995, 1, 0).any()  # must not wrap round to T = 0
    assert philox.scale(0.0) == 1.0
    assert philox.scale(1.0) == philox.scale(0.999995) == 0.0
    assert philox.scale(0.5) == 2.0
    assert philox.scale(0.1) == 65536 / (65536 - 6554)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_probability_is_refused(p: float) -> None:
    for call in (philox.threshold, philox.scale):
        with pytest.raises(ValueError, match=r"from 0 to 1, got"):
            call(p)


def test_nothing_is_drawn_without_dropout_and_nothing_set_with_all_of_it(build: str) -> None:
    assert kernel.keep_bits(2, 130, 0.0, 9, 0).shape == (0,)
    everything = kernel.keep_bits(2, 130, 0.999995, 9, 0)
    assert everything.shape == (2, 8)
    assert not everything.any()


@pytest.mark.parametrize("padded", [100, 128])
def test_rows_must_fit_their_padding(padded: int) -> None:
    with pytest.raises(ValueError, match=f"at least 129 columns, got {padded}"):
        philox.keep_mask(1, 129, 0.5, 0, 0, padded)


def test_torchs_generator_decides_the_seeds() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = [philox.draw_seed() for _ in range(100)]
        torch.manual_seed(3)
        assert [philox.draw_seed() for _ in range(100)] == first
    assert len(set(first)) == 100
    assert all(-(2**63) <= seed < 2**63 for seed in first)
    assert min(first) < 0 < max(first)
