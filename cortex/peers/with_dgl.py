"""DGL: one graph of the whole batch, swept from the leaves by prop_nodes_topo.

Release 1.1.3 is the last that loads beside a current torch; later ones want one torch exactly.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from common.extras import require
from cortex.peers.cells import make_cell
from cortex.peers.problem import ARITY, Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@functools.cache
def load() -> Any:
    """The dgl module; raises MissingExtra with the pip line."""
    os.environ.setdefault("DGLBACKEND", "pytorch")  # else it writes a file into the home folder
    module = require("dgl", "cortex_peers", "the DGL peer")
    torch.set_flush_denormal(False)  # one of its libraries switches it on for the whole thread
    return module


class DGL:
    """Leaves before the sweep, all at once; inner nodes in the reduce function, as DGL's TreeLSTM.

    The cells are those of the level-batched peer. A node's messages lie in the order of its edges,
    so in that of its children.
    """

    def __init__(self, problem: Problem) -> None:
        self.dgl = load()
        self.cell = make_cell(problem)
        self.is_dag = ARITY[problem.model] is None
        self.names = ("h", "c")

    @torch.inference_mode()
    def __call__(self, roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        """First states of the roots, (roots, H)."""
        graph, tokens, leaves, at = self._graph(roots)
        first = self.cell.leaf(tokens[leaves] if self.cell.has_input else tokens)
        names = self.names[: len(first)]
        for name, rows in zip(names, first, strict=True):
            state = torch.zeros(graph.num_nodes(), *rows.shape[1:])
            state[leaves] = rows
            graph.ndata[name] = state
        if self.cell.has_input:
            graph.ndata["token"] = tokens
        self.dgl.prop_nodes_topo(graph, self._message(names), self._reduce(names))
        found: npt.NDArray[np.float32] = graph.ndata["h"][at].numpy()
        return found

    def _message(self, names: tuple[str, ...]) -> Any:
        if len(names) == 1:
            return self.dgl.function.copy_u(names[0], names[0])
        return lambda edges: {name: edges.src[name] for name in names}

    def _reduce(self, names: tuple[str, ...]) -> Any:
        def reduce(nodes: Any) -> dict[str, Any]:
            # (n, children, ...) to (children, n, ...); models that add children up do it here.
            kids = tuple(
                nodes.mailbox[name].sum(1) if self.is_dag else nodes.mailbox[name].transpose(0, 1)
                for name in names
            )
            tokens = nodes.data["token"] if self.cell.has_input else None
            return dict(zip(names, self.cell.node(tokens, kids), strict=True))

        return reduce

    def _graph(self, roots: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        """Edges from child to parent; tokens, of all nodes or of the leaves; leaves; roots."""
        number: dict[int, int] = {}
        nodes: list[Any] = []
        for root in roots:
            if id(root) not in number:
                number[id(root)] = len(nodes)
                nodes.append(root)
        children: list[int] = []
        parents: list[int] = []
        leaves: list[int] = []
        n = 0
        while n < len(nodes):  # breadth first; nodes grow while they are read
            kids = nodes[n].children
            for kid in kids:
                at = number.get(id(kid))
                if at is None:
                    at = number[id(kid)] = len(nodes)
                    nodes.append(kid)
                children.append(at)
                parents.append(n)
            if not kids:
                leaves.append(n)
            n += 1
        graph = self.dgl.graph(
            (torch.tensor(children, dtype=torch.int64), torch.tensor(parents, dtype=torch.int64)),
            num_nodes=len(nodes),
        )
        with_token = nodes if self.cell.has_input else [nodes[n] for n in leaves]
        tokens = torch.tensor([node.token for node in with_token])
        ends = torch.tensor([number[id(root)] for root in roots])
        return graph, tokens, torch.tensor(leaves), ends
