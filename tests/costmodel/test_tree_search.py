"""Monte Carlo tree search: the same for a seed, complete in the end, and what it runs."""

import numpy as np
import pytest

from costmodel import legality, search
from costmodel.codegen import c_function
from costmodel.poly import polyhedral
from costmodel.tree_search import Node, mcts
from tests.costmodel.nests import matmul


def value(scheduled):
    """From 1 to 2, by chance but always the same for the same C."""
    return 1 + sum(map(ord, c_function(scheduled, "f"))) % 97 / 97


class Scores:
    def __init__(self, of=value):
        self.of = of
        self.calls = []

    def __call__(self, scheduled):
        self.calls.append(list(scheduled))
        return np.array([self.of(s) for s in scheduled])

    @property
    def texts(self):
        return [c_function(s, "f") for call in self.calls for s in call]


@pytest.fixture(scope="module")
def every():
    return search.exhaustive_search(matmul(64, "int32"), Scores())


def test_with_samples_enough_it_finds_the_best_of_all(every):
    evaluate = Scores()
    found = mcts(matmul(64, "int32"), evaluate, samples=10_000, space="paper", limit=10**6)
    assert found.best.speedup == every.best.speedup
    assert {c_function(t.scheduled, "f") for t in found.tried} == {
        c_function(t.scheduled, "f") for t in every.tried
    }


def test_each_leaf_is_visited_once():
    """So the search ends by itself, after as many samples as there are leaves."""
    samples = []
    found = mcts(
        matmul(64, "int32"), Scores(), samples=10**6, space="paper", limit=3, report=samples.append
    )
    assert len(samples) == len(found.tried) > 5


def test_a_seed_gives_one_search_and_seeds_differ():
    def tried(seed):
        found = mcts(matmul(64, "int32"), Scores(), samples=3, space="paper", limit=6, seed=seed)
        return [str(t.scheduled.schedule) for t in found.tried]

    assert tried(0) == tried(0)
    assert len({tuple(tried(seed)) for seed in range(6)}) > 1


def test_candidates_are_legal_and_asked_for_once():
    evaluate = Scores()
    mcts(matmul(64, "float32"), evaluate, samples=3, limit=8)
    assert len(set(evaluate.texts)) == len(evaluate.texts) > 8
    for scheduled in (s for call in evaluate.calls for s in call):
        assert legality.is_legal(polyhedral(scheduled.program), scheduled.nest, False)


def test_good_scores_are_tried_sooner(every):
    """After a tenth of the leaves, those visited are better than leaves drawn evenly."""
    visited, n = [], len(every.tried) // 10
    for seed in range(5):
        of = lambda s: 10.0 if "unroll" in str(s.schedule) else 1.0  # noqa: E731
        samples = mcts(matmul(64, "int32"), Scores(of), samples=n, space="paper", seed=seed)
        visited.append(samples.best.speedup)
    assert visited == [10.0] * 5


def test_a_bound_weighs_the_score_against_the_visits():
    tried = search.Tried(None, 2.0)  # type: ignore[arg-type]
    fresh, seen = Node(tried, 0), Node(tried, 0, visits=3, total=6.0)
    assert fresh.bound(4, 2.0) > seen.bound(4, 2.0) > 1.0
    better = Node(tried, 0, visits=3, total=9.0)
    assert better.bound(4, 2.0) > seen.bound(4, 2.0)


def test_the_best_are_run_in_one_batch_and_the_fastest_measured_wins():
    score, run = Scores(), Scores(lambda s: 5.0 - value(s))
    found = mcts(matmul(64, "int32"), score, run, samples=4, topk=3, space="paper", limit=8)
    assert len(run.calls) == 1
    assert len(set(run.texts)) == 3
    scores = sorted((t.speedup for t in found.tried if t.scheduled.schedule.steps), reverse=True)
    assert sorted((value(s) for s in run.calls[0]), reverse=True) == scores[:3]
    assert found.best.speedup == max(5.0 - value(s) for s in run.calls[0])
    assert len(found.measured) == 4


def test_the_program_as_written_wins_where_everything_measured_is_slower():
    score, run = Scores(lambda s: 2.0 if s.schedule.steps else 1.0), Scores(lambda s: 0.5)
    found = mcts(matmul(64, "int32"), score, run, samples=3, space="paper", limit=6)
    assert str(found.best.scheduled.schedule) == ""
    assert found.best.speedup == 1.0


def test_stop_ends_it_before_the_next_sample():
    found = mcts(matmul(64, "int32"), Scores(), stop=lambda: True)
    assert len(found.tried) == 1


@pytest.mark.parametrize("words", [{"samples": -1}, {"topk": 0}])
def test_numbers_that_mean_nothing_are_refused(words):
    with pytest.raises(ValueError, match="samples must be at least 0 and topk at least 1"):
        mcts(matmul(8), Scores(), **words)
