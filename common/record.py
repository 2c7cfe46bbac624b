"""What one measurement and one run look like, and how they become JSON."""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

Scalar = str | int | float | bool | None

#: Layout of run.json; a reader refuses a larger number than its own.
SCHEMA = 1

#: How a run can stand. "running" is also what a run killed from outside is left as.
STATUSES = ("running", "ok", "failed", "timeout", "interrupted")

_V = TypeVar("_V")


class ResultsError(RuntimeError):
    """A file of the results store cannot be read or written; the message names it."""


class ResultsWarning(UserWarning):
    """A run was left out, or shown in part; the message names the file."""


@attrs.frozen
class Record:
    """One measured value: a line of records.jsonl.

    low, high: the 95% interval, both or neither. rounds is given exactly for timed values.
    extra holds the keys of a newer writer, so that a file read and written again loses nothing.
    Numbers of numpy are accepted and kept as plain Python numbers.

    Raises ValueError for a number that is not finite, TypeError for what is no number; both name
    the metric.
    """

    metric: str
    value: float
    unit: str
    claim: str | None = None
    low: float | None = None
    high: float | None = None
    axes: Mapping[str, Scalar] = attrs.field(factory=dict, hash=False)
    rounds: int | None = None
    noise: float | None = None
    noisy: bool = False
    contended: bool = False
    fraction_of_roofline: float | None = None
    seconds: float | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict, hash=False)

    def __attrs_post_init__(self) -> None:
        _require_text(self.metric, "the metric's name", "a record")
        where = f"metric {self.metric!r}"
        _require_text(self.unit, "unit", where, empty=True)
        if self.claim is not None:
            _require_text(self.claim, "claim", where)
        put = object.__setattr__  # frozen: only here, while the value is being made
        if self.value is None:
            raise TypeError(f"value of {where} must be a number, got None")
        for name in ("value", "low", "high", "noise", "fraction_of_roofline", "seconds"):
            number = getattr(self, name)
            if number is not None and not (type(number) is float and math.isfinite(number)):
                put(self, name, _finite(number, name, where))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low and high of {where} must be given together")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low of {where} must not exceed high, got {self.low} and {self.high}")
        if self.rounds is not None:
            put(self, "rounds", _whole(self.rounds, "rounds", where))
        for name in ("noisy", "contended"):
            truth = getattr(self, name)
            if truth is not False:
                put(self, name, _truth(truth, name, where))
        put(self, "axes", _axes(self.axes, where))
        put(self, "extra", _extra(self.extra, where))

    @property
    def is_timed(self) -> bool:
        """Whether the value comes from an interleaved comparison of times."""
        return self.rounds is not None

    def to_json(self) -> str:
        """The record as one line of JSON without its end; fields at their default are left out."""
        row: dict[str, Any] = {"claim": self.claim, "metric": self.metric, "value": self.value}
        for name in ("low", "high"):
            _keep(row, name, getattr(self, name), None)
        row["unit"] = self.unit
        _keep(row, "axes", dict(self.axes), {})
        for name in ("rounds", "noise"):
            _keep(row, name, getattr(self, name), None)
        for name in ("noisy", "contended"):
            _keep(row, name, getattr(self, name), False)
        for name in ("fraction_of_roofline", "seconds"):
            _keep(row, name, getattr(self, name), None)
        row.update(self.extra)
        return json.dumps(row, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Read one line; ValueError or TypeError says what is wrong with it."""
        return cls.from_row(json.loads(line))

    @classmethod
    def from_row(cls, row: Any) -> Record:
        """The record of one line's JSON value; errors as of `from_json`."""
        if not isinstance(row, dict):
            raise ValueError(f"a record must be a JSON object, got {type(row).__name__}")
        if not row.keys() >= _NEEDED:
            missing = [name for name in ("metric", "value", "unit") if name not in row]
            raise ValueError(f"a record must have {', '.join(missing)}")
        if row.keys() <= _KNOWN:
            return cls(**row)
        known = {name: value for name, value in row.items() if name in _KNOWN}
        extra = {name: value for name, value in row.items() if name not in _KNOWN}
        return cls(**known, extra=extra)


_RECORD_FIELDS = tuple(a.name for a in attrs.fields(Record) if a.name != "extra")
_KNOWN = frozenset(_RECORD_FIELDS)
_NEEDED = frozenset(("metric", "value", "unit"))


@attrs.frozen
class RunInfo:
    """What is the same for every record of a run: the content of run.json.

    sources: path relative to the repository's root -> sha256, of every file of ours that was loaded
    started: UTC, ISO 8601;  seconds, peak_mb: of the child, once it has ended
    error: signal, limit or exception, and the last lines of the log
    n_records, records_sha256: of records.jsonl when the run ended
    """

    experiment: str
    key: str
    settings: Mapping[str, Any] = attrs.field(hash=False)
    profile: str
    seed: int
    threads: int
    machine_id: str
    machine: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    git_sha: str | None = None
    git_dirty: bool | None = None
    sources: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    started: str = attrs.field(kw_only=True)
    seconds: float | None = None
    peak_mb: float | None = None
    status: str = "running"
    error: str | None = None
    contended: bool = False
    command: str = ""
    n_records: int | None = None
    records_sha256: str | None = None
    schema: int = SCHEMA

    def __attrs_post_init__(self) -> None:
        for name in ("experiment", "key", "profile", "machine_id"):
            _require_text(getattr(self, name), name, "a run")
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        for name in ("settings", "machine", "sources"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{name} of a run must be a mapping, got {getattr(self, name)!r}")
        datetime.fromisoformat(self.started)

    def to_json(self) -> str:
        """The run as indented JSON, keys in the order of the fields."""
        row = {name: getattr(self, name) for name in _RUN_FIELDS}
        return json.dumps(row, allow_nan=False, indent=1, default=_plain) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> RunInfo:
        """Read run.json; ValueError or TypeError says what is wrong, also for a newer schema."""
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError(f"a run must be a JSON object, got {type(row).__name__}")
        schema = row.get("schema")
        if type(schema) is not int or schema < 1:
            raise ValueError(f"schema must be a positive integer, got {schema!r}")
        if schema > SCHEMA:
            raise ValueError(f"schema {schema} is newer than this version reads ({SCHEMA})")
        return cls(**{name: row[name] for name in _RUN_FIELDS if name in row})


_RUN_FIELDS = tuple(a.name for a in attrs.fields(RunInfo))


def canonical_json(value: Any) -> str:
    """JSON in which equal values give equal text: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), default=_plain)


def run_key(
    experiment: str,
    settings: Mapping[str, Any],
    seed: int,
    profile: str,
    threads: int,
    machine_id: str,
) -> str:
    """Name of a run's folder: 16 hex digits that depend on everything that decides its result."""
    parts = [experiment, settings, seed, profile, threads, machine_id]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """What json does not know itself: paths, enums, attrs values, mappings, numpy values."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if attrs.has(type(value)):
        return attrs.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a setting must be plain data, got {value!r}")


def _keep(row: dict[str, Any], name: str, value: _V, default: _V) -> None:
    if value != default:
        row[name] = value


def _require_text(value: object, name: str, where: str, *, empty: bool = False) -> None:
    if not isinstance(value, str) or not (value or empty):
        raise TypeError(f"{name} of {where} must be a string, got {value!r}")


def _finite(value: Any, name: str, where: str) -> float:
    if type(value) is float:
        number = value
    elif isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} of {where} must be a number, got {value!r}")
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} of {where} must be finite, got {value!r}")
    return number


def _whole(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} of {where} must be an integer, got {value!r}")
    number = int(value)
    if number < 0:
        raise ValueError(f"{name} of {where} must not be negative, got {number}")
    return number


def _truth(value: Any, name: str, where: str) -> bool:
    if value is True or value is False:
        return bool(value)
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, without importing numpy
        return bool(value)
    raise TypeError(f"{name} of {where} must be true or false, got {value!r}")


def _axes(axes: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes of {where} must be a mapping, got {axes!r}")
    plain: dict[str, Scalar] = {}
    for name, value in axes.items():
        if type(name) is not str or not name:
            raise TypeError(f"an axis of {where} must be named by a string, got {name!r}")
        kind = type(value)
        if kind is not str and kind is not int and kind is not bool and value is not None:
            if kind is not float:
                value = _axis_value(value, name, where)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"axis {name!r} of {where} must be finite, got {value!r}")
        plain[name] = value
    return plain


def _axis_value(value: Any, name: str, where: str) -> Scalar:
    """A subclass or a numpy scalar as the plain value it stands for."""
    if isinstance(value, enum.Enum):
        value = value.value
    elif hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(
        f"axis {name!r} of {where} must be a string, number, truth value or None, got {value!r}"
    )


def _extra(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra of {where} must be a mapping, got {extra!r}")
    if extra:
        clash = [name for name in extra if name in _RECORD_FIELDS]
        if clash:
            raise ValueError(f"extra of {where} must not hold the field {clash[0]!r}")
        try:
            json.dumps(dict(extra), allow_nan=False)
        except ValueError as error:
            raise ValueError(f"extra of {where} must be finite plain data: {error}") from None
    return dict(extra)
