"""The notation is read as meant, and the layer's variants have the operators they should."""

import pytest

from transformer_dm.describe import Description, attention_graph, encoder_graph
from transformer_dm.graph import DataflowGraph, GraphError

SMALL = (2, 3, 2, 4, 16)


def kinds(graph, stage=None):
    return [op.kind for op in graph.ops(stage)]


def test_forward_operators_in_order():
    assert kinds(encoder_graph(*SMALL), "fwd") == [
        "contraction", "bias", "contraction", "scale", "softmax", "dropout", "contraction",
        "contraction", "bias", "dropout", "residual", "layernorm",
        "contraction", "bias", "relu", "dropout", "contraction",
        "bias", "dropout", "residual", "layernorm",
    ]  # fmt: skip


def test_norm_first_puts_both_norms_before_what_they_feed():
    graph = encoder_graph(*SMALL, norm_first=True)
    assert kinds(graph, "fwd")[:2] == ["layernorm", "contraction"]
    assert kinds(graph, "fwd")[-1] == "residual"
    assert graph.reads(graph.op("residual 1")) == ["out_kept", "x"]
    assert graph.reads(graph.op("residual 2")) == ["linear2_kept", "sum1"]
    assert graph.outputs >= {"sum2", "d_x"}


def test_masks_are_known_as_such():
    masks = {tensor.name for tensor in encoder_graph(*SMALL).tensors() if tensor.role == "mask"}
    assert masks == {"mask_a", "mask_1", "mask_f", "mask_2"}


def test_without_dropout_there_is_no_mask():
    graph = encoder_graph(*SMALL, dropout=False)
    assert not any(kind.startswith("dropout") for kind in kinds(graph))
    assert not any(tensor.role == "mask" for tensor in graph.tensors())


def test_inference_has_neither_backward_nor_dropout():
    graph = encoder_graph(*SMALL, training=False)
    assert kinds(graph, "bwd") == []
    assert "dropout" not in kinds(graph)
    assert graph.outputs == {"y2"}


def test_gelu_takes_the_place_of_relu():
    graph = encoder_graph(*SMALL, activation="gelu")
    assert {"gelu", "gelu_backward"} < set(kinds(graph))
    assert not {"relu", "relu_backward"} & set(kinds(graph))
    with pytest.raises(GraphError, match="activation must be 'relu' or 'gelu', got 'tanh'"):
        encoder_graph(*SMALL, activation="tanh")


def test_separate_projections_do_the_work_of_the_stacked_one():
    def work(stacked):
        graph = encoder_graph(*SMALL, stacked_qkv=stacked)
        return sum(graph.flop(op) for op in graph.ops() if op.einsum is not None)

    separate = encoder_graph(*SMALL, stacked_qkv=False)
    assert work(True) == work(False)
    assert {"query", "key", "value", "query dX", "key dW"} < {op.name for op in separate.ops()}
    # x is read three times instead of once, forward and for the weights; three gradients meet.
    assert [op.name for op in separate.ops() if op.kind == "residual" and op.stage == "bwd"] == [
        "y1 fan-in", "x fan-in 1", "x fan-in 2", "x fan-in 3",
    ]  # fmt: skip


def test_attention_alone_is_the_layer_s_attention():
    attention = attention_graph(*SMALL[:4])
    layer = encoder_graph(*SMALL)
    own = {op.name: op for op in layer.ops()}
    shared = [op for op in attention.ops() if op.name != "out bias"]
    assert len(shared) == 8 + 13
    differing = [op.name for op in shared if own.get(op.name) != op]
    # The bias stands last, so the gradient that comes back is that of y; and nobody else reads x.
    assert differing == ["out bias gradient", "out dX", "out dW", "qkv dX"]


def test_loops_run_over_all_dimensions_of_the_tensors():
    op = encoder_graph(*SMALL).op("layernorm 1")
    assert (op.independent, op.reduced) == (frozenset("bj"), frozenset("i"))


@pytest.mark.parametrize("text", ["x[bj -> y[bj]", "x -> y[bj]", "x[bj] y[bj] -> z[bj]"])
def test_a_term_that_cannot_be_read_is_quoted(text):
    with pytest.raises(GraphError, match=r"operator 'half': wanted name\[dimensions\], got '"):
        Description(DataflowGraph({"b": 2, "j": 3})).op("scale", "half", text)


def test_a_tensor_written_with_other_dimensions_is_refused():
    line = Description(DataflowGraph({"b": 2, "j": 3}))
    line.tensor("x[bj]")
    with pytest.raises(GraphError, match="'x' is declared twice, over bj and jb"):
        line.op("scale", "half", "x[jb] -> y[jb]")
