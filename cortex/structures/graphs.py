"""Forests from graphs of other libraries: networkx, PyTorch Geometric, DGL.

None of them is imported here: a graph can only come from a library that is loaded.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cortex.errors import StructureError
from cortex.forest import Forest
from cortex.structures.arrays import from_children

#: Which way an edge (u, v) points. "up": from child to parent, as messages flow.
Direction = Literal["up", "down"]


def from_networkx(
    graph: Any,
    direction: Direction = "down",
    token: str = "token",
    features: str = "features",
) -> Forest:
    """A networkx DiGraph; every component's nodes without a parent are roots.

    direction: "down" for edges from parent to child, "up" for edges from child to parent; the
               children of a node are in the order its edges were added
    token, features: names of the node attributes, where there are any
    """
    if not getattr(graph, "is_directed", lambda: False)():
        raise StructureError(
            f"a structure must be a directed graph, got {type(graph).__name__}: "
            "give a DiGraph whose edges go from parent to child"
        )
    _check_direction(direction)
    names = list(graph.nodes)
    number = {name: i for i, name in enumerate(names)}
    below = graph.successors if direction == "down" else graph.predecessors
    rows = [[number[child] for child in below(name)] for name in names]
    tokens = [graph.nodes[name].get(token) for name in names]
    for name, value in zip(names, tokens, strict=True):
        if value is not None and not isinstance(value, (int, np.integer)):
            raise StructureError(f"{token!r} of node {name!r} must be an integer, got {value!r}")
    have = [features in graph.nodes[name] for name in names]
    if any(have) and not all(have):
        raise StructureError(
            f"every node must have {features!r}, or none, "
            f"node {names[have.index(False)]!r} has none"
        )
    table = None
    if any(have):
        table = np.array([graph.nodes[name][features] for name in names], dtype=np.float32)
    return from_children(
        rows,
        _roots(rows),
        [-1 if value is None else int(value) for value in tokens],
        table,
        tuple(names),
    )


def from_pyg(data: Any, direction: Direction = "up", token: str = "token") -> Forest:
    """A PyTorch Geometric Data or Batch: edge_index (2, edges), x (nodes, width) float32 if set.

    direction: "up", as messages flow, for edges from child to parent
    token:     name of an integer field (nodes,), where there is one
    """
    if getattr(data, "edge_index", None) is None:
        raise StructureError("a PyG graph must have edge_index, got None")
    source, target = np.asarray(data.edge_index)
    features = getattr(data, "x", None)
    return _from_edges(
        source,
        target,
        int(data.num_nodes),
        direction,
        getattr(data, token, None),
        None if features is None else np.asarray(features),
    )


def from_dgl(
    graph: Any, direction: Direction = "up", token: str = "token", features: str = "x"
) -> Forest:
    """A DGL graph, batched or not; token and features are read from ndata where they are set.

    direction: "up", as messages flow, for edges from child to parent
    """
    source, target = (np.asarray(ends) for ends in graph.edges(order="eid"))
    n, data = int(graph.num_nodes()), graph.ndata
    return _from_edges(
        source,
        target,
        n,
        direction,
        data[token] if token in data else None,  # noqa: SIM401  # ndata is no dict
        np.asarray(data[features]) if features in data else None,
    )


def _from_edges(
    source: npt.NDArray[np.int64],
    target: npt.NDArray[np.int64],
    n: int,
    direction: Direction,
    token: Any,
    features: npt.NDArray[Any] | None,
) -> Forest:
    _check_direction(direction)
    child, parent = (source, target) if direction == "up" else (target, source)
    for ends in (child, parent):
        outside = np.flatnonzero((ends < 0) | (ends >= n))
        if len(outside):
            raise StructureError(
                f"edges must join nodes from 0 and below {n}, "
                f"edge {outside[0]} has {ends[outside[0]]}"
            )
    counts = np.bincount(parent, minlength=n)
    roots = np.flatnonzero(np.bincount(child, minlength=n) == 0)
    order = np.argsort(parent, kind="stable")
    tokens = np.full(n, -1) if token is None else np.asarray(token)
    return Forest(np.concatenate([[0], np.cumsum(counts)]), child[order], roots, tokens, features)


def _roots(rows: list[list[int]]) -> list[int]:
    below = {child for row in rows for child in row}
    return [node for node in range(len(rows)) if node not in below]


def _check_direction(direction: str) -> None:
    if direction not in ("up", "down"):
        raise ValueError(f'direction must be "up" or "down", got {direction!r}')
