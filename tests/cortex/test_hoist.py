"""Products of a node's own input, computed before the levels: every stage equals the reference."""

import itertools

import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch")

from cortex import compiled, interpreter, kernel, models, ra, tables, weights  # noqa: E402
from cortex import ilir as il  # noqa: E402
from cortex.linearize import linearize  # noqa: E402
from cortex.lower import lower  # noqa: E402
from cortex.lower.barriers import count_barriers, without_barrier  # noqa: E402
from cortex.reference.recursive import evaluate  # noqa: E402
from cortex.schedule import Schedule  # noqa: E402

VOCAB, WIDTH = 11, 3
#: Sums are taken in another order; in float64, values of magnitude one.
TOLERANCE = 1e-11
BATCHED = Schedule().batch()
APART = BATCHED.specialize("leaf")
SMALL = Schedule.paper().tile(2, 3)
SCHEDULES = {
    "batch": BATCHED,
    "leaf": APART,
    "cell": APART.fuse("cell"),
    "cell, checked": BATCHED.fuse("cell"),
    "checked": BATCHED.fuse("level").tile(2, 3),
    "level": APART.fuse("level"),
    "paper": Schedule.paper(),
    "small tiles": SMALL,
    "columns": SMALL.partition("column"),
    "dedup": SMALL.dedup(),
    "kinds": SMALL.specialize("children"),
    "columns and kinds": SMALL.specialize("children").partition("column"),
    "unroll 2": SMALL.unroll(2),
}
#: No table is built: each would be larger than that.
TOO_LARGE = SMALL.specialize("children").tabulate(max_bytes=0)
TREES = {"words": "nodes", "inputs": "hoisted", "width": WIDTH}
CHAINS = {"inputs": "hoisted", "width": WIDTH}
CASES = [
    ("TreeGRU", TREES, "random_trees"),
    ("TreeLSTM", TREES, "random_trees"),
    ("TreeLSTM", {**TREES, "arity": None}, "variable"),
    ("NaryTreeLSTM", TREES, "random_trees"),
    ("DAGRNN", CHAINS, "grid"),
    ("LSTM", CHAINS, "sequences"),
    ("GRU", CHAINS, "sequences"),
]
SIZES = {
    "random_trees": {"leaves": (1, 2, 9)},
    "variable": {"n": 14},
    "grid": {"rows": 3, "columns": 4},
    "sequences": {"lengths": (1, 2, 7)},
}
BINARY = [case for case in CASES if case[2] == "random_trees"]


def setup(rng, name, options, shape, *, vocab=None, hidden=4):
    model = ra.trace(getattr(models, name)(hidden, vocab, **options))
    forest = getattr(oracle, shape)(rng, VOCAB, width=None if vocab else WIDTH, **SIZES[shape])
    return model, forest, weights.seeded(model, seed=3)


def legal(schedule, shape):
    if schedule.depth > 1 or schedule.cut:
        return shape != "grid"
    return not schedule.children_apart or shape in ("random_trees", "sequences")


def check(lowered, model, forest, params, tolerance=TOLERANCE):
    """Stages that hoisting changes, and the last in hostile orders, against the recursion."""
    linear = linearize(forest, model.structure, **lowered.linear_options)
    wanted = evaluate(model, forest, params)
    arrays = {k: np.asarray(v, np.float64) for k, v in params.items()}
    arrays |= tables.build(lowered.tables, arrays)
    first = max((n for n, (name, _) in enumerate(lowered.stages) if name == "hoist"), default=0)
    runs = [(name, program, {}) for name, program in lowered.stages[first:]]
    runs += [(f"hostile {n}", lowered.program, {"hostile": n}) for n in range(3)]
    for stage, program, options in runs:
        found = interpreter.run(program, linear, arrays, dtype="float64", **options)
        for state in model.states:
            np.testing.assert_allclose(
                found[state],
                wanted[state][linear.order],
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{stage}\n{program}",
            )


def inside_levels(program, param):
    """Whether a loop over levels or blocks reads a parameter."""
    loops = [
        n
        for n in il.walk(program.body)
        if isinstance(n, il.For) and n.var == "b" and n.dim in ("level", "block")
    ]
    return any(isinstance(n, il.Load) and n.tensor == param for x in loops for n in il.walk(x))


LEGAL = [(*c, s) for c in CASES for s in SCHEDULES if legal(SCHEDULES[s], c[2])]


@pytest.mark.parametrize(("name", "options", "shape", "schedule"), LEGAL, ids=str)
def test_every_stage_equals_the_reference(rng, name, options, shape, schedule):
    model, forest, params = setup(rng, name, options, shape)
    lowered = lower(model, SCHEDULES[schedule])
    check(lowered, model, forest, params)
    if SCHEDULES[schedule].depth == 1:
        assert "hoist" in dict(lowered.stages)
    assert "hoist" not in dict(lowered.refused)
    assert "hoist0" in str(lowered.program)
    if SCHEDULES[schedule].leaf_apart:
        # Without a nest for leaves, the first level's projects their own inputs.
        assert not inside_levels(lowered.program, "W")


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["Uiou", "Uf"])
def test_refactoring_cuts_what_is_hoisted(rng, cut):
    model, forest, params = setup(rng, "TreeLSTM", TREES, "random_trees")
    for schedule in (APART, SMALL, SMALL.partition("column")):
        lowered = lower(model, schedule.refactor(cut))
        check(lowered, model, forest, params)
        assert "hoist0" in str(lowered.program)
        assert not inside_levels(lowered.program, "W")


@pytest.mark.parametrize("schedule", ["batch", "small tiles", "columns"])
def test_a_token_row_is_hoisted_as_features_are(rng, schedule):
    model, forest, params = setup(rng, "LSTM", CHAINS, "sequences", vocab=VOCAB)
    lowered = lower(model, SCHEDULES[schedule])
    assert "hoist" in dict(lowered.stages)
    check(lowered, model, forest, params)


@pytest.mark.parametrize(("name", "options", "shape"), BINARY, ids=str)
def test_tables_come_first(rng, name, options, shape):
    model, forest, params = setup(rng, name, options, shape, vocab=VOCAB)
    lowered = lower(model, SMALL.specialize("children").tabulate())
    check(lowered, model, forest, params, 3e-6)  # tables are float32
    assert "tables" in dict(lowered.refused)["hoist"]
    lowered = lower(model, TOO_LARGE)
    check(lowered, model, forest, params)
    assert "hoist0" in str(lowered.program)


def test_what_is_not_hoisted_is_said(rng):
    leaves = {**TREES, "words": "leaves"}
    model, forest, params = setup(rng, "TreeLSTM", leaves, "random_trees")
    lowered = lower(model, Schedule.paper())
    assert "no inner node" in dict(lowered.refused)["hoist"]
    check(lowered, model, forest, params)
    model, *_ = setup(rng, "LSTM", CHAINS, "sequences")
    assert "one by one" in dict(lower(model, Schedule.none()).refused)["hoist"]


def test_only_a_model_that_asks_has_its_inputs_hoisted(rng):
    model, *_ = setup(rng, "LSTM", {**CHAINS, "inputs": "inside"}, "sequences")
    lowered = lower(model, Schedule.paper())
    assert "hoist" not in dict(lowered.stages)
    assert inside_levels(lowered.program, "W")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("schedule", ["leaf", "small tiles", "columns", "kinds"])
@pytest.mark.parametrize(("name", "options", "shape"), BINARY[1:2] + CASES[-1:], ids=str)
def test_every_barrier_is_needed(rng, name, options, shape, schedule):
    model, forest, params = setup(rng, name, options, shape)
    lowered = lower(model, SCHEDULES[schedule])
    linear = linearize(forest, model.structure, **lowered.linear_options)
    wanted = evaluate(model, forest, params)
    program = lowered.program
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
            arrays = {k: np.asarray(v, np.float64) for k, v in params.items()}
            found = interpreter.run(broken, linear, arrays, dtype="float64", hostile=seed)
            if not all(
                np.allclose(found[s], wanted[s][linear.order], rtol=1e-6, atol=1e-6)
                for s in model.states
            ):
                break


def test_a_level_that_reads_no_child_waits_for_the_hoisted_values(rng):
    """Its only dependence is on the nest before the levels."""

    class OwnOnly(models.LSTM):
        def node(self, n):
            x = self._input(n)
            size = x.shape[0] // 4
            return {"h": x[:size] * 2, "c": x[size : 2 * size]}

    model = ra.trace(OwnOnly(6, None, **CHAINS))
    forest, params = oracle.sequences(rng, VOCAB, width=WIDTH), weights.seeded(model, seed=3)
    for schedule in (APART, SMALL):
        lowered = lower(model, schedule)
        check(lowered, model, forest, params)
        assert count_barriers(lowered.program.body) >= 1


COMPILED = [
    ("TreeLSTM", ("paper", "level", "checked", "kinds", "dedup", "unroll 2", "refactor")),
    ("LSTM", ("columns", "unroll 2")),
    ("DAGRNN", ("small tiles", "columns")),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("case", "schedule"), [(c, s) for c, each in COMPILED for s in each])
def test_compiled_code_equals_the_reference(rng, monkeypatch, case, schedule, threads):
    # Small work takes one thread otherwise.
    monkeypatch.setattr(kernel, "LEAST_WORK", 0)
    name, options, shape = next(c for c in CASES if c[0] == case)
    chosen = SMALL.refactor("Uiou") if schedule == "refactor" else SCHEDULES[schedule]
    model, forest, params = setup(rng, name, options, shape, hidden=18)
    net = compiled.compile(model, params, schedule=chosen, threads=threads, keep="all")
    found, wanted = net(forest), evaluate(model, forest, params)
    for state in model.states:
        np.testing.assert_allclose(found.node(state).numpy(), wanted[state], atol=3e-6, rtol=0)
