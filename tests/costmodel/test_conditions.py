"""Affine conditions against their truth at every point of a small box."""

import itertools
import operator
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel import conditions
from costmodel.affine import Affine
from costmodel.conditions import Cases
from costmodel.ir import Condition

POINTS = [{"i": i, "j": j} for i, j in itertools.product(range(-5, 6), repeat=2)]
OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def holding(cases: Cases, point: dict[str, int]) -> int:
    """How many cases hold at a point."""
    return sum(all(condition.holds(point) for condition in case) for case in cases)


def affine(rng: random.Random) -> Affine:
    factors = [("i", rng.randint(-2, 2)), ("j", rng.randint(-1, 1))]
    return Affine(factors, rng.randint(-3, 3))


class Formula:
    """A random formula as cases, and as what Python says at a point."""

    def __init__(self, rng: random.Random, depth: int) -> None:
        kind = rng.choice(["compare"] if depth == 0 else ["compare", "and", "or", "not"])
        if kind == "compare":
            op, left, right = rng.choice(list(OPERATORS)), affine(rng), affine(rng)
            self.cases = conditions.compare(op, left, right)
            self.truth = lambda p: OPERATORS[op](left.value(p), right.value(p))
            return
        a, b = Formula(rng, depth - 1), Formula(rng, depth - 1)
        if kind == "and":
            self.cases = conditions.both(a.cases, b.cases)
            self.truth = lambda p: a.truth(p) and b.truth(p)
        elif kind == "or":
            self.cases = conditions.either(a.cases, b.cases)
            self.truth = lambda p: a.truth(p) or b.truth(p)
        else:
            self.cases = conditions.opposite(a.cases)
            self.truth = lambda p: not a.truth(p)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_exactly_one_case_holds_where_the_formula_does(seed: int) -> None:
    formula = Formula(random.Random(seed), 3)
    for cases in (formula.cases, conditions.decided(formula.cases)):
        for point in POINTS:
            assert holding(cases, point) == formula.truth(point), point


@pytest.mark.parametrize("always", [True, False])
def test_conditions_on_numbers_alone_are_decided(always: bool) -> None:
    fixed = conditions.compare("<", Affine((), 1), Affine((), 2 if always else 1))
    open_ = conditions.compare(">=", Affine.of("i"), Affine())
    wanted = open_ if always else conditions.NEVER
    assert conditions.decided(conditions.both(fixed, open_)) == wanted


def test_the_other_side_of_an_interval_has_no_impossible_or_idle_conditions() -> None:
    i = Affine.of("i")
    inside = conditions.both(
        conditions.compare(">", i, Affine((), 3)), conditions.compare("<", i, Affine((), 9))
    )
    assert conditions.opposite(inside) == (
        (Condition(i * -1 + 3),),
        (Condition(i - 9),),
    )
    assert conditions.opposite(conditions.opposite(inside)) == inside
