"""Standardization of features by the statistics of the training set, kept with the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Scaling(nn.Module):
    """x to z = (x - mean) / std; positions that never vary in the training set become 0.

    Nothing can be learned of those, so std is infinite there. Far from the mean the result grows
    with the logarithm only, 3 asinh(z / 3): a rare tag must not swamp everything else, nor be cut
    off, as then two of its values would look alike.
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
        self.std.copy_(torch.from_numpy(np.where(std > 1e-6, std, np.inf)))

    @property
    def kept(self) -> Tensor:
        """(k,) int64: the positions that vary."""
        return torch.isfinite(self.std).nonzero()[:, 0]

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """positions: (k,) which ones x (n, k) has; None for all"""
        mean, std = self.mean, self.std
        if positions is not None:
            mean, std = mean[positions], std[positions]
        return 3 * torch.asinh((x - mean) / (3 * std))


class ScaledLinear(nn.Linear):
    """A linear layer over scaled features that spends nothing on those that never vary.

    Two thirds of a statement's positions are for loops and accesses few programs have.
    """

    def __init__(self, size: int, n_out: int) -> None:
        super().__init__(size, n_out)
        self.scaling = Scaling(size)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.scaling.kept
        return nn.functional.linear(self.scaling(x[:, kept], kept), self.weight[:, kept], self.bias)
