"""Inferred bounds are what running a program touches, recorded element by element."""

import numpy as np
import oracle
import pytest

from cortex import bounds, interpreter, models, ra, weights
from cortex import ilir as il
from cortex.linearize import linearize
from cortex.lower import lower
from cortex.schedule import Schedule

VOCAB, HIDDEN = 11, 6
APART = Schedule().batch().specialize("leaf")
PAPER = Schedule.paper()
SCHEDULES = {
    "none": Schedule.none(),
    "batch": Schedule().batch(),
    "leaf": APART,
    "checked": Schedule().batch().fuse("level").tile(2, 3),
    "paper": PAPER,
    "small tiles": PAPER.tile(3, 2),
    "columns": PAPER.tile(2, 3).partition("column"),
    "kinds": PAPER.specialize("children").tile(3, 2).partition("column"),
    "unroll": PAPER.tile(2, 3).unroll(2),
}
CASES = [
    ("TreeFC", {}, "random_trees"),
    ("TreeGRU", {}, "random_trees"),
    ("TreeLSTM", {"arity": None}, "random_trees"),
    ("MVRNN", {}, "random_trees"),
    ("DAGRNN", {"arity": None}, "grid"),
    ("LSTM", {}, "sequences"),
]


class Recorder:
    """A tensor that notes the least and greatest index on every axis."""

    def __init__(self, values, touched):
        self.values, self.touched = values, touched

    def note(self, where):
        for axis, index in enumerate(where):
            if np.size(index):
                self.touched.setdefault(axis, set()).update((np.min(index), np.max(index)))

    def __getitem__(self, where):
        self.note(where)
        return self.values[where]

    def __setitem__(self, where, value):
        self.note(where)
        self.values[where] = value


def touched_by(program, linear, params, monkeypatch):
    """tensor -> axis -> (least, greatest) index touched in a run."""
    found = {name: {} for name in program.tensors}
    plain = interpreter._Thread.tensor
    with monkeypatch.context() as patch:
        patch.setattr(
            interpreter._Thread, "tensor", lambda t, name: Recorder(plain(t, name), found[name])
        )
        interpreter.run(program, linear, params, dtype="float64")
    return {
        name: {axis: (int(min(s)), int(max(s))) for axis, s in axes.items()}
        for name, axes in found.items()
    }


def is_direct(index):
    """Whether loops alone decide an index: nothing is read through a child or a token."""
    names = ("child", "token", "root", "kind", "super")
    return not any(isinstance(n, il.Call) and n.fn.startswith(names) for n in il.walk(index))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
def test_bounds_are_what_a_run_touches(rng, monkeypatch, name, options, shape, schedule):
    model = ra.trace(getattr(models, name)(HIDDEN, VOCAB, **options))
    if schedule == "kinds" and (model.structure.max_children or 9) > 2:
        pytest.skip("kinds of children need a fixed arity")
    if schedule == "unroll" and name == "DAGRNN":
        pytest.skip("a DAG is not unrolled")
    lowered = lower(model, SCHEDULES[schedule])
    forest = getattr(oracle, shape)(rng, VOCAB)
    linear = linearize(forest, model.structure, **lowered.linear_options)
    values = interpreter.structure_values(linear, VOCAB)
    params = weights.seeded(model, seed=3)
    exact = 0
    for stage, program in lowered.stages:
        ran = touched_by(program, linear, params, monkeypatch)
        for tensor, regions in bounds.regions(program).items():
            for axis, (least, greatest) in ran[tensor].items():
                lows = [interpreter.index(r.ranges[axis].low, {}, values) for r in regions]
                highs = [interpreter.index(r.ranges[axis].high, {}, values) for r in regions]
                note = f"{tensor} axis {axis} at stage {stage}:\n{program}"
                # How many nodes of one kind a level has at most, no function says.
                if schedule != "kinds" and all(is_direct(r.access.index[axis]) for r in regions):
                    exact += 1
                    assert (min(lows), max(highs)) == (least, greatest), note
                else:
                    assert min(lows) <= least <= greatest <= max(highs), note
    assert exact > 10 or schedule == "kinds"


def test_a_region_names_loops_and_declared_ranges():
    model = ra.trace(models.TreeFC(HIDDEN, VOCAB))
    found = bounds.regions(lower(model, APART).program)
    child = next(
        r for r in found["h"] if isinstance(r.access, il.Load) and not is_direct(r.access.index[0])
    )
    assert child.ranges[0].low == il.Int(0)
    assert child.ranges[0].high == il.add(il.N_NODES, il.Int(-1))
    assert found["t0"][0].ranges[0].high == il.add(il.WIDEST_INNER, il.Int(-1))
    assert found["W"][0].ranges[0].high == il.Int(2 * HIDDEN - 1)


def test_a_temporary_of_leaves_has_a_row_a_leaf():
    lowered = lower(ra.trace(models.TreeLSTM(HIDDEN, VOCAB)), APART)
    before, after = (dict(lowered.stages)[s] for s in ("dense indexing", "bounds"))
    assert before.tensors["leaf_t0"].shape[0] == il.N_NODES
    assert after.tensors["leaf_t0"].shape[0] == il.N_LEAVES


def test_a_program_that_touches_more_than_it_declares_is_refused():
    decl = il.TensorDecl("x", (il.Int(4),), ("j",), "tile")
    store = il.Store("x", (il.add(il.Var("j"), il.Int(1)),), il.Num(0))
    loop = il.For("j", il.Int(0), il.Int(4), store)
    program = il.Program("P", {"x": decl}, il.structure_functions(2), loop, ())
    with pytest.raises(AssertionError, match="x has 4, 5 touched"):
        bounds.fit(program)
