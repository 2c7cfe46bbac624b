"""The derived backward pass computes the gradients: run operator by operator, beside autograd."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from transformer_dm.backward import derive_backward
from transformer_dm.describe import Description, encoder_graph
from transformer_dm.graph import DataflowGraph, GraphError, Op, Tensor

KEEP = 0.75
EPS = 1e-5
SMALL = (2, 3, 2, 4, 10)
VARIANTS = [
    dict(zip(("activation", "norm_first", "stacked_qkv", "dropout"), choice, strict=True))
    for choice in itertools.product(("relu", "gelu"), (False, True), (True, False), (True, False))
]


# --- an interpreter of the graph -----------------------------------------------------------------


def over(value, dims, space):
    """A tensor over dims as one that broadcasts over space."""
    wanted = [letter for letter in space if letter in dims]
    value = value.permute([dims.index(letter) for letter in wanted])
    shape = iter(value.shape)
    return value.reshape([next(shape) if letter in dims else 1 for letter in space])


def back(value, dims, space):
    """The other way, summing over what dims has not."""
    for n in reversed([n for n, letter in enumerate(space) if letter not in dims]):
        value = value.sum(n)
    left = [letter for letter in space if letter in dims]
    return value.permute([left.index(letter) for letter in dims])


def normalised(total, mean, rstd):
    return (total - mean) * rstd


class Run:
    """Values of a graph's tensors in float64, computed one operator at a time."""

    def __init__(self, graph, values):
        self.graph, self.values = graph, dict(values)
        for op in graph.ops():
            if op.kind == "contraction":
                operands = [self.value(name) for name in op.inputs]
                self.store(op.outputs[0], torch.einsum(op.einsum, *operands))
            else:
                self.space = sorted(op.space)
                reads = [over(self.value(name), self.dims(name), self.space) for name in op.inputs]
                rows = [n for n, letter in enumerate(self.space) if letter in op.reduced]
                results = getattr(self, op.kind)(op, rows, *reads)
                if not isinstance(results, tuple):
                    results = (results,)
                for name, result in zip(op.outputs, results, strict=True):
                    self.store(name, back(result, self.dims(name), self.space))

    def dims(self, name):
        return self.graph.tensor(name).dims

    def value(self, name):
        parts = self.graph.tensor(name).parts
        return torch.stack([self.value(part) for part in parts]) if parts else self.values[name]

    def store(self, name, value):
        parts = self.graph.tensor(name).parts
        assert value.shape == tuple(self.graph.sizes[letter] for letter in self.dims(name))
        for part, piece in zip(parts, value, strict=False):
            self.store(part, piece)
        if not parts:
            self.values[name] = value

    def bias(self, op, rows, x, b):
        return x + b

    def scale(self, op, rows, x):
        return x / self.graph.sizes["p"] ** 0.5

    scale_backward = scale

    def softmax(self, op, rows, x):
        return torch.softmax(x, rows[0])

    def softmax_backward(self, op, rows, d, y):
        return y * (d - (y * d).sum(rows, keepdim=True))

    def dropout(self, op, rows, x):
        mask = self.value(op.outputs[1])
        mask = over(mask, self.dims(op.outputs[1]), self.space)
        return x * mask / KEEP, mask

    def dropout_backward(self, op, rows, d, mask):
        return d * mask / KEEP

    def residual(self, op, rows, x, y):
        return x + y

    def relu(self, op, rows, x):
        return torch.relu(x)

    def relu_backward(self, op, rows, d, x):
        return d * (x > 0)

    def gelu(self, op, rows, x):
        return F.gelu(x)

    def gelu_backward(self, op, rows, d, x):
        density = torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
        return d * (0.5 * (1 + torch.erf(x / 2**0.5)) + x * density)

    def layernorm(self, op, rows, x, gamma, beta):
        mean = x.mean(rows, keepdim=True)
        rstd = ((x - mean) ** 2).mean(rows, keepdim=True).add(EPS).rsqrt()
        return normalised(x, mean, rstd) * gamma + beta, mean, rstd

    def layernorm_backward(self, op, rows, d, x, mean, rstd, gamma):
        g, xhat = d * gamma, normalised(x, mean, rstd)
        means = g.mean(rows, keepdim=True), (g * xhat).mean(rows, keepdim=True)
        return rstd * (g - means[0] - xhat * means[1])

    def layernorm_parameters(self, op, rows, d, x, mean, rstd):
        return d * normalised(x, mean, rstd), d

    def bias_gradient(self, op, rows, d):
        return d


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_gradients_are_those_of_autograd(variant):
    graph = encoder_graph(*SMALL, **variant)
    forward = DataflowGraph(graph.sizes)
    for tensor in graph.tensors():
        forward.declare(tensor)
    for op in graph.ops("fwd"):
        forward.add(op)
    torch.manual_seed(0)
    inputs = {}
    for tensor in graph.tensors():
        shape = [graph.sizes[letter] for letter in tensor.dims]
        if tensor.role == "mask":
            inputs[tensor.name] = (torch.rand(shape) < KEEP).double()
        elif graph.producer(tensor.name) is None and not tensor.parts:
            inputs[tensor.name] = torch.randn(shape, dtype=torch.float64)
    ((seed, output),) = graph.seams.items()
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in inputs.items()
        if name != seed and graph.tensor(name).role != "mask"
    }
    result = Run(forward, {**inputs, **leaves}).values[output]
    result.backward(inputs[seed])
    derived = Run(graph, inputs).values
    assert len(leaves) == (13 if variant["stacked_qkv"] else 17)
    for name, leaf in leaves.items():
        # A few hundred additions in float64, of numbers around 1.
        torch.testing.assert_close(derived[f"d_{name}"], leaf.grad, rtol=1e-11, atol=1e-11)


# --- contractions --------------------------------------------------------------------------------

#: The authors' einsum strings, by what they compute; an operand order of their own.
PAPER_EINSUMS = [
    "qphi,bji->qphbj",
    "phbk,phbj->hbjk",
    "phbk,hbjk->phbj",
    "phi,phbj->bji",
    "ui,bji->bju",
    "iu,bju->bji",
    "bji,iu->bju",
    "bji,bju->iu",
    "bju,ui->bji",
    "bju,bji->ui",
    "phi,bji->phbj",
    "phbj,bji->phi",
    "phbk,phbj->hbjk",
    "phbj,hbjk->phbk",
    "phbk,hbjk->phbj",
    "phbj,hbjk->phbk",
    "qphi,qphbj->bji",
    "bji,qphbj->qphi",
]


def canonical(einsum):
    left, _, right = einsum.partition("->")
    return ",".join(sorted(left.split(","))) + "->" + right


def test_contractions_are_the_paper_s_eighteen():
    graph = encoder_graph(*SMALL)
    found = [op.einsum for op in graph.ops() if op.einsum is not None]
    assert sorted(map(canonical, found)) == sorted(map(canonical, PAPER_EINSUMS))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("sizes", [(2, 16, 2, 8, 64), (3, 8, 4, 16, 32)])
def test_contractions_do_the_work_torch_counts(sizes, norm_first):
    b, length, heads, p, width = sizes
    layer = torch.nn.TransformerEncoderLayer(
        heads * p, heads, width, dropout=0.1, batch_first=True, norm_first=norm_first
    )
    x = torch.randn(b, length, heads * p, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    graph = encoder_graph(*sizes, norm_first=norm_first)
    ours = sum(graph.flop(op) for op in graph.ops() if op.einsum is not None)
    assert ours == counter.get_total_flops()


def test_torch_counts_the_paper_s_total_at_its_own_size():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():  # neither memory nor time
        layer = torch.nn.TransformerEncoderLayer(1024, 16, 4096, batch_first=True)
        x = torch.empty(8, 512, 1024, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
    assert counter.get_total_flops() == 335_007_449_088
    graph = encoder_graph(8, 512, 16, 64, 4096)
    assert sum(graph.flop(op) for op in graph.ops() if op.einsum) == 335_007_449_088


# --- rules and their limits ----------------------------------------------------------------------


def test_gradients_are_summed_only_where_several_meet():
    graph = encoder_graph(*SMALL)
    sums = [op for op in graph.ops("bwd") if op.kind == "residual"]
    assert [set(op.inputs) for op in sums] == [
        {"d_sum2", "d_y1.linear 1"},
        {"d_sum1", "d_x.qkv"},
    ]


def test_a_kind_without_a_rule_names_operator_and_rules():
    graph = DataflowGraph({"b": 2})
    graph.declare(Tensor("x", "b"))
    graph.declare(Tensor("y", "b"))
    graph.add(Op("odd", "sine", ("x",), ("y",), independent="b"))
    with pytest.raises(GraphError, match=r"'odd': no backward rule for 'sine'; have bias, contr"):
        derive_backward(graph, "y")


def test_a_contraction_of_a_tensor_with_itself_is_refused():
    line = Description(DataflowGraph({"b": 2, "i": 3}))
    line.tensor("x[bi]")
    line.contraction("square", "x, x -> y", "bi, bi -> b")
    with pytest.raises(GraphError, match="'square': a contraction to derive has two different"):
        derive_backward(line.graph, "y")


def test_what_does_not_reach_the_output_gets_no_gradient():
    line = Description(DataflowGraph({"b": 2, "i": 3, "u": 4}))
    line.tensor("x[bi]")
    line.tensor("w[iu], dead[iu]", "parameter")
    line.contraction("used", "w, x -> y", "iu, bi -> bu")
    line.contraction("unused", "dead, x -> z", "iu, bi -> bu")
    derive_backward(line.graph, "y")
    assert [op.name for op in line.graph.ops("bwd")] == ["used dX", "used dW"]
    assert line.graph.outputs == {"d_x.used", "d_w"}
