"""When a measured value counts as reproduced: the six kinds of criterion of a claims.toml.

ratio, band and near limit one value: acceptable() is the range in which it counts as reproduced.
order, trend and crossover are shapes of many values: find() says for each group of records whether
the shape is there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal

import attrs

from common.record import Record, Scalar

#: A paper's value: a number, the range the paper gives, or None where it is not known.
PaperValue = float | tuple[float, float] | None


@attrs.frozen
class Ratio:
    """At least `min` of the paper's result: value / paper >= min, or paper / value where lower is
    better. For a range of the paper its more modest end counts.
    """

    min: float

    def acceptable(self, paper: PaperValue, better: str) -> tuple[float, float] | None:
        """The range of values that reproduce; None without a paper value."""
        if paper is None:
            return None
        low, high = ends(paper)
        if better == "lower":
            return -math.inf, _over(high, self.min)
        return _times(low, self.min), math.inf


@attrs.frozen
class Band:
    """low <= value <= high, whatever the paper's value."""

    low: float = -math.inf
    high: float = math.inf

    def acceptable(self, paper: PaperValue, better: str) -> tuple[float, float] | None:
        """The band itself."""
        return self.low, self.high


@attrs.frozen
class Near:
    """The distance to the paper's value or range is at most abs, or rel times it; abs=0: exact."""

    abs: float | None = None
    rel: float | None = None

    def acceptable(self, paper: PaperValue, better: str) -> tuple[float, float] | None:
        """The range of values that reproduce; None without a paper value."""
        if paper is None:
            return None
        low, high = ends(paper)
        return _plus(low, -self._slack(low)), _plus(high, self._slack(high))

    def _slack(self, end: float) -> float:
        return self.abs if self.abs is not None else _times(math.fabs(end), self.rel or 0.0)


@attrs.frozen
class Finding:
    """Whether a shape is there in one group: records that agree in all axes but the one looked at.

    holds is None when the intervals are too wide to say. reason is a sentence's part.
    """

    holds: bool | None
    reason: str
    records: tuple[Record, ...]


@attrs.frozen
class Order:
    """The values of axis `by` rank as listed, worst first."""

    by: str
    values: tuple[Scalar, ...]

    def find(self, records: Sequence[Record], better: str) -> list[Finding]:
        """A finding per group that has at least two of the values; "lower" ranks downwards."""
        place = {value: i for i, value in enumerate(self.values)}
        findings = []
        for group in _groups(records, self.by, lambda value: value in place):
            chain = sorted(group, key=lambda record: place[record.axes[self.by]])
            if len({record.axes[self.by] for record in chain}) > 1:
                findings.append(self._judge(chain, -1 if better == "lower" else 1))
        return findings

    def _judge(self, chain: list[Record], sign: int) -> Finding:
        undecided = ""
        for worse, good in itertools.pairwise(chain):
            names = worse.axes[self.by], good.axes[self.by]
            if names[0] == names[1]:
                continue
            step = _step(worse, good)
            if step is None:
                undecided = undecided or f"{names[1]} against {names[0]} is too close to call"
            elif step != sign:
                return Finding(False, f"{names[1]} is not better than {names[0]}", tuple(chain))
        if undecided or any(record.noisy for record in chain):
            return Finding(None, undecided or "a value is noisy", tuple(chain))
        found = {record.axes[self.by] for record in chain}
        listed = " < ".join(str(value) for value in self.values if value in found)
        absent = ", ".join(str(value) for value in self.values if value not in found)
        return Finding(True, f"{listed}{f', without {absent}' if absent else ''}", tuple(chain))


@attrs.frozen
class Trend:
    """Values rise (sign 1) or fall (-1) along a numeric axis.

    The last must lie clearly past the first, and no step may clearly go back.
    """

    axis: str
    sign: int

    def find(self, records: Sequence[Record], better: str) -> list[Finding]:
        """A finding per group with at least two places on the axis."""
        return [self._judge(chain) for chain in _chains(records, self.axis)]

    def _judge(self, chain: list[Record]) -> Finding:
        name = "rise" if self.sign > 0 else "fall"
        for before, after in itertools.pairwise(chain):
            places = before.axes[self.axis], after.axes[self.axis]
            if places[0] != places[1] and _step(before, after) == -self.sign:
                where = f"from {self.axis} {places[0]} to {places[1]}"
                return Finding(False, f"values do not {name} {where}", tuple(chain))
        overall = _step(chain[0], chain[-1])
        where = f"from {self.axis} {chain[0].axes[self.axis]} to {chain[-1].axes[self.axis]}"
        if overall is None or (overall == self.sign and any(r.noisy for r in chain)):
            return Finding(None, f"too noisy to say whether values {name} {where}", tuple(chain))
        if overall != self.sign:
            return Finding(False, f"values do not {name} {where}", tuple(chain))
        return Finding(True, f"values {name} {where}", tuple(chain))


@attrs.frozen
class Crossover:
    """Along a numeric axis values pass level once: upwards (sign 1) or downwards (-1).

    low, high limit where on the axis: the places between which it passes must meet [low, high].
    """

    axis: str
    level: float = 1.0
    sign: int = 1
    low: float = -math.inf
    high: float = math.inf

    def find(self, records: Sequence[Record], better: str) -> list[Finding]:
        """A finding per group with at least two places on the axis."""
        return [self._judge(chain) for chain in _chains(records, self.axis)]

    def _judge(self, chain: list[Record]) -> Finding:
        sides = [_side(record, self.level) for record in chain]
        decided = [side * self.sign for side in sides if side is not None]
        if sides[0] == self.sign or sides[-1] == -self.sign or decided != sorted(decided):
            return Finding(False, f"values do not pass {self.level:g} once", tuple(chain))
        if sides[0] is None or sides[-1] is None or any(record.noisy for record in chain):
            reason = f"too noisy to say whether values pass {self.level:g}"
            return Finding(None, reason, tuple(chain))
        start = max(
            _place(r, self.axis) for r, s in zip(chain, sides, strict=True) if s == -self.sign
        )
        stop = min(
            _place(r, self.axis) for r, s in zip(chain, sides, strict=True) if s == self.sign
        )
        where = f"values pass {self.level:g} between {self.axis} {start:g} and {stop:g}"
        within = start <= self.high and stop >= self.low
        return Finding(within, where, tuple(chain))


Limit = Ratio | Band | Near
Shape = Order | Trend | Crossover
Criterion = Limit | Shape


def ends(paper: float | tuple[float, float]) -> tuple[float, float]:
    """Lower and upper end of a paper's value; the same twice for a number."""
    return paper if isinstance(paper, tuple) else (paper, paper)


def interval(record: Record) -> tuple[float, float]:
    """The record's 95% interval; an exact number is an interval of no width."""
    if record.low is None or record.high is None:
        return record.value, record.value
    return record.low, record.high


def _step(before: Record, after: Record) -> int | None:
    """1 if after is clearly larger, -1 if clearly smaller, 0 if exactly equal, None if unclear."""
    if before.noisy or after.noisy:
        return None
    (a_low, a_high), (b_low, b_high) = interval(before), interval(after)
    if b_low > a_high:
        return 1
    if b_high < a_low:
        return -1
    return 0 if a_low == a_high == b_low == b_high else None


def _side(record: Record, level: float) -> int | None:
    low, high = interval(record)
    if record.noisy or low <= level <= high:
        return None
    return 1 if low > level else -1


def _groups(
    records: Iterable[Record], axis: str, wanted: Callable[[Scalar], bool]
) -> Iterator[list[Record]]:
    """Records that have a wanted value on axis, gathered by their other axes."""
    groups: dict[frozenset[tuple[str, Scalar]], list[Record]] = {}
    for record in records:
        if axis in record.axes and wanted(record.axes[axis]):
            others = frozenset(item for item in record.axes.items() if item[0] != axis)
            groups.setdefault(others, []).append(record)
    yield from groups.values()


def _chains(records: Iterable[Record], axis: str) -> Iterator[list[Record]]:
    """Groups with at least two places on a numeric axis, each sorted along it."""
    for group in _groups(records, axis, lambda value: type(value) in (int, float)):
        if len({record.axes[axis] for record in group}) > 1:
            yield sorted(group, key=lambda record: _place(record, axis))


def _place(record: Record, axis: str) -> float:
    value = record.axes[axis]
    assert isinstance(value, int | float)
    return value


# Limits are written in decimal and must hold in decimal: 0.8 is within 0.1 of 0.7, though
# 0.7 + 0.1 is 0.7999... in binary.
def _plus(a: float, b: float) -> float:
    return float(Decimal(repr(a)) + Decimal(repr(b)))


def _times(a: float, b: float) -> float:
    return float(Decimal(repr(a)) * Decimal(repr(b)))


def _over(a: float, b: float) -> float:
    return float(Decimal(repr(a)) / Decimal(repr(b)))
