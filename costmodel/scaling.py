"""Standardization of features by the statistics of the training set, kept with the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from costmodel.features import Tree


class Scaling(nn.Module):
    """x to (x - mean) / std; positions that never vary in the training set become 0 or stay near.

    Far from the mean it grows with the logarithm only, 3 asinh(z / 3): a rare tag must not swamp
    everything else, nor be cut off, as then two of its values would look alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, rows: Iterable[NDArray[np.float32]]) -> None:
        """Take mean and deviation over the rows of all arrays (n, size)."""
        n, total, squares = 0, np.zeros(len(self.mean)), np.zeros(len(self.mean))
        for part in rows:
            wide = part.astype(np.float64)
            n += len(wide)
            total += wide.sum(axis=0)
            squares += (wide**2).sum(axis=0)
        mean = total / max(1, n)
        std = np.sqrt(np.maximum(squares / max(1, n) - mean**2, 0))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(np.where(std > 1e-6, std, 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.asinh((x - self.mean) / (3 * self.std))


def fit(comps: Scaling, loops: Scaling, trees: Iterable[Tree]) -> None:
    """Set both from the trees of a training set."""
    listed = list(trees)
    comps.fit(tree.comps for tree in listed)
    loops.fit(tree.loops for tree in listed)
