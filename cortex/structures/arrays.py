"""Forests from parent arrays, child lists and sequences, and forests from forests."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as List
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from cortex.errors import StructureError
from cortex.forest import Forest, IntArray
from cortex.linearize import forest_of, native_functions


def from_parents(
    parent: npt.ArrayLike,
    tree_ptr: npt.ArrayLike | None = None,
    token: npt.ArrayLike | None = None,
    features: npt.ArrayLike | None = None,
) -> Forest:
    """Trees given by each node's parent, -1 at the root; children keep the order of their numbers.

    parent:   (n,) integers; with tree_ptr they count from the tree's own first node
    tree_ptr: (n_trees + 1,); tree t is the nodes tree_ptr[t] .. tree_ptr[t + 1] - 1. Without it
              all nodes are one tree

    Raises StructureError naming the index for a second root, none, a parent out of range or a
    node that is its own parent. Longer cycles are found when the forest is numbered.
    """
    native = native_functions()
    if native is not None:
        packed = native.parents(_plain(parent), _plain(tree_ptr), _plain(token))
        if packed is not None:
            return _with_features(forest_of(packed), features)
    parents = _integers(parent, "parent")
    n = len(parents)
    bounds = _integers([0, n] if tree_ptr is None else tree_ptr, "tree_ptr")
    if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != n or (np.diff(bounds) < 1).any():
        if tree_ptr is not None or n:
            raise StructureError(
                f"tree_ptr must rise from 0 to the {n} nodes of parent, with at least one node a "
                f"tree, got {bounds.tolist()}"
            )
        bounds = np.zeros(1, np.int64)
    sizes = np.diff(bounds)
    first = np.repeat(bounds[:-1], sizes)
    outside = np.flatnonzero((parents < -1) | (parents >= np.repeat(sizes, sizes)))
    if len(outside):
        node = int(outside[0])
        raise StructureError(
            f"parent must hold -1 or a node of the same tree, got {parents[node]} at index {node}"
        )
    parents = np.where(parents < 0, -1, parents + first)
    own = np.flatnonzero(parents == np.arange(n))
    if len(own):
        raise StructureError(f"a node must not be its own parent, got that at index {own[0]}")
    roots = np.flatnonzero(parents < 0)
    tree_of = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(tree_of[roots], minlength=len(sizes))
    if (counts != 1).any():
        tree = int(np.flatnonzero(counts != 1)[0])
        found = roots[tree_of[roots] == tree].tolist()
        where = f"at indices {found[:8]}" if found else "but every node has a parent"
        raise StructureError(
            f"tree {tree} must have one root (parent -1), got {counts[tree]} {where}"
        )
    inner = np.flatnonzero(parents >= 0)
    child_ptr = np.concatenate([[0], np.cumsum(np.bincount(parents[inner], minlength=n))])
    child_idx = inner[np.argsort(parents[inner], kind="stable")]
    return Forest(child_ptr, child_idx, roots, _tokens(token, n), _features(features))


def from_children(
    children: Iterable[Iterable[int]],
    roots: npt.ArrayLike,
    token: npt.ArrayLike | None = None,
    features: npt.ArrayLike | None = None,
    names: tuple[object, ...] | None = None,
) -> Forest:
    """A forest from a list of children for each node."""
    rows = [list(row) for row in children]
    child_ptr = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    child_idx = [child for row in rows for child in row]
    return Forest(
        child_ptr, child_idx, roots, _tokens(token, len(rows)), _features(features), names
    )


def sequence(
    lengths: int | Iterable[int],
    token: npt.ArrayLike | None = None,
    features: npt.ArrayLike | None = None,
) -> Forest:
    """Sequences of these lengths; child 0 of an element is the one before, roots are the last.

    token, features: of all sequences, one after another

    Raises StructureError for an empty sequence.
    """
    listed = [lengths] if isinstance(lengths, int) else lengths
    sizes = _integers(listed if isinstance(listed, np.ndarray) else list(listed), "lengths")
    native = native_functions()
    if native is not None:
        packed = native.chains(sizes, _plain(token))
        if packed is not None:
            return _with_features(forest_of(packed), features)
    if (sizes < 1).any():
        raise StructureError(
            "a sequence must have at least one element, "
            f"got {sizes[sizes < 1][0]} for sequence {np.flatnonzero(sizes < 1)[0]}"
        )
    n = int(sizes.sum())
    is_first = np.zeros(n, bool)
    is_first[np.cumsum(sizes) - sizes] = True
    child_ptr = np.concatenate([[0], np.cumsum(~is_first)])
    child_idx = np.flatnonzero(~is_first) - 1
    return Forest(
        child_ptr, child_idx, np.cumsum(sizes) - 1, _tokens(token, n), _features(features)
    )


def sequences(data: object) -> Forest:
    """Sequences from their elements: tokens as integers, or rows of features.

    data: one sequence, (length,) integers or (length, width) floats, or a list of them
    """
    items = list(data) if isinstance(data, (list, tuple)) else [data]
    if items and all(np.ndim(item) == 0 for item in items):  # type: ignore[arg-type]  # any object has a rank
        items = [items]
    if not items:
        return sequence([])
    rows = [np.asarray(item) for item in items]
    kinds = {
        (row.ndim, "i" if row.dtype.kind in "iu" else row.dtype.kind) for row in rows if len(row)
    }
    if any(row.ndim != 1 or len(row) for row in rows) and kinds <= {(1, "i")}:
        return sequence(map(len, rows), np.concatenate(rows))
    if kinds == {(2, "f")} and len({row.shape[1] for row in rows}) == 1:
        features = np.concatenate(rows).astype(np.float32, copy=False)
        return sequence(map(len, rows), features=features)
    if not kinds:
        return sequence(map(len, rows))
    raise StructureError(
        "sequences must be integers (length,) or floats (length, width), all of one kind, got "
        + ", ".join(sorted({f"{row.dtype} {row.shape}" for row in rows})[:4])
    )


def collapse_unary(forest: Forest) -> Forest:
    """Leave out nodes with a single child; their parents take the child instead.

    A node that goes loses its token and features. Raises StructureError for a cycle of such nodes.
    """
    counts = np.diff(forest.child_ptr)
    target = np.arange(forest.n_nodes)
    unary = np.flatnonzero(counts == 1)
    target[unary] = forest.child_idx[forest.child_ptr[unary]]
    for _ in range(max(1, forest.n_nodes).bit_length() + 1):  # pointer jumping doubles each time
        further = target[target]
        if (further == target).all():
            break
        target = further
    if (counts[target] == 1).any():
        node = int(np.flatnonzero(counts[target] == 1)[0])
        raise StructureError(
            f"nodes with a single child must not form a cycle, as node {node} does"
        )
    kept = np.flatnonzero(counts != 1)
    new = np.full(forest.n_nodes, -1)
    new[kept] = np.arange(len(kept))
    is_kept_edge = np.repeat(counts != 1, counts)
    return Forest(
        np.concatenate([[0], np.cumsum(counts[kept])]),
        new[target[forest.child_idx[is_kept_edge]]],
        new[target[forest.roots]],
        forest.token[kept],
        None if forest.features is None else forest.features[kept],
        None if forest.names is None else tuple(forest.names[i] for i in kept.tolist()),
    )


def concatenate(forests: List[Forest]) -> Forest:
    """One batch of several."""
    if not forests:
        return sequence([])
    with_features = [f.features is not None for f in forests]
    if any(with_features) and not all(with_features):
        raise StructureError("forests of one batch must all have features, or none of them")
    nodes = np.cumsum([0, *(f.n_nodes for f in forests)])
    edges = np.cumsum([0, *(len(f.child_idx) for f in forests)])
    named = all(f.names is not None for f in forests)

    def shifted(arrays: list[IntArray], by: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        moved = [a.astype(np.int64) + s for a, s in zip(arrays, by.tolist(), strict=False)]
        return np.concatenate(moved)

    return Forest(
        np.concatenate([[0], shifted([f.child_ptr[1:] for f in forests], edges)]),
        shifted([f.child_idx for f in forests], nodes),
        shifted([f.roots for f in forests], nodes),
        np.concatenate([f.token for f in forests]),
        np.concatenate([f.features for f in forests if f.features is not None])
        if all(with_features)
        else None,
        tuple(name for f in forests for name in f.names or ()) if named else None,
    )


def _plain(values: npt.ArrayLike | None) -> npt.NDArray[Any] | None:
    """For native code, which reads integers of 32 and 64 bits."""
    return None if values is None else np.asarray(values)


def _integers(values: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64).reshape(-1)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise StructureError(
            f"{name} must be integers of one dimension, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def _tokens(token: npt.ArrayLike | None, n: int) -> npt.NDArray[np.int64]:
    if token is None:
        return np.full(n, -1)
    tokens = _integers(token, "token")
    if len(tokens) != n:
        raise StructureError(
            f"token must have one entry for each of the {n} nodes, got {len(tokens)}"
        )
    return tokens


def _with_features(forest: Forest, features: npt.ArrayLike | None) -> Forest:
    return forest if features is None else attrs.evolve(forest, features=np.asarray(features))


def _features(features: npt.ArrayLike | None) -> npt.ArrayLike | None:
    return None if features is None else np.asarray(features)
