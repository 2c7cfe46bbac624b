"""Nodes of one height together, in torch: a recursive model batched by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from cortex.peers.cells import States, make_cell, onednn_linear, plain_linear
from cortex.peers.flatten import Levels, flatten
from cortex.peers.problem import ARITY, Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class LevelBatched:
    """Flattens node objects in Python, then runs one level after another.

    products: "stock" torch, or "onednn" with packed weights
    compiled: let torch.compile join what is elementwise, for any number of nodes
    """

    def __init__(
        self,
        problem: Problem,
        *,
        products: Literal["stock", "onednn"] = "stock",
        compiled: bool = False,
    ) -> None:
        self.arity = ARITY[problem.model]
        self.cell = make_cell(problem, onednn_linear if products == "onednn" else plain_linear)
        self.node = self.cell.node
        self.leaf = self.cell.leaf
        if compiled:
            self.node = torch.compile(self.cell.node, dynamic=True, fullgraph=True)
            self.leaf = torch.compile(self.cell.leaf, dynamic=True, fullgraph=True)

    def __call__(self, roots: Sequence[Any]) -> npt.NDArray[np.float32]:
        """First states of the roots, (roots, H)."""
        return self.run(flatten(roots, self.arity, all_tokens=self.cell.has_input))

    @torch.inference_mode()
    def run(self, levels: Levels) -> npt.NDArray[np.float32]:
        """The same from levels that are there already."""
        bounds = levels.bounds
        first = self.leaf(levels.tokens[: bounds[1]])
        states = [torch.empty(bounds[-1], *state.shape[1:]) for state in first]
        for whole, state in zip(states, first, strict=True):
            whole[: bounds[1]] = state
        for b, kids in enumerate(levels.kids, 1):
            begin, end = bounds[b], bounds[b + 1]
            tokens = levels.tokens[begin:end] if self.cell.has_input else None
            for whole, state in zip(
                states, self.node(tokens, self._gather(states, levels, b - 1, kids)), strict=True
            ):
                whole[begin:end] = state
        found: npt.NDArray[np.float32] = states[0][levels.roots].numpy()
        return found

    def _gather(self, states: list[Tensor], levels: Levels, at: int, kids: Tensor) -> States:
        if levels.offsets is not None:
            offsets = levels.offsets[at]
            return tuple(
                functional.embedding_bag(kids, whole, offsets, mode="sum") for whole in states
            )
        assert self.arity is not None
        n = kids.numel() // self.arity
        return tuple(
            whole.index_select(0, kids).view(self.arity, n, *whole.shape[1:]) for whole in states
        )
