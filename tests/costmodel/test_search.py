"""Searches: what they hand to an evaluator, and what they return."""

import numpy as np
import pytest

from costmodel import legality, search, space
from costmodel.codegen import c_function
from costmodel.poly import polyhedral
from costmodel.schedule import Schedule, apply
from tests.costmodel.nests import matmul

SEARCHES = {
    "free": lambda p, e: search.free_search(p, e, limit=40, depth=3),
    "beam": lambda p, e: search.beam_search(p, e, limit=40),
    "beam in the paper's space": lambda p, e: search.beam_search(p, e, space="paper", limit=40),
    "random": lambda p, e: search.random_search(p, e, n=12),
}


class Made:
    """An evaluator that prefers what a function of the schedule's text prefers."""

    def __init__(self, value):
        self.value = value
        self.seen = []

    def __call__(self, scheduled):
        self.seen += scheduled
        return np.array([self.value(str(s.schedule)) for s in scheduled])


@pytest.mark.parametrize("name", SEARCHES)
def test_everything_evaluated_is_legal_and_new(name):
    program, evaluate = matmul(64, "float32"), Made(lambda text: 1.0 + len(text) % 7)
    found = SEARCHES[name](program, evaluate)
    assert len(found.tried) == len(evaluate.seen) > 5
    assert str(found.tried[0].scheduled.schedule) == ""
    assert len({c_function(s, "f") for s in evaluate.seen}) == len(evaluate.seen)
    for scheduled in evaluate.seen:
        assert legality.is_legal(polyhedral(scheduled.program), scheduled.nest, False)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_program_as_written_wins_where_nothing_is_faster(name):
    found = SEARCHES[name](matmul(64), Made(lambda text: 0.5 if text else 1.0))
    assert str(found.best.scheduled.schedule) == ""


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_with_the_same_numbers_is_the_same(name):
    def value(text):
        return 1.0 + hash_of(text)

    tried = [
        [str(t.scheduled.schedule) for t in SEARCHES[name](matmul(64), Made(value)).tried]
        for _ in range(2)
    ]
    assert tried[0] == tried[1]


def hash_of(text):
    return sum(map(ord, text)) % 13


def test_without_a_limit_the_beam_finds_the_best_of_every_combination():
    """On a space small enough to enumerate, by the same decisions taken one after another."""
    program = matmul(64, "int32")
    kinds = space.KINDS["paper"]

    def value(text):
        return 1.0 + hash_of(text)

    every = [Schedule()]
    for kind in kinds:
        for schedule in list(every):
            for decision in kind(apply(program, schedule), "S0"):
                every += list(legal(program, schedule, decision))
    best = max(value(str(s)) for s in every)
    found = search.beam_search(program, Made(value), space="paper", beam=10**6, limit=10**6)
    assert found.best.speedup == best


def legal(program, schedule, decision):
    for scheduled in search.Candidates(program).legal(
        [tuple(schedule.then(*steps) for steps in decision)]
    ):
        yield scheduled.schedule


def test_stop_is_asked_before_each_level():
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 2

    levels = []
    search.free_search(
        matmul(64), Made(lambda text: 1.0 + len(text)), limit=10, stop=stop, report=levels.append
    )
    assert len(levels) == 2


def test_large_groups_are_thinned_and_small_ones_kept():
    groups = [list(range(100)), [1, 2], list(range(50))]
    shared = [list(g) for g in search._shared(groups, 22)]
    assert sum(map(len, shared)) == 22
    assert shared[0] == [1, 2]
    assert shared[2][0] == 0
    assert shared[2][-1] == 99
