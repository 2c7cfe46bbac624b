"""Several models trained from different seeds: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.features import Tree, featurize
from costmodel.predictor import Predictor
from costmodel.schedule import ScheduledProgram


@attrs.frozen(eq=False)
class Ensemble:
    """Mean and spread are taken of logarithms, as speedups are ratios."""

    members: tuple[Predictor, ...]

    def __attrs_post_init__(self) -> None:
        kinds = {member.config.representation for member in self.members}
        if len(kinds) != 1:
            raise ValueError(
                f"members of an ensemble must read one representation, got {sorted(kinds)}"
            )

    def predict_trees(
        self, trees: Sequence[Tree]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n,) geometric mean of the speedups, and (n,) deviation of their logarithm."""
        logs = np.log([member.predict_trees(trees) for member in self.members])
        return np.exp(logs.mean(axis=0)), logs.std(axis=0)

    def predict(
        self, scheduled: Sequence[ScheduledProgram]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As predict_trees, of scheduled programs."""
        representation = self.members[0].config.representation
        return self.predict_trees([featurize(s, representation) for s in scheduled])
