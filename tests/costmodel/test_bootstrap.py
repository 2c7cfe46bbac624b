"""Intervals of scores against plain resampling, and how often they hold the true value."""

import attrs
import numpy as np
import pytest

from costmodel.bootstrap import intervals
from costmodel.metrics import Scores, score


def pairs(n_programs: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured, predicted, program; errors of one program lean the same way."""
    rng = np.random.default_rng(seed)
    y = np.exp(rng.normal(size=(n_programs, n)))
    lean = rng.normal(scale=0.3, size=(n_programs, 1))
    p = y * np.exp(lean + rng.normal(scale=0.1, size=y.shape))
    return y.ravel(), p.ravel(), np.repeat(np.arange(n_programs), n)


def test_intervals_equal_those_of_scores_of_programs_drawn_again() -> None:
    y, p, program = pairs(20, 5, 0)
    found = intervals(y, p, program, draws=4000)
    rng = np.random.default_rng(1)
    again: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(250):
        drawn = rng.integers(0, 20, 20)
        rows = np.concatenate([np.flatnonzero(program == each) for each in drawn])
        scores = score(y[rows], p[rows], np.repeat(np.arange(20), 5))
        for name in found:
            again[name].append(getattr(scores, name))
    assert set(found) == {f.name for f in attrs.fields(Scores)} - {"n", "n_programs"}
    for name, (low, high) in found.items():
        wanted = np.quantile(again[name], [0.025, 0.975])
        # Ends from 250 draws are known to about a seventh of the width; ranks are not drawn anew.
        width = wanted[1] - wanted[0]
        np.testing.assert_allclose([low, high], wanted, atol=0.3 * width, err_msg=name)


@pytest.mark.slow
def test_intervals_hold_the_true_error_about_as_often_as_they_say() -> None:
    y, p, _ = pairs(20000, 5, 0)
    true = float(np.mean(100 * np.abs(y - p) / y))
    held = 0
    for seed in range(1, 201):
        low, high = intervals(*pairs(40, 5, seed), draws=200)["mape"]
        held += low <= true <= high
    assert held >= 176  # 95% less three deviations and what a bootstrap of 40 programs lacks


def test_one_label_has_no_correlation() -> None:
    found = intervals([1.0, 1.0], [2.0, 3.0], [0, 1])
    assert np.isnan(found["pearson"]).all()
    assert np.isnan(found["ndcg"]).all()
    assert found["mape"] == (100.0, 200.0)
