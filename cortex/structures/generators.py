"""Structures for tests and measurements, from a seed."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from cortex.forest import Forest
from cortex.structures.arrays import from_children, from_parents


def perfect(levels: int = 8, batch: int = 1, vocab: int = 1000, seed: int = 0) -> Forest:
    """Perfect binary trees with 2**(levels - 1) leaves; leaves have random tokens.

    levels: counts the leaves' level; 8 is the paper's tree of height 7, 128 leaves
    """
    _at_least("levels", levels, 1)
    _at_least("batch", batch, 0)
    n = 2**levels - 1
    parent = (np.arange(n) - 1) // 2
    token = np.full((batch, n), -1)
    n_leaves = 2 ** (levels - 1)
    token[:, n - n_leaves :] = _rng(seed).integers(vocab, size=(batch, n_leaves))
    if batch == 0:
        return from_children([], [])
    return from_parents(np.tile(parent, batch), np.arange(batch + 1) * n, token.reshape(-1))


def grid(
    rows: int,
    cols: int,
    preds: Iterable[str] = ("N", "W"),
    batch: int = 1,
    features: npt.ArrayLike | None = None,
) -> Forest:
    """Pixel grids as DAGs: node (i, j) is i * cols + j, its children the pixels it is reached from.

    preds:    of "N", "S", "W", "E" and "NW", "NE", "SW", "SE": where a node's children lie. They
              must not lead in a circle. The root is the corner everything leads to
    features: (batch * rows * cols, width) float32
    """
    _at_least("rows", rows, 1)
    _at_least("cols", cols, 1)
    wanted = tuple(preds)
    steps = []
    for pred in wanted:
        if pred not in _STEPS:
            raise ValueError(f"preds must be of {', '.join(_STEPS)}, got {pred!r}")
        steps.append(_STEPS[pred])
    down, across = (_side(steps, axis) for axis in (0, 1))
    i, j = np.divmod(np.arange(rows * cols), cols)
    children = []
    for di, dj in steps:
        to_i, to_j = i + di, j + dj
        is_inside = (to_i >= 0) & (to_i < rows) & (to_j >= 0) & (to_j < cols)
        children.append(np.where(is_inside, to_i * cols + to_j, -1))
    table = np.stack(children, axis=1) if children else np.empty((rows * cols, 0), np.int64)
    n = rows * cols
    root = (rows - 1 if down <= 0 else 0) * cols + (cols - 1 if across <= 0 else 0)
    one = table[table >= 0]
    counts = (table >= 0).sum(axis=1)
    shift = np.repeat(np.arange(batch) * n, len(one))
    child_ptr = np.concatenate([[0], np.cumsum(np.tile(counts, batch))])
    return Forest(
        child_ptr,
        np.tile(one, batch) + shift,
        np.arange(batch) * n + root,
        np.full(n * batch, -1),
        None if features is None else np.asarray(features, dtype=np.float32),
    )


_STEPS = {
    "N": (-1, 0),
    "S": (1, 0),
    "W": (0, -1),
    "E": (0, 1),
    "NW": (-1, -1),
    "NE": (-1, 1),
    "SW": (1, -1),
    "SE": (1, 1),
}


def _side(steps: list[tuple[int, int]], axis: int) -> int:
    """-1, 0 or 1: where along an axis children lie, if they agree; the row decides first."""
    along = {step[axis] for step in steps if axis == 0 or step[0] == 0}
    if {-1, 1} <= along:
        raise ValueError("preds must not lead in a circle, got opposite directions")
    if not along - {0}:
        return sum(step[axis] for step in steps) if axis else 0
    return 1 if 1 in along else -1


def random_tree(n: int, seed: int = 0, arity: int | None = 2, vocab: int = 1000) -> Forest:
    """One random tree; every node has a random token.

    n:     nodes. With a fixed arity the tree has the largest number not above n that is possible,
           every inner node exactly arity children
    arity: None hangs every node below a random earlier one
    """
    _at_least("n", n, 1)
    rng = _rng(seed)
    if arity is None:
        parent = np.array([-1, *(int(rng.integers(i)) for i in range(1, n))])
        return from_parents(parent, token=rng.integers(vocab, size=n))
    n_inner = (n - 1) // arity
    open_leaves = [0]
    parent = np.full(n_inner * arity + 1, -1)
    for i in range(n_inner):
        at = int(rng.integers(len(open_leaves)))
        open_leaves[at], open_leaves[-1] = open_leaves[-1], open_leaves[at]
        first = 1 + i * arity
        parent[first : first + arity] = open_leaves.pop()
        open_leaves += range(first, first + arity)
    return from_parents(parent, token=rng.integers(vocab, size=len(parent)))


#: Stanford Sentiment Treebank as section 5 of our notes has it: binary, mean 38 nodes and at most
#: 97, mean 11 and at most 28 levels; 56% of inner nodes have one leaf child, 25% two.
_SST_MOST_LEAVES, _SST_MOST_LEVELS, _SST_SPINE = 49, 28, 0.69


def sst_like(n_trees: int, seed: int = 0, vocab: int = 21_000) -> Forest:
    """Binary trees with the statistics of the Stanford Sentiment Treebank.

    Leaves have tokens, frequent ones low (Zipf's law); inner nodes have none.
    """
    _at_least("n_trees", n_trees, 0)
    rng = _rng(seed)
    parents: list[int] = []
    tree_ptr = [0]
    is_leaf: list[bool] = []
    for _ in range(n_trees):
        while True:
            tree, leaf, levels = _sst_tree(rng)
            if levels <= _SST_MOST_LEVELS:
                break
        parents += tree
        is_leaf += leaf
        tree_ptr.append(len(parents))
    token = np.full(len(parents), -1)
    where = np.flatnonzero(is_leaf)
    token[where] = np.searchsorted(_zipf(vocab), rng.random(len(where)), side="right")
    token = np.minimum(token, vocab - 1)
    if not n_trees:
        return from_children([], [])
    return from_parents(parents, tree_ptr, token)


@functools.lru_cache(maxsize=8)
def _zipf(vocab: int) -> npt.NDArray[np.float64]:
    _at_least("vocab", vocab, 1)
    weight = 1 / (np.arange(vocab) + 2.7)  # Mandelbrot's offset for English
    total: npt.NDArray[np.float64] = np.cumsum(weight / weight.sum())
    return total


def _sst_tree(rng: np.random.Generator) -> tuple[list[int], list[bool], int]:
    n_leaves = int(np.clip(round(rng.gamma(4.4, 19.5 / 4.4)), 2, _SST_MOST_LEAVES))
    parents, is_leaf, levels = [-1], [n_leaves == 1], 1
    stack = [(0, n_leaves, 1)]  # node, leaves below it, its level from the root
    while stack:
        node, below, level = stack.pop()
        levels = max(levels, level)
        if below == 1:
            continue
        left = _sst_split(rng, below)
        for part in (left, below - left):
            parents.append(node)
            is_leaf.append(part == 1)
            stack.append((len(parents) - 1, part, level + 1))
    return parents, is_leaf, levels


def _sst_split(rng: np.random.Generator, below: int) -> int:
    """Leaves of the left child: one word and the rest, or a cut in the middle half."""
    if below < 4 or rng.random() < _SST_SPINE:
        return 1 if rng.random() < 0.7 else below - 1
    least = max(2, below // 4)
    return int(rng.integers(least, below - least + 1))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
