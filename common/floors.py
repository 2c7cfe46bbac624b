"""Floors of ratios that are counted or simulated, not timed: they say the same on every machine.

Beside its timed gates (`common.gates`) a paper lists in `<paper>/gates.py`:

    FLOORS = (Floor("ttrec_kaggle", kaggle_ratio, floor=221.0, claims=("ttrec...",)),)
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence

import attrs

from common import PAPERS


@attrs.frozen
class Floor:
    """A ratio that follows from its inputs alone, and the least it may be.

    value:  computes it
    claims: ids of what is lost with it
    """

    name: str
    value: Callable[[], float]
    floor: float
    claims: tuple[str, ...] = ()

    def check(self) -> float:
        """The value. Raises AssertionError where it is below the floor or no number."""
        found = self.value()
        if not (math.isfinite(found) and found >= self.floor):
            raise AssertionError(f"{self.name} must be at least {self.floor:g}, got {found:g}")
        return found


def all_floors(packages: Sequence[str] = PAPERS) -> dict[str, Floor]:
    """`FLOORS` of every `<package>/gates.py` that has some, by name, which must be unique."""
    found: dict[str, Floor] = {}
    for package in packages:
        if importlib.util.find_spec(package) is None:
            continue  # a wheel may hold fewer papers than the checkout
        if importlib.util.find_spec(f"{package}.gates") is None:
            continue
        for floor in getattr(importlib.import_module(f"{package}.gates"), "FLOORS", ()):
            if floor.name in found:
                raise ValueError(f"names of floors must be unique: {floor.name} is listed twice")
            found[floor.name] = floor
    return found
