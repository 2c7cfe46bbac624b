"""What all models share: sizes, and prediction of schedules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from costmodel.features import Representation, Tree, featurize
from costmodel.ir import Program
from costmodel.scaling import ScaledLinear, Scaling
from costmodel.schedule import Schedule, ScheduledProgram, apply
from costmodel.tree_batch import TreeBatch, collate, collate_shared

if TYPE_CHECKING:
    from costmodel.checkpoints import Storage
    from costmodel.ensemble import Ensemble
    from costmodel.model import ModelConfig

#: Speedups outside are not predicted: labels are cut here too.
LOWEST, HIGHEST = 0.005, 128.0

P = TypeVar("P", bound="Predictor")


class Predictor(nn.Module):
    """A model of speedups over trees; `kind` names it in checkpoints."""

    kind: ClassVar[str]
    #: Whether parts that trees have in common may be computed once.
    shares_parts: ClassVar[bool] = False
    #: Embeds statements; its first layer is a ScaledLinear.
    embed_comp: nn.Sequential
    scale_loops: Scaling

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, batch: TreeBatch) -> Tensor:
        """(B,) speedups."""
        raise NotImplementedError

    def output(self, numbers: Tensor) -> Tensor:
        """(B, 1) last layer to (B,) positive speedups."""
        flat = numbers[:, 0]
        if self.config.head == "exp":
            # Soft at both ends: a hard cut would leave no gradient there.
            return torch.exp(6.0 * torch.tanh(flat / 6.0))
        return torch.relu(flat) + LOWEST

    def fit_scaling(self, trees: Iterable[Tree]) -> None:
        """Take the statistics of a training set."""
        first = self.embed_comp[0]
        assert isinstance(first, ScaledLinear)
        listed = list(trees)
        first.scaling.fit(tree.comps for tree in listed)
        self.scale_loops.fit(tree.loops for tree in listed)

    def predict_trees(self, trees: Sequence[Tree], batch: int = 1024) -> NDArray[np.float32]:
        """(n,) float32 speedups."""
        found: NDArray[np.float32] = predict_trees([self], trees, batch)[0]
        return found

    @overload
    def predict(self, program: Sequence[ScheduledProgram]) -> NDArray[np.float32]: ...

    @overload
    def predict(
        self, program: Program, schedules: Sequence[Schedule | str]
    ) -> NDArray[np.float32]: ...

    def predict(
        self,
        program: Program | Sequence[ScheduledProgram],
        schedules: Sequence[Schedule | str] | None = None,
    ) -> NDArray[np.float32]:
        """(n,) float32 speedups, over the program as it is written, of its schedules.

        Takes a program and schedules, or programs with their schedules applied. Raises as `apply`
        and `featurize`.
        """
        return self.predict_trees(trees_of(program, schedules, self.config.representation))

    def __call__(self, batch: TreeBatch) -> Tensor:
        value: Tensor = super().__call__(batch)
        return value

    def save(self, path: Path | str, storage: Storage = "float32") -> None:
        """Write a checkpoint that needs no code to load (costmodel.checkpoints)."""
        from costmodel import checkpoints

        checkpoints.save([self], path, storage)

    @classmethod
    def load(cls: type[P], path: Path | str = "default") -> P | Ensemble:
        """The model of a checkpoint, an Ensemble if it holds several; ready to predict.

        path: of a file, or "default" for the one that comes with the package. Raises as
              costmodel.checkpoints.load.
        """
        from costmodel import checkpoints
        from costmodel.ensemble import Ensemble

        members = checkpoints.load(path, cls)
        return members[0] if len(members) == 1 else Ensemble(members)


def predict_trees(
    models: Sequence[Predictor], trees: Sequence[Tree], batch: int = 1024
) -> NDArray[np.float32]:
    """(len(models), n) float32 speedups; the models read the same batches."""
    return predict_batches(models, batches_of(models, trees, batch))


def batches_of(
    models: Sequence[Predictor], trees: Sequence[Tree], batch: int = 1024
) -> Iterator[TreeBatch]:
    """The trees as the models read them, so many at a time."""
    join = collate_shared if all(model.shares_parts for model in models) else collate
    for at in range(0, len(trees), batch):
        yield join(trees[at : at + batch])


def predict_batches(
    models: Sequence[Predictor], batches: Iterable[TreeBatch]
) -> NDArray[np.float32]:
    """(len(models), n) float32 speedups."""
    training = [model for model in models if model.training]
    for model in training:
        model.eval()
    with torch.inference_mode():
        found = [[model(batch).numpy() for model in models] for batch in batches]
    for model in training:
        model.train()
    return np.concatenate([np.empty((len(models), 0), np.float32), *map(np.stack, found)], axis=1)


def trees_of(
    program: Program | Sequence[ScheduledProgram],
    schedules: Sequence[Schedule | str] | None,
    representation: Representation,
) -> list[Tree]:
    """Trees of a program's schedules, or of programs with theirs applied."""
    if isinstance(program, Program):
        if schedules is None:
            raise TypeError("a program needs the schedules to predict beside it")
        program = [apply(program, schedule) for schedule in schedules]
    elif schedules is not None:
        raise TypeError("schedules stand beside a program, and programs with schedules were given")
    return [featurize(scheduled, representation) for scheduled in program]
