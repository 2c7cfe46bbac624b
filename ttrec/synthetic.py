"""Index streams for measurements: uniform or bounded Zipf over the rows of a table."""

import functools

import numpy as np

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def draw_indices(rows: int, count: int, exponent: float, rng: np.random.Generator) -> Indices:
    """Draw `count` row indices; row i has probability proportional to (i + 1)^-exponent.

    Exponent 0 is uniform. Rows are numbered by frequency, the most frequent first.
    Raises ValueError for a negative exponent.
    """
    if exponent < 0:
        raise ValueError(f"exponent must be at least 0 (0 is uniform), got {exponent}")
    if exponent == 0:
        return rng.integers(0, rows, count, dtype=np.int64)
    cumulative = _cumulative(rows, exponent)
    found: Indices = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return found.astype(np.int64)


@functools.lru_cache(maxsize=2)
def _cumulative(rows: int, exponent: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
