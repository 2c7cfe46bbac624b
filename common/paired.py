"""Statistics of paired samples: a median, its exact interval, and what makes it untrustworthy."""

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# Neighbouring rounds that agree more than this share a disturbance and are not independent.
CORRELATED = 0.2
# Fewest independent values whose range is a 95% interval of their median: 2 / 2**6 < 0.05.
FEWEST = 6


@lru_cache(maxsize=256)
def _tail_rank(n: int) -> int:
    """Values to drop at each end of n sorted ones so that the rest spans the median at 95%."""
    limit = 2**n  # P(fewer than j values below the median) <= 0.025, in integers
    total = term = 1
    dropped = 0
    while 40 * total <= limit:
        dropped += 1
        term = term * (n - dropped + 1) // dropped
        total += term
    return max(dropped - 1, 0)


def median_interval(values: Floats) -> tuple[float, float]:
    """Exact 95% interval of the median of independent values, without assuming a distribution.

    The j-th smallest value exceeds the median only if fewer than j values fell below it, which
    is a binomial(n, 1/2) probability. Below six values it is the whole range (less than 95%).

    values: (n,), n >= 1
    """
    ordered = np.sort(values)
    tail = _tail_rank(len(ordered))
    return float(ordered[tail]), float(ordered[-1 - tail])


def share_interval(found: int, trials: int) -> tuple[float, float]:
    """Exact 95% interval (Clopper-Pearson) of a share of which `found` of `trials` were seen."""

    def at_most(k: int, share: float) -> float:
        terms = (
            math.comb(trials, i) * share**i * (1 - share) ** (trials - i) for i in range(k + 1)
        )
        return math.fsum(terms)

    def solve(k: int, tail: float) -> float:
        """The share at which at most k are found with probability `tail`."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(k, middle) > tail else (low, middle)
        return (low + high) / 2

    if not 0 <= found <= trials or trials < 1:
        raise ValueError(f"found must lie within 0 and trials, got {found} of {trials}")
    low = 0.0 if found == 0 else solve(found - 1, 0.975)
    high = 1.0 if found == trials else solve(found, 0.025)
    return low, high


def lag_correlation(values: Floats) -> float:
    """Correlation of the ranks of neighbouring values, 0 when there is nothing to correlate.

    Ranks, so that one pre-empted sample can neither hide a slow drift nor pass for one.
    """
    if len(values) < 4:
        return 0.0
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)
    if np.ptp(values) == 0.0:
        return 0.0
    ranks -= ranks.mean()
    return float(ranks[:-1] @ ranks[1:] / (ranks @ ranks))


def block_medians(values: Floats) -> Floats:
    """Medians of the shortest equal blocks that no longer follow their neighbours.

    values: (n,) in the order they were taken; returns values itself when they are independent
    enough already. Blocks never get so long that fewer than six remain.
    """
    medians = values
    length = 1
    while lag_correlation(medians) > CORRELATED:
        length += max(1, length // 2)
        n_blocks = len(values) // length
        if n_blocks < FEWEST:
            break
        # The remainder goes to the front, where the machine was still settling.
        tail = values[len(values) - n_blocks * length :]
        medians = np.median(tail.reshape(n_blocks, length), axis=1)
    return medians


def interval(logs: Floats) -> tuple[float, float, float]:
    """(estimate, low, high) of the median of paired logs, all still logs.

    logs: (rounds,) in the order they were taken; any other values will do as well
    """
    # Not np.median: its first call takes some ms, and this one falls between samples.
    ordered = np.sort(logs)
    middle = len(ordered) // 2
    estimate = float(ordered[middle] + ordered[~middle]) / 2
    low, high = median_interval(block_medians(logs))
    return estimate, min(low, estimate), max(high, estimate)


def half_width(low: float, high: float) -> float:
    """Relative half-width of a ratio's interval given as logs; 0.02 means within 2%."""
    return math.sinh((high - low) / 2)
