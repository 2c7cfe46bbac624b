"""How good predicted speedups are (the paper's section on the evaluation of the model)."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]


@attrs.frozen
class Scores:
    """Of predicted against measured speedups.

    mape, median_ape: percent of the measured one
    pearson, spearman: over all pairs;  NaN where one side is constant
    spearman_per_program, ndcg, ndcg_at_1: means over programs with several different labels
    """

    n: int
    n_programs: int
    mape: float
    median_ape: float
    pearson: float
    spearman: float
    spearman_per_program: float
    ndcg: float
    ndcg_at_1: float


def score(measured: ArrayLike, predicted: ArrayLike, program: ArrayLike) -> Scores:
    """Everything at once; program: (n,) any labels that tell programs apart.

    Raises ValueError for no pair, unequal lengths, or measured speedups that are not positive.
    """
    y, p = (np.asarray(each, dtype=np.float64) for each in (measured, predicted))
    names = np.asarray(program)
    if not len(y) or not len(y) == len(p) == len(names):
        raise ValueError(
            f"scores need pairs of one length, got {len(y)} measured, {len(p)} predicted and "
            f"{len(names)} programs"
        )
    if not (y > 0).all():
        raise ValueError(f"measured speedups must be positive, got {y.min()}")
    errors = 100 * np.abs(y - p) / y
    means = {
        name: float(values.mean()) if len(values) else np.nan
        for name, values in per_program(y, p, names).items()
    }
    return Scores(
        n=len(y),
        n_programs=len(np.unique(names)),
        mape=float(errors.mean()),
        median_ape=float(np.median(errors)),
        pearson=pearson(y, p),
        spearman=spearman(y, p),
        **means,
    )


def per_program(measured: Vector, predicted: Vector, program: ArrayLike) -> dict[str, Vector]:
    """Scores of each program that has several different labels: (n_such,) by field of Scores."""
    _, group = np.unique(np.asarray(program), return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))[:-1]
    parts = [part for part in np.split(order, ends) if len(np.unique(measured[part])) > 1]

    def of(each: Callable[[Vector, Vector], float]) -> Vector:
        return np.array([each(measured[part], predicted[part]) for part in parts])

    return {
        # A model that says the same of all schedules ranks none of them.
        "spearman_per_program": np.nan_to_num(of(spearman)),
        "ndcg": of(ndcg),
        "ndcg_at_1": of(lambda a, b: ndcg(a, b, 1)),
    }


def pearson(a: Vector, b: Vector) -> float:
    """Correlation; NaN where one side is constant."""
    x, y = a - a.mean(), b - b.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def spearman(a: Vector, b: Vector) -> float:
    """Correlation of ranks; equal values share the mean of theirs."""
    return pearson(ranks(a), ranks(b))


def ndcg(relevance: Vector, scores: Vector, k: int | None = None) -> float:
    """Discounted gain of the first k in the order of the scores, over that of the best order.

    The gain of a schedule is its speedup. Equal scores share their gains.
    """
    discount = 1 / np.log2(2 + np.arange(len(relevance)))
    discount[len(discount) if k is None else k :] = 0
    _, group = np.unique(-scores, return_inverse=True)
    counts = np.bincount(group)
    gains = np.bincount(group, weights=relevance) / counts
    ends = np.cumsum(counts)
    total = np.concatenate([[0], np.cumsum(discount)])
    found = float(gains @ (total[ends] - total[ends - counts]))
    return found / float(np.sort(relevance)[::-1] @ discount)


def ranks(values: Vector) -> Vector:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group = np.unique(values, return_inverse=True)
    counts = np.bincount(group)
    ends = np.cumsum(counts)
    found: Vector = (ends - (counts - 1) / 2)[group]
    return found
