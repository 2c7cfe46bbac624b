"""Intervals of scores on a sample of programs.

Pairs of one program share its baseline and its code, so they are not independent: whole programs
are drawn with replacement, as often as there are programs, and scored anew (a cluster bootstrap).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel.metrics import Vector, per_program, ranks

Interval = tuple[float, float]


def intervals(
    measured: ArrayLike,
    predicted: ArrayLike,
    program: ArrayLike,
    *,
    draws: int = 400,
    seed: int = 0,
) -> dict[str, Interval]:
    """95% intervals by field of costmodel.metrics.Scores; (nan, nan) where the score is nan.

    The ranks behind `spearman` are those of the whole sample in every draw.
    """
    y, p = (np.asarray(each, dtype=np.float64) for each in (measured, predicted))
    rng = np.random.default_rng(seed)
    group, times = _drawn(program, draws, rng)
    errors = 100 * np.abs(y - p) / y
    found = {
        "mape": (times @ _sums(errors, group)) / (times @ np.bincount(group)),
        "median_ape": _medians(errors, times[:, group]),
        "pearson": _correlations(y, p, group, times),
        "spearman": _correlations(ranks(y), ranks(p), group, times),
    }
    for name, values in per_program(y, p, group).items():
        n = len(values)
        again = rng.integers(0, n, (draws, n)) if n else np.empty((draws, 0), dtype=int)
        found[name] = values[again].mean(axis=1) if n else np.full(draws, np.nan)
    return {name: _interval(values) for name, values in found.items()}


def mape_ratio(
    measured: ArrayLike,
    worse: ArrayLike,
    better: ArrayLike,
    program: ArrayLike,
    *,
    draws: int = 400,
    seed: int = 0,
) -> Interval:
    """95% interval of one prediction's MAPE over another's, both on the programs drawn."""
    y, p, q = (np.asarray(each, dtype=np.float64) for each in (measured, worse, better))
    group, times = _drawn(program, draws, np.random.default_rng(seed))
    first, second = (times @ _sums(np.abs(y - each) / y, group) for each in (p, q))
    return _interval(first / second)


def _drawn(
    program: ArrayLike, draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of each pair's program, and (draws, programs) how often each is drawn."""
    _, group = np.unique(np.asarray(program), return_inverse=True)
    n = int(group.max()) + 1
    return group, rng.multinomial(n, np.full(n, 1 / n), size=draws)


def _sums(values: Vector, group: NDArray[np.int64]) -> Vector:
    """Sums of the values of each program."""
    found: Vector = np.bincount(group, weights=values).astype(np.float64)
    return found


def _medians(values: Vector, weights: NDArray[np.int64]) -> Vector:
    """(draws,) medians where row i of a draw counts weights[draw, i] times."""
    order = np.argsort(values)
    below = np.cumsum(weights[:, order], axis=1)
    middle = (below >= below[:, -1:] / 2).argmax(axis=1)
    found: Vector = values[order][middle]
    return found


def _correlations(
    x: Vector, y: Vector, group: NDArray[np.int64], times: NDArray[np.int64]
) -> Vector:
    """(draws,) of Pearson's, from sums by program."""
    x, y = x - x.mean(), y - y.mean()
    n, sx, sy, sxx, syy, sxy = (
        times @ _sums(part, group) for part in (np.ones(len(x)), x, y, x * x, y * y, x * y)
    )
    size = np.sqrt(np.maximum((n * sxx - sx**2) * (n * syy - sy**2), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Vector = np.where(size > 0, (n * sxy - sx * sy) / size, np.nan)
    return found


def _interval(values: Vector) -> Interval:
    known = values[np.isfinite(values)]
    # A draw of equal labels has no correlation; where most have none, nothing is known.
    if len(known) < 0.9 * len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975]).tolist()
    return low, high
