"""What a run gives: the roots' states, and, if asked for, every node's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from cortex.linearize import Linear

if TYPE_CHECKING:
    from torch import Tensor


@attrs.define(eq=False)
class Result:
    """States of one run, float32 torch tensors in memory of their own.

    root:         output -> (n_roots, ...), in the order of the trees
    linear:       the structure it was computed on
    memory_bytes: workspace of the run beyond weights and what is returned
    """

    root: dict[str, Tensor]
    memory_bytes: int
    linear: Linear = attrs.field(repr=False)
    _raw: dict[str, Tensor] | None = attrs.field(repr=False)

    def raw(self, name: str) -> Tensor:
        """Every node's state in the order of computation, (linear.n_nodes, ...)."""
        if self._raw is None:
            raise ValueError(
                f"the state {name} of every node was not kept; compile with keep='all'"
            )
        if name not in self._raw:
            raise ValueError(f"outputs are {', '.join(self._raw)}, got {name}")
        return self._raw[name]

    def node(self, name: str) -> Tensor:
        """Every node's state in the order of the forest, (n_nodes, ...)."""
        import torch

        raw = self.raw(name)
        return raw[torch.from_numpy(self.linear.id_of.astype("int64"))]
