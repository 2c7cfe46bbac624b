"""Forward passes in a notation: what each operator reads and writes, and over which dimensions.

Letters: b batch, j query position, k key position, h head, p place in a head, i embedding,
u feed-forward, q the stack of query, key and value. A contraction is an einsum. Any other operator
names the dimensions of its tensors, "sum1[bji] -> y1[bji], mean1[bj]", and what it reduces.
"""

from __future__ import annotations

import re
from typing import Literal

from transformer_dm.backward import derive_backward
from transformer_dm.graph import DataflowGraph, GraphError, Op, Role, Tensor

__all__ = ["FLOP_PER_POINT", "Description", "attention_graph", "encoder_graph"]

Activation = Literal["relu", "gelu"]

#: Arithmetic per point of the loops, forward. A contraction multiplies and adds. Softmax: largest
#: value, difference, exponential, sum, quotient; comparing with the largest counts, as does every
#: special function, for 1. Layer normalisation: two sums, difference, square, product with rstd,
#: gamma and beta. GELU: scaling, error function, 1 +, half, product.
FLOP_PER_POINT = {
    "contraction": 2,
    "bias": 1,
    "scale": 1,
    "softmax": 5,
    "dropout": 1,
    "residual": 1,
    "layernorm": 7,
    "relu": 0,
    "gelu": 5,
}

_TERM = re.compile(r"\s*(\w+)\[(\w*)\]\s*")


def _terms(text: str, where: str) -> list[tuple[str, str]]:
    found = []
    for term in text.split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            raise GraphError(f"{where}: wanted name[dimensions], got '{term.strip()}'")
        found.append((match[1], match[2]))
    return found


class Description:
    """Builds a forward graph from lines of the notation."""

    def __init__(self, graph: DataflowGraph) -> None:
        self.graph = graph

    def tensor(self, term: str, role: Role = "activation", parts: tuple[str, ...] = ()) -> None:
        """Declare "name[dimensions]"."""
        for name, dims in _terms(term, "tensor"):
            self.graph.declare(Tensor(name, tuple(dims), role=role, parts=parts))

    def contraction(self, name: str, tensors: str, einsum: str) -> None:
        """Add ("qkv", "w_qkv, x -> qkv", "qphi, bji -> qphbj"); its result is declared by it."""
        left, _, right = (side.replace(" ", "") for side in tensors.partition("->"))
        einsum = einsum.replace(" ", "")
        letters, _, result = einsum.partition("->")
        self._declare(right, result)
        self.graph.add(
            Op(
                name,
                "contraction",
                left.split(","),
                (right,),
                independent=result,
                reduced=frozenset(letters) - {","} - frozenset(result),
                flop_per_point=FLOP_PER_POINT["contraction"],
                einsum=einsum,
            )
        )

    def op(self, kind: str, name: str, text: str, reduce: str = "") -> None:
        """Add ("layernorm", "ln", "s[bji], g[i] -> y[bji], mean[bj]", reduce="i").

        Its loops run over all dimensions of its tensors.
        """
        left, _, right = text.partition("->")
        reads, writes = _terms(left, f"operator '{name}'"), _terms(right, f"operator '{name}'")
        for number, (tensor, dims) in enumerate((*reads, *writes)):
            # A dropout writes what it kept and, last, which.
            is_mask = kind == "dropout" and number == len(reads) + 1
            self._declare(tensor, dims, "mask" if is_mask else "activation")
        space = frozenset(letter for _, dims in (*reads, *writes) for letter in dims)
        self.graph.add(
            Op(
                name,
                kind,
                tuple(tensor for tensor, _ in reads),
                tuple(tensor for tensor, _ in writes),
                independent=space - frozenset(reduce),
                reduced=reduce,
                flop_per_point=FLOP_PER_POINT[kind],
            )
        )

    def _declare(self, name: str, dims: str, role: Role = "activation") -> None:
        """Make it known, or check that it is known with these dimensions."""
        known = {tensor.name for tensor in self.graph.tensors()}
        if name not in known:
            self.graph.declare(Tensor(name, tuple(dims), role=role))
        elif "".join(self.graph.tensor(name).dims) != dims:
            have = "".join(self.graph.tensor(name).dims)
            raise GraphError(f"tensor '{name}' is declared twice, over {have} and {dims}")


def _start(sizes: dict[str, int]) -> Description:
    for letter, size in sizes.items():
        if size < 0:
            raise GraphError(f"size of dimension '{letter}' must be >= 0, got {size}")
    line = Description(DataflowGraph(sizes))
    line.tensor("x[bji]")
    return line


def _attention(line: Description, x: str, *, has_dropout: bool, stacked_qkv: bool) -> str:
    """Multi-head self-attention of x up to the output projection, without its bias."""
    if stacked_qkv:
        line.tensor("w_qkv[qphi], b_qkv[qph]", "parameter")
        line.tensor("query[phbj], key[phbj], value[phbj]")
        line.tensor("qkv_biased[qphbj]", parts=("query", "key", "value"))
        line.contraction("qkv", f"w_qkv, {x} -> qkv", "qphi, bji -> qphbj")
        line.op("bias", "input bias", "qkv[qphbj], b_qkv[qph] -> qkv_biased[qphbj]")
    else:
        for name in ("query", "key", "value"):
            line.tensor(f"w_{name}[phi], b_{name}[ph]", "parameter")
            line.contraction(name, f"w_{name}, {x} -> {name}_product", "phi, bji -> phbj")
            line.op("bias", f"{name} bias", f"{name}_product[phbj], b_{name}[ph] -> {name}[phbj]")
    line.contraction("qkt", "key, query -> scores", "phbk, phbj -> hbjk")
    line.op("scale", "scale", "scores[hbjk] -> scaled[hbjk]")
    line.op("softmax", "softmax", "scaled[hbjk] -> alpha[hbjk]", reduce="k")
    dropped = "alpha"
    if has_dropout:
        line.op("dropout", "attention dropout", "alpha[hbjk] -> alpha_kept[hbjk], mask_a[hbjk]")
        dropped = "alpha_kept"
    line.contraction("gamma", f"value, {dropped} -> heads", "phbk, hbjk -> phbj")
    line.tensor("w_out[phi]", "parameter")
    line.contraction("out", "w_out, heads -> out", "phi, phbj -> bji")
    return "out"


def _bias_dropout_residual(
    line: Description, site: str, x: str, residual: str, number: int, has_dropout: bool
) -> str:
    line.tensor(f"b_{x}[i]", "parameter")
    line.op("bias", f"{site} bias", f"{x}[bji], b_{x}[i] -> {x}_biased[bji]")
    last = f"{x}_biased"
    if has_dropout:
        line.op("dropout", f"{site} dropout", f"{last}[bji] -> {x}_kept[bji], mask_{number}[bji]")
        last = f"{x}_kept"
    total = f"sum{number}"
    line.op("residual", f"residual {number}", f"{last}[bji], {residual}[bji] -> {total}[bji]")
    return total


def _layernorm(line: Description, number: int, x: str) -> str:
    n = number
    line.tensor(f"gamma{n}[i], beta{n}[i]", "parameter")
    reads = f"{x}[bji], gamma{n}[i], beta{n}[i]"
    line.op(
        "layernorm", f"layernorm {n}", f"{reads} -> y{n}[bji], mean{n}[bj], rstd{n}[bj]", reduce="i"
    )
    return f"y{n}"


def _feed_forward(line: Description, x: str, activation: Activation, has_dropout: bool) -> str:
    """Two linear maps with an activation between them, without the last bias."""
    line.tensor("w_linear1[ui], b_linear1[u], w_linear2[iu]", "parameter")
    line.contraction("linear 1", f"w_linear1, {x} -> hidden", "ui, bji -> bju")
    line.op("bias", "linear 1 bias", "hidden[bju], b_linear1[u] -> hidden_biased[bju]")
    line.op(activation, activation, "hidden_biased[bju] -> active[bju]")
    last = "active"
    if has_dropout:
        line.op("dropout", "activation dropout", "active[bju] -> active_kept[bju], mask_f[bju]")
        last = "active_kept"
    line.contraction("linear 2", f"w_linear2, {last} -> linear2", "iu, bju -> bji")
    return "linear2"


def _finish(line: Description, output: str, training: bool) -> DataflowGraph:
    line.graph.outputs.add(output)
    if training:
        derive_backward(line.graph, output)
    line.graph.check()
    return line.graph


def attention_graph(
    B: int,
    L: int,
    H: int,
    P: int,
    *,
    training: bool = True,
    stacked_qkv: bool = True,
    dropout: bool = True,
) -> DataflowGraph:
    """Multi-head self-attention with its input and output projections and their biases.

    B sequences of L positions, H heads of size P. Dropout needs training.
    """
    line = _start({"b": B, "j": L, "k": L, "h": H, "p": P, "i": H * P, "q": 3})
    out = _attention(line, "x", has_dropout=dropout and training, stacked_qkv=stacked_qkv)
    line.tensor("b_out[i]", "parameter")
    line.op("bias", "out bias", f"{out}[bji], b_out[i] -> y[bji]")
    return _finish(line, "y", training)


def encoder_graph(
    B: int,
    L: int,
    H: int,
    P: int,
    U: int,
    *,
    activation: Activation = "relu",
    norm_first: bool = False,
    training: bool = True,
    stacked_qkv: bool = True,
    dropout: bool = True,
) -> DataflowGraph:
    """One encoder layer: forward, and backward if training.

    B sequences of L positions, H heads of size P, feed-forward width U. Every operator stands by
    itself, scale and dropout of the attention too; a convention says which of them count together.
    Dropout needs training. Raises GraphError for a negative size.
    """
    if activation not in ("relu", "gelu"):
        raise GraphError(f"activation must be 'relu' or 'gelu', got '{activation}'")
    has_dropout = dropout and training
    line = _start({"b": B, "j": L, "k": L, "h": H, "p": P, "i": H * P, "u": U, "q": 3})
    first = _layernorm(line, 1, "x") if norm_first else "x"
    out = _attention(line, first, has_dropout=has_dropout, stacked_qkv=stacked_qkv)
    middle = _bias_dropout_residual(line, "out", out, "x", 1, has_dropout)
    normed = _layernorm(line, 2 if norm_first else 1, middle)
    linear2 = _feed_forward(line, normed, activation, has_dropout)
    residual = middle if norm_first else normed
    last = _bias_dropout_residual(line, "linear 2", linear2, residual, 2, has_dropout)
    return _finish(line, last if norm_first else _layernorm(line, 2, last), training)
