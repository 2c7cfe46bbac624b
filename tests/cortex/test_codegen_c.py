"""Generated C++ against the reference interpreter of models and against that of programs."""

import re
from typing import Any

import attrs
import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch")

import cortex as cx  # noqa: E402
from cortex import models, ra, weights  # noqa: E402
from cortex.compiled import Compiled, compile  # noqa: E402
from cortex.errors import BackendError, StructureError, TokenError  # noqa: E402
from cortex.forest import Dag, Forest, Sequence  # noqa: E402
from cortex.kernel import Kernel  # noqa: E402
from cortex.linearize import linearize  # noqa: E402
from cortex.reference import recursive  # noqa: E402
from cortex.schedule import Schedule  # noqa: E402

VOCAB = 40
MODELS: dict[str, Any] = {
    "TreeFC": {},
    "TreeRNN": {},
    "TreeGRU": {},
    "SimpleTreeGRU": {},
    "TreeLSTM": {"inputs": "inside", "width": 9, "words": "nodes"},
    "NaryTreeLSTM": {},
    "MVRNN": {},
    "DAGRNN": {"width": 7, "inputs": "inside"},
    "LSTM": {},
    "GRU": {},
}


def traced(name: str, hidden: int, **kw: Any) -> ra.Model:
    return ra.trace(getattr(models, name)(hidden, VOCAB, **kw))


def forest_of(model: ra.Model, seed: int = 0) -> Forest:
    rng = np.random.default_rng(seed)
    match model.structure:
        case Sequence():
            return oracle.sequences(rng, VOCAB)
        case Dag():
            return oracle.grid(rng, VOCAB)
    arity = model.structure.max_children
    if arity is None:
        return oracle.variable(rng, VOCAB, n=70)
    return oracle.random_trees(rng, VOCAB, leaves=(1, 2, 9, 70), arity=arity)


def assert_equals_reference(net: Compiled, forest: Forest, params: Any) -> None:
    wanted = recursive.evaluate(net.ra, forest, params)
    result = net(forest)
    for name in net.ra.states:
        got = result.node(name).numpy()
        # Unbounded states (ReLU) by their size, gates by the rounding of some hundred sums.
        scale = max(1.0, float(np.abs(wanted[name]).max()))
        np.testing.assert_allclose(got, wanted[name], atol=3e-6 * scale, rtol=0)
        assert torch.equal(result.root[name], result.node(name)[forest.roots.tolist()])


@pytest.mark.parametrize("schedule", ["auto", "paper", "none"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_equals_the_reference(name: str, schedule: str) -> None:
    model = traced(name, 19, **MODELS[name])
    params = weights.load(model)
    chosen = Schedule.paper() if schedule == "paper" else schedule
    net = compile(model, params, schedule=chosen, threads=1, keep="all")
    assert_equals_reference(net, forest_of(model), params)


@pytest.mark.parametrize("hidden", [1, 15, 16, 17, 64, 100, 256])
@pytest.mark.parametrize("name", ["TreeFC", "TreeGRU", "MVRNN"])
def test_every_width_equals_the_reference(name: str, hidden: int) -> None:
    if name == "MVRNN" and hidden > 64:
        pytest.skip("its products of matrices take minutes in the reference")
    model = traced(name, hidden)
    params = weights.load(model)
    net = compile(model, params, schedule=Schedule.paper(), threads=1, keep="all")
    assert_equals_reference(net, forest_of(model), params)


@pytest.mark.parametrize("arity", [2, None])
def test_any_number_of_children_is_computed(arity: int | None) -> None:
    model = traced("TreeLSTM", 33, arity=arity)
    params = weights.load(model)
    assert_equals_reference(
        compile(model, params, threads=1, keep="all"), forest_of(model, 3), params
    )


@pytest.mark.parametrize("name", ["TreeLSTM", "GRU"])
def test_compiled_code_equals_the_interpreter_of_programs(name: str) -> None:
    model = traced(name, 6)
    params = weights.load(model)
    forest = forest_of(model)
    nets = [compile(model, params, backend=b, threads=1, keep="all") for b in ("c", "interp")]
    ours, plain = (net(forest) for net in nets)
    for state in model.states:
        torch.testing.assert_close(ours.node(state), plain.node(state), atol=2e-6, rtol=0)


@pytest.mark.parametrize("partition", ["row", "column"])
@pytest.mark.parametrize("name", ["TreeLSTM", "TreeGRU", "LSTM"])
def test_two_threads_give_the_bits_of_one(name: str, partition: Any) -> None:
    model = traced(name, 64)
    schedule = Schedule.paper().partition(partition).tile(8, 16)
    forest = forest_of(model)
    one, two = (compile(model, schedule=schedule, threads=n, keep="all") for n in (1, 2))
    assert two._kernel is not None
    two._kernel.alone = 0
    for _ in range(3):
        for state in model.states:
            assert torch.equal(one(forest).node(state), two(forest).node(state))


def test_small_runs_take_one_thread() -> None:
    big, small = (compile(traced("TreeFC", h), threads=2) for h in (512, 8))
    assert big._kernel is not None
    assert small._kernel is not None
    assert 1 < big._kernel.alone < 20 < 1000 < small._kernel.alone


def test_without_a_compiler_the_interpreter_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match=r"(?s)no-such-compiler.*backend='interp'"):
        compile(traced("TreeFC", 3))


def test_a_structure_numbered_otherwise_is_refused() -> None:
    net = compile(traced("TreeFC", 3))
    chain = oracle.sequences(np.random.default_rng(0), VOCAB)
    with pytest.raises(StructureError, match=r"numbered for 1; number it with net\.linearize"):
        net.run(linearize(chain, Sequence()))


def test_tokens_of_a_structure_numbered_elsewhere_are_looked_at() -> None:
    net = compile(traced("TreeFC", 3), schedule=Schedule.paper())
    forest = oracle.single_leaf(np.random.default_rng(0), VOCAB)
    forest.token[0] = VOCAB
    with pytest.raises(TokenError, match=f"0 .. {VOCAB - 1}, got {VOCAB}"):
        net.run(linearize(forest, net.ra.structure))


def test_products_of_a_tile_are_one_nest_with_their_epilogue() -> None:
    net = compile(traced("TreeLSTM", 64), schedule=Schedule.paper())
    assert net._generated.products == 1
    assert "vec sum4" in net.source
    assert "1 nests of products" in net.explain()


@pytest.mark.parametrize("hidden", [128, 150])  # two blocks of columns; one of uneven panels
@pytest.mark.parametrize("name", ["LSTM", "TreeGRU"])
def test_sweeps_to_and_fro_give_the_bits_of_sweeps_one_way(name: str, hidden: int) -> None:
    model = traced(name, hidden)
    forest = forest_of(model)
    params = weights.load(model)
    nets = [compile(model, params, schedule=Schedule.paper(), threads=1, keep="all") for _ in "12"]
    source = nets[1]._generated
    one_way = re.sub(r"back(\d) = !back\1;", "", source.text)
    assert one_way != source.text
    assert ("- 1 - step" in one_way) == (hidden == 128)
    nets[1]._kernel = Kernel(attrs.evolve(source, text=one_way), 1, name)
    nets[1]._kernel.pack(nets[1]._arrays)
    both = [net(forest) for net in nets]
    for state in model.states:
        assert torch.equal(*(found.node(state) for found in both))


def test_rows_found_by_token_are_asked_for_before_the_product() -> None:
    source = compile(traced("LSTM", 64), schedule=Schedule.paper()).source
    asked = source.index("__builtin_prefetch(E_ + 256 * s.token(")
    assert asked < source.index("vec sum0")


class Separate(cx.Recursive):
    """A TreeLSTM with the products of s, the sum of children, written one by one."""

    structure = cx.Tree(arity=2)

    def __init__(self, hidden: int) -> None:
        self.E = cx.Param(VOCAB, 3 * hidden)
        self.Ui, self.Uo, self.Uu = (cx.Param(hidden, hidden) for _ in range(3))
        self.Uf = cx.Param(hidden, hidden)
        self.state(h=hidden, c=hidden)

    def gates(self, s: ra.Expr) -> tuple[ra.Expr, ...]:
        return s @ self.Ui, s @ self.Uo, s @ self.Uu

    def leaf(self, n: Any) -> dict[str, ra.Expr]:
        i, o, u = cx.split(self.E[n.token], 3)
        c = cx.sigmoid(i) * cx.tanh(u)
        return {"h": cx.sigmoid(o) * cx.tanh(c), "c": c}

    def node(self, n: Any) -> dict[str, ra.Expr]:
        i, o, u = self.gates(n.children.sum("h"))
        c = cx.sigmoid(i) * cx.tanh(u)
        c = c + cx.sum(cx.sigmoid(k.h @ self.Uf) * k.c for k in n.children)
        return {"h": cx.sigmoid(o) * cx.tanh(c), "c": c}


class Merged(Separate):
    """The same with one wide product."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.U = cx.Param(hidden, 3 * hidden)

    def gates(self, s: ra.Expr) -> tuple[ra.Expr, ...]:
        return cx.split(s @ self.U, 3)


@pytest.mark.parametrize("hidden", [17, 64])
def test_products_of_one_left_side_are_one_call_that_packs_it_once(hidden: int) -> None:
    separate = ra.trace(Separate(hidden))
    params = dict(weights.load(separate))
    net = compile(separate, params, schedule=Schedule.paper(), threads=1, keep="all")
    forest = forest_of(separate)
    assert_equals_reference(net, forest, params)
    # The rows of h_l, of h_r and of their sum are written once each, and read by one call.
    sums = [line for line in str(net.ilir).splitlines() if re.search(r"= t\d\[.*\+ t\d\[", line)]
    assert len(sums) == 1
    (name,) = re.findall(r"(t\d)\[m, j\] =", sums[0])
    assert net.source.count("cortex::product<") == 1
    terms = re.findall(r"Term<[^{]*\{(\w+) \+ first_row[^{]*\{(\w+)\}\}", net.source)
    assert [x for x, _ in terms].count(f"{name}_") == 3
    assert len(terms) == 5
    # So it is what one wide product gives, to the bit.
    wide = ra.trace(Merged(hidden))
    both = [params[u] for u in ("Ui", "Uo", "Uu")]
    together = {k: v for k, v in params.items() if k in wide.params}
    together["U"] = np.concatenate([np.asarray(u) for u in both], axis=1)
    merged = compile(wide, together, schedule=Schedule.paper(), threads=1, keep="all")
    for state in ("h", "c"):
        assert torch.equal(net(forest).node(state), merged(forest).node(state))
