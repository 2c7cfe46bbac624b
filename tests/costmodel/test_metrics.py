"""Scores against scipy and scikit-learn, and losses against hand cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_percentage_error, ndcg_score

from costmodel import losses, metrics


def pairs(n: int, seed: int, levels: int = 0) -> tuple[metrics.Vector, metrics.Vector]:
    """Measured and predicted speedups; with levels, many of them equal."""
    rng = np.random.default_rng(seed)
    y = np.exp(rng.normal(size=n))
    p = y * np.exp(rng.normal(size=n))
    if levels:
        y, p = np.ceil(levels * y) / levels, np.ceil(levels * p) / levels
    return y, p


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("n", [2, 3, 50])
def test_correlations_and_gains_equal_other_libraries(n: int, levels: int) -> None:
    for seed in range(20):
        y, p = pairs(n, seed, levels)
        if len(set(y)) == 1 or len(set(p)) == 1:
            continue
        assert metrics.pearson(y, p) == pytest.approx(stats.pearsonr(y, p)[0], abs=1e-9)
        assert metrics.spearman(y, p) == pytest.approx(stats.spearmanr(y, p)[0], abs=1e-9)
        for k in (None, 1, 3):
            assert metrics.ndcg(y, p, k) == pytest.approx(ndcg_score([y], [p], k=k), abs=1e-9)


def test_scores_by_program_are_means_over_programs() -> None:
    y, p = pairs(60, 0)
    program = np.repeat(["a", "b", "c"], 20)
    order = np.random.default_rng(1).permutation(60)
    found = metrics.score(y[order], p[order], program[order])
    parts = [(y[at : at + 20], p[at : at + 20]) for at in (0, 20, 40)]
    assert found.n_programs == 3
    assert found.spearman_per_program == pytest.approx(
        np.mean([stats.spearmanr(a, b)[0] for a, b in parts])
    )
    assert found.ndcg == pytest.approx(np.mean([ndcg_score([a], [b]) for a, b in parts]))
    assert found.ndcg_at_1 == pytest.approx(np.mean([ndcg_score([a], [b], k=1) for a, b in parts]))
    assert found.mape == pytest.approx(100 * mean_absolute_percentage_error(y, p))


def test_mape_by_hand() -> None:
    found = metrics.score([1.0, 2.0, 4.0], [1.5, 1.0, 4.0], [0, 0, 1])
    assert found.mape == pytest.approx(100 / 3)
    assert found.median_ape == 50
    value = losses.mape(torch.tensor([1.5, 1.0, 4.0]), torch.tensor([1.0, 2.0, 4.0]))
    assert value.item() == pytest.approx(100 / 3)


def test_a_constant_prediction_ranks_nothing() -> None:
    y, _ = pairs(20, 0)
    found = metrics.score(y, np.ones(20), np.repeat([0, 1], 10))
    assert found.spearman_per_program == 0
    assert np.isnan(found.spearman)


@pytest.mark.parametrize(
    ("measured", "predicted", "wrong"),
    [([], [], "got 0 measured"), ([1.0], [1.0, 2.0], "2 predicted"), ([0.0], [1.0], "positive")],
)
def test_what_cannot_be_scored_is_refused(
    measured: list[float], predicted: list[float], wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        metrics.score(measured, predicted, [0] * len(measured))


def test_the_error_of_logarithms_is_symmetric() -> None:
    y = torch.tensor([1.0, 1.0])
    value = losses.log_error(torch.tensor([2.0, 0.5]), y)
    assert value.item() == pytest.approx(np.log(2))


def test_the_ranking_loss_by_hand() -> None:
    # One program in the wrong order: gains 3 and 1 over the ideal 3 + 1 / log2(3).
    y, p = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    ideal = 3 + 1 / np.log2(3)
    change = (3 - 1) / ideal * (1 - 1 / np.log2(3))
    expected = np.log2(1 + np.exp(np.log(2))) * change
    value = losses.lambda_ndcg(p, y, torch.tensor([0, 0]))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    # Of two programs only pairs within one count.
    apart = losses.lambda_ndcg(p, y, torch.tensor([0, 1]))
    assert apart.item() == 0


def test_lowering_the_ranking_loss_raises_ndcg() -> None:
    y, p = pairs(60, 3)
    program = np.repeat(np.arange(6), 10)
    scores = torch.tensor(np.log(p), dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        value = losses.lambda_ndcg(
            scores.exp(), torch.tensor(y, dtype=torch.float32), torch.from_numpy(program)
        )
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
    before = metrics.score(y, p, program).ndcg
    after = metrics.score(y, scores.detach().exp().numpy(), program).ndcg
    assert before < 0.95 < 0.999 < after


def test_an_unknown_loss_is_refused() -> None:
    ones = torch.ones(1)
    with pytest.raises(ValueError, match="mape, log or ndcg, got 'mse'"):
        losses.loss("mse", ones, ones, ones)  # type: ignore[arg-type]
