"""Plain recursion: torch's operators on one row at a time, as models are first written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cortex.peers.cells import States
from cortex.peers.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Visit = Callable[[Any], States]


class Eager:
    """Calls itself for every node. Sequences are a loop, as anyone would write one."""

    def __init__(self, problem: Problem) -> None:
        weights = {name: torch.from_numpy(value) for name, value in problem.weights.items()}
        self.visit = _VISITS[problem.model](weights)

    @torch.inference_mode()
    def __call__(self, roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        """First states of the roots, (roots, H)."""
        found: npt.NDArray[np.float32] = torch.cat([self.visit(root)[0] for root in roots]).numpy()
        return found


def _tree_fc(weights: dict[str, Tensor]) -> Visit:
    table, weight, bias = weights["E"], weights["W"], weights["b"]

    def visit(node: Any) -> States:
        if not node.children:
            return (table[node.token : node.token + 1],)
        left, right = node.children
        both = torch.cat((visit(left)[0], visit(right)[0]), 1)
        return (torch.addmm(bias, both, weight).relu_(),)

    return visit


def _tree_gru(weights: dict[str, Tensor]) -> Visit:
    hidden = weights["Uh"].shape[0]
    table, gates, new = weights["E"] + weights["b"], weights["Urz"], weights["Uh"]
    gate_bias, new_bias = weights["b"][: 2 * hidden], weights["b"][2 * hidden :]

    def visit(node: Any) -> States:
        if not node.children:
            row = table[node.token : node.token + 1]
            z = torch.sigmoid(row[:, hidden : 2 * hidden])
            g = torch.tanh(row[:, 2 * hidden :])
            return (g - z * g,)
        left, right = node.children
        s = visit(left)[0] + visit(right)[0]
        r, z = torch.addmm(gate_bias, s, gates).sigmoid_().chunk(2, 1)
        g = torch.addmm(new_bias, r * s, new).tanh_()
        return (torch.lerp(g, s, z),)

    return visit


def _tree_lstm(weights: dict[str, Tensor]) -> Visit:
    hidden = weights["Uf"].shape[0]
    table = (weights["E"] + weights["b"])[:, : 3 * hidden].contiguous()
    iou, forget = weights["Uiou"], weights["Uf"]
    iou_bias, forget_bias = weights["b"][: 3 * hidden], weights["b"][3 * hidden :]

    def visit(node: Any) -> States:
        if not node.children:
            i, o, u = table[node.token : node.token + 1].chunk(3, 1)
            c = torch.sigmoid(i) * torch.tanh(u)
            return torch.sigmoid(o) * torch.tanh(c), c
        left, right = node.children
        hl, cl = visit(left)
        hr, cr = visit(right)
        f = torch.addmm(forget_bias, torch.cat((hl, hr)), forget).sigmoid_()
        i, o, u = torch.addmm(iou_bias, hl + hr, iou).chunk(3, 1)
        c = torch.sigmoid(i) * torch.tanh(u) + f[:1] * cl + f[1:] * cr
        return torch.sigmoid(o) * torch.tanh(c), c

    return visit


def _mv_rnn(weights: dict[str, Tensor]) -> Visit:
    vectors, matrices = weights["E"], weights["EM"]
    weight, bias, mix = weights["W"].t().contiguous(), weights["b"], weights["WM"]

    def visit(node: Any) -> States:
        if not node.children:
            return vectors[node.token : node.token + 1], matrices[node.token]
        left, right = node.children
        a, left_matrix = visit(left)
        b, right_matrix = visit(right)
        both = torch.cat((a @ right_matrix.t(), b @ left_matrix.t()), 1)
        p = torch.addmm(bias, both, weight).tanh_()
        return p, mix @ torch.cat((left_matrix, right_matrix))

    return visit


def _dag_rnn(weights: dict[str, Tensor]) -> Visit:
    table, weight = weights["E"] + weights["b"], weights["U"]

    def visit(root: Any) -> States:
        known: dict[int, Tensor] = {}

        def state(node: Any) -> Tensor:
            if id(node) in known:
                return known[id(node)]
            x = table[node.token : node.token + 1]
            if node.children:
                first, *rest = node.children
                s = state(first)
                for child in rest:
                    s = s + state(child)
                x = torch.addmm(x, s, weight)
            found = known[id(node)] = torch.tanh(x)
            return found

        return (state(root),)

    return visit


def _steps(node: Any) -> list[int]:
    tokens = [node.token]
    while node.children:
        node = node.children[0]
        tokens.append(node.token)
    tokens.reverse()
    return tokens


def _lstm(weights: dict[str, Tensor]) -> Visit:
    table, weight = weights["E"] + weights["b"], weights["U"]
    hidden = weight.shape[0]

    def visit(node: Any) -> States:
        h = c = torch.zeros(1, hidden)
        for token in _steps(node):
            i, f, g, o = torch.addmm(table[token : token + 1], h, weight).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h, c

    return visit


def _gru(weights: dict[str, Tensor]) -> Visit:
    table, weight, bias = weights["E"] + weights["bx"], weights["U"], weights["bh"]
    hidden = weight.shape[0]

    def visit(node: Any) -> States:
        h = torch.zeros(1, hidden)
        for token in _steps(node):
            x = table[token : token + 1]
            gates = torch.addmm(bias, h, weight)
            r, z = torch.sigmoid(x[:, : 2 * hidden] + gates[:, : 2 * hidden]).chunk(2, 1)
            n = torch.tanh(x[:, 2 * hidden :] + r * gates[:, 2 * hidden :])
            h = torch.lerp(n, h, z)
        return (h,)

    return visit


_VISITS: dict[str, Callable[[dict[str, Tensor]], Visit]] = {
    "tree_fc": _tree_fc,
    "tree_gru": _tree_gru,
    "tree_lstm": _tree_lstm,
    "mv_rnn": _mv_rnn,
    "dag_rnn": _dag_rnn,
    "lstm": _lstm,
    "gru": _gru,
}
