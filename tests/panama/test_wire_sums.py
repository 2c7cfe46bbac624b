"""Sums of a switch and of levels: compiled against numpy, both against the heap written out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panama import wire
from panama.kernels import tree_add as native

DTYPES = [np.float32, np.uint16, np.int32]
SUMS = [wire.tree_add, wire.tree_add_reference]


def payloads(rng: np.random.Generator, children: int, n: int, dtype: Any) -> np.ndarray:
    """Any bits, a third of them small so that subnormals meet, a third ordinary numbers."""
    bits = rng.integers(0, 2**32, (children, n), dtype=np.uint32)
    bits[:, 1::3] &= np.uint32(0x80FFFFFF)
    ordinary = rng.standard_normal((children, n)).astype(np.float32).view(np.uint32)
    bits[:, 2::3] = ordinary[:, 2::3]
    if dtype == np.uint16:
        return (bits >> np.uint32(16)).astype(np.uint16)
    return bits.view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("children", [*range(1, 18), 31, 32, 33, 63, 64])
def test_compiled_sums_have_the_bits_of_numpy(
    rng: np.random.Generator, children: int, dtype: Any
) -> None:
    assert native.available(), "no compiler: the kernel was not tested"
    for n in (0, 1, 7, 8, 9, 15, 16, 17, 511, 512, 513, 1300):
        x = payloads(rng, children, n, dtype)
        some = rng.permutation(64)[:children].tolist()
        for ports, n_ports in ((None, None), (some, 64), (None, min(64, children + 3))):
            ours = wire.tree_add(x, ports, n_ports)
            wanted = wire.tree_add_reference(x, ports, n_ports)
            assert ours.dtype == x.dtype
            assert ours.tobytes() == wanted.tobytes(), (n, ports)


@pytest.mark.parametrize("sum_of", SUMS)
def test_the_heap_of_five_ports_written_out(sum_of: Callable[..., Any]) -> None:
    # Leaves are nodes 4 .. 8: node 3 = a3 + a4, node 1 = node 3 + a0, node 2 = a1 + a2.
    rng = np.random.default_rng(3)
    a = rng.standard_normal((5, 4000)).astype(np.float32)
    wanted = ((a[3] + a[4]) + a[0]) + (a[1] + a[2])
    in_order = (((a[0] + a[1]) + a[2]) + a[3]) + a[4]
    np.testing.assert_array_equal(sum_of(a), wanted)
    assert (sum_of(a) != in_order).any()


@pytest.mark.parametrize("sum_of", SUMS)
def test_absent_ports_keep_the_association(sum_of: Callable[..., Any]) -> None:
    # Ports 0, 1, 3 of 4: (a0 + a1) + a3. Of three ports it would be (a1 + a3) + a0.
    rng = np.random.default_rng(4)
    a = rng.standard_normal((3, 4000)).astype(np.float32)
    np.testing.assert_array_equal(sum_of(a, [0, 1, 3], 4), (a[0] + a[1]) + a[2])
    np.testing.assert_array_equal(sum_of(a), (a[1] + a[2]) + a[0])
    assert (sum_of(a, [0, 1, 3], 4) != sum_of(a)).any()


@pytest.mark.parametrize("sum_of", SUMS)
def test_absent_ports_keep_negative_zero(sum_of: Callable[..., Any]) -> None:
    minus = np.array([-0.0, -1e-40], dtype=np.float32)
    assert sum_of([minus], [5], 8).view(np.uint32).tolist() == [0x80000000, 0x80000000]


@pytest.mark.parametrize("sum_of", SUMS)
def test_each_leaf_and_each_partial_sum_is_flushed(sum_of: Callable[..., Any]) -> None:
    half = np.float32(2.0**-127)  # subnormal; two of them are the smallest normal number
    assert sum_of(np.array([[half], [half]])).view(np.uint32).tolist() == [0]
    least = np.float32(2.0**-126)
    more = np.float32(1.5 * 2.0**-126)
    # (1.5 - 1) least is flushed before the second half could make it normal again.
    x = np.array([[more], [-least], [more], [-least]], dtype=np.float32)
    assert sum_of(x).tolist() == [0.0]


@pytest.mark.parametrize("sum_of", SUMS)
def test_bf16_keeps_fp32_inside_a_switch_and_rounds_at_its_output(
    sum_of: Callable[..., Any],
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((4, 4000)).astype(np.float32)).to(torch.bfloat16)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    wide = x.float()
    wanted = ((wide[0] + wide[1]) + (wide[2] + wide[3])).to(torch.bfloat16)
    np.testing.assert_array_equal(sum_of(bits), wanted.view(torch.int16).numpy().view(np.uint16))
    each_rounded = (x[0] + x[1]) + (x[2] + x[3])
    assert (wanted != each_rounded).any()


def test_levels_round_bf16_at_every_switch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    x = torch.from_numpy(rng.standard_normal((4, 4000)).astype(np.float32)).to(torch.bfloat16)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    wanted = (x[0] + x[1]) + (x[2] + x[3])
    np.testing.assert_array_equal(
        wire.level_add(bits, [2, 2]), wanted.view(torch.int16).numpy().view(np.uint16)
    )


def test_levels_with_workers_missing_at_the_end() -> None:
    rng = np.random.default_rng(7)
    a = rng.standard_normal((5, 1000)).astype(np.float32)
    # Switches of 4: {0, 1, 2, 3} and {4}; the root has two of its four ports.
    np.testing.assert_array_equal(wire.level_add(a, [4, 4]), ((a[0] + a[1]) + (a[2] + a[3])) + a[4])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_order_in_which_children_are_given_does_not_matter(data: st.DataObject) -> None:
    n_ports = data.draw(st.integers(1, 64))
    ports = data.draw(st.lists(st.integers(0, n_ports - 1), min_size=1, unique=True))
    order = data.draw(st.permutations(range(len(ports))))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = payloads(rng, len(ports), 50, dtype)
    wanted = wire.tree_add_reference(x, ports, n_ports)
    shuffled = wire.tree_add(x[order], [ports[i] for i in order], n_ports)
    assert shuffled.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("sum_of", SUMS)
def test_a_sum_of_one_is_new_memory(sum_of: Callable[..., Any]) -> None:
    for dtype in DTYPES:
        x = np.zeros((1, 5), dtype=dtype)
        assert not np.shares_memory(sum_of(x), x)


@pytest.mark.parametrize("sum_of", SUMS)
def test_rows_need_not_be_contiguous(sum_of: Callable[..., Any]) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(sum_of(x[:, ::2]), x[:, ::2].sum(axis=0))
    np.testing.assert_array_equal(sum_of([row[::-1] for row in x]), x.sum(axis=0)[::-1])


@pytest.mark.parametrize("sum_of", SUMS)
@pytest.mark.parametrize(
    ("x", "ports", "n_ports", "error", "words"),
    [
        (np.zeros((2, 3)), None, None, TypeError, "float64"),
        ([np.zeros(3, np.float32), np.zeros(3, np.int32)], None, None, TypeError, "child 1"),
        ([np.zeros(3, np.float32), np.zeros(4, np.float32)], None, None, ValueError, "child 1"),
        (np.zeros((2, 3, 4), np.float32), None, None, ValueError, "shape"),
        (np.zeros((0, 3), np.float32), None, None, ValueError, "at least one"),
        (np.zeros((65, 3), np.float32), None, None, ValueError, "level_add"),
        (np.zeros((3, 3), np.float32), None, 2, ValueError, "different numbers from 0 to 1"),
        (np.zeros((2, 3), np.float32), [1, 1], 4, ValueError, "different"),
        (np.zeros((2, 3), np.float32), [0, 4], 4, ValueError, "0 to 3"),
        (np.zeros((2, 3), np.float32), [0], 4, ValueError, "2 different"),
    ],
)
def test_bad_sums_are_refused(
    sum_of: Callable[..., Any], x: Any, ports: Any, n_ports: Any, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        sum_of(x, ports, n_ports)


def test_levels_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="room for 4 workers"):
        wire.level_add(np.zeros((5, 2), np.float32), [2, 2])
