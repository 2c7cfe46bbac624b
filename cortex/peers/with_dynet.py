"""DyNet with automatic batching: one expression graph for the whole batch, one forward call.

dyNET38, the fork that installs today, is built for AVX2 and runs on one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from common.extras import require
from cortex.peers.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.float32]]

#: Megabytes of DyNet's pools to begin with; they grow as needed.
MEMORY_MB = 512
#: A node's states, and what makes them from its object and its children's.
States = tuple[Any, ...]
Step = Callable[[Any, list[States]], States]


@functools.cache
def load() -> Any:
    """The dynet module, automatic batching switched on; raises MissingExtra with the pip line.

    The switches are read when it is first imported, once in a process.
    """
    config = require("dynet_config", "cortex_peers", "the DyNet peer")
    config.set(mem=MEMORY_MB, autobatch=1, random_seed=1)
    module = require("dynet", "cortex_peers", "the DyNet peer")
    # Its library switches that on for the whole thread when it is loaded.
    torch.set_flush_denormal(False)
    return module


class DyNet:
    """Builds the graph node by node, as DyNet's users do, and reads the roots in one go."""

    def __init__(self, problem: Problem) -> None:
        self.dy = load()
        self._begin = _MODELS[problem.model]
        self._held = self.dy.ParameterCollection()
        weights = dict(problem.weights)
        if problem.model in ("tree_gru", "tree_lstm", "dag_rnn", "lstm"):
            weights["E"] = weights["E"] + weights["b"]  # what every leaf would add to its row
        if problem.model == "gru":
            weights["E"] = weights["E"] + weights["bx"]
        if problem.model == "tree_lstm":
            weights["E"] = weights["E"][:, : 3 * problem.hidden].copy()
        if "EM" in weights:  # lookup parameters read each matrix by columns
            weights["EM"] = weights["EM"].transpose(0, 2, 1).copy()
        # DyNet multiplies columns from the left; MV-RNN's weights stand that way already.
        as_it_is = ("E", "EM", *(("W", "WM") if problem.model == "mv_rnn" else ()))
        self._kept = {
            name: self._held.lookup_parameters_from_numpy(value)
            if name in ("E", "EM")
            else self._held.parameters_from_numpy(value if name in as_it_is else value.T.copy())
            for name, value in weights.items()
        }

    def __call__(self, roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        """First states of the roots, (roots, H)."""
        import numpy as np

        value = self.build(roots).npvalue()
        found: npt.NDArray[np.float32] = value.reshape(-1, len(roots), order="F").T
        return found.astype(np.float32)

    def build(self, roots: Sequence[Any]) -> Any:
        """The expression of the roots' states; nothing is computed yet."""
        dy = self.dy
        dy.renew_cg()
        step = self._begin(dy, self._kept)
        known: dict[int, States] = {}
        padding: list[Any] = []
        stack = list(roots)
        while stack:
            node = stack[-1]
            key = id(node)
            if key in known:
                stack.pop()
                continue
            kids = node.children
            missing = [kid for kid in kids if id(kid) not in known]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            known[key] = step(node, [known[id(kid)] for kid in kids])
        # Batching a graph of two or three nodes, a lone leaf's, writes past the end of memory.
        while len(known) == 1 and len(padding) < 4:
            padding.append(dy.scalarInput(0.0))
        return dy.concatenate_cols([known[id(root)][0] for root in roots])


def _tree_fc(dy: Any, kept: dict[str, Any]) -> Step:
    table, weight, bias = kept["E"], kept["W"], kept["b"]

    def step(node: Any, kids: list[States]) -> States:
        if not kids:
            return (dy.lookup(table, node.token, update=False),)
        both = dy.concatenate([kids[0][0], kids[1][0]])
        return (dy.rectify(dy.affine_transform([bias, weight, both])),)

    return step


def _tree_gru(dy: Any, kept: dict[str, Any]) -> Step:
    table, gates, new = kept["E"], kept["Urz"], kept["Uh"]
    hidden = new.shape()[0]
    both_bias, new_bias = (
        dy.pick_range(kept["b"], 0, 2 * hidden), dy.pick_range(kept["b"], 2 * hidden, 3 * hidden)
    )  # fmt: skip

    def step(node: Any, kids: list[States]) -> States:
        if not kids:
            row = dy.lookup(table, node.token, update=False)
            z = dy.logistic(dy.pick_range(row, hidden, 2 * hidden))
            g = dy.tanh(dy.pick_range(row, 2 * hidden, 3 * hidden))
            return (g - dy.cmult(z, g),)
        s = kids[0][0] + kids[1][0]
        rz = dy.logistic(dy.affine_transform([both_bias, gates, s]))
        r, z = dy.pick_range(rz, 0, hidden), dy.pick_range(rz, hidden, 2 * hidden)
        g = dy.tanh(dy.affine_transform([new_bias, new, dy.cmult(r, s)]))
        return (g + dy.cmult(z, s - g),)

    return step


def _tree_lstm(dy: Any, kept: dict[str, Any]) -> Step:
    table, iou_weight, forget_weight = kept["E"], kept["Uiou"], kept["Uf"]
    hidden = forget_weight.shape()[0]
    iou_bias = dy.pick_range(kept["b"], 0, 3 * hidden)
    forget_bias = dy.pick_range(kept["b"], 3 * hidden, 4 * hidden)

    def step(node: Any, kids: list[States]) -> States:
        if kids:
            (hl, cl), (hr, cr) = kids
            iou = dy.affine_transform([iou_bias, iou_weight, hl + hr])
            fl = dy.logistic(dy.affine_transform([forget_bias, forget_weight, hl]))
            fr = dy.logistic(dy.affine_transform([forget_bias, forget_weight, hr]))
        else:
            iou = dy.lookup(table, node.token, update=False)
        io = dy.logistic(dy.pick_range(iou, 0, 2 * hidden))
        u = dy.tanh(dy.pick_range(iou, 2 * hidden, 3 * hidden))
        c = dy.cmult(dy.pick_range(io, 0, hidden), u)
        if kids:
            c = c + dy.cmult(fl, cl) + dy.cmult(fr, cr)
        return dy.cmult(dy.pick_range(io, hidden, 2 * hidden), dy.tanh(c)), c

    return step


def _mv_rnn(dy: Any, kept: dict[str, Any]) -> Step:
    vectors, matrices = kept["E"], kept["EM"]
    weight, mix, bias = kept["W"], kept["WM"], kept["b"]

    def step(node: Any, kids: list[States]) -> States:
        if not kids:
            return (
                dy.lookup(vectors, node.token, update=False),
                dy.lookup(matrices, node.token, update=False),
            )
        (a, left), (b, right) = kids
        both = dy.concatenate([right * a, left * b])
        p = dy.tanh(dy.affine_transform([bias, weight, both]))
        return p, mix * dy.concatenate([left, right])

    return step


def _dag_rnn(dy: Any, kept: dict[str, Any]) -> Step:
    table, weight = kept["E"], kept["U"]

    def step(node: Any, kids: list[States]) -> States:
        x = dy.lookup(table, node.token, update=False)
        if kids:
            s = kids[0][0] if len(kids) == 1 else dy.esum([kid[0] for kid in kids])
            x = x + weight * s
        return (dy.tanh(x),)

    return step


def _lstm(dy: Any, kept: dict[str, Any]) -> Step:
    table, weight = kept["E"], kept["U"]
    hidden = weight.shape()[1]

    def step(node: Any, kids: list[States]) -> States:
        gates = dy.lookup(table, node.token, update=False)
        if kids:
            gates = gates + weight * kids[0][0]
        both = dy.logistic(dy.pick_range(gates, 0, 2 * hidden))
        g = dy.tanh(dy.pick_range(gates, 2 * hidden, 3 * hidden))
        o = dy.logistic(dy.pick_range(gates, 3 * hidden, 4 * hidden))
        c = dy.cmult(dy.pick_range(both, 0, hidden), g)
        if kids:
            c = c + dy.cmult(dy.pick_range(both, hidden, 2 * hidden), kids[0][1])
        return dy.cmult(o, dy.tanh(c)), c

    return step


def _gru(dy: Any, kept: dict[str, Any]) -> Step:
    table, weight, bias = kept["E"], kept["U"], kept["bh"]
    hidden = weight.shape()[1]
    two, all_ = 2 * hidden, 3 * hidden

    def step(node: Any, kids: list[States]) -> States:
        x = dy.lookup(table, node.token, update=False)
        y = dy.affine_transform([bias, weight, kids[0][0]]) if kids else bias
        rz = dy.logistic(dy.pick_range(x, 0, two) + dy.pick_range(y, 0, two))
        r, z = dy.pick_range(rz, 0, hidden), dy.pick_range(rz, hidden, two)
        n = dy.tanh(dy.pick_range(x, two, all_) + dy.cmult(r, dy.pick_range(y, two, all_)))
        return (n - dy.cmult(z, n) + dy.cmult(z, kids[0][0]) if kids else n - dy.cmult(z, n),)

    return step


_MODELS: dict[str, Callable[[Any, dict[str, Any]], Step]] = {
    "tree_fc": _tree_fc,
    "tree_gru": _tree_gru,
    "tree_lstm": _tree_lstm,
    "mv_rnn": _mv_rnn,
    "dag_rnn": _dag_rnn,
    "lstm": _lstm,
    "gru": _gru,
}
