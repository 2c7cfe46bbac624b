"""What a node computes, on all nodes of a level at once, in torch.

States are tuples of tensors with a row a node. Products go through `matmul(x, weight, bias)`, so
that a peer chooses who multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cortex.peers.problem import Problem

States = tuple[Tensor, ...]
#: Multiplies rows by one weight and adds its bias: (n, k) -> (n, m).
Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor | None], Linear]


def plain_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """By stock torch; weight: (k, m)."""
    if bias is None:
        return lambda x: x @ weight
    return lambda x: torch.addmm(bias, x, weight)


def onednn_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """By oneDNN, the weight packed in the form it likes; torch's own operator for frozen models."""
    # Packed for many rows: at few rows the form is the same or makes no difference here.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), 64)
    run = torch.ops.mkldnn._linear_pointwise
    return lambda x: run(x, packed, bias, "none", [], "")


class Cell:
    """One model's leaf and node.

    has_input: whether inner nodes read a row of the table too
    """

    has_input = False

    def leaf(self, tokens: Tensor) -> States:
        """States of leaves, a row for each token."""
        raise NotImplementedError

    def node(self, tokens: Tensor | None, kids: States) -> States:
        """States of inner nodes from those of their children.

        kids: (arity, n, ...) each; for models that only add children up, their sum, (n, ...)
        """
        raise NotImplementedError


class TreeFC(Cell):
    """h = relu(W [h_l; h_r] + b)."""

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        self.table = weights["E"]
        self.linear = linear(weights["W"], weights["b"])

    def leaf(self, tokens: Tensor) -> States:
        return (self.table[tokens],)

    def node(self, tokens: Tensor | None, kids: States) -> States:
        (h,) = kids
        return (torch.relu(self.linear(torch.cat((h[0], h[1]), 1))),)


class TreeGRU(Cell):
    """r, z = sig(U s + x + b); h = z s + (1 - z) tanh(U_h (r s) + x_h + b_h)."""

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        hidden = weights["Uh"].shape[0]
        self.hidden = hidden
        self.table = weights["E"] + weights["b"]
        self.gates = linear(weights["Urz"], weights["b"][: 2 * hidden].clone())
        self.new = linear(weights["Uh"], weights["b"][2 * hidden :].clone())

    def leaf(self, tokens: Tensor) -> States:
        row = self.table[tokens]
        z = torch.sigmoid(row[:, self.hidden : 2 * self.hidden])
        g = torch.tanh(row[:, 2 * self.hidden :])
        return (torch.addcmul(g, z, g, value=-1),)

    def node(self, tokens: Tensor | None, kids: States) -> States:
        s = kids[0][0] + kids[0][1]
        r, z = torch.sigmoid(self.gates(s)).chunk(2, 1)
        g = torch.tanh(self.new(r * s))
        return (torch.lerp(g, s, z),)


class TreeLSTM(Cell):
    """i, o, u from the children's sum, a forget gate for each child; columns i, o, u, f."""

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        hidden = weights["Uf"].shape[0]
        self.hidden = hidden
        self.table = (weights["E"] + weights["b"])[:, : 3 * hidden].contiguous()
        self.iou = linear(weights["Uiou"], weights["b"][: 3 * hidden].clone())
        self.forget = linear(weights["Uf"], weights["b"][3 * hidden :].clone())

    def _states(self, iou: Tensor, kept: Tensor | None) -> States:
        io = torch.sigmoid(iou[:, : 2 * self.hidden])
        u = torch.tanh(iou[:, 2 * self.hidden :])
        i, o = io[:, : self.hidden], io[:, self.hidden :]
        c = i * u if kept is None else torch.addcmul(kept, i, u)
        return o * torch.tanh(c), c

    def leaf(self, tokens: Tensor) -> States:
        return self._states(self.table[tokens], None)

    def node(self, tokens: Tensor | None, kids: States) -> States:
        h, c = kids
        f = torch.sigmoid(self.forget(h.reshape(-1, self.hidden))).view(h.shape)
        kept = f[0] * c[0]
        kept = torch.addcmul(kept, f[1], c[1])
        return self._states(self.iou(h[0] + h[1]), kept)


class MVRNN(Cell):
    """p = tanh(W [B a; A b] + bias), P = W_M [A; B]. Holds matrices transposed.

    Then P' = [A' B'] W_M' is one product with as many rows as all matrices of a level have.
    """

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        self.vectors = weights["E"]
        self.matrices = weights["EM"].transpose(1, 2).contiguous()
        self.linear = linear(weights["W"].t().contiguous(), weights["b"])
        self.mix = linear(weights["WM"].t().contiguous(), None)

    def leaf(self, tokens: Tensor) -> States:
        return self.vectors[tokens], self.matrices[tokens]

    def node(self, tokens: Tensor | None, kids: States) -> States:
        vectors, matrices = kids
        _, n, size = vectors.shape
        # Row form of B a and A b: a' B' and b' A'.
        left = torch.bmm(vectors[0].unsqueeze(1), matrices[1]).squeeze(1)
        right = torch.bmm(vectors[1].unsqueeze(1), matrices[0]).squeeze(1)
        p = torch.tanh(self.linear(torch.cat((left, right), 1)))
        both = torch.cat((matrices[0], matrices[1]), 2).view(n * size, 2 * size)
        return p, self.mix(both).view(n, size, size)


class DAGRNN(Cell):
    """h = tanh(x + (sum of h) U + b)."""

    has_input = True

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        self.table = weights["E"] + weights["b"]
        self.linear = linear(weights["U"], None)

    def leaf(self, tokens: Tensor) -> States:
        return (torch.tanh(self.table[tokens]),)

    def node(self, tokens: Tensor | None, kids: States) -> States:
        assert tokens is not None
        return (torch.tanh(self.linear(kids[0]).add_(self.table[tokens])),)


class LSTM(Cell):
    """torch's gates: i, f, g, o."""

    has_input = True

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        self.table = weights["E"] + weights["b"]
        self.linear = linear(weights["U"], None)

    def leaf(self, tokens: Tensor) -> States:
        i, _, g, o = self.table[tokens].chunk(4, 1)
        c = torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def node(self, tokens: Tensor | None, kids: States) -> States:
        assert tokens is not None
        h, c = kids[0][0], kids[1][0]
        i, f, g, o = self.linear(h).add_(self.table[tokens]).chunk(4, 1)
        c = torch.addcmul(torch.sigmoid(f) * c, torch.sigmoid(i), torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(c), c


class GRU(Cell):
    """torch's gates: r, z, n; the hidden bias inside the reset product."""

    has_input = True

    def __init__(self, weights: dict[str, Tensor], linear: MakeLinear) -> None:
        self.hidden = weights["U"].shape[0]
        self.table = weights["E"] + weights["bx"]
        self.bias = weights["bh"]
        self.linear = linear(weights["U"], weights["bh"])

    def _state(self, x: Tensor, gates: Tensor, h: Tensor | None) -> States:
        two = 2 * self.hidden
        r, z = torch.sigmoid(x[:, :two] + gates[..., :two]).chunk(2, 1)
        n = torch.tanh(torch.addcmul(x[:, two:], r, gates[..., two:]))
        return (n - z * n if h is None else torch.lerp(n, h, z),)

    def leaf(self, tokens: Tensor) -> States:
        return self._state(self.table[tokens], self.bias, None)

    def node(self, tokens: Tensor | None, kids: States) -> States:
        assert tokens is not None
        h = kids[0][0]
        return self._state(self.table[tokens], self.linear(h), h)


_CELLS: dict[str, Any] = {
    "tree_fc": TreeFC,
    "tree_gru": TreeGRU,
    "tree_lstm": TreeLSTM,
    "mv_rnn": MVRNN,
    "dag_rnn": DAGRNN,
    "lstm": LSTM,
    "gru": GRU,
}


def make_cell(problem: Problem, linear: MakeLinear = plain_linear) -> Cell:
    """The cell of a problem's model, with its weights."""
    weights = {name: torch.from_numpy(value) for name, value in problem.weights.items()}
    cell: Cell = _CELLS[problem.model](weights, linear)
    return cell
