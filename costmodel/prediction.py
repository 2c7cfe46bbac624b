"""Speedups by a model: the evaluator that compiles and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.checkpoints import load_model
from costmodel.ensemble import Ensemble
from costmodel.errors import UnsupportedProgram
from costmodel.features import featurize
from costmodel.predictor import Predictor
from costmodel.schedule import ScheduledProgram

#: A trained model, the path of one, or "default" for the one that comes with the package.
Model = Ensemble | Predictor | Path | str


@attrs.define
class Prediction:
    """Predicts schedules, all of one call in one batch.

    The program as it is written has a speedup of 1, whatever the model says.

    caution:  so many deviations of an ensemble's logarithms are taken off: at 1, a schedule of
              which members say 2 and 4 counts as 2. 0 ranks by the mean
    n_scored: schedules predicted so far
    """

    model: Ensemble
    caution: float = 0.0
    n_scored: int = 0

    def __call__(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[np.float64]:
        """(n,) speedups; 0 for a nest the features have no room for.

        Raises UnsupportedProgram for a program they have no room for, whatever its schedule.
        """
        mean, spread = self.predicted(scheduled)
        return mean * np.exp(-self.caution * np.nan_to_num(spread)) if self.caution else mean

    def predicted(
        self, scheduled: Sequence[ScheduledProgram]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) means and (n,) deviations of logarithms."""
        mean, spread = np.zeros(len(scheduled)), np.zeros(len(scheduled))
        trees, places = [], []
        for place, each in enumerate(scheduled):
            try:
                tree = featurize(each, self.model.representation)
            except UnsupportedProgram:
                if not each.schedule.steps:
                    raise
                continue
            if each.schedule.steps:
                trees.append(tree)
                places.append(place)
            else:
                mean[place] = 1.0
        self.n_scored += len(trees)
        mean[places], spread[places] = self.model.predict_trees(trees)
        return mean, spread


def loaded(model: Model) -> Ensemble:
    """The model itself, read from its file if a path is given; one alone as an ensemble of one."""
    if isinstance(model, Ensemble):
        return model
    return Ensemble((model,)) if isinstance(model, Predictor) else load_model(model)


def percent(spread: float) -> str:
    """A deviation of logarithms in words; empty where one model alone said it."""
    return "" if math.isnan(spread) else f", give or take {100 * math.expm1(spread):.0f}%"
