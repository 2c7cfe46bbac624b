"""How good a model is, in tables: by split, and by how fast the schedules really are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
from numpy.typing import ArrayLike

from costmodel.metrics import Scores, score

if TYPE_CHECKING:
    from costmodel.ensemble import Ensemble
    from costmodel.train import Samples

EDGES = (0.0, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, math.inf)

#: Lines of the table of scores: label, field of Scores, format.
LINES = (
    ("pairs", "n", "d"),
    ("programs", "n_programs", "d"),
    ("MAPE, %", "mape", ".1f"),
    ("median error, %", "median_ape", ".1f"),
    ("Pearson", "pearson", ".3f"),
    ("Spearman", "spearman", ".3f"),
    ("Spearman a program", "spearman_per_program", ".3f"),
    ("nDCG", "ndcg", ".3f"),
    ("nDCG@1", "ndcg_at_1", ".3f"),
)


@attrs.frozen
class Bin:
    """Errors where the measured speedup is at least `low` and below `high`.

    mape, median_ape: percent;  bias: geometric mean of predicted over measured
    """

    low: float
    high: float
    n: int
    mape: float
    median_ape: float
    bias: float


def bins(measured: ArrayLike, predicted: ArrayLike) -> tuple[Bin, ...]:
    """Errors by measured speedup; ranges without a pair are left out."""
    y, p = (np.asarray(each, dtype=np.float64) for each in (measured, predicted))
    found = []
    for low, high in itertools.pairwise(EDGES):
        inside = (y >= low) & (y < high)
        if inside.any():
            a, b = y[inside], p[inside]
            errors = 100 * np.abs(a - b) / a
            bias = float(np.exp(np.mean(np.log(b / a))))
            n = int(inside.sum())
            found.append(Bin(low, high, n, float(errors.mean()), float(np.median(errors)), bias))
    return tuple(found)


def scores_of(model: Ensemble, samples: Samples) -> Scores:
    """Scores of an ensemble's means."""
    return score(samples.speedups, model.predict_trees(samples.trees)[0], samples.programs)


def print_scores(scores: Mapping[str, Scores], by_speedup: Sequence[Bin], split: str) -> None:
    """Both tables on the terminal. split: what the bins are of."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", title="predicted against measured speedups")
    for name in scores:
        table.add_column(name, justify="right")
    for label, field, form in LINES:
        table.add_row(label, *(format(getattr(s, field), form) for s in scores.values()))
    inside = Table(title=f"{split}: errors by measured speedup")
    for name in ("speedup", "pairs", "MAPE", "median", "predicted / measured"):
        inside.add_column(name, justify="right")
    for b in by_speedup:
        above = f"{b.low:g} and more" if math.isinf(b.high) else f"{b.low:g} to {b.high:g}"
        inside.add_row(above, str(b.n), f"{b.mape:.1f}%", f"{b.median_ape:.1f}%", f"{b.bias:.2f}")
    console = Console()
    console.print(table)
    console.print(inside)
