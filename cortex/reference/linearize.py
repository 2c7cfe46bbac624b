"""Walking and numbering in plain Python; what linearize.cpp does, without its speed."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from cortex.forest import Forest, Structure
from cortex.linearize import Linear, Tokens
from cortex.problems import WRONG, refuse_object


def walk(
    roots: list[Any], attributes: tuple[str, str], tokens: Tokens = "any"
) -> tuple[Forest, list[Any]]:
    """The forest below these objects and its nodes, breadth first, one tree after another."""
    nodes: list[Any] = []
    ids: dict[int, int] = {}  # nodes holds every object, so addresses stay taken
    ptr = [0]
    idx: list[int] = []
    first: list[int] = []
    token: list[int] = []

    def add(node: Any) -> int:
        if id(node) not in ids:
            ids[id(node)] = len(nodes)
            nodes.append(node)
        return ids[id(node)]

    def stop(what: str, position: int, detail: object) -> None:
        found = Forest(ptr, idx[: ptr[-1]], first, token)
        refuse_object(WRONG[what], len(token), position, detail, found, attributes)

    for r, root in enumerate(roots):
        if root is None:
            stop("none root", r, None)
        first.append(add(root))
        while len(token) < len(nodes):
            node = nodes[len(token)]
            children = _field(node, attributes[0])
            if children is _MISSING:
                stop("children", len(token), type(node))
            if children is None:
                children = ()
            if isinstance(children, (str, bytes, dict)):
                stop("children", len(token), children)
            try:
                children = list(children)
            except TypeError:
                stop("children", len(token), children)
            for j, child in enumerate(children):
                if child is None:
                    stop("none child", j, None)
                idx.append(add(child))
            is_read = tokens != "none" and not (tokens == "leaf" and children)
            value = _field(node, attributes[1]) if is_read else None
            number = -1
            if value is not None and value is not _MISSING:
                try:
                    number = operator.index(value)
                except TypeError:
                    stop("token", 0, value)
                if not 0 <= number <= np.iinfo(np.int32).max:
                    stop("token range", 0, value)
            token.append(number)
            ptr.append(len(idx))
    return Forest(ptr, idx, first, token), nodes


_MISSING = object()


def _field(node: Any, name: str) -> Any:
    return node.get(name, _MISSING) if type(node) is dict else getattr(node, name, _MISSING)


def linearize(
    forest: Forest,
    structure: Structure,
    *,
    kinds: bool = False,
    dedup: bool = False,
    tokens: Tokens = "any",
) -> Linear:
    """Number a forest that has been checked."""
    n, arity = forest.n_nodes, structure.max_children
    children = [forest.children(node) for node in range(n)]
    height = _heights(children)

    def kind(node: int) -> int:
        return sum((height[c] == 0) << j for j, c in enumerate(children[node])) if kinds else 0

    key = [(height[node], kind(node)) for node in range(n)]
    order = sorted(range(n), key=key.__getitem__)
    same = list(range(n))
    if dedup:
        first: dict[object, int] = {}
        for node in order:
            is_read = tokens in ("all", "any") or (tokens == "leaf" and not children[node])
            row = b"" if forest.features is None else forest.features[node].tobytes()
            value = int(forest.token[node]) if is_read else None
            what = (value, row, tuple(same[c] for c in children[node]))
            same[node] = first.setdefault(what, node)
        order = [node for node in order if same[node] == node]
    new = {node: i for i, node in enumerate(order)}
    n_levels = max(height, default=-1) + 1
    kept = [key[node] for node in order]
    n_leaves = sum(h == 0 for h, _ in kept)
    inner = [[new[same[c]] for c in children[node]] for node in order[n_leaves:]]

    def count_below(bound: tuple[int, int]) -> int:
        return sum(k < bound for k in kept)

    heights = np.array([h for h, _ in kept], dtype=np.int32)
    kind_ptr = None
    if kinds and arity is not None:
        rows = [[count_below((b, k)) for k in range(2**arity + 1)] for b in range(n_levels)]
        kind_ptr = np.array(rows, dtype=np.int32).reshape(n_levels, 2**arity + 1)
    child = child_ptr = child_at = None
    if arity is not None:
        child = np.array(inner, dtype=np.int32).reshape(len(inner), arity).T.copy()
    else:
        child_ptr = np.cumsum([0, *map(len, inner)]).astype(np.int32)
        child_at = np.array([c for cs in inner for c in cs], dtype=np.int32)
    ids = np.array(order, dtype=np.int32)
    return Linear(
        len(order),
        n_leaves,
        n_levels,
        ids,
        np.array([new[same[node]] for node in range(n)], dtype=np.int32),
        np.searchsorted(heights, np.arange(n_levels + 1)).astype(np.int32),
        kind_ptr,
        child,
        child_ptr,
        child_at,
        forest.token[ids],
        np.array([new[same[r]] for r in forest.roots.tolist()], dtype=np.int32),
        None if forest.features is None else forest.features[ids],
    )


def _heights(children: list[list[int]]) -> list[int]:
    """Leaf 0, others one more than their tallest child; without recursion."""
    height = [-1] * len(children)
    for start in range(len(children)):
        stack = [start]
        while stack:
            node = stack[-1]
            waiting = [c for c in children[node] if height[c] < 0]
            if waiting:
                stack += waiting
            else:
                height[node] = max((height[c] + 1 for c in children[node]), default=0)
                stack.pop()
    return height
