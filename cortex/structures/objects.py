"""Forests from linked Python objects, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cortex.errors import StructureError
from cortex.forest import Forest
from cortex.linearize import Tokens, walk_to_forest
from cortex.structures.arrays import from_children


class Node:
    """A node as users have them: a list of children, and a token or None."""

    def __init__(self, children: list[Node], token: int | None = None) -> None:
        self.children = children
        self.token = token


def from_objects(
    roots: object,
    children: str = "children",
    token: str | None = "token",
    features: str | None = None,
) -> Forest:
    """The forest below an object or a list of them.

    children, token, features: names of the fields (keys, if nodes are dicts); None: not read.
        A node without children has an empty list or None

    Nodes are numbered breadth first, one tree after another. Raises StructureError naming tree
    and path for a node that cannot be read.
    """
    listed = list(roots) if type(roots) in (list, tuple) else [roots]  # type: ignore[call-overload]  # a list, as was tested
    tokens: Tokens = "none" if token is None else "any"
    forest, nodes = walk_to_forest(listed, (children, token or ""), tokens)
    if features is None:
        return forest
    rows = [_field(node, features, i) for i, node in enumerate(nodes)]
    widths = {row.shape for row in rows}
    if len(widths) > 1 or any(len(shape) != 1 for shape in widths):
        raise StructureError(
            f"{features!r} must be a row of the same width at every node, "
            f"got shapes {sorted(widths)[:4]}"
        )
    table = np.stack(rows) if rows else np.empty((0, 0), np.float32)
    return Forest(forest.child_ptr, forest.child_idx, forest.roots, forest.token, table)


def _field(node: Any, name: str, index: int) -> Any:
    try:
        value = node[name] if type(node) is dict else getattr(node, name)
    except (AttributeError, KeyError):
        raise StructureError(f"node {index} has no {name!r}: every node needs features") from None
    return np.asarray(value, dtype=np.float32)


def to_objects(forest: Forest) -> list[Node]:
    """Fresh objects with .children and .token, one root a tree; nodes of equal number are one."""
    token, ptr = forest.token.tolist(), forest.child_ptr.tolist()
    nodes = [Node([], None if t < 0 else t) for t in token]
    idx = forest.child_idx.tolist()
    for n, node in enumerate(nodes):
        node.children = [nodes[c] for c in idx[ptr[n] : ptr[n + 1]]]
    return [nodes[r] for r in forest.roots.tolist()]


def from_nltk(
    trees: object,
    vocab: Mapping[str, int] | Callable[[str], int] | None = None,
    *,
    unary: str = "keep",
) -> Forest:
    """Trees of nltk, or any lists of lists with words as leaves.

    vocab: number of a word, for the tokens of leaves; without it words are numbered in the order
           they appear, and `names` of the forest has them
    unary: "collapse" leaves out nodes with one child, as above every word
    """
    roots: list[Any] = [trees] if hasattr(trees, "label") else list(trees)  # type: ignore[call-overload]  # iterable by contract
    rows: list[list[int]] = []
    leaves: list[Any] = []
    for root in roots:
        queue = [root]
        base = len(rows)
        while len(rows) - base < len(queue):
            node = queue[len(rows) - base]
            is_inner = isinstance(node, (list, tuple))
            first = base + len(queue)
            rows.append(list(range(first, first + len(node))) if is_inner else [])
            queue.extend(node if is_inner else ())
            leaves.append(None if is_inner else node)
    starts: list[int] = []
    at = 0
    for root in roots:
        starts.append(at)
        at += _size(root)
    tokens = number_words(leaves, vocab)
    names = tuple(
        node.label() if callable(getattr(node, "label", None)) else node
        for node in _breadth_first(roots)
    )
    forest = from_children(rows, starts, tokens, names=names)
    return collapsed(forest, unary)


def _breadth_first(roots: Iterable[Any]) -> Iterable[Any]:
    for root in roots:
        queue = [root]
        for node in queue:  # grows while it is read
            queue.extend(node if isinstance(node, (list, tuple)) else ())
        yield from queue


def _size(root: Any) -> int:
    return sum(1 for _ in _breadth_first([root]))


def number_words(
    words: list[Any], vocab: Mapping[str, int] | Callable[[str], int] | None
) -> list[int]:
    """Tokens of words, -1 for None; raises StructureError for a word that vocab does not know."""
    if vocab is None:
        seen: dict[Any, int] = {}
        return [-1 if w is None else seen.setdefault(w, len(seen)) for w in words]
    if callable(vocab):
        return [-1 if w is None else int(vocab(w)) for w in words]
    for word in words:
        if word is not None and word not in vocab:
            raise StructureError(
                f"vocab must have every word, {word!r} is not in it: "
                "give a function that has a number for unknown words"
            )
    return [-1 if w is None else int(vocab[w]) for w in words]


def collapsed(forest: Forest, unary: str) -> Forest:
    """The forest with its unary nodes kept or collapsed."""
    from cortex.structures.arrays import collapse_unary

    if unary not in ("keep", "collapse"):
        raise ValueError(f'unary must be "keep" or "collapse", got {unary!r}')
    return collapse_unary(forest) if unary == "collapse" else forest
