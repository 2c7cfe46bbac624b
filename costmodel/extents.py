"""How far the iterators of a statement go: least, greatest and mean number of iterations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import attrs

from costmodel.affine import Affine
from costmodel.ir import Statement


@attrs.frozen
class Extent:
    """A loop's values: from low up to, not with, high; on the mean it runs mean iterations."""

    low: int
    high: int
    mean: float

    @property
    def size(self) -> int:
        return max(0, self.high - self.low)


@lru_cache(maxsize=1024)
def extents(statement: Statement) -> Mapping[str, Extent]:
    """Of every iterator, bounds taken at the extremes of the loops outside.

    The mean takes each outer iterator at the middle of its range, which is exact for triangles.
    """
    found: dict[str, Extent] = {}
    for loop in statement.loops:
        low, high = _least(loop.lower, found), -_least(loop.upper * -1, found)
        middle = {name: (e.low + max(e.low, e.high - 1)) / 2 for name, e in found.items()}
        width = loop.upper - loop.lower
        mean = width.const + sum(factor * middle[name] for name, factor in width.terms)
        found[loop.name] = Extent(low, high, max(0.0, float(mean)))
    return MappingProxyType(found)


def _least(affine: Affine, ranges: Mapping[str, Extent]) -> int:
    total = affine.const
    for name, factor in affine.terms:
        inside = ranges[name]
        last = max(inside.low, inside.high - 1)
        total += min(factor * inside.low, factor * last)
    return total
