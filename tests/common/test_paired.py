"""Medians of paired logs and their exact intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import paired

values = st.lists(st.floats(-5, 5), min_size=1, max_size=80)


def walk(rng: np.random.Generator, n: int, follow: float) -> paired.Floats:
    """Noise in which each value keeps the share `follow` of the one before."""
    out = np.empty(n)
    last = 0.0
    for i in range(n):
        last = follow * last + math.sqrt(1 - follow**2) * rng.standard_normal()
        out[i] = last
    return out


@pytest.mark.parametrize("n", [6, 7, 15, 30, 60, 121, 1000])
def test_interval_is_the_narrowest_of_order_statistics_at_95_percent(n: int) -> None:
    low, high = paired.median_interval(np.arange(n, dtype=float))
    tail = int(low)
    assert high == n - 1 - tail

    def outside(tail: int) -> float:
        return 2 * sum(math.comb(n, i) for i in range(tail + 1)) / 2**n

    assert outside(tail) <= 0.05 < outside(tail + 1)


def test_interval_of_few_values_is_their_range() -> None:
    assert paired.median_interval(np.array([3.0])) == (3.0, 3.0)
    assert paired.median_interval(np.array([2.0, 9.0, 4.0])) == (2.0, 9.0)


@given(values, st.randoms(use_true_random=False))
def test_interval_does_not_depend_on_order(data, order) -> None:
    shuffled = list(data)
    order.shuffle(shuffled)
    assert paired.median_interval(np.array(data)) == paired.median_interval(np.array(shuffled))


@given(values, st.floats(-3, 3))
def test_interval_moves_with_the_values_and_turns_with_their_sign(
    data: list[float], shift: float
) -> None:
    logs = np.array(data)
    estimate, low, high = paired.interval(logs)
    assert low <= estimate <= high
    assert paired.median_interval(logs + shift) == pytest.approx(
        tuple(x + shift for x in paired.median_interval(logs)), abs=1e-9
    )
    mirrored = paired.median_interval(-logs)
    assert (-mirrored[1], -mirrored[0]) == paired.median_interval(logs)


def test_independent_values_are_not_blocked() -> None:
    rng = np.random.default_rng(0)
    kept = sum(len(paired.block_medians(rng.standard_normal(200))) == 200 for _ in range(200))
    # The correlation of 200 independent values exceeds 0.2 in 1 of 400 cases.
    assert kept >= 195


def test_values_that_follow_their_neighbours_are_blocked() -> None:
    logs = walk(np.random.default_rng(0), 400, 0.9)
    blocks = paired.block_medians(logs)
    assert paired.lag_correlation(logs) > 0.8
    assert paired.FEWEST <= len(blocks) < 100
    assert paired.lag_correlation(blocks) <= paired.CORRELATED or len(blocks) < 12


def test_blocks_keep_the_interval_honest_where_single_values_do_not() -> None:
    rng = np.random.default_rng(1)
    plain = blocked = 0
    trials = 400
    for _ in range(trials):
        logs = walk(rng, 240, 0.7)
        low, high = paired.median_interval(logs)
        plain += low <= 0.0 <= high
        _, low, high = paired.interval(logs)
        blocked += low <= 0.0 <= high
    assert plain < 0.75 * trials  # what the correction is for
    assert blocked >= 0.90 * trials


def test_one_spike_does_not_hide_a_drift() -> None:
    drifting = np.linspace(0.0, 1.0, 60)
    drifting[30] = 1e6
    assert paired.lag_correlation(drifting) > 0.8
    assert paired.lag_correlation(np.zeros(60)) == 0.0
    assert paired.lag_correlation(np.array([1.0, 2.0, 3.0])) == 0.0


def test_half_width_is_relative() -> None:
    assert paired.half_width(math.log(0.98), math.log(1.02)) == pytest.approx(0.02, rel=1e-3)
    assert paired.half_width(0.5, 0.5) == 0.0


@pytest.mark.parametrize(("found", "trials"), [(0, 10), (10, 10), (3, 10), (190, 200), (1, 1)])
def test_share_interval_leaves_a_fortieth_at_each_end(found: int, trials: int) -> None:
    low, high = paired.share_interval(found, trials)

    def at_least(k: int, share: float) -> float:
        return sum(
            math.comb(trials, i) * share**i * (1 - share) ** (trials - i)
            for i in range(k, trials + 1)
        )

    assert 0.0 <= low <= found / trials <= high <= 1.0
    assert low == 0.0 if found == 0 else at_least(found, low) == pytest.approx(0.025)
    assert high == 1.0 if found == trials else 1 - at_least(found + 1, high) == pytest.approx(0.025)


def test_share_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        paired.share_interval(3, 2)
    with pytest.raises(ValueError, match="got 0 of 0"):
        paired.share_interval(0, 0)
