"""The backward pass, derived from the forward graph by one rule per kind of operator.

Writing d_t for the gradient of tensor t:
    contraction a,b->c    d_a = d_c,b -> a and d_b = a,d_c -> b
    bias                  d_x is d_y; d_b sums d_y over the dimensions b has not
    dropout               d_x = d_y * mask / keep
    residual              the gradient of each summand is d_y itself
    scale                 d_x = d_y * scale
    softmax               d_x = y * (d_y - sum(y * d_y))
    layernorm             d_x = rstd * (g - mean(g) - xhat * mean(g * xhat)), g = d_y * gamma;
                          d_gamma = sum d_y * xhat, d_beta = sum d_y
    relu, gelu            d_x = d_y * derivative at the saved argument
An operator that sums gradients stands only where several of one tensor meet.
"""

from __future__ import annotations

from collections.abc import Callable

from transformer_dm.graph import DataflowGraph, GraphError, Op, Tensor

__all__ = ["FLOP_PER_POINT", "derive_backward"]

#: Arithmetic per point of the loops. Softmax: product, its sum, difference, product. Layer norm:
#: product with gamma, xhat (2), product with it, two sums, product and difference (2) and rstd;
#: its parameters: xhat (2, rstd included), two sums fused with their product. GELU: the forward
#: 4 up to its probability, 4 for the density, product, sum, product with d_y.
FLOP_PER_POINT = {
    "contraction": 2,
    "bias_gradient": 1,
    "dropout_backward": 1,
    "residual": 1,
    "scale_backward": 1,
    "softmax_backward": 4,
    "layernorm_parameters": 4,
    "layernorm_backward": 9,
    "relu_backward": 0,
    "gelu_backward": 11,
}


class _Backward:
    """The graph under construction, and the gradients that have reached each tensor."""

    def __init__(self, graph: DataflowGraph) -> None:
        self.graph = graph
        self.pending: dict[str, list[str]] = {}

    def name(self, op: Op, tensor: str) -> str:
        """d_t, or d_t.<op> where more gradients of t are to come."""
        uses = [c for c in self.graph.consumers(tensor) if c.stage == "fwd"]
        return f"d_{tensor}" if len(uses) <= 1 else f"d_{tensor}.{op.name}"

    def like(self, name: str, tensor: str) -> str:
        """Declare a gradient with the dimensions of a tensor."""
        self.graph.declare(Tensor(name, self.graph.tensor(tensor).dims))
        return name

    def collected(self, tensor: str) -> str | None:
        """The whole gradient of a tensor: summed where several met, None where none arrived."""
        whole = self.graph.tensor(tensor)
        if whole.parts:
            parts = [self.collected(part) for part in whole.parts]
            if None in parts:
                raise GraphError(f"tensor '{tensor}': no gradient reaches all of its parts")
            names = tuple(part for part in parts if part is not None)
            self.graph.declare(Tensor(f"d_{tensor}", whole.dims, parts=names))
            return f"d_{tensor}"
        arrived = self.pending.pop(tensor, [])
        if not arrived:
            return None
        total = arrived[0]
        for number, other in enumerate(arrived[1:], 2):
            is_last = number == len(arrived)
            name = f"d_{tensor}" if is_last else f"d_{tensor}.{number}"
            label = f"{tensor} fan-in" if len(arrived) == 2 else f"{tensor} fan-in {number - 1}"
            self.like(name, tensor)
            self.op("residual", label, (total, other), (name,), whole.dims)
            total = name
        self.pending[tensor] = [total]
        return total

    def arrive(self, tensor: str, gradient: str) -> None:
        self.pending.setdefault(tensor, []).append(gradient)

    def op(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        space: tuple[str, ...] | frozenset[str],
        reduced: tuple[str, ...] | frozenset[str] = (),
    ) -> None:
        self.graph.add(
            Op(
                name,
                kind,
                inputs,
                outputs,
                independent=frozenset(space) - frozenset(reduced),
                reduced=reduced,
                stage="bwd",
                flop_per_point=FLOP_PER_POINT[kind],
            )
        )


def derive_backward(graph: DataflowGraph, output: str) -> None:
    """Add the backward pass of a forward graph to it, from the gradient of one of its outputs.

    The gradient d_<output> becomes an input across a seam; gradients of parameters and of the
    inputs become outputs. Raises GraphError for a kind without a rule.
    """
    back = _Backward(graph)
    forward = graph.ops("fwd")
    inputs = [t.name for t in graph.tensors() if not t.parts and graph.producer(t.name) is None]
    back.arrive(output, back.like(f"d_{output}", output))
    graph.seams[f"d_{output}"] = output
    for op in reversed(forward):
        rule = _RULES.get(op.kind)
        if rule is None:
            have = ", ".join(sorted(_RULES))
            raise GraphError(f"operator '{op.name}': no backward rule for '{op.kind}'; have {have}")
        gradient = back.collected(op.outputs[0])
        if gradient is not None:
            rule(back, op, gradient)
    for name in inputs:
        gradient = back.collected(name)
        if gradient is not None:
            graph.outputs.add(gradient)


def _contraction(back: _Backward, op: Op, gradient: str) -> None:
    assert op.einsum is not None
    left, _, result = op.einsum.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or len(set(op.inputs)) != 2:
        raise GraphError(f"operator '{op.name}': a contraction to derive has two different inputs")
    is_weight = [back.graph.tensor(name).role == "parameter" for name in op.inputs]
    # Data before weights, as the rest of the backward pass waits for data only.
    for place in sorted((1, 0), key=lambda place: is_weight[place]):
        name, other = op.inputs[place], op.inputs[1 - place]
        own = back.name(op, name)
        back.like(own, name)
        einsum = f"{terms[1 - place]},{result}->{terms[place]}"
        back.graph.add(
            Op(
                f"{op.name} {_label(name, is_weight, place)}",
                "contraction",
                (other, gradient),
                (own,),
                independent=terms[place],
                reduced=frozenset(terms[1 - place] + result) - frozenset(terms[place]),
                stage="bwd",
                flop_per_point=FLOP_PER_POINT["contraction"],
                einsum=einsum,
            )
        )
        back.arrive(name, own)


def _label(name: str, is_weight: list[bool], place: int) -> str:
    """dW and dX where one operand is a weight, as tables call them; else by the operand."""
    if not any(is_weight):
        return f"d_{name}"
    return "dW" if is_weight[place] else "dX"


def _bias(back: _Backward, op: Op, gradient: str) -> None:
    x, bias = op.inputs
    own = back.like(f"d_{bias}", bias)
    kept = frozenset(back.graph.tensor(bias).dims)
    back.op("bias_gradient", f"{op.name} gradient", (gradient,), (own,), op.space, op.space - kept)
    back.arrive(bias, own)
    back.arrive(x, gradient)


def _residual(back: _Backward, op: Op, gradient: str) -> None:
    for name in op.inputs:
        back.arrive(name, gradient)


def _with_saved(kind: str, saved: Callable[[Op], tuple[str, ...]]) -> Callable[..., None]:
    """A rule of one operator: the gradient and some saved tensors in, the gradient out."""

    def rule(back: _Backward, op: Op, gradient: str) -> None:
        x = op.inputs[0]
        own = back.like(back.name(op, x), x)
        inputs = (gradient, *saved(op))
        back.op(kind, f"{op.name} dX", inputs, (own,), op.space, op.reduced)
        back.arrive(x, own)

    return rule


def _layernorm(back: _Backward, op: Op, gradient: str) -> None:
    x, gamma, beta = op.inputs
    _, mean, rstd = op.outputs
    own = (back.like(f"d_{gamma}", gamma), back.like(f"d_{beta}", beta))
    rows = op.space - op.reduced
    saved = (gradient, x, mean, rstd)
    back.op("layernorm_parameters", f"{op.name} dW", saved, own, op.space, rows)
    back.arrive(gamma, own[0])
    back.arrive(beta, own[1])
    d_x = back.like(back.name(op, x), x)
    inputs = (gradient, x, mean, rstd, gamma)
    back.op("layernorm_backward", f"{op.name} dX", inputs, (d_x,), op.space, op.reduced)
    back.arrive(x, d_x)


_RULES: dict[str, Callable[[_Backward, Op, str], None]] = {
    "contraction": _contraction,
    "bias": _bias,
    "residual": _residual,
    "layernorm": _layernorm,
    "dropout": _with_saved("dropout_backward", lambda op: op.outputs[1:]),
    "scale": _with_saved("scale_backward", lambda op: ()),
    "softmax": _with_saved("softmax_backward", lambda op: op.outputs[:1]),
    "relu": _with_saved("relu_backward", lambda op: op.inputs[:1]),
    "gelu": _with_saved("gelu_backward", lambda op: op.inputs[:1]),
}
