"""The same trees in the forms that users have them in, and each form's way into the linearizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from cortex import structures
from cortex.linearize import linearize

if TYPE_CHECKING:
    from cortex.forest import Forest, Structure
    from cortex.linearize import Linear


@attrs.frozen
class Form:
    """make: a forest in this form;  read: what `linearize` takes of it, itself if nothing is read

    Trees have their root as first node and tokens at leaves only, as `sst_like` gives them.
    """

    make: Callable[[Forest], Any]
    read: Callable[[Any], Any] = attrs.field(default=lambda data: data)

    def linearize(self, data: Any, structure: Structure) -> Linear:
        """From this form to numbered nodes, as one does who has the trees in it."""
        return linearize(self.read(data), structure)


def _parents(forest: Forest) -> tuple[Any, Any, Any]:
    import numpy as np

    parent = np.full(forest.n_nodes, -1)
    bounds = np.append(forest.roots, forest.n_nodes)
    above = np.repeat(np.arange(forest.n_nodes), np.diff(forest.child_ptr))
    first = np.repeat(forest.roots, np.diff(bounds))
    parent[forest.child_idx] = above - first[forest.child_idx]
    return parent, bounds, forest.token


def _lists(forest: Forest) -> list[Any]:
    token, ptr = forest.token.tolist(), forest.child_ptr.tolist()
    made: list[Any] = [None] * forest.n_nodes
    for n in reversed(range(forest.n_nodes)):  # children have higher numbers than their parent
        below = forest.child_idx[ptr[n] : ptr[n + 1]].tolist()
        made[n] = [made[c] for c in below] if below else str(token[n])
    return [made[root] for root in forest.roots.tolist()]


def _text(forest: Forest) -> str:
    def bracketed(tree: Any) -> str:
        if isinstance(tree, str):
            return f"(0 {tree})"
        return f"(0 {' '.join(map(bracketed, tree))})"

    return "\n".join(map(bracketed, _lists(forest))) + "\n"


def _graph(forest: Forest) -> Any:
    import networkx as nx

    graph = nx.DiGraph()
    for n, token in enumerate(forest.token.tolist()):
        graph.add_node(n, **({} if token < 0 else {"token": token}))
    ptr = forest.child_ptr.tolist()
    for n in range(forest.n_nodes):
        graph.add_edges_from((n, c) for c in forest.child_idx[ptr[n] : ptr[n + 1]].tolist())
    return graph


#: By name. Words of text and lists are decimal numbers, so their vocabulary is `int`.
FORMS = {
    "objects": Form(structures.to_objects),
    "forest": Form(lambda forest: forest),
    "parents": Form(_parents, lambda data: structures.from_parents(data[0], data[1], data[2])),
    "lists": Form(_lists, lambda data: structures.from_nltk(data, int)),
    "text": Form(_text, lambda data: structures.from_ptb(data, vocab=int)),
    "networkx": Form(_graph, structures.from_networkx),
}


def same_trees(found: Linear, wanted: Linear) -> bool:
    """Equal levels and the same words at the leaves; the order within a level is free."""
    return (
        found.level_ptr.tolist() == wanted.level_ptr.tolist()
        and sorted(found.token.tolist()) == sorted(wanted.token.tolist())
    )  # fmt: skip
