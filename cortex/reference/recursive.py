"""A traced model evaluated node by node with NumPy, children first."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cortex import ra
from cortex.errors import TokenError
from cortex.forest import Forest

Array = npt.NDArray[Any]


def _sigmoid(x: Array) -> Array:
    # By the sign of x, so that exp never overflows.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


_UNARY: dict[str, Callable[[Array], Array]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "neg": np.negative,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def evaluate(
    model: ra.Model,
    forest: Forest,
    weights: Mapping[str, npt.ArrayLike],
    dtype: Literal["float64", "float32"] = "float64",
) -> dict[str, Array]:
    """The states of every node, (n_nodes, ...) each, in the order of the forest.

    Computed in `dtype` throughout. Iterative: a chain may be of any length.

    Raises StructureError and TokenError for a forest the model cannot read, KeyError for a
    weight that is missing.
    """
    kind = np.dtype(dtype)
    forest.validate(model.structure, feature_width=model.feature_width)
    _check_tokens(model, forest)
    params = {name: np.asarray(weights[name], kind) for name in model.params}
    states = {n: np.zeros((forest.n_nodes, *s), kind) for n, s in model.states.items()}
    bodies = {
        True: list(ra.walk(model.leaf.values())),
        False: list(ra.walk(model.node.values(), into_reduce=False)),
    }
    for node in children_first(forest):
        begin, end = int(forest.child_ptr[node]), int(forest.child_ptr[node + 1])
        children = forest.child_idx[begin:end]
        values = _Values(params, states, forest, node, children, kind)
        body = model.node if len(children) else model.leaf
        for expr in bodies[not len(children)]:
            values.compute(expr)
        for name, expr in body.items():
            states[name][node] = values.done[expr]
    return states


def _check_tokens(model: ra.Model, forest: Forest) -> None:
    if model.vocab is None:
        return
    leaf = np.diff(forest.child_ptr) == 0
    read = np.where(leaf, model.leaf_uses_token, model.node_uses_token)
    bad = np.flatnonzero(read & ((forest.token < 0) | (forest.token >= model.vocab)))
    if bad.size:
        node = int(bad[0])
        raise TokenError(
            f"tokens must lie in 0..{model.vocab - 1}, node {node} has {forest.token[node]}"
        )


def children_first(forest: Forest) -> list[int]:
    """All nodes, each after its children; a cycle's nodes never come."""
    n = forest.n_nodes
    waiting = np.diff(forest.child_ptr).tolist()
    parents: list[list[int]] = [[] for _ in range(n)]
    for node in range(n):
        for child in forest.child_idx[forest.child_ptr[node] : forest.child_ptr[node + 1]].tolist():
            parents[child].append(node)
    order = [node for node in range(n) if not waiting[node]]
    for node in order:
        for parent in parents[node]:
            waiting[parent] -= 1
            if not waiting[parent]:
                order.append(parent)
    return order


class _Values:
    """The values of one node, or of one child in the body of a Reduce."""

    def __init__(
        self,
        params: Mapping[str, Array],
        states: Mapping[str, Array],
        forest: Forest,
        node: int,
        children: npt.NDArray[np.int32],
        kind: "np.dtype[Any]",
        each: int | None = None,
    ) -> None:
        self.params, self.states, self.forest = params, states, forest
        self.node, self.children, self.kind, self.each = node, children, kind, each
        self.done: dict[ra.Expr, Array] = {}

    def compute(self, expr: ra.Expr) -> None:
        """The value of an expression whose operands are computed."""
        self.done[expr] = np.asarray(self._value(expr), self.kind)

    def _at(self, of: ra.Own | ra.Child | ra.Each) -> int:
        match of:
            case ra.Own():
                return self.node
            case ra.Child(position):
                return int(self.children[position])
            case ra.Each():
                assert self.each is not None, "Each() outside a Reduce"
                return self.each

    def _value(self, expr: ra.Expr) -> Array | float:
        done = self.done
        match expr:
            case ra.Param(name):
                return self.params[name]
            case ra.Lookup(param, of):
                return np.asarray(self.params[param.name][self.forest.token[self._at(of)]])
            case ra.Tabulated(name, of):
                return np.asarray(self.params[name][self.forest.token[self._at(of)]])
            case ra.Feature():
                assert self.forest.features is not None
                return np.asarray(self.forest.features[self.node])
            case ra.Number(value):
                return np.full(expr.shape, value, self.kind)
            case ra.ChildState(child, name):
                return np.asarray(self.states[name][self._at(child)])
            case ra.Reduce(op, body):
                return self._reduce(op, body)
            case ra.Unary(op, x):
                return _UNARY[op](done[x])
            case ra.Binary(op, x, y):
                return _BINARY[op](done[x], done[y])
            case ra.Product(x, y) | ra.Dot(x, y):
                return np.asarray(done[x] @ done[y])
            case ra.Concat(parts, axis):
                return np.concatenate([done[x] for x in parts], axis)
            case ra.Slice(x, begin, end, axis):
                return np.asarray(done[x][(slice(None),) * axis + (slice(begin, end),)])
            case ra.Transpose(x):
                return np.asarray(done[x].T)
            case ra.Where(_, a, b):
                return done[b] if len(self.children) else done[a]
            case ra.IsLeaf():
                return float(not len(self.children))
        raise AssertionError(type(expr))

    def _reduce(self, op: str, body: ra.Expr) -> Array:
        order = list(ra.walk([body], into_reduce=False))
        found: list[Array] = []
        for child in self.children.tolist():
            inner = _Values(
                self.params, self.states, self.forest, self.node, self.children, self.kind, child
            )
            for x in order:
                inner.compute(x)
            found.append(inner.done[body])
        if not found:
            return np.zeros(body.shape, self.kind)
        return np.asarray(np.sum(found, 0) if op == "sum" else np.max(found, 0))
