"""Models, forests and schedules that hypothesis makes agree at every stage and in compiled C.

A drawn expression is a tree of tuples: an operation and its operands, at the leaves a number that
picks from what the node may read.
"""

import attrs
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import cortex as cx
from cortex import interpreter, ra, tables, weights
from cortex.errors import ScheduleError
from cortex.linearize import linearize
from cortex.lower import lower
from cortex.reference.recursive import evaluate
from cortex.schedule import Schedule

HIDDEN, VOCAB, WIDTH = 5, 7, 3
#: Sums are taken in another order; in float64, values of magnitude one to ten, a few levels deep.
TOLERANCE = 1e-9
#: Tables and compiled code compute in float32: 6e-8 a step, ten of them a node, some levels deep,
#: each of which may double what came from below.
TOLERANCE32 = 1e-4
STRUCTURES = {
    "pairs": cx.Tree(arity=2),
    "triples": cx.Tree(arity=3),
    "tree": cx.Tree(arity=None),
    "dag": cx.Dag(arity=None),
    "sequence": cx.Sequence(),
}
drawn = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


@attrs.frozen
class Recipe:
    """What a random model is made of.

    states:   an expression a state, h first
    leaf:     the same for leaves, or None to leave them to `node` with no children
    reads:    what a node reads besides its children's states: "token", "features", neither
    attended: children are weighed by a softmax of their own
    """

    kind: str
    states: tuple[tuple[object, ...], ...]
    leaf: tuple[tuple[object, ...], ...] | None
    reads: frozenset[str]
    attended: bool


class Random(cx.Recursive):
    """The model of a recipe."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.structure = STRUCTURES[recipe.kind]
        self.E, self.P = cx.Param(VOCAB, HIDDEN), cx.Param(WIDTH, HIDDEN)
        self.W, self.U = cx.Param(HIDDEN, HIDDEN), cx.Param(HIDDEN, HIDDEN)
        self.Q, self.R = cx.Param(HIDDEN, 2 * HIDDEN), cx.Param(2 * HIDDEN, HIDDEN)
        self.b, self.q = cx.Param(HIDDEN), cx.Param(HIDDEN)
        if "features" in recipe.reads:
            self.feature_width = WIDTH
        self.names = ("h", "c")[: len(recipe.states)]
        self.state(**dict.fromkeys(self.names, HIDDEN))
        if recipe.leaf is not None:
            self.leaf = self._leaf

    def _own(self, n):
        pool = [self.b]
        if "token" in self.recipe.reads:
            pool.append(self.E[n.token])
        if "features" in self.recipe.reads:
            pool.append(n.features @ self.P)
        return pool

    def _leaf(self, n):
        return self._values(self.recipe.leaf, [*self._own(n), self.E[n.token]])

    def node(self, n):
        last = self.names[-1]
        gated = (cx.sigmoid(k.h @ self.U) * getattr(k, last) for k in n.children)
        pool = [*self._own(n), n.children.sum("h"), cx.max(k.h for k in n.children), cx.sum(gated)]
        if self.recipe.attended:
            total = cx.sum(cx.exp(cx.dot(k.h, self.q)) for k in n.children) + 0.5
            pool.append(cx.sum(cx.exp(cx.dot(k.h, self.q)) / total * k.h for k in n.children))
        if self.structure.max_children is not None:
            pool += [k.h for k in n.children]
        return self._values(self.recipe.states, pool)

    def _values(self, recipes, pool):
        found = {}
        for name, recipe in zip(self.names, recipes, strict=True):
            found[name] = cx.tanh(self._value(recipe, pool))
            pool = [*pool, found[name]]
        return found

    def _value(self, recipe, pool):
        op, *operands = recipe
        if op == "read":
            return pool[operands[0] % len(pool)]
        x, *more = (self._value(r, pool) for r in operands)
        match op:
            case "tanh":
                return cx.tanh(x)
            case "sigmoid":
                return cx.sigmoid(x)
            case "neg":
                return -x
            case "shift":
                return 1 - x
            case "bias":
                return x + self.b
            case "W" | "U":
                return cx.tanh(x @ getattr(self, op))
            case "right":
                return cx.tanh(self.W @ x)
            case "parts":
                first, second = cx.split(x @ self.Q, 2)
                return cx.tanh(first) * cx.sigmoid(second)
            case "add":
                return x + more[0]
            case "gate":
                return x * cx.sigmoid(more[0])
            case "max":
                return cx.maximum(x, more[0])
            case "beside":
                return cx.tanh(cx.concat([x, more[0]]) @ self.R)
            case "apart":  # two products of one value, written separately
                return cx.sigmoid(x @ self.W) * cx.tanh(x @ self.U + more[0])
        raise AssertionError(op)


ONE = ("tanh", "sigmoid", "neg", "shift", "bias", "W", "U", "right", "parts")
TWO = ("add", "gate", "max", "beside", "apart")
EXPRESSIONS = st.recursive(
    st.tuples(st.just("read"), st.integers(0, 9)),
    lambda below: st.one_of(
        st.tuples(st.sampled_from(ONE), below), st.tuples(st.sampled_from(TWO), below, below)
    ),
    max_leaves=5,
)


@st.composite
def recipes(draw):
    """Recipes of models."""
    states = draw(st.lists(EXPRESSIONS, min_size=1, max_size=2).map(tuple))
    leaf = None
    if draw(st.booleans()):
        leaf = tuple(draw(EXPRESSIONS) for _ in states)
    reads = draw(st.sampled_from([(), ("token",), ("token",), ("features",)]))
    return Recipe(
        draw(st.sampled_from(sorted(STRUCTURES))),
        states,
        leaf,
        frozenset(reads),
        draw(st.booleans()),
    )


@st.composite
def schedules(draw):
    """Schedules, some of them illegal for some models."""
    s = Schedule()
    some = st.integers(0, 9).map
    if draw(some(lambda n: n > 0)):
        s = s.batch()
    if draw(some(lambda n: n > 1)):
        s = s.specialize("leaf")
    s = s.fuse(draw(st.sampled_from(["none", "cell", "level", "model", "model"])))
    if draw(some(lambda n: n > 6)):
        s = s.specialize("children")
    if draw(some(lambda n: n > 5)):
        s = s.tabulate()
    if draw(some(lambda n: n > 8)):
        s = s.tabulate(max_bytes=100)
    if draw(some(lambda n: n > 6)):
        s = s.dedup()
    if draw(some(lambda n: n > 7)):
        s = s.unroll(draw(st.sampled_from([2, 3])))
    if draw(some(lambda n: n > 7)):
        s = s.refactor(draw(st.sampled_from("WUQ")))
    s = s.partition(draw(st.sampled_from(["row", "row", "column", "auto"])))
    return s.tile(draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 2, 5, 64])))


def forest(recipe, seed):
    """A small forest that the recipe's model reads."""
    rng = np.random.default_rng(seed)
    width = WIDTH if "features" in recipe.reads else None
    leaves = tuple(int(n) for n in rng.integers(1, 12, rng.integers(1, 4)))
    match recipe.kind:
        case "pairs":
            return oracle.random_trees(rng, VOCAB, leaves, width=width)
        case "triples":
            return oracle.random_trees(rng, VOCAB, leaves, arity=3, width=width)
        case "tree":
            return oracle.variable(rng, VOCAB, sum(leaves), width=width)
        case "dag":
            return oracle.grid(rng, VOCAB, *rng.integers(1, 5, 2).tolist(), width=width)
        case _:
            return oracle.sequences(rng, VOCAB, leaves, width=width)


def made(recipe, schedule, seed):
    """Model, lowered model, forest, float64 parameters and the states wanted."""
    model = ra.trace(Random(recipe))
    try:
        lowered = lower(model, schedule)
    except ScheduleError:
        assume(False)
    data = forest(recipe, seed)
    params = weights.seeded(model, seed=3)
    params = {k: np.asarray(v, np.float64) for k, v in params.items()}
    return model, lowered, data, params, evaluate(model, data, params)


def assert_stages_agree(recipe, schedule, seed):
    """Every stage, and the last in hostile orders, computes what the reference does."""
    model, lowered, data, params, wanted = made(recipe, schedule, seed)
    linear = linearize(data, model.structure, **lowered.linear_options)
    arrays = {**params, **tables.build(lowered.tables, params)}
    tolerance = TOLERANCE32 if lowered.tables else TOLERANCE
    hostile = [(f"hostile {i}", lowered.program, i) for i in (1, 2)]
    for stage, program, order in [*((s, p, None) for s, p in lowered.stages), *hostile]:
        found = interpreter.run(program, linear, arrays, dtype="float64", hostile=order)
        for state, values in wanted.items():
            np.testing.assert_allclose(
                found[state][linear.id_of],  # with dedup, several nodes share a row
                values,
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{state} at stage {stage}:\n{program}",
            )


def assert_compiled_agrees(recipe, schedule, seed):
    """Compiled C computes what the reference does, with one thread and with two."""
    model, _, data, params, wanted = made(recipe, schedule, seed)
    small = {k: v.astype(np.float32) for k, v in params.items()}
    found = []
    for threads in (1, 2):
        net = cx.compile(model, small, schedule=schedule, threads=threads, keep="all")
        net._kernel.alone = 0  # however small the forest, threads share it
        for _ in range(3):
            result = net(data)
            rows = {state: result.node(state).numpy() for state in wanted}
            for state, values in wanted.items():
                np.testing.assert_allclose(
                    rows[state], values, rtol=TOLERANCE32, atol=TOLERANCE32, err_msg=net.source
                )
            found.append(rows)
    for rows in found[1:]:
        for state in wanted:
            np.testing.assert_array_equal(rows[state], found[0][state])


CASES = (recipes(), schedules(), st.integers(0, 2**16))


@settings(drawn, max_examples=30)
@given(*CASES)
def test_every_stage_of_a_random_model_equals_the_reference(recipe, schedule, seed):
    assert_stages_agree(recipe, schedule, seed)


@settings(drawn, max_examples=4)
@given(*CASES)
def test_a_random_model_in_c_equals_the_reference(recipe, schedule, seed):
    assert_compiled_agrees(recipe, schedule, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(drawn, max_examples=1500)
@given(*CASES)
def test_every_stage_of_many_random_models_equals_the_reference(recipe, schedule, seed):
    assert_stages_agree(recipe, schedule, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(drawn, max_examples=60)
@given(*CASES)
def test_many_random_models_in_c_equal_the_reference(recipe, schedule, seed):
    assert_compiled_agrees(recipe, schedule, seed)
