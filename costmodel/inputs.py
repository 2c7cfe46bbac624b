"""Data to run a program on: integers for which every order of its sums gives the same bits.

A value that is a multiple of a power of two g and at most 2^p g in size is exact in a format of p
bits, and so are sums and products of such values as long as they stay within these bounds. So one
bound on |value| and one granule g for every array, with reductions counted as often as they hit a
cell, prove that any legal schedule must give the baseline's result to the last bit. int32 wraps
around and is exact in any order whatever the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.affine import Affine
from costmodel.ir import (
    Array,
    Binary,
    Call,
    Const,
    Expr,
    Index,
    Load,
    Negate,
    Program,
    Select,
    Statement,
    loads,
    operands,
    text_of,
)

MANTISSA_BITS = {"float32": 24, "float64": 53}
_PRECISION = ("float32", "float64", "int32")
AMPLITUDES = (8, 4, 2, 1)
#: Updates of a cyclic group of arrays followed one by one, at most; more are not proved exact.
MAX_ROUNDS = 20_000

_GOLDEN = 0x9E3779B97F4A7C15


@attrs.frozen
class Inputs:
    """How the arrays a program reads are filled.

    is_exact: every order of the program's sums gives equal bits, so results must be equal
    values:   low + step * (0, 1, ..., steps - 1), drawn independently
    is_dominant: square arrays get 2n more on their diagonal, for programs that factor them
    """

    is_exact: bool
    low: float
    step: float
    steps: int
    is_dominant: bool = False

    def diagonal(self, array: Array) -> int:
        """n where the n x n array has its diagonal raised, else 0."""
        square = len(array.shape) == 2 and array.shape[0] == array.shape[1]
        return array.shape[0] if self.is_dominant and square and array.dtype != "int32" else 0


def plan_inputs(program: Program) -> Inputs:
    """The widest range of integers for which the program is exact; else reals for a tolerance.

    Reals lie in [1, 2), away from 0, as what is divided or rooted may depend on them; a program
    that divides integers by what it reads gets positive ones.
    """
    divides = [e for s in program.statements for e in _all(s.computation.expr) if _divides(e)]
    for amplitude in AMPLITUDES:
        if is_exact(program, amplitude):
            if divides:
                return Inputs(True, 1.0, 1.0, amplitude)
            return Inputs(True, float(-amplitude), 1.0, 2 * amplitude + 1)
    return Inputs(False, 1.0, 2.0**-20, 2**20, is_dominant=True)


def values(program: Program, inputs: Inputs, array: Array, seed: int = 0) -> NDArray[np.generic]:
    """What the child fills `array` with; the same formula as in kernels/measure.c."""
    number = program.arrays.index(array)
    with np.errstate(over="ignore"):
        z = np.uint64((seed + (number << 40)) % 2**64) + np.arange(
            1, array.n_items + 1, dtype=np.uint64
        ) * np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    drawn = inputs.low + inputs.step * ((z >> np.uint64(11)) % np.uint64(inputs.steps))
    n = inputs.diagonal(array)
    if n:
        drawn[:: n + 1] += 2 * n
    return drawn.astype(array.dtype).reshape(array.shape)


# --- the analysis ----------------------------------------------------------------------------


@attrs.frozen
class Bound:
    """Values are multiples of `granule`, a power of two, and at most `largest` in size.

    largest 0: always zero, a multiple of anything
    """

    largest: Fraction
    granule: Fraction

    def joined(self, other: Bound) -> Bound:
        return Bound(max(self.largest, other.largest), _finer(self, other))


#: Of an array never written: no defined value of the program follows from one.
NOTHING = Bound(Fraction(0), Fraction(1))


class Inexact(ValueError):
    """Some operation of the program may round."""


def is_exact(program: Program, amplitude: int) -> bool:
    """Whether inputs that are integers of at most `amplitude` make every partial sum exact."""
    try:
        bounds(program, amplitude)
    except Inexact:
        return False
    return True


def bounds(program: Program, amplitude: int) -> dict[str, Bound]:
    """A bound for every value an array ever holds, under any order of its reductions.

    Raises Inexact where some operation may round.
    """
    found: dict[str, Bound] = {}
    for array in program.arrays:
        if array.role in ("in", "inout"):
            found[array.name] = Bound(Fraction(amplitude), Fraction(1))
    for group in _groups(program.statements):
        _follow(program, group, found)
    return found


def _follow(program: Program, group: Sequence[Statement], found: dict[str, Bound]) -> None:
    """Bounds of what a group of mutually dependent statements writes."""
    written = {s.write.array for s in group}
    if len(written) == 1 and all(_kind(s) != "other" for s in group):
        _sum_up(program, group, found)
        return
    # Cells that feed each other: as many rounds as there are instances, unless they settle.
    rounds = sum(_n_instances(s) for s in group)
    for _ in range(min(rounds, MAX_ROUNDS)):
        before = {name: found.get(name) for name in written}
        for statement in group:
            new = _bound(program, statement, statement.computation.expr, found)
            _join(found, statement.write.array, new)
        if before == {name: found.get(name) for name in written}:
            return
    if rounds > MAX_ROUNDS:
        raise Inexact(f"{', '.join(sorted(written))} feed each other too often to follow")


def _sum_up(program: Program, group: Sequence[Statement], found: dict[str, Bound]) -> None:
    """One array whose cells are set, added to and rewritten cell by cell.

    Between two rewritings all additions together can at most add their sum once, whatever the
    order, so one more round of both for every rewriting of a cell is enough.
    """
    (name,) = {s.write.array for s in group}
    added: Bound | None = None
    for statement in group:
        term = _added(statement)
        if term is not None:
            value = _bound(program, statement, term, found)
            total = Bound(value.largest * _hits(statement), value.granule)
            added = total if added is None else _plus(added, total)
    for statement in group:
        if _kind(statement) == "sets":
            _join(found, name, _bound(program, statement, statement.computation.expr, found))
    dtype = program.array(name).dtype

    def add() -> None:
        if added is not None:
            found[name] = _checked(_plus(found.get(name, NOTHING), added), dtype)

    add()
    rewritings = [s for s in group if _kind(s) == "rewrites"]
    rounds = sum(_hits(s) for s in rewritings)
    for _ in range(min(rounds, MAX_ROUNDS)):
        before = found.get(name)
        for statement in rewritings:
            _join(found, name, _bound(program, statement, statement.computation.expr, found))
        add()
        if found.get(name) == before:
            return
    if rounds > MAX_ROUNDS:
        raise Inexact(f"{name} is rewritten too often to follow")


def _kind(statement: Statement) -> Literal["sets", "adds", "rewrites", "other"]:
    """What a statement does to its own array: X[f] = e, X[f] + e, g(X[f]), or reads other cells."""
    own = [a for a in statement.reads if a.array == statement.write.array]
    if not own:
        return "sets"
    if _added(statement) is not None:
        return "adds"
    return "rewrites" if all(a == statement.write for a in own) else "other"


def _join(found: dict[str, Bound], name: str, new: Bound) -> None:
    found[name] = found[name].joined(new) if name in found else new


def _added(statement: Statement) -> Expr | None:
    """e of X[f] = X[f] + e, e + X[f] or X[f] - e, where e does not read X."""
    expr = statement.computation.expr
    if not isinstance(expr, Binary) or expr.op not in ("+", "-"):
        return None
    own = Load(statement.write)
    sides = [(expr.left, expr.right)]
    if expr.op == "+":
        sides.append((expr.right, expr.left))
    for kept, term in sides:
        if kept == own and all(a.array != statement.write.array for a in loads(term)):
            return term
        # A sum written as (X + a) + b: the inner sums are updates too.
        if isinstance(kept, Binary) and kept.op in ("+", "-"):
            inner = _added(
                attrs.evolve(statement, computation=attrs.evolve(statement.computation, expr=kept))
            )
            if inner is not None and all(a.array != statement.write.array for a in loads(term)):
                return Binary("+", inner, term)
    return None


def _reads(statement: Statement) -> set[str]:
    return {a.array for a in statement.reads}


def _bound(program: Program, statement: Statement, expr: Expr, found: Mapping[str, Bound]) -> Bound:
    """Bound of an expression in the least precise type around; raises Inexact if it may round."""
    types = [statement.write.array, *_reads(statement)]
    dtype = min((program.array(name).dtype for name in types), key=_PRECISION.index)
    if dtype == "int32":
        return Bound(Fraction(2**31), Fraction(1))

    def go(e: Expr) -> Bound:
        match e:
            case Load(access):
                return _checked(found.get(access.array, NOTHING), dtype)
            case Const(value):
                exact = Fraction(float(np.float32(value)) if dtype == "float32" else value)
                granule = Fraction(1, exact.denominator)
                while exact and (exact / granule).numerator % 2 == 0:
                    granule *= 2
                return Bound(abs(exact), granule)
            case Index(affine):
                return _checked(Bound(Fraction(_largest(affine, statement)), Fraction(1)), dtype)
            case Negate(value):
                return go(value)
            case Select(condition, then, otherwise):
                go(condition.left)
                go(condition.right)
                return go(then).joined(go(otherwise))
            case Call("abs", (value,)):
                return go(value)
            case Binary(("min" | "max"), left, right):
                return go(left).joined(go(right))
            case Binary(("+" | "-"), left, right):
                a, b = go(left), go(right)
                return _checked(_plus(a, b), dtype)
            case Binary("*", left, right):
                a, b = go(left), go(right)
                return _checked(Bound(a.largest * b.largest, a.granule * b.granule), dtype)
            case Binary("/", left, Const(value)) if _is_power_of_two(value):
                a = go(left)
                scale = abs(Fraction(value))
                return _checked(Bound(a.largest / scale, a.granule / scale), dtype)
            case _:
                raise Inexact(f"{text_of(e)} may round")

    return go(expr)


def _checked(value: Bound, dtype: str) -> Bound:
    # int32 wraps around, in any order to the same value.
    if dtype != "int32" and value.largest > value.granule * 2 ** MANTISSA_BITS[dtype]:
        raise Inexact(f"values up to {float(value.largest):g} need more bits than {dtype} has")
    return value


def _plus(a: Bound, b: Bound) -> Bound:
    return Bound(a.largest + b.largest, _finer(a, b))


def _finer(a: Bound, b: Bound) -> Fraction:
    if not a.largest:
        return b.granule
    return min(a.granule, b.granule) if b.largest else a.granule


def _is_power_of_two(value: float) -> bool:
    return value != 0 and math.frexp(abs(value))[0] == 0.5


def _all(expr: Expr) -> Iterable[Expr]:
    yield expr
    for part in operands(expr):
        yield from _all(part)


def _divides(expr: Expr) -> bool:
    return isinstance(expr, Binary) and expr.op == "/" and not isinstance(expr.right, Const)


# --- loops -----------------------------------------------------------------------------------


def _ranges(statement: Statement) -> dict[str, tuple[int, int]]:
    """Least and largest value of each iterator, bounds of triangular loops at their widest."""
    found: dict[str, tuple[int, int]] = {}
    for loop in statement.loops:
        found[loop.name] = (_extreme(loop.lower, found, min), _extreme(loop.upper, found, max) - 1)
    return found


def _extreme(
    affine: Affine, ranges: Mapping[str, tuple[int, int]], pick: Callable[[Iterable[int]], int]
) -> int:
    total: int = affine.const
    for name, factor in affine.terms:
        total += pick(factor * end for end in ranges[name])
    return total


def _largest(affine: Affine, statement: Statement) -> int:
    ranges = _ranges(statement)
    return max(abs(_extreme(affine, ranges, min)), abs(_extreme(affine, ranges, max)))


def _extents(statement: Statement) -> dict[str, int]:
    return {name: max(0, high - low + 1) for name, (low, high) in _ranges(statement).items()}


def _n_instances(statement: Statement) -> int:
    return math.prod(_extents(statement).values())


def _hits(statement: Statement) -> int:
    """How often one cell is written, at most.

    A subscript with a single iterator not yet pinned by another pins it: it has one value for a
    cell. All others may run freely.
    """
    pinned: set[str] = set()
    changed = True
    while changed:
        changed = False
        for index in statement.write.index:
            free = [name for name in index.names if name not in pinned]
            if len(free) == 1:
                pinned.add(free[0])
                changed = True
    return math.prod(n for name, n in _extents(statement).items() if name not in pinned)


# --- groups of statements that feed each other ------------------------------------------------


def _groups(statements: Sequence[Statement]) -> list[list[Statement]]:
    """Statements by strongly connected groups of arrays, sources first (Tarjan)."""
    feeds: dict[str, set[str]] = {}
    for statement in statements:
        feeds.setdefault(statement.write.array, set()).update(_reads(statement))
    order: list[list[str]] = []
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for source in sorted(feeds.get(name, ())):
            if source not in number:
                visit(source)
                low[name] = min(low[name], low[source])
            elif source in stack:
                low[name] = min(low[name], number[source])
        if low[name] == number[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            order.append(group)

    for name in sorted(feeds):
        if name not in number:
            visit(name)
    by_group = [[s for s in statements if s.write.array in group] for group in order]
    return [group for group in by_group if group]
