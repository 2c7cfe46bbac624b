"""Records and runs as values and as JSON."""

from __future__ import annotations

import enum
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.record import Record, RunInfo, Scalar, canonical_json, run_key

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Scalar] = st.none() | st.booleans() | st.integers() | NUMBERS | st.text()
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {a.name for a in attrs.fields(Record)}


@st.composite
def records(draw: st.DrawFn) -> Record:
    ends = draw(st.none() | st.tuples(NUMBERS, NUMBERS).map(sorted))
    maybe_number = st.none() | NUMBERS
    return Record(
        metric=draw(st.text(min_size=1)),
        value=draw(NUMBERS),
        unit=draw(st.text()),
        claim=draw(st.none() | st.text(min_size=1)),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        axes=draw(st.dictionaries(st.text(min_size=1), SCALARS, max_size=4)),
        rounds=draw(st.none() | st.integers(min_value=0)),
        noise=draw(maybe_number),
        noisy=draw(st.booleans()),
        contended=draw(st.booleans()),
        fraction_of_roofline=draw(maybe_number),
        seconds=draw(maybe_number),
        extra=draw(
            st.dictionaries(st.text().filter(lambda name: name not in FIELDS), JSON, max_size=3)
        ),
    )


@settings(deadline=None)  # a busy machine is no failure
@given(records())
def test_record_survives_json(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    back = Record.from_json(line)
    assert back == record
    assert repr(back) == repr(record)  # 1, 1.0 and True are equal but must not be exchanged


def test_keys_of_a_newer_writer_survive() -> None:
    line = '{"metric":"m","value":1.0,"unit":"x","energy_j":3.5,"tags":["a",{"b":null}]}'
    record = Record.from_json(line)
    assert record.extra == {"energy_j": 3.5, "tags": ["a", {"b": None}]}
    assert json.loads(record.to_json()) == json.loads(line) | {"claim": None}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400])
@pytest.mark.parametrize("field", ["value", "noise", "seconds", "fraction_of_roofline"])
def test_number_that_is_not_finite_names_metric(field: str, number: Any) -> None:
    fields: dict[str, Any] = {"metric": "speedup", "value": 1.0, "unit": "x"} | {field: number}
    with pytest.raises(ValueError, match=rf"{field} of metric 'speedup' must be finite"):
        Record(**fields)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "1e999"])
def test_number_that_is_not_finite_is_not_read(token: str) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Record.from_json(f'{{"metric":"m","value":{token},"unit":"x"}}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "3"}, "value of metric 'm' must be a number, got '3'"),
        ({"value": True}, "value of metric 'm' must be a number, got True"),
        ({"value": None}, "value of metric 'm' must be a number, got None"),
        ({"value": 1j}, "value of metric 'm' must be a number"),
        ({"metric": ""}, "the metric's name of a record must be a string"),
        ({"unit": None}, "unit of metric 'm' must be a string"),
        ({"claim": 7}, "claim of metric 'm' must be a string, got 7"),
        ({"low": 1.0}, "low and high of metric 'm' must be given together"),
        ({"low": 2.0, "high": 1.0}, "low of metric 'm' must not exceed high, got 2.0 and 1.0"),
        ({"rounds": 2.5}, "rounds of metric 'm' must be an integer, got 2.5"),
        ({"rounds": -1}, "rounds of metric 'm' must not be negative"),
        ({"noisy": 1}, "noisy of metric 'm' must be true or false, got 1"),
        ({"axes": [1]}, "axes of metric 'm' must be a mapping"),
        ({"axes": {"rank": [1]}}, r"axis 'rank' of metric 'm' must be a string, .* got \[1\]"),
        ({"axes": {"rank": math.nan}}, "axis 'rank' of metric 'm' must be finite, got nan"),
        ({"axes": {1: 2}}, "an axis of metric 'm' must be named by a string, got 1"),
        ({"extra": {"value": 2}}, "extra of metric 'm' must not hold the field 'value'"),
        ({"extra": {"x": math.inf}}, "extra of metric 'm' must be finite plain data"),
    ],
)
def test_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"metric": "m", "value": 1.0, "unit": "x"} | change
    with pytest.raises((ValueError, TypeError), match=message):
        Record(**fields)


def test_numbers_of_other_libraries_become_plain() -> None:
    class Colour(enum.Enum):
        RED = "red"

    build: Any = Record  # the signature promises only Python's own numbers
    record = build(
        "m",
        np.float32(0.5),
        "x",
        rounds=np.int64(3),
        noisy=np.bool_(True),
        low=Fraction(1, 4),
        high=np.array(0.75),
        axes={
            "rank": np.int32(8),
            "on": np.bool_(False),
            "colour": Colour.RED,
            "lr": np.float64(1),
        },
    )
    assert record.value == 0.5
    assert type(record.value) is float
    assert (record.low, record.high) == (0.25, 0.75)
    assert (record.rounds, record.noisy) == (3, True)
    assert record.axes == {"rank": 8, "on": False, "colour": "red", "lr": 1.0}
    assert [type(v) for v in record.axes.values()] == [int, bool, str, float]


def test_record_keeps_its_own_axes() -> None:
    axes = {"rank": 8}
    record = Record("m", 1.0, "x", axes=axes)
    axes["rank"] = 9
    assert record.axes == {"rank": 8}
    assert hash(record) == hash(Record("m", 1.0, "x", axes={"rank": 8}))


@pytest.mark.parametrize(
    "line", ["", "7", "[]", '{"metric":"m"}', '{"metric":"m","value":1,"unit":"x"', "\xff"]
)
def test_line_that_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Record.from_json(line)


SETTINGS = st.dictionaries(st.text(), JSON, max_size=4)


@settings(deadline=None)  # a busy machine is no failure
@given(SETTINGS, st.randoms())
def test_key_does_not_depend_on_order_of_settings(settings: dict[str, Any], random: Any) -> None:
    items = list(settings.items())
    random.shuffle(items)
    args = (0, "quick", 1, "machine")
    assert run_key("e", dict(items), *args) == run_key("e", settings, *args)


def test_key_depends_on_every_part() -> None:
    base: dict[str, Any] = {
        "experiment": "ttrec_kernels",
        "settings": {"batch": 1},
        "seed": 0,
        "profile": "quick",
        "threads": 1,
        "machine_id": "a",
    }
    changed: dict[str, Any] = {
        "experiment": "ttrec_pooling",
        "settings": {"batch": 2},
        "seed": 1,
        "profile": "full",
        "threads": 2,
        "machine_id": "b",
    }
    keys = {run_key(**base)} | {run_key(**(base | {name: changed[name]})) for name in base}
    assert len(keys) == len(base) + 1
    assert all(len(key) == 16 for key in keys)


def test_key_is_the_same_in_every_version() -> None:
    # A literal: a change of the canonical form would silently orphan every stored run.
    key = run_key("ttrec_kernels", {"batch": 512, "lr": 1e-05}, 0, "quick", 1, "m1")
    assert key == "1775bd0d6a2863c0"


def test_settings_may_hold_paths_tuples_and_attrs_values() -> None:
    @attrs.frozen
    class Inner:
        size: int

    text = canonical_json({"p": Path("a/b"), "t": (1, 2), "i": Inner(3), "n": np.int64(4)})
    assert text == '{"i":{"size":3},"n":4,"p":"a/b","t":[1,2]}'
    with pytest.raises(TypeError, match="a setting must be plain data"):
        canonical_json({"f": object()})


def make_info(**changes: Any) -> RunInfo:
    fields: dict[str, Any] = {
        "experiment": "ttrec_kernels",
        "key": "k",
        "settings": {"batch": 8},
        "profile": "quick",
        "seed": 0,
        "threads": 1,
        "machine_id": "m",
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunInfo(**(fields | changes))


@settings(deadline=None)  # a busy machine is no failure
@given(SETTINGS, SETTINGS, st.none() | st.text(), st.none() | NUMBERS)
def test_run_survives_json(
    settings: dict[str, Any], machine: dict[str, Any], error: str | None, seconds: float | None
) -> None:
    info = make_info(settings=settings, machine=machine, error=error, seconds=seconds)
    assert RunInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "done"}, "status must be one of running, ok, .* got 'done'"),
        ({"started": "yesterday"}, "Invalid isoformat"),
        ({"settings": [1]}, r"settings of a run must be a mapping, got \[1\]"),
        ({"machine_id": ""}, "machine_id of a run must be a string"),
    ],
)
def test_wrong_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make_info(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "a run must be a JSON object, got list"),
        ("{}", "schema must be a positive integer, got None"),
        ('{"schema": 2}', r"schema 2 is newer than this version reads \(1\)"),
        ('{"schema": "1"}', "schema must be a positive integer, got '1'"),
        ("{", "Expecting property name"),
    ],
)
def test_run_that_cannot_be_read_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunInfo.from_json(text)


def test_run_ignores_fields_it_does_not_know() -> None:
    row = json.loads(make_info().to_json()) | {"colour": "red"}
    assert RunInfo.from_json(json.dumps(row)) == make_info()
