"""Trained models in files: weights and sizes, no code, one model or an ensemble of them.

kind             of model, as in the classes' `kind`
feature_version  of the features it reads
config           fields of ModelConfig
members          the state of each model, with float16 weights if that was asked for
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs
import torch

from common.files import replacing
from costmodel.ensemble import Ensemble
from costmodel.errors import CheckpointMismatch
from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel, ModelConfig
from costmodel.predictor import Predictor

#: The trained model that comes with the package; its card stands beside it as default.json.
DEFAULT = Path(__file__).parent / "data" / "default.pt"
#: What the package may grow by.
LIMIT_BYTES = 6_000_000

#: So wide that three models with float16 weights stay below the limit; the authors' sizes do not.
#: Less dropout than theirs, with which so small a model learns more slowly.
THREE_FIT = ModelConfig(
    comp_widths=(300, 240, 170),
    embedding=150,
    merge_width=180,
    head_widths=(150, 120),
    dropout=0.04,
)

Storage = Literal["float32", "float16"]
P = TypeVar("P", bound=Predictor)


def save(members: Sequence[Predictor], path: Path | str, storage: Storage = "float32") -> None:
    """Write models of one kind and size to a file; the old one stays if anything fails.

    storage: of the weights. The statistics that scale features stay float32, since loop bounds
             leave float16's range
    """
    first = members[0]
    if any((m.kind, m.config) != (first.kind, first.config) for m in members):
        raise ValueError("members of a checkpoint must be of one kind and one ModelConfig")
    content = {
        "kind": first.kind,
        "feature_version": FEATURE_VERSION,
        "config": attrs.asdict(first.config),
        "members": [dict(_stored(member, getattr(torch, storage))) for member in members],
    }
    with replacing(Path(path)) as beside:
        torch.save(content, beside)


def _stored(member: Predictor, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    weights = {name for name, _ in member.named_parameters()}
    for name, value in member.state_dict().items():
        yield name, value.to("cpu", dtype if name in weights else value.dtype)


def load(path: Path | str, kind: type[P]) -> tuple[P, ...]:
    """The models of a file, "default" for the one that comes with the package; ready to predict.

    Raises FileNotFoundError; CheckpointMismatch for one of another feature version or another kind
    of model, or for a file that is no checkpoint.
    """
    path = locate(path)
    content = _read(path)
    if content["kind"] != kind.kind:
        raise CheckpointMismatch(
            f"{path.name} holds a model of kind '{content['kind']}', and '{kind.kind}' was asked "
            f"for"
        )
    return _members(path, content, kind)


def load_model(path: Path | str = "default") -> Ensemble:
    """A trained model of any kind: the one that comes with the package, or that of a file.

    Raises as `load`.
    """
    path = locate(path)
    content = _read(path)
    kinds = _kinds()
    if content["kind"] not in kinds:
        raise CheckpointMismatch(
            f"{path.name} holds a model of kind '{content['kind']}', and those known are "
            f"{', '.join(sorted(kinds))}"
        )
    return Ensemble(_members(path, content, kinds[content["kind"]]))


def locate(path: Path | str) -> Path:
    """The file that is meant. Raises FileNotFoundError with the way out if it is not there."""
    found = DEFAULT if path == "default" else Path(path)
    if not found.is_file():
        way = "train one with `python -m costmodel train` and give its path"
        if path == "default":
            raise FileNotFoundError(f"no trained model comes with this copy of the package: {way}")
        raise FileNotFoundError(f"there is no checkpoint at {found}: {way}")
    return found


def _kinds() -> dict[str, type[Predictor]]:
    from costmodel.baselines import FeedForward, FlatLSTM

    return {kind.kind: kind for kind in (CostModel, FlatLSTM, FeedForward)}


def _read(path: Path) -> dict[str, Any]:
    """The file's content, of this version of the features."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found, _, _ = content["feature_version"], content["kind"], content["members"]
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError, EOFError) as problem:
        raise _no_checkpoint(path, problem) from None
    if found != FEATURE_VERSION:
        raise CheckpointMismatch(
            f"{path.name} was trained on features of version {found}, and these are version "
            f"{FEATURE_VERSION}; train it anew"
        )
    return content


def _members(path: Path, content: dict[str, Any], kind: type[P]) -> tuple[P, ...]:
    models: list[P] = []
    try:
        for state in content["members"]:
            model = kind(ModelConfig(**content["config"]))
            model.load_state_dict(state)
            models.append(model.eval())
    except (KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise _no_checkpoint(path, problem) from None
    return tuple(models)


def _no_checkpoint(path: Path, problem: Exception) -> CheckpointMismatch:
    first = (str(problem).splitlines() or [type(problem).__name__])[0]
    return CheckpointMismatch(
        f"{path.name} is not a checkpoint of a cost model: {first}; train one anew"
    )
