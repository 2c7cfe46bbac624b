"""Affine conditions: and, or, not as lists of cases of which at most one holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from costmodel.affine import Affine
from costmodel.ir import Condition

# Every case is a conjunction; no two cases hold at one point. () never holds, ((),) always.
Cases = tuple[tuple[Condition, ...], ...]

ALWAYS: Cases = ((),)
NEVER: Cases = ()


def compare(op: str, left: Affine, right: Affine) -> Cases:
    """Cases of `left op right` over the integers."""
    difference = left - right
    match op:
        case ">=":
            return ((Condition(difference),),)
        case ">":
            return ((Condition(difference - 1),),)
        case "<=":
            return ((Condition(right - left),),)
        case "<":
            return ((Condition(right - left - 1),),)
        case "==":
            return ((Condition(difference, is_equality=True),),)
        case "!=":
            return ((Condition(difference - 1),), (Condition(right - left - 1),))
        case _:
            raise AssertionError(op)


def both(left: Cases, right: Cases) -> Cases:
    return tuple((*a, *b) for a, b in product(left, right))


def either(left: Cases, right: Cases) -> Cases:
    return _possible(left + both(opposite(left), right))


def opposite(cases: Cases) -> Cases:
    total = ALWAYS
    for case in cases:
        total = _possible(both(total, _fails(case)))
    return total


def _possible(cases: Cases) -> Cases:
    """Cases without those that contradict themselves, nor conditions that others imply."""
    tidied = map(_tidied, cases)
    return tuple(case for case in tidied if case is not None)


def _tidied(case: tuple[Condition, ...]) -> tuple[Condition, ...] | None:
    """None if two conditions over the same iterators exclude each other."""
    equal = {c.expression.terms: c.expression.const for c in case if c.is_equality}
    least: dict[tuple[tuple[str, int], ...], int] = {}  # terms + the smallest constant >= 0
    for condition in case:
        terms, const = condition.expression.terms, condition.expression.const
        if condition.is_equality:
            if equal[terms] != const:
                return None
            continue
        mirrored = (condition.expression * -1).terms
        for known, sign in ((equal.get(terms), 1), (equal.get(mirrored), -1)):
            if known is not None and const - sign * known < 0:
                return None
        least[terms] = min(const, least.get(terms, const))
        if mirrored in least and const + least[mirrored] < 0:
            return None
    kept = []
    for condition in case:
        terms, const = condition.expression.terms, condition.expression.const
        mirrored = (condition.expression * -1).terms
        implied = not condition.is_equality and (
            least[terms] < const or terms in equal or mirrored in equal
        )
        if not implied and condition not in kept:
            kept.append(condition)
    return tuple(_as_equalities(kept))


def _as_equalities(case: list[Condition]) -> Iterator[Condition]:
    """e >= 0 and -e >= 0 become e == 0."""
    for place, condition in enumerate(case):
        mirrored = Condition(condition.expression * -1)
        if condition.is_equality or mirrored not in case:
            yield condition
        elif case.index(mirrored) > place:
            yield Condition(condition.expression, is_equality=True)


def _fails(case: tuple[Condition, ...]) -> Cases:
    """Where a conjunction does not hold: it fails first at its first, second, ... member."""
    found: Cases = NEVER
    for count, condition in enumerate(case):
        found += both((case[:count],), _negated(condition))
    return found


def _negated(condition: Condition) -> Cases:
    below = ((Condition(condition.expression * -1 - 1),),)
    if not condition.is_equality:
        return below
    return (*below, (Condition(condition.expression - 1),))


def decided(cases: Cases) -> Cases:
    """Cases without the conditions that no iterator can change."""
    kept = []
    for case in cases:
        fixed = [c for c in case if not c.expression.terms]
        if all(c.holds({}) for c in fixed):
            kept.append(tuple(c for c in case if c.expression.terms))
    return tuple(kept)
