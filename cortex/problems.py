"""What is wrong with a forest, and the sentence that says so.

The fast code only finds out that something is wrong. Here it is looked for again, slowly, to name
the tree, the node and the path to it.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from cortex.errors import StructureError, TokenError
from cortex.forest import Dag, Forest, Sequence, Structure

#: What a walk over objects can meet; the numbers are those of linearize.cpp.
WRONG = {"children": 1, "none child": 2, "token": 3, "token range": 4, "none root": 5}
_MOST_STEPS = 12  # of a path or a cycle, before its middle is left out


def check(
    forest: Forest,
    structure: Structure,
    *,
    tokens: str = "any",
    vocab: int | None = None,
    feature_width: int | None = None,
) -> None:
    """Raise StructureError or TokenError for the first thing a model could not read.

    tokens: "all", "leaf", or "any": which nodes must have one; below vocab, if that is given.
            With "any" and a vocab, those that are there
    """
    check_features(forest, feature_width)
    _check_arrays(forest)
    _check_children(forest, structure)
    if isinstance(structure, Dag):
        _check_cycle(forest)
    else:
        _check_parents(forest)
    _check_tokens(forest, tokens, vocab)


def refuse(
    forest: Forest, structure: Structure, *, tokens: str = "any", vocab: int | None = None
) -> NoReturn:
    """Raise for a forest the native code did not accept."""
    check(forest, structure, tokens=tokens, vocab=vocab)
    raise AssertionError("the native checks refuse what the checks in Python accept")


def check_features(forest: Forest, width: int | None) -> None:
    """Raise StructureError unless there are features of this width, where any are asked for."""
    if width is None:
        return
    if forest.features is None:
        raise StructureError(
            f"the model reads features of width {width}, but the data has none: "
            "give float32 features, one row a node"
        )
    if forest.features.shape[1] != width:
        raise StructureError(
            f"features must have {width} columns, as the model declares, "
            f"got {forest.features.shape[1]}"
        )


def refuse_object(
    what: int,
    node: int,
    position: int,
    detail: object,
    found: Forest,
    attributes: tuple[str, str],
) -> NoReturn:
    """Raise for a Python object that a walk could not read.

    node:  its number; found holds the nodes before it
    """
    children, token = attributes
    if what == WRONG["none root"]:
        raise StructureError(
            f"every tree must be an object with {children!r}, tree {position} is None: leave it out"
        )
    where = place(found, node)
    if what == WRONG["none child"]:
        raise StructureError(
            f"{where}: child {position} is None: leave absent children out of {children!r}"
        )
    if what == WRONG["children"]:
        if isinstance(detail, type):
            raise StructureError(
                f"{where}: a {detail.__name__} has no {children!r}: name the field that holds the "
                "children, or give leaves an empty one"
            )
        raise StructureError(
            f"{where}: {children!r} must be a list of nodes, got {type(detail).__name__}"
        )
    if what == WRONG["token"]:
        raise StructureError(
            f"{where}: {token!r} must be an integer or None, got {_short(detail)}: "
            "map words to numbers first"
        )
    raise TokenError(f"{where}: {token!r} must be from 0 and below 2**31, got {_short(detail)}")


def place(forest: Forest, node: int) -> str:
    """Which node this is, for a message: its tree, and the positions on the path to it."""
    root, steps = _path(forest, node)
    trees = np.flatnonzero(forest.roots == root)
    name = "" if forest.names is None else f" {forest.names[node]!r}"
    if not len(trees):
        return f"node {node}{name} (below no root)"
    if len(steps) > _MOST_STEPS:
        half = _MOST_STEPS // 2
        left_out = f"...({len(steps) - 2 * half} more)..."
        path = "".join(steps[:half]) + left_out + "".join(steps[-half:])
    else:
        path = "".join(steps)
    return f"tree {trees[0]}, node root{path}{name}"


def _path(forest: Forest, node: int) -> tuple[int, list[str]]:
    """The root above a node and the child positions from there, by any one parent each."""
    n_known = forest.n_nodes
    parent = np.full(max(node + 1, n_known, int(forest.child_idx.max(initial=0)) + 1), -1)
    position = np.zeros_like(parent)
    counts = np.diff(forest.child_ptr)
    # Written backwards, so that the first parent stays.
    idx = forest.child_idx[::-1]
    parent[idx] = np.repeat(np.arange(n_known), counts)[::-1]
    within = np.arange(len(idx)) - np.repeat(forest.child_ptr[:-1], counts)
    position[idx] = within[::-1]
    roots = set(forest.roots.tolist())
    steps: list[str] = []
    seen: set[int] = set()
    while node not in roots and parent[node] >= 0 and node not in seen:
        seen.add(node)
        steps.append(f"[{position[node]}]")
        node = int(parent[node])
    return node, steps[::-1]


def _check_arrays(forest: Forest) -> None:
    ptr, idx, n = forest.child_ptr, forest.child_idx, forest.n_nodes
    steps = np.diff(ptr.astype(np.int64))
    if ptr[0] != 0 or ptr[-1] != len(idx) or (steps < 0).any():
        bad = np.flatnonzero(steps < 0)
        where = f"it falls after node {bad[0]}" if len(bad) else f"got {ptr[0]} and {ptr[-1]}"
        raise StructureError(
            f"child_ptr must rise from 0 to the {len(idx)} entries of child_idx, {where}"
        )
    for name, values in (("child_idx", idx), ("roots", forest.roots)):
        outside = np.flatnonzero((values < 0) | (values >= n))
        if len(outside):
            raise StructureError(
                f"{name} must hold nodes from 0 and below {n}, "
                f"got {values[outside[0]]} at position {outside[0]}"
            )


def _check_children(forest: Forest, structure: Structure) -> None:
    arity = structure.max_children
    if arity is None:
        return
    counts = np.diff(forest.child_ptr)
    wrong = np.flatnonzero((counts != 0) & (counts != arity))
    if not len(wrong):
        return
    node = int(wrong[0])
    hint = ""
    if counts[node] == 1 and arity > 1:
        hint = ': collapse such nodes with unary="collapse", or declare arity=None'
    elif not isinstance(structure, Sequence):
        hint = ": declare arity=None for any number of children"
    raise StructureError(
        f"{place(forest, node)}: {structure} has {arity} children at every inner node, "
        f"found {counts[node]}{hint}"
    )


def _check_parents(forest: Forest) -> None:
    """Every node at most one parent, and no cycle."""
    parents = np.bincount(forest.child_idx, minlength=forest.n_nodes)
    shared = np.flatnonzero(parents > 1)
    _check_cycle(forest)
    if not len(shared):
        return
    node = int(shared[0])
    edges = np.flatnonzero(forest.child_idx == node)[:2]
    above = np.searchsorted(forest.child_ptr, edges, side="right") - 1
    first, second = (place(forest, int(p)) for p in above)
    both = f"twice of {first}" if above[0] == above[1] else f"of {first} and of {second}"
    raise StructureError(
        f"in a tree a node is the child of one other, but node {node} is a child {both}: "
        "declare cx.Dag for shared children"
    )


def _check_cycle(forest: Forest) -> None:
    ptr, idx = forest.child_ptr.tolist(), forest.child_idx.tolist()
    missing = np.diff(forest.child_ptr).tolist()
    parents: list[list[int]] = [[] for _ in missing]
    for node in range(len(missing)):
        for child in idx[ptr[node] : ptr[node + 1]]:
            parents[child].append(node)
    ready = [node for node, count in enumerate(missing) if count == 0]
    while ready:
        for parent in parents[ready.pop()]:
            missing[parent] -= 1
            if missing[parent] == 0:
                ready.append(parent)
    stuck = next((node for node, count in enumerate(missing) if count > 0), None)
    if stuck is None:
        return
    # Every stuck node has a stuck child, so following these must come round.
    at: dict[int, int] = {}
    walked: list[int] = []
    while stuck not in at:
        at[stuck] = len(walked)
        walked.append(stuck)
        stuck = next(c for c in idx[ptr[stuck] : ptr[stuck + 1]] if missing[c] > 0)
    cycle = [*walked[at[stuck] :], stuck]
    names = [str(n) if forest.names is None else repr(forest.names[n]) for n in cycle]
    if len(names) > _MOST_STEPS:
        names = [*names[:6], f"...({len(names) - 9} more)...", *names[-3:]]
    raise StructureError(
        f"a structure must have no cycle, got one through the nodes {' -> '.join(names)}: "
        f"take out one of its edges (the first lies at {place(forest, cycle[0])})"
    )


def _check_tokens(forest: Forest, tokens: str, vocab: int | None) -> None:
    token = forest.token
    if tokens == "none":
        return
    is_read = np.full(forest.n_nodes, True)
    if tokens == "leaf":
        is_read = np.diff(forest.child_ptr) == 0
    if tokens != "any":
        absent = np.flatnonzero(is_read & (token == -1))
        if len(absent):
            what = "leaf" if tokens == "leaf" else "node"
            raise StructureError(
                f"{place(forest, int(absent[0]))}: the model reads a token at every {what}, "
                "found none"
            )
    outside = is_read & (token < -1)
    if vocab is not None:
        outside |= is_read & (token >= vocab)
    if outside.any():
        node = int(np.flatnonzero(outside)[0])
        below = "" if vocab is None else f" and below the vocabulary size {vocab}"
        raise TokenError(f"{place(forest, node)}: a token must be from 0{below}, got {token[node]}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
