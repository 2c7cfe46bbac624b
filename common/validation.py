"""What is wrong with a configuration, in one sentence a person can act on."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import attrs
from hydra.errors import HydraException
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from common.experiment import Experiment
from common.spelling import did_you_mean

#: machine -> (module of hydra's launcher for it, extra that installs it)
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "parallel"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
}


class ConfigError(Exception):
    """The configuration is wrong; one message for each thing that is."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = tuple(dict.fromkeys(messages))
        super().__init__("\n".join(self.messages))


@contextlib.contextmanager
def collected(errors: list[str]) -> Iterator[None]:
    """Append the messages of a ConfigError to errors instead of raising it."""
    try:
        yield
    except ConfigError as problem:
        errors += problem.messages


def check_choices(what: str, given: Sequence[str], valid: Sequence[str]) -> None:
    """Every given name must be a valid one."""
    errors = [
        f"{what} must be one of {', '.join(nearest_first(name, valid))}, got '{name}'"
        for name in given
        if name not in valid
    ]
    if errors:
        raise ConfigError(errors)


def check_field(experiment: Experiment, name: str) -> None:
    """The experiment's settings must have the field."""
    valid = [field.name for field in attrs.fields(experiment.settings_class())]
    _check_name(name, valid, f"'{name}' is no field of {experiment.name}")


def check_root_field(name: str, root: type[Any]) -> None:
    """The command line must have the field."""
    valid = [field.name for field in attrs.fields(root) if field.name != "contended"]
    _check_name(name, [*valid, "machine"], f"'{name}' is no field of the command line")


def _check_name(name: str, valid: Sequence[str], problem: str) -> None:
    if name in valid:
        return
    hint = did_you_mean(name, valid) or ";"
    raise ConfigError([f"{problem}{hint} fields: {', '.join(valid)}"])


def check_launcher(machine: str) -> None:
    """What the machine needs beyond this repository must be installed."""
    if machine not in LAUNCHERS:
        return
    module, extra = LAUNCHERS[machine]
    with contextlib.suppress(ModuleNotFoundError):  # of the parent package
        if importlib.util.find_spec(module) is not None:
            return
    launcher = module.rpartition(".")[2].replace("_", "-")
    raise ConfigError([f'machine={machine} needs {launcher}: pip install "mlsys21[{extra}]"'])


def nearest_first(name: str, valid: Sequence[str]) -> list[str]:
    """The valid names, those most like the given one first."""
    close = difflib.get_close_matches(name, valid, n=len(valid) or 1, cutoff=0.6)
    return [*close, *(word for word in valid if word not in close)]


@contextlib.contextmanager
def reworded(experiment: Experiment | None, root: type[Any]) -> Iterator[None]:
    """Raise what hydra, OmegaConf, validators and imports raise inside as a ConfigError.

    experiment: whose settings are read; None while only the command line's own fields are
    root:       attrs class of those fields
    """
    name = experiment.name if experiment else ""
    try:
        yield
    except HydraException as problem:
        cause = _of_omegaconf(problem)
        text = explain(cause, experiment, root) if cause else _lead(name) + _first_line(problem)
        raise ConfigError([text]) from problem
    except OmegaConfBaseException as problem:
        raise ConfigError([explain(problem, experiment, root)]) from problem
    except ImportError as problem:
        raise ConfigError([f"{_lead(name)}cannot be loaded: {problem}"]) from problem
    except (ValueError, TypeError) as problem:
        raise ConfigError([_lead(name) + validator_text(problem)]) from problem


def explain(problem: OmegaConfBaseException, experiment: Experiment | None, root: type[Any]) -> str:
    """One sentence for an error of OmegaConf."""
    key = problem.full_key or str(problem.key or "")
    fields, lead = root, ""
    if experiment and (key.startswith("experiment") or not hasattr(root, key.split(".")[0])):
        fields, lead = experiment.settings_class(), f"{experiment.name}: "
        key = key.removeprefix("experiment.")
    if isinstance(problem, MissingMandatoryValue):
        return f"{lead}{key} has no value; give one on the command line or in its yaml file"
    if isinstance(problem, ValidationError):
        value = _value_in(str(problem.msg)) if problem.value is None else problem.value
        wanted = _type_of(re.split(r"[.\[]", key)[0], fields)
        if wanted:
            return f"{lead}{key} must be {wanted}, got {'null' if value is None else repr(value)}"
    if isinstance(problem, InterpolationResolutionError):
        return f"{lead}{key} cannot be worked out: {_first_line(problem)}"
    return f"{lead}{_first_line(problem)}"


def validator_text(problem: Exception) -> str:
    """The message of an attrs validator, without the objects attrs adds to it."""
    text = str(problem.args[0]) if problem.args else type(problem).__name__
    limit = re.fullmatch(r"'(\w+)' must be (>=|<=|<|>) (.+?): (.*)", text)
    if limit:
        name, relation, bound, value = limit.groups()
        return f"{name} must be {relation} {bound}, got {value}"
    choice = re.fullmatch(r"'(\w+)' must be in [\[(](.*?),?[\])] \(got (.*)\)", text)
    if choice:
        name, options, value = choice.groups()
        return f"{name} must be one of {options}, got {value}"
    return text


def _of_omegaconf(problem: BaseException) -> OmegaConfBaseException | None:
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _type_of(name: str, fields: type[Any]) -> str | None:
    """The type of a field as it is written, None if there is no such field."""
    attrs.resolve_types(fields)
    if name not in attrs.fields_dict(fields):
        return None
    kind = attrs.fields_dict(fields)[name].type
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _value_in(message: str) -> object:
    found = re.search(r"[Vv]alue '(.*?)'(?: of type '(\w+)')?", message, re.DOTALL)
    if not found:
        return None
    text, kind = found.groups()
    return None if text == "None" and kind in (None, "NoneType") else text


def _lead(where: str) -> str:
    return f"{where}: " if where else ""


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
