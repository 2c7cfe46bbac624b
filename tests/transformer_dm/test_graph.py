"""The graph refuses what cannot be, keeps an order that can run, and comes back from JSON."""

import itertools

import pytest

from transformer_dm.describe import Description, encoder_graph
from transformer_dm.graph import DataflowGraph, GraphError, Op, Tensor

SIZES = {"b": 2, "j": 3, "k": 3, "i": 4, "u": 5}


def chain(*names):
    """a -> b -> ... : an element-wise operator between each two tensors, named by its result."""
    graph = DataflowGraph(SIZES)
    for name in names:
        graph.declare(Tensor(name, "bj"))
    for before, after in itertools.pairwise(names):
        graph.add(Op(f"make {after}", "scale", (before,), (after,), independent="bj"))
    return graph


@pytest.mark.parametrize(
    ("einsum", "parts"),
    [
        ("iz,bji->bjz", ("product", "w", "'z' has no size")),
        ("ui,bji->bjk", ("product", "'k'", "no operand")),
        ("uj,bji->bju", ("product", "tensor 'w'", "'j' has two sizes, 3 and 4")),
        ("ui,bj->bju", ("product", "tensor 'x'", "'bj' does not fit dimensions bji")),
        ("ui->bju", ("product", "2 terms for 3 tensors")),
    ],
)
def test_an_einsum_that_does_not_fit_names_operator_and_letter(einsum, parts):
    graph = DataflowGraph(SIZES)
    for name, dims in (("w", "ui"), ("x", "bji"), ("y", "bju" if "k" not in einsum else "bjk")):
        graph.declare(Tensor(name, dims))
    with pytest.raises(GraphError) as error:
        graph.add(Op("product", "contraction", ("w", "x"), ("y",), "bju", "i", einsum=einsum))
    for part in parts:
        assert part in str(error.value)


def test_a_letter_may_stand_for_another_of_the_same_size():
    graph = DataflowGraph(SIZES)
    line = Description(graph)
    line.tensor("key[bji], query[bji]")
    line.contraction("scores", "key, query -> s", "bki, bji -> bjk")
    assert graph.flop(graph.op("scores")) == 2 * 2 * 3 * 3 * 4


def test_a_missing_size_names_tensor_and_letter():
    with pytest.raises(GraphError, match=r"tensor 'x': dimension 'z' has no size; sizes: b, i, j"):
        DataflowGraph(SIZES).declare(Tensor("x", "bz"))


def test_a_letter_with_two_sizes_names_both():
    graph = DataflowGraph(SIZES)
    graph.declare(Tensor("x", "bj"), shape=(2, 3))
    with pytest.raises(GraphError, match=r"tensor 'y': dimension 'j' has two sizes, 3 and 7"):
        graph.declare(Tensor("y", "bj"), shape=(2, 7))


def test_a_negative_size_is_refused():
    with pytest.raises(GraphError, match=r"size of dimension 'b' must be >= 0, got -1"):
        encoder_graph(-1, 8, 2, 4, 16)


def test_a_shape_must_have_a_size_for_each_dimension():
    with pytest.raises(GraphError, match=r"tensor 'x' needs a size for each of bj, got \(2,\)"):
        DataflowGraph(SIZES).declare(Tensor("x", "bj"), shape=(2,))


def test_a_tensor_with_two_producers_names_both_operators():
    graph = chain("a", "b")
    with pytest.raises(GraphError, match=r"'b' has two producers, 'make b' and 'again'"):
        graph.add(Op("again", "scale", ("a",), ("b",), independent="bj"))


def test_a_cycle_names_the_operators_on_it():
    graph = chain("a", "b", "c")
    with pytest.raises(GraphError, match=r"cycle: make a -> make b -> make c"):
        graph.add(Op("make a", "scale", ("c",), ("a",), independent="bj"))
    with pytest.raises(GraphError, match=r"cycle: self -> self"):
        chain("a").add(Op("self", "scale", ("a",), ("a",), independent="bj"))


def test_an_island_names_its_operators():
    graph = chain("a", "b", "c")
    for name in ("p", "q"):
        graph.declare(Tensor(name, "bj"))
    graph.check()
    graph.add(Op("island", "scale", ("p",), ("q",), independent="bj"))
    with pytest.raises(GraphError, match=r"not connected: no tensor joins island to the rest"):
        graph.check()


def test_names_are_unique_and_known():
    graph = chain("a", "b")
    with pytest.raises(GraphError, match=r"two operators are named 'make b'"):
        graph.add(Op("make b", "scale", ("a",), ("a",), independent="bj"))
    with pytest.raises(GraphError, match=r"operator 'new': tensor 'z' is not declared"):
        graph.add(Op("new", "scale", ("a",), ("z",), independent="bj"))
    with pytest.raises(GraphError, match=r"'a' is declared twice, over bj and ji"):
        graph.declare(Tensor("a", "ji"))
    with pytest.raises(GraphError, match=r"no operator 'none'"):
        graph.op("none")
    with pytest.raises(GraphError, match=r"tensor 'none' is not declared"):
        graph.tensor("none")


def test_parts_make_up_the_whole():
    graph = DataflowGraph(SIZES)
    graph.declare(Tensor("left", "bj"))
    graph.declare(Tensor("right", "bj"))
    with pytest.raises(GraphError, match=r"'both' has 24 elements, its parts left, right .* 12"):
        graph.declare(Tensor("both", "bji", parts=("left", "right")))


def test_whoever_reads_the_whole_reads_its_parts():
    graph = encoder_graph(2, 3, 2, 4, 16)
    assert graph.writes(graph.op("input bias")) == ["query", "key", "value"]
    assert graph.reads(graph.op("qkv dX")) == ["w_qkv", "d_query", "d_key", "d_value"]
    assert graph.producer("query") == graph.op("input bias")


def test_operators_may_be_added_before_their_producers():
    graph = DataflowGraph(SIZES)
    for name in "abc":
        graph.declare(Tensor(name, "bj"))
    graph.add(Op("second", "scale", ("b",), ("c",), independent="bj"))
    graph.add(Op("first", "scale", ("a",), ("b",), independent="bj"))
    assert [op.name for op in graph.ops()] == ["first", "second"]


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_order_can_run(norm_first):
    graph = encoder_graph(2, 3, 2, 4, 16, norm_first=norm_first)
    made = {t.name for t in graph.tensors() if graph.producer(t.name) is None}
    for op in graph.ops():
        assert set(graph.reads(op)) <= made, op.name
        made |= set(graph.writes(op))
    stages = [op.stage for op in graph.ops()]
    assert stages == sorted(stages, reverse=True)  # fwd before bwd


def test_json_brings_back_the_same_graph():
    graph = encoder_graph(2, 3, 2, 4, 16, activation="gelu")
    again = DataflowGraph.from_json(graph.to_json())
    assert again.ops() == graph.ops()
    assert again.tensors() == graph.tensors()
    assert (again.outputs, again.seams, again.sizes) == (graph.outputs, graph.seams, graph.sizes)


def test_leaving_for_networkx_and_graphviz_keeps_every_edge():
    graph = encoder_graph(2, 3, 2, 4, 16)
    copy = graph.to_networkx()
    assert set(copy.nodes) == {op.name for op in graph.ops()}
    assert copy.edges["softmax", "softmax dX", "alpha"]["elements"] == 2 * 2 * 3 * 3
    assert copy.nodes["qkt"]["flop"] == 2 * 2 * 2 * 3 * 3 * 4
    dot = graph.to_dot()
    assert dot.count("->") == copy.number_of_edges()
    assert '"softmax" -> "softmax dX" [label="alpha"]' in dot


def test_an_empty_batch_has_no_work():
    graph = encoder_graph(0, 3, 2, 4, 16)
    assert sum(graph.flop(op) for op in graph.ops()) == 0
