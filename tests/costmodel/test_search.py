"""Searches: what they hand to an evaluator, and what they return."""

import numpy as np
import pytest

from costmodel import legality, search, space
from costmodel.codegen import c_function
from costmodel.errors import IllegalSchedule
from costmodel.ir import Program
from costmodel.poly import polyhedral
from costmodel.schedule import Schedule, apply
from costmodel.tree_search import mcts
from tests.costmodel.nests import matmul

SEARCHES = {
    "free": lambda p, e: search.free_search(p, e, limit=40, depth=3),
    "beam": lambda p, e: search.beam_search(p, e, limit=40),
    "beam in the paper's space": lambda p, e: search.beam_search(p, e, space="paper", limit=40),
    "recursive beam": lambda p, e: search.beam_search(p, e, space="paper", limit=6, recursive=True),
    "tree": lambda p, e: mcts(p, e, samples=2, limit=4, key=search.by_text),
    "all": lambda p, e: search.exhaustive_search(p, e),
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


def by_code(scheduled):
    return 1.0 + hash_of(c_function(scheduled, "f")) % 97 / 97


class Exact:
    """An evaluator that knows what each C is worth; counts how often it is asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, scheduled):
        self.calls.append(list(scheduled))
        return np.array([by_code(s) for s in scheduled])


@pytest.mark.parametrize("recursive", [False, True])
def test_an_endless_beam_tries_what_an_exhaustive_search_does(recursive):
    program = matmul(64, "int32")
    every = search.exhaustive_search(program, Exact())
    beam = search.beam_search(
        program, Exact(), space="paper", beam=10**6, limit=10**6, recursive=recursive
    )
    texts = [{c_function(t.scheduled, "f") for t in found.tried} for found in (every, beam)]
    assert texts[0] == texts[1]
    assert len(texts[0]) > 20
    assert beam.best.speedup == every.best.speedup


def test_an_exhaustive_search_of_too_many_is_refused():
    with pytest.raises(ValueError, match="more than 5 schedules in the paper space"):
        search.exhaustive_search(matmul(64, "int32"), Exact(), limit=5)


def test_a_level_is_one_question_to_the_evaluator():
    evaluate = Exact()
    levels = []
    search.beam_search(
        matmul(64, "int32"), evaluate, space="paper", limit=20, report=lambda f: levels.append(f)
    )
    assert len(evaluate.calls) == 1 + len(levels)


def test_keys_by_nest_need_no_code_and_find_the_same(monkeypatch):
    program = matmul(64, "int32")
    with_code = search.exhaustive_search(program, Made(lambda text: 1.0))
    monkeypatch.setattr(search, "kept_c_function", None)
    without = search.exhaustive_search(program, Made(lambda text: 1.0), key=search.by_nest)
    monkeypatch.undo()
    texts = [{c_function(t.scheduled, "f") for t in found.tried} for found in (with_code, without)]
    assert texts[0] == texts[1]


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


BLUR = """
def f(A: "in float32[40, 40]", row: "temp float32[40, 38]", B: "out float32[38, 38]"):
    for i in range(40):
        for j in range(38):
            row[i, j] = A[i, j] + A[i, j + 2]
    for i in range(38):
        for j in range(38):
            B[i, j] = row[i, j] + row[i + 2, j]
"""


def test_a_free_search_goes_on_from_an_inlined_form_that_is_slow_by_itself():
    def value(text):
        if "inline" in text:
            return 3.0 if "register_tile" in text else 0.1
        return 1.0 + 0.01 * len(text) / (1 + len(text))

    found = search.free_search(Program.parse(BLUR), Made(value), beam=2, limit=20)
    assert "inline(S0); register_tile(" in str(found.best.scheduled.schedule)


def test_statements_get_register_tiles_within_loops_they_share():
    text = """
    def f(A: "inout float32[9, 9]", C: "in float32[9, 9]", total: "temp float32[9]"):
        for r in range(9):
            for p in range(9):
                total[p] = 0
                for s in range(9):
                    total[p] = total[p] + A[r, s] * C[s, p]
            for p in range(9):
                A[r, p] = total[p]
    """
    plain = apply(Program.parse(text))
    first = next(space.register_tiles(plain, "S1"))
    assert str(Schedule(first[0])) == "unfuse(S1, 1); register_tile(S1, 1, 8)"


def test_other_sizes_change_one_step_in_its_sizes_alone():
    before = "tile(S0, 2, 32); register_tile(S0, 0, 4, 1, 16)"
    changed = [str(s) for s in space.resized(apply(matmul(64, "float32"), before))]
    assert "tile(S0, 2, 64); register_tile(S0, 0, 4, 1, 16)" in changed
    assert "tile(S0, 2, 32); register_tile(S0, 0, 6, 1, 16)" in changed
    assert before not in changed
    assert len(changed) == len(set(changed)) == 2 + len(space.BLOCKS) - 1


def test_what_was_remembered_can_be_forgotten_and_is_found_again() -> None:
    program = matmul(8)
    plain = apply(program, "")
    poly = polyhedral(program)
    search.forget()
    first = legality.kept_is_legal(poly, plain.nest, False)
    assert legality._answer.cache_info().misses == 1
    assert legality.kept_is_legal(poly, plain.nest, False) is first
    assert legality._answer.cache_info().hits == 1
    search.forget()
    assert legality._answer.cache_info().currsize == 0
    assert search.kept_blocks.cache_info().currsize == 0


def test_an_illegal_schedule_is_explained_only_if_asked() -> None:
    program = Program.parse(
        'def f(A: "inout float32[8, 8]"):\n'
        "    for i in range(1, 8):\n"
        "        for j in range(7):\n"
        "            A[i, j] = A[i - 1, j + 1]\n"
    )
    with pytest.raises(IllegalSchedule, match=r"interchange\(S0, 0, 1\): .*S0"):
        apply(program, "interchange(S0, 0, 1)")
    with pytest.raises(IllegalSchedule, match=r"interchange\(S0, 0, 1\) changes the result"):
        apply(program, "interchange(S0, 0, 1)", explain=False)
