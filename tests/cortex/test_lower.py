"""Every stage of every schedule computes what the recursive definition says."""

import itertools

import numpy as np
import oracle
import pytest

import cortex as cx
from cortex import interpreter, models, ra, tables, weights
from cortex.forest import Dag, Tree
from cortex.linearize import linearize
from cortex.lower import lower
from cortex.lower.barriers import count_barriers, without_barrier
from cortex.reference.recursive import evaluate
from cortex.schedule import Schedule, can_tabulate, can_tell_children
from cortex.structures import random_tree
from cortex.structures.arrays import concatenate

VOCAB, HIDDEN = 11, 6
#: Sums are taken in another order; in float64, values of magnitude one.
TOLERANCE = 1e-11
CASES = [
    ("TreeFC", {}, "random_trees"),
    ("TreeRNN", {}, "random_trees"),
    ("TreeGRU", {}, "random_trees"),
    ("TreeGRU", {"words": "nodes"}, "random_trees"),
    ("SimpleTreeGRU", {}, "random_trees"),
    ("TreeLSTM", {}, "random_trees"),
    ("TreeLSTM", {"arity": None}, "random_trees"),
    ("NaryTreeLSTM", {}, "random_trees"),
    ("MVRNN", {}, "random_trees"),
    ("DAGRNN", {}, "random_trees"),
    ("LSTM", {}, "sequences"),
    ("GRU", {}, "sequences"),
]
BATCHED = Schedule().batch()
APART = BATCHED.specialize("leaf")
SCHEDULES = {
    "none": Schedule.none(),
    "batch": BATCHED,
    "leaf": APART,
    "cell": APART.fuse("cell"),
    "cell, checked": BATCHED.fuse("cell"),
    "checked": BATCHED.fuse("level").tile(2, 3),
    "paper": Schedule.paper(),
    "small tiles": Schedule.paper().tile(3, 2),
    "columns": Schedule.paper().tile(2, 3).partition("column"),
    "tables": Schedule.paper().tabulate(),
    "kinds": APART.specialize("children"),
    "kinds and tables": Schedule.paper().specialize("children").tabulate().tile(2, 3),
    "columns, kinds and tables": Schedule.paper()
    .specialize("children")
    .tabulate()
    .tile(2, 3)
    .partition("column"),
    "unroll 2": Schedule.paper().tile(2, 3).unroll(2),
    "unroll 3": Schedule.paper().tabulate().unroll(3),
}


def legal(schedule, model):
    if schedule.tables and can_tabulate(model):
        return False
    if (schedule.depth > 1 or schedule.cut) and isinstance(model.structure, Dag):
        return False
    return not (schedule.children_apart and can_tell_children(model))


def setup(name, options, shape, rng):
    model = ra.trace(getattr(models, name)(HIDDEN, VOCAB, **options))
    forest = getattr(oracle, shape)(rng, VOCAB)
    return model, forest, weights.seeded(model, seed=3)


def arrays_of(lowered, params):
    params = {k: np.asarray(v, np.float64) for k, v in params.items()}
    return {**params, **tables.build(lowered.tables, params)}


def assert_same(program, linear, arrays, wanted, tolerance=TOLERANCE, **options):
    found = interpreter.run(program, linear, arrays, dtype="float64", **options)
    for state in wanted:
        np.testing.assert_allclose(
            found[state], wanted[state][linear.order], rtol=tolerance, atol=tolerance
        )


SLOW = pytest.mark.slow


class Gated(cx.Recursive):
    """Leaves have no body of their own: sigmoid(0) makes their product one of a constant."""

    structure = cx.Tree(arity=2)

    def __init__(self, hidden, vocab):
        self.E, self.W = cx.Param(vocab, hidden), cx.Param(hidden, hidden)
        self.state(h=hidden)

    def node(self, n):
        gate = cx.sigmoid(n.left.h + n.right.h)
        return {"h": cx.tanh(gate @ self.W + self.E[n.token])}


class Constant(Gated):
    """Leaves hold a constant, which their parents multiply."""

    def leaf(self, n):
        return {"h": cx.constant(0.5, HIDDEN)}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("made", [Gated, Constant])
def test_a_product_of_a_constant_is_computed_as_any_other(rng, made, schedule):
    model = ra.trace(made(HIDDEN, VOCAB))
    forest, params = oracle.random_trees(rng, VOCAB), weights.seeded(model, seed=3)
    lowered = lower(model, SCHEDULES[schedule])
    linear = linearize(forest, model.structure, **lowered.linear_options)
    tolerance = 3e-6 if lowered.tables else TOLERANCE
    wanted = evaluate(model, forest, params)
    for _, program in lowered.stages:
        assert_same(program, linear, arrays_of(lowered, params), wanted, tolerance)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
def test_every_stage_equals_the_reference(rng, name, options, shape, schedule):
    model, forest, params = setup(name, options, shape, rng)
    schedule = SCHEDULES[schedule]
    if not legal(schedule, model):
        pytest.skip("illegal for this model")
    lowered = lower(model, schedule)
    linear = linearize(forest, model.structure, **lowered.linear_options)
    wanted = evaluate(model, forest, params)
    arrays = arrays_of(lowered, params)
    # Tables are kept in float32.
    tolerance = 3e-6 if lowered.tables else TOLERANCE
    for stage, program in lowered.stages:
        try:
            assert_same(program, linear, arrays, wanted, tolerance)
        except Exception as error:
            raise AssertionError(f"stage {stage}:\n{program}") from error


def shallow_trees():
    """Few levels, as each costs time, and full enough that nodes of every kind have parents."""
    trees = (random_tree(15, seed=seed, vocab=VOCAB) for seed in itertools.count())
    shallow = (tree for tree in trees if linearize(tree, Tree(2)).n_levels <= 5)
    return concatenate(list(itertools.islice(shallow, 12)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "name", ["TreeFC", "TreeGRU", pytest.param("TreeLSTM", marks=[SLOW, pytest.mark.timeout(600)])]
)
def test_every_barrier_is_needed_and_they_are_enough(rng, name, schedule):
    model, forest, params = setup(name, {}, "random_trees", rng)
    forest = shallow_trees()
    lowered = lower(model, SCHEDULES[schedule])
    linear = linearize(forest, model.structure, **lowered.linear_options)
    wanted = evaluate(model, forest, params)
    arrays = arrays_of(lowered, params)
    program = lowered.program
    for seed in range(3):
        assert_same(program, linear, arrays, wanted, 3e-6, hostile=seed)
    for number in range(count_barriers(program.body)):
        broken = type(program)(
            program.name,
            program.tensors,
            program.functions,
            without_barrier(program.body, number),
            program.states,
        )
        for seed in itertools.count():
            assert seed < 60, f"barrier {number} is superfluous:\n{program}"
            try:
                assert_same(broken, linear, arrays, wanted, 3e-6, hostile=seed)
            except AssertionError:
                break
