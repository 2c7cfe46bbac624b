"""The interval of a shift between two small samples."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rank_shift import shift

SIZES = [(4, 4), (5, 5), (4, 7), (6, 5), (7, 7)]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_interval_covers_the_shift_in_95_of_100_orders_and_no_more_than_needed(
    n: int, m: int
) -> None:
    # Which of the ranks 1..n+m fall to the first sample is uniform when the true shift is 0.
    covered = 0
    values = np.arange(n + m, dtype=float)
    for chosen in combinations(range(n + m), n):
        rest = [i for i in range(n + m) if i not in chosen]
        found = shift(values[list(chosen)].tolist(), values[rest].tolist())
        covered += found.low <= 0 <= found.high
    assert 0.95 <= covered / comb(n + m, n) < 1.0


def test_five_a_side_takes_the_third_difference_from_each_end() -> None:
    first, second = [0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0]
    differences = sorted(b - a for a in first for b in second)
    found = shift(first, second)
    assert (found.low, found.high) == (differences[2], differences[22])
    assert found.estimate == differences[12]


@pytest.mark.parametrize(("n", "m"), [(0, 5), (3, 3), (5, 1), (3, 4)])
def test_too_few_values_are_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 4 values on each side, got {n} and {m}"):
        shift([0.0] * n, [1.0] * m)


def test_stray_value_leaves_one_end_where_it_was() -> None:
    first = [0.00, 0.01, 0.02, 0.03, 0.04]
    second = [0.20, 0.21, 0.22, 0.23, 0.24]
    calm = shift(first, second)
    disturbed = shift(first, [*second[:4], 9.0])
    assert disturbed.low == calm.low
    assert disturbed.high > calm.high


floats = st.floats(-10, 10)


@given(
    first=st.lists(floats, min_size=4, max_size=7),
    second=st.lists(floats, min_size=4, max_size=7),
)
def test_exchanging_the_samples_changes_only_the_sign(
    first: list[float], second: list[float]
) -> None:
    there, back = shift(first, second), shift(second, first)
    assert (there.estimate, there.low, there.high) == (-back.estimate, -back.high, -back.low)
    assert there.low <= there.estimate <= there.high
