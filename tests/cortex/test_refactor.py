"""The recursive call cut at a product: equal results at every stage, and fewer barriers."""

import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch")

from cortex import compiled, interpreter, kernel, models, ra, tables, weights  # noqa: E402
from cortex.errors import ScheduleError  # noqa: E402
from cortex.linearize import linearize  # noqa: E402
from cortex.lower import lower  # noqa: E402
from cortex.lower.barriers import barriers_a_pass, count_barriers, without_barrier  # noqa: E402
from cortex.reference.recursive import evaluate  # noqa: E402
from cortex.schedule import Schedule  # noqa: E402

VOCAB = 11
APART = Schedule().batch().specialize("leaf")
SCHEDULES = {
    "operators": APART,
    "cell": APART.fuse("cell"),
    "paper": Schedule.paper(),
    "small tiles": Schedule.paper().tile(2, 3),
    "tables": Schedule.paper().tabulate().tile(2, 3),
    "columns": Schedule.paper().tile(2, 3).partition("column"),
}
CUTS = [
    ("TreeRNN", {}, "Wl"),
    ("TreeLSTM", {}, "Uiou"),
    ("TreeLSTM", {}, "Uf"),
    ("TreeGRU", {}, "Uh"),
    ("TreeGRU", {"words": "nodes"}, "Uh"),
    ("TreeGRU", {}, "Urz"),
    ("SimpleTreeGRU", {}, "Uh"),
]


def setup(rng, name, options, hidden):
    model = ra.trace(getattr(models, name)(hidden, VOCAB, **options))
    forest = oracle.random_trees(rng, VOCAB, leaves=(1, 2, 3, 9, 14))
    params = weights.seeded(model, seed=3)
    return model, forest, params, evaluate(model, forest, params)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "op"), CUTS, ids=str)
def test_every_stage_equals_the_reference(rng, name, options, op, schedule):
    model, forest, params, wanted = setup(rng, name, options, 6)
    lowered = lower(model, SCHEDULES[schedule].refactor(op))
    linear = linearize(forest, model.structure, **lowered.linear_options)
    arrays = {k: np.asarray(v, np.float64) for k, v in params.items()}
    arrays |= tables.build(lowered.tables, arrays)
    for hostile in (None, 1, 2):
        stages = lowered.stages if hostile is None else [("hostile", lowered.program)]
        for stage, program in stages:
            found = interpreter.run(program, linear, arrays, dtype="float64", hostile=hostile)
            for state in model.states:
                # Tables are float32.
                tolerance = 3e-6 if lowered.tables else 1e-11
                np.testing.assert_allclose(
                    found[state],
                    wanted[state][linear.order],
                    rtol=tolerance,
                    atol=tolerance,
                    err_msg=f"{stage}\n{program}",
                )


@pytest.mark.parametrize("partition", ["row", "column"])
@pytest.mark.parametrize("threads", [2])
@pytest.mark.parametrize(("name", "options", "op"), CUTS, ids=str)
def test_compiled_code_equals_the_reference(
    rng, monkeypatch, name, options, op, threads, partition
):
    # Small work takes one thread otherwise.
    monkeypatch.setattr(kernel, "LEAST_WORK", 0)
    model, forest, params, wanted = setup(rng, name, options, 128)
    schedule = Schedule.paper().partition(partition).refactor(op)
    net = compiled.compile(model, params, schedule=schedule, threads=threads, keep="all")
    found = net(forest)
    for state in model.states:
        # Products over 128 terms in float32, through a few levels of gates.
        np.testing.assert_allclose(found.node(state), wanted[state], rtol=1e-5, atol=3e-6)
        np.testing.assert_array_equal(found.root[state], found.node(state)[forest.roots])


@pytest.mark.parametrize("name", ["TreeGRU", "SimpleTreeGRU"])
def test_barriers_a_level(name):
    model = ra.trace(getattr(models, name)(128, VOCAB))

    def count(schedule):
        return barriers_a_pass(lower(model, schedule).program)

    columns = Schedule.paper().partition("column")
    assert count(Schedule.paper()) == count(Schedule.paper().refactor("Uh")) == 1
    assert count(columns) == 3
    assert count(columns.refactor("Uh")) == 2


def test_the_barrier_before_the_roots_is_needed(rng):
    model, forest, params, wanted = setup(rng, "SimpleTreeGRU", {}, 6)
    lowered = lower(model, Schedule.paper().tile(2, 3).refactor("Uh"))
    linear = linearize(forest, model.structure, **lowered.linear_options)
    program = lowered.program
    last = count_barriers(program.body) - 1
    broken = type(program)(
        program.name,
        program.tensors,
        program.functions,
        without_barrier(program.body, last),
        program.states,
    )
    runs = [interpreter.run(broken, linear, params, hostile=seed)["h"] for seed in range(40)]
    assert not all(np.allclose(found, wanted["h"][linear.order], atol=1e-5) for found in runs)


def test_illegal_cuts_are_refused():
    tree, dag = ra.trace(models.TreeGRU(6, VOCAB)), ra.trace(models.DAGRNN(6, VOCAB))
    with pytest.raises(ScheduleError, match="each parent of a DAG's node would compute its rest"):
        lower(dag, Schedule.paper().refactor("W"))
    with pytest.raises(ScheduleError, match=r"no product .* parameter 'Q'; name one of Uh, Urz"):
        lower(tree, Schedule.paper().refactor("Q"))
    for schedule in (Schedule.none(), Schedule().batch(), Schedule.paper().dedup()):
        with pytest.raises(ScheduleError, match="refactor is illegal for TreeGRU"):
            lower(tree, schedule.refactor("Uh"))
