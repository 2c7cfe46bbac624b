"""What all models share: sizes, prediction of schedules, and checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.files import replacing
from costmodel import scaling
from costmodel.errors import CheckpointMismatch
from costmodel.features import FEATURE_VERSION, Tree, featurize
from costmodel.scaling import Scaling
from costmodel.schedule import ScheduledProgram
from costmodel.tree_batch import TreeBatch, collate

if TYPE_CHECKING:
    from costmodel.model import ModelConfig

#: Speedups outside are not predicted: labels are cut here too.
LOWEST, HIGHEST = 0.005, 128.0

P = TypeVar("P", bound="Predictor")


class Predictor(nn.Module):
    """A model of speedups over trees; `kind` names it in checkpoints."""

    kind: ClassVar[str]
    scale_comps: Scaling
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
        scaling.fit(self.scale_comps, self.scale_loops, trees)

    def predict_trees(self, trees: Sequence[Tree], batch: int = 1024) -> NDArray[np.float32]:
        """(n,) float32 speedups."""
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            parts = [
                self(collate(trees[at : at + batch])).numpy() for at in range(0, len(trees), batch)
            ]
        self.train(was_training)
        return np.concatenate([np.empty(0, np.float32), *parts])

    def predict(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[np.float32]:
        """(n,) float32 speedups over the program as it is written."""
        return self.predict_trees([featurize(s, self.config.representation) for s in scheduled])

    def __call__(self, batch: TreeBatch) -> Tensor:
        value: Tensor = super().__call__(batch)
        return value

    def save(self, path: Path | str) -> None:
        """Write a checkpoint that needs no code to load; the old one stays if anything fails."""
        content = {
            "kind": self.kind,
            "feature_version": FEATURE_VERSION,
            "config": attrs.asdict(self.config),
            "state": self.state_dict(),
        }
        with replacing(Path(path)) as beside:
            torch.save(content, beside)

    @classmethod
    def load(cls: type[P], path: Path | str) -> P:
        """The model of a checkpoint, ready to predict.

        Raises CheckpointMismatch for one of another feature version or another kind of model, or
        for a file that is no checkpoint.
        """
        from costmodel.model import ModelConfig

        path = Path(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            found, kind = content["feature_version"], content["kind"]
        except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError, EOFError) as problem:
            raise CheckpointMismatch(
                f"{path.name} is not a checkpoint of a cost model: {problem}; train one anew"
            ) from None
        if found != FEATURE_VERSION:
            raise CheckpointMismatch(
                f"{path.name} was trained on features of version {found}, and these are version "
                f"{FEATURE_VERSION}; train it anew"
            )
        if kind != cls.kind:
            raise CheckpointMismatch(
                f"{path.name} holds a model of kind '{kind}', and '{cls.kind}' was asked for"
            )
        fields: dict[str, Any] = content["config"]
        model = cls(ModelConfig(**fields))
        model.load_state_dict(content["state"])
        return model.eval()
