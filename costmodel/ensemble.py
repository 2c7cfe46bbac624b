"""Several models trained from different seeds: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.features import Representation, Tree
from costmodel.ir import Program
from costmodel.predictor import Predictor, predict_trees, trees_of
from costmodel.schedule import Schedule, ScheduledProgram

if TYPE_CHECKING:
    from costmodel.checkpoints import Storage

#: Means, and deviations of the logarithm.
Predicted = tuple[NDArray[np.float32], NDArray[np.float32]]


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

    @property
    def representation(self) -> Representation:
        return self.members[0].config.representation

    def predict_trees(self, trees: Sequence[Tree]) -> Predicted:
        """(n,) geometric mean of the speedups, and (n,) deviation of their logarithm.

        One model alone has nothing to disagree with: its deviations are NaN.
        """
        logs = np.log(predict_trees(self.members, trees))
        spread = logs.std(axis=0) if len(logs) > 1 else np.full(logs.shape[1], np.nan, np.float32)
        return np.exp(logs.mean(axis=0)), spread

    @overload
    def predict(self, program: Sequence[ScheduledProgram]) -> Predicted: ...

    @overload
    def predict(self, program: Program, schedules: Sequence[Schedule | str]) -> Predicted: ...

    def predict(
        self,
        program: Program | Sequence[ScheduledProgram],
        schedules: Sequence[Schedule | str] | None = None,
    ) -> Predicted:
        """As predict_trees, of a program's schedules, or of programs with schedules applied."""
        return self.predict_trees(trees_of(program, schedules, self.representation))

    def save(self, path: Path | str, storage: Storage = "float16") -> None:
        """Write all members to one checkpoint (costmodel.checkpoints)."""
        from costmodel import checkpoints

        checkpoints.save(self.members, path, storage)
