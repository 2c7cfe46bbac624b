"""One claims.toml, checked field by field: what is not understood is an error, never ignored."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from common.criteria import (
    Band,
    Criterion,
    Crossover,
    Near,
    Order,
    PaperValue,
    Ratio,
    Trend,
    ends,
)
from common.record import Scalar
from common.spelling import did_you_mean

SOURCES = ("read", "derived", "remembered", "unknown")
BETTER = ("higher", "lower", "equal")
#: <paper>.<abstract|figN|tabN|secN|ours>.<metric>; the number is left out where it was not read.
ID_PATTERN = re.compile(r"([a-z][a-z0-9_]*)\.(abstract|fig\d*|tab\d*|sec\d*|ours)\.[a-z0-9_]+")


class ClaimsError(ValueError):
    """A claims.toml is wrong; the message names file, claim and field."""


@attrs.frozen
class Point:
    """The paper's value at one place of a figure or table."""

    axes: Mapping[str, Scalar] = attrs.field(hash=False)
    value: float | tuple[float, float]

    def fits(self, axes: Mapping[str, Scalar]) -> bool:
        """Whether a record with these axes was taken at this place; the record may have more."""
        return all(name in axes and axes[name] == value for name, value in self.axes.items())


@attrs.frozen
class Claim:
    """Something a paper says in a number or a shape, and when ours counts as reproducing it.

    equal_footing, limit: claims of the same file to show beside it: ours over a peer as strong as
    we can make it, and the share of the machine's limit that ours reaches
    """

    id: str
    where: str
    metric: str
    unit: str
    paper: PaperValue
    source: str
    setting: str
    better: str
    criterion: Criterion | None
    comparable: bool
    points: tuple[Point, ...] = ()
    not_attempted: str | None = None
    note: str | None = None
    headline: bool | None = None
    equal_footing: str | None = None
    limit: str | None = None

    @property
    def package(self) -> str:
        """The package whose claims.toml it stands in."""
        return self.id.partition(".")[0]

    @property
    def is_judged(self) -> bool:
        """Whether the paper's value was read or derived; another is shown, never judged against."""
        return self.source in ("read", "derived")

    @property
    def is_headline(self) -> bool:
        """Whether reports open with it: as the file says, else whether an abstract makes it."""
        if self.headline is not None:
            return self.headline
        return self.id.split(".")[1] == "abstract"

    def paper_value(self, axes: Mapping[str, Scalar]) -> PaperValue:
        """The paper's value at these axes: of the point that agrees in most axes, else `paper`."""
        fitting = [point for point in self.points if point.fits(axes)]
        if not fitting:
            return self.paper
        return max(fitting, key=lambda point: len(point.axes)).value


def parse(path: Path, package: str) -> dict[str, Claim]:
    """The claims of a file by id, in its order; raises ClaimsError for the first mistake."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ClaimsError(f"{path} is not valid TOML: {problem}") from None
    except OSError as problem:
        raise ClaimsError(f"cannot read {path}: {problem.strerror}") from problem
    _reject_unknown(content, ("claim",), str(path))
    tables = content.get("claim", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ClaimsError(f"{path}: claims must be written as [[claim]] tables")
    claims: dict[str, Claim] = {}
    for number, table in enumerate(tables, 1):
        claim = _claim(table, f"{path}: claim {table.get('id', f'number {number}')!r}", package)
        if claim.id in claims:
            raise ClaimsError(f"{path}: claim {claim.id!r} stands twice")
        claims[claim.id] = claim
    for claim in claims.values():
        _check_named(claim, claims, f"{path}: claim {claim.id!r}")
    return claims


def _claim(table: dict[str, Any], place: str, package: str) -> Claim:
    _reject_unknown(table, tuple(a.name for a in attrs.fields(Claim)), place)
    for name in ("id", "where", "metric", "unit", "source", "setting", "better", "comparable"):
        if name not in table:
            raise ClaimsError(f"{place}: {name!r} is missing")
    for name in (
        "id", "where", "metric", "setting", "not_attempted", "note", "equal_footing", "limit",
    ):  # fmt: skip
        if name in table:
            _text(table, name, place)
    match = ID_PATTERN.fullmatch(table["id"])
    if not match or match[1] != package:
        wanted = f"{package}.<abstract|figN|tabN|secN|ours>.<metric>"
        raise ClaimsError(f"{place}: 'id' must look like {wanted}")
    points = _points(table.get("points", []), place)
    better = _choice(table, "better", BETTER, place)
    if not isinstance(table["unit"], str):
        raise ClaimsError(f"{place}: 'unit' must be a string, got {table['unit']!r}")
    for name in ("comparable", "headline"):
        if name in table and type(table[name]) is not bool:
            got = table[name]
            raise ClaimsError(f"{place}: {name!r} must be true or false, got {got!r}")
    claim = Claim(
        id=table["id"],
        where=table["where"],
        metric=table["metric"],
        unit=table["unit"],
        paper=_paper(table["paper"], f"{place}: 'paper'") if "paper" in table else None,
        source=_choice(table, "source", SOURCES, place),
        setting=table["setting"],
        better=better,
        criterion=_criterion(table["criterion"], place) if "criterion" in table else None,
        comparable=table["comparable"],
        points=points,
        not_attempted=table.get("not_attempted"),
        note=table.get("note"),
        headline=table.get("headline"),
        equal_footing=table.get("equal_footing"),
        limit=table.get("limit"),
    )
    _check_together(claim, place)
    return claim


def _check_named(claim: Claim, claims: Mapping[str, Claim], place: str) -> None:
    """The claims it names are there, and not itself."""
    for field in ("equal_footing", "limit"):
        name = getattr(claim, field)
        if name is not None and (name not in claims or name == claim.id):
            hint = did_you_mean(name, [other for other in claims if other != claim.id]) or ""
            raise ClaimsError(f"{place}: {field!r} must name another claim, got {name!r}{hint}")


def _check_together(claim: Claim, place: str) -> None:
    """Fields that are right alone but not beside each other."""
    values = [point.value for point in claim.points]
    if claim.paper is not None:
        values.append(claim.paper)
    criterion = claim.criterion
    if isinstance(criterion, Ratio | Near) and not values and claim.is_judged:
        kind = type(criterion).__name__.lower()
        raise ClaimsError(f"{place}: criterion {kind!r} needs a paper value or points")
    if isinstance(criterion, Ratio) and any(ends(value)[0] <= 0 for value in values):
        raise ClaimsError(f"{place}: criterion 'ratio' needs paper values above 0")


def _points(tables: Any, place: str) -> tuple[Point, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ClaimsError(f"{place}: points must be written as [[claim.points]] tables")
    points: list[Point] = []
    for number, table in enumerate(tables, 1):
        here = f"{place}: point {number}"
        _reject_unknown(table, ("axes", "value"), here)
        axes = table.get("axes")
        if not isinstance(axes, dict) or not axes:
            raise ClaimsError(f"{here}: 'axes' must be a table with at least one axis")
        for name, value in axes.items():
            if not isinstance(value, str | int | float | bool):
                raise ClaimsError(
                    f"{here}: axis {name!r} must be a string, number or truth value, got {value!r}"
                )
        if "value" not in table:
            raise ClaimsError(f"{here}: 'value' is missing")
        point = Point(axes, _paper(table["value"], f"{here}: 'value'"))
        if any(point.axes == other.axes for other in points):
            raise ClaimsError(f"{here}: a point with axes {axes} stands twice")
        points.append(point)
    return tuple(points)


def _criterion(table: Any, place: str) -> Criterion:
    if not isinstance(table, dict) or "kind" not in table:
        raise ClaimsError(f"{place}: 'criterion' must be a table with 'kind', got {table!r}")
    kind = _choice(table, "kind", tuple(_KINDS), f"{place}: criterion")
    return _KINDS[kind](table, f"{place}: criterion {kind!r}")


def _ratio(table: dict[str, Any], place: str) -> Ratio:
    _reject_unknown(table, ("kind", "min"), place)
    if "min" not in table:
        raise ClaimsError(f"{place}: 'min' is missing")
    least = _real(table["min"], f"{place}: 'min'")
    if least <= 0:
        raise ClaimsError(f"{place}: 'min' must be above 0, got {least}")
    return Ratio(least)


def _band(table: dict[str, Any], place: str) -> Band:
    _reject_unknown(table, ("kind", "low", "high"), place)
    return Band(**_range(table, place))


def _near(table: dict[str, Any], place: str) -> Near:
    _reject_unknown(table, ("kind", "abs", "rel"), place)
    if ("abs" in table) == ("rel" in table):
        raise ClaimsError(f"{place} needs either 'abs' or 'rel'")
    name = "abs" if "abs" in table else "rel"
    distance = _real(table[name], f"{place}: {name!r}")
    if distance < 0:
        raise ClaimsError(f"{place}: {name!r} must not be negative, got {distance}")
    return Near(**{name: distance})


def _order(table: dict[str, Any], place: str) -> Order:
    _reject_unknown(table, ("kind", "by", "values"), place)
    values = table.get("values")
    if not isinstance(values, list) or len(values) < 2 or len(set(map(repr, values))) < len(values):
        raise ClaimsError(f"{place}: 'values' must list at least two values, worst first")
    if not all(isinstance(value, str | int | float | bool) for value in values):
        raise ClaimsError(f"{place}: 'values' must hold strings, numbers or truth values")
    return Order(_axis(table, "by", place), tuple(values))


def _trend(table: dict[str, Any], place: str) -> Trend:
    _reject_unknown(table, ("kind", "axis", "sign"), place)
    if "sign" not in table:
        raise ClaimsError(f"{place}: 'sign' is missing")
    return Trend(_axis(table, "axis", place), _sign(table, place))


def _crossover(table: dict[str, Any], place: str) -> Crossover:
    _reject_unknown(table, ("kind", "axis", "level", "sign", "low", "high"), place)
    return Crossover(
        _axis(table, "axis", place),
        _real(table.get("level", 1.0), f"{place}: 'level'"),
        _sign(table, place) if "sign" in table else 1,
        **(_range(table, place) if "low" in table or "high" in table else {}),
    )


_KINDS: dict[str, Callable[[dict[str, Any], str], Criterion]] = {
    "ratio": _ratio,
    "band": _band,
    "near": _near,
    "order": _order,
    "trend": _trend,
    "crossover": _crossover,
}


def _range(table: dict[str, Any], place: str) -> dict[str, float]:
    """The given ones of "low" and "high"; at least one must be."""
    limits: dict[str, float] = {
        name: _real(table[name], f"{place}: {name!r}") for name in ("low", "high") if name in table
    }
    if not limits:
        raise ClaimsError(f"{place} needs 'low' or 'high'")
    if len(limits) == 2 and limits["low"] > limits["high"]:
        got = f"{limits['low']} and {limits['high']}"
        raise ClaimsError(f"{place}: 'low' must not exceed 'high', got {got}")
    return limits


def _axis(table: dict[str, Any], name: str, place: str) -> str:
    """An axis, written "batch" or, as in the tables of results, "axis.batch"."""
    if name not in table:
        raise ClaimsError(f"{place}: {name!r} is missing")
    _text(table, name, place)
    axis: str = table[name]
    return axis.removeprefix("axis.")


def _sign(table: dict[str, Any], place: str) -> int:
    sign = table["sign"]
    if type(sign) is not int or sign not in (1, -1):
        raise ClaimsError(f"{place}: 'sign' must be 1 or -1, got {sign!r}")
    return sign


def _paper(value: Any, what: str) -> float | tuple[float, float]:
    if not isinstance(value, list):
        return _real(value, what)
    if len(value) != 2:
        raise ClaimsError(f"{what} must be a number or [low, high], got {value!r}")
    low, high = (_real(end, what) for end in value)
    if low > high:
        raise ClaimsError(f"{what} must be [low, high] with low first, got {value!r}")
    return low, high


def _real(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ClaimsError(f"{what} must be a finite number, got {value!r}")
    return float(value)


def _text(table: Mapping[str, Any], name: str, place: str) -> None:
    if not isinstance(table[name], str) or not table[name].strip():
        raise ClaimsError(f"{place}: {name!r} must be a string that says something")


def _choice(table: Mapping[str, Any], name: str, choices: tuple[str, ...], place: str) -> str:
    value = table[name]
    if not isinstance(value, str) or value not in choices:
        raise ClaimsError(f"{place}: {name!r} must be one of {', '.join(choices)}, got {value!r}")
    return value


def _reject_unknown(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for name in table:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise ClaimsError(f"{place}: {name!r} is unknown{hint}")
