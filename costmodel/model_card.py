"""What is known of a trained model: data, noise of its labels, training, and test scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from common.files import write_whole
from costmodel.metrics import Scores
from costmodel.score_table import Bin


@attrs.frozen
class ModelCard:
    """Beside a checkpoint, under its name with .json.

    kind, config, members: what models they are;  parameters: of each member
    training: fields of TrainConfig, of the first member's seed on, and the seconds it took
    data:     the data set's card: machine, compiler, flags, sampler, noise, rows, programs
    scores:   by split;  bins: of the test programs by measured speedup
    best_constant_mape: of the test programs, by the constant that suits them best
    checkpoint: name, bytes and sha256 of the file
    """

    kind: str
    config: Mapping[str, Any]
    members: int
    parameters: int
    feature_version: int
    training: Mapping[str, Any]
    trained_on: Mapping[str, Any]
    data: Mapping[str, Any]
    scores: Mapping[str, Scores]
    bins: tuple[Bin, ...]
    best_constant_mape: float | None
    checkpoint: Mapping[str, Any] = attrs.field(factory=dict)

    def write(self, path: Path, checkpoint: Path) -> None:
        """Write it, with what the checkpoint's file is."""
        content = checkpoint.read_bytes()
        file = {
            "name": checkpoint.name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        whole = _plain(attrs.asdict(attrs.evolve(self, checkpoint=file)))
        write_whole(path, json.dumps(whole, indent=1) + "\n")

    @staticmethod
    def read(path: Path | str = "default") -> ModelCard:
        """The card of a checkpoint, or "default" for that of the package's own."""
        from costmodel.checkpoints import locate

        file = Path(path) if str(path).endswith(".json") else locate(path).with_suffix(".json")
        content: dict[str, Any] = json.loads(file.read_text())
        scores = {name: Scores(**_numbers(s)) for name, s in content.pop("scores").items()}
        bins = tuple(Bin(**_numbers(b)) for b in content.pop("bins"))
        return ModelCard(scores=scores, bins=bins, **content)


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else str(value)
    return value


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(x) if isinstance(x, str) else x for name, x in fields.items()}
