"""What the recursive model is compared with (the paper's section on alternatives).

FlatLSTM reads the statements one after the other, FeedForward takes their mean; neither sees which
loop a statement stands in but through its own vector and the mean of the loops'. GradientBoosting
and Constant need no tree at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from common.extras import require
from costmodel.features import COMP_SIZES, LOOP_SIZE, Tree
from costmodel.model import ModelConfig, perceptron
from costmodel.predictor import Predictor
from costmodel.scaling import Scaling
from costmodel.tree_batch import TreeBatch


class _Flat(Predictor):
    """Statements embedded one by one; a summary of them and of the loops goes to the head."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config or ModelConfig())
        c = self.config
        self.scale_loops = Scaling(LOOP_SIZE)
        sizes = (COMP_SIZES[c.representation], *c.comp_widths, c.embedding)
        self.embed_comp = perceptron(sizes, c.dropout, last=True, scaled=True)
        self.head = perceptron((c.embedding + LOOP_SIZE, *c.head_widths, 1), c.dropout)

    def forward(self, batch: TreeBatch) -> Tensor:
        comps = self.embed_comp(batch.comps)
        loops = _mean_by(self.scale_loops(batch.loops), batch.loop_tree, len(batch))
        summary = self.summary(comps, batch)
        return self.output(self.head(torch.cat([summary, loops], dim=1)))

    def summary(self, comps: Tensor, batch: TreeBatch) -> Tensor:
        """(C, n) embedded statements to (B, n)."""
        raise NotImplementedError


class FeedForward(_Flat):
    """The mean of the statements' embeddings."""

    kind = "feed_forward"

    def summary(self, comps: Tensor, batch: TreeBatch) -> Tensor:
        return _mean_by(comps, batch.comp_tree, len(batch))


class FlatLSTM(_Flat):
    """The last state of an LSTM over the statements in the order they run."""

    kind = "flat_lstm"

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        self.lstm = nn.LSTM(self.config.embedding, self.config.embedding, batch_first=True)

    def summary(self, comps: Tensor, batch: TreeBatch) -> Tensor:
        lengths = torch.bincount(batch.comp_tree, minlength=len(batch))
        parts = torch.split(comps, lengths.tolist())
        padded = nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        packed = pack_padded_sequence(padded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        state: Tensor = self.lstm(packed)[1][0][0]
        return state


def _mean_by(rows: Tensor, group: Tensor, n: int) -> Tensor:
    total = rows.new_zeros(n, rows.shape[1]).index_add(0, group, rows)
    return total / torch.bincount(group, minlength=n).clamp(min=1)[:, None]


@attrs.frozen
class Constant:
    """One speedup for everything.

    best_of gives the constant of least MAPE: the median of the labels weighted by 1 / label.
    """

    value: float

    @staticmethod
    def median_of(speedups: NDArray[np.float64]) -> Constant:
        return Constant(float(np.median(speedups)))

    @staticmethod
    def best_of(speedups: NDArray[np.float64]) -> Constant:
        y = np.sort(speedups)
        weight = np.cumsum(1 / y)
        return Constant(float(y[np.searchsorted(weight, weight[-1] / 2)]))

    def predict_trees(self, trees: Sequence[Tree]) -> NDArray[np.float32]:
        return np.full(len(trees), self.value, dtype=np.float32)


class GradientBoosting:
    """scikit-learn's histogram boosting on pooled features, of the logarithm of the speedup."""

    def __init__(self, seed: int = 0, iterations: int = 300) -> None:
        ensemble = require("sklearn.ensemble", "dev", "the gradient-boosting baseline")
        self._model: Any = ensemble.HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=iterations, random_state=seed
        )

    def fit(self, trees: Sequence[Tree], speedups: NDArray[np.float64]) -> GradientBoosting:
        self._model.fit(pooled(trees), np.log(speedups))
        return self

    def predict_trees(self, trees: Sequence[Tree]) -> NDArray[np.float32]:
        logs: NDArray[np.float64] = self._model.predict(pooled(trees))
        return np.exp(logs).astype(np.float32)


def pooled(trees: Sequence[Tree]) -> NDArray[np.float32]:
    """(n, 2 F + 33): mean and maximum over statements and over loops, and how many statements."""
    rows = [
        np.concatenate(
            [
                tree.comps.mean(axis=0),
                tree.comps.max(axis=0),
                tree.loops.mean(axis=0),
                tree.loops.max(axis=0),
                [len(tree.comps)],
            ]
        )
        for tree in trees
    ]
    return np.stack(rows).astype(np.float32)
