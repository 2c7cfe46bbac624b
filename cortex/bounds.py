"""Bounds inference: which rows and columns of each tensor a program touches (sec. 5).

An index is taken to its extremes one loop at a time, the innermost first, so that what an outer
loop adds and an inner one subtracts cancels. What is left of the structure's functions is replaced
by their declared ranges: child0(n) lies in 0 .. n_nodes() - 1, a level is at most widest_level()
rows long, one above the leaves widest_inner(). A bound is a set of expressions of which each
holds, over numbers such as n_nodes().
"""

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import attrs

from cortex import ilir as il

Side: TypeAlias = Literal["low", "high"]
#: A sum of atoms with factors and a constant under the key None.
Linear: TypeAlias = dict[il.Index | None, int]
#: f(b, ..) - g(b, ..) lies in 0 .. widest_level() for these f and g and the same level b.
_ENDS = ("level_end", "kind_end", "kind_begin", "level_end")
_BEGINS = ("level_begin", "level_begin", "level_begin", "kind_begin")
_SPANS = frozenset(zip(_ENDS, _BEGINS, strict=True)) | {("kind_end", "kind_begin")}
_OF_LEVEL = frozenset((*_ENDS, *_BEGINS))
#: More candidates than this for one bound add nothing.
_MOST = 12


@attrs.frozen
class Range:
    """low .. high, both touched: the largest of `lows` to the smallest of `highs`."""

    lows: tuple[il.Index, ...]
    highs: tuple[il.Index, ...]

    @property
    def low(self) -> il.Index:
        """The first index, as one expression."""
        found = self.lows[0]
        for other in self.lows[1:]:
            both = isinstance(found, il.Int) and isinstance(other, il.Int)
            found = max(found, other, key=_value) if both else il.Max(found, other)
        return found

    @property
    def high(self) -> il.Index:
        """The last index, as one expression."""
        found = self.highs[0]
        for other in self.highs[1:]:
            found = il.minimum(found, other)
        return found


@attrs.frozen
class Region:
    """What one load or store touches of its tensor over the whole program, a range a dimension."""

    access: il.Load | il.Store
    ranges: tuple[Range, ...]


@attrs.frozen
class _Loop:
    """A variable and candidates for its extremes, over variables of the loops around."""

    var: str
    lows: tuple[il.Index, ...]
    highs: tuple[il.Index, ...]


_Loops: TypeAlias = tuple[_Loop, ...]


def regions(program: il.Program) -> dict[str, tuple[Region, ...]]:
    """The regions of every tensor's loads and stores, in the order of the text."""
    found: dict[str, list[Region]] = {name: [] for name in program.tensors}
    for access, loops in _accesses(program.body, ()):
        ranges = tuple(_range(i, loops, program.functions) for i in access.index)
        found[access.tensor].append(Region(access, ranges))
    return {name: tuple(each) for name, each in found.items()}


def _accesses(node: il.Node, loops: _Loops) -> Iterator[tuple[il.Load | il.Store, _Loops]]:
    if isinstance(node, il.Load | il.Store):
        yield node, loops
    match node:
        case il.For(var, begin, extent, body) | il.Reduce(_, var, begin, extent, body):
            last = il.add(il.add(begin, extent), il.Int(-1))
            yield from _accesses(body, (*loops, _Loop(var, (begin,), (last,))))
        case il.If(cond, then, orelse) | il.Pick(cond, then, orelse):
            yield from _accesses(then, _where(cond, True, loops))
            yield from _accesses(orelse, _where(cond, False, loops))
        case _:
            for child in il.children(node):
                yield from _accesses(child, loops)


def _where(cond: il.Less, holds: bool, loops: _Loops) -> _Loops:
    """The loops where a condition on the innermost variable in it is known."""
    if cond.b == il.N_LEAVES:
        loops = _on_level(cond.a, holds, loops)
    gap = _linear(il.sub(cond.a, cond.b))
    names = il.variables(cond)
    at = next((n for n in reversed(range(len(loops))) if loops[n].var in names), None)
    if at is None or abs(gap.get(il.Var(loops[at].var), 0)) != 1:
        return loops
    loop = loops[at]
    factor = gap.pop(il.Var(loop.var))
    if any(loop.var in il.variables(atom) for atom in gap if atom is not None):
        return loops
    # factor * var + gap < 0, or >= 0.
    if factor > 0:
        new = (
            attrs.evolve(loop, highs=(*loop.highs, _index(_plus(_times(gap, -1), -1))))
            if holds
            else attrs.evolve(loop, lows=(*loop.lows, _index(_times(gap, -1))))
        )
    else:
        new = (
            attrs.evolve(loop, lows=(*loop.lows, _index(_plus(gap, 1))))
            if holds
            else attrs.evolve(loop, highs=(*loop.highs, _index(gap)))
        )
    return (*loops[:at], new, *loops[at + 1 :])


def _on_level(row: il.Index, is_leaf: bool, loops: _Loops) -> _Loops:
    """The loops where a row is known to be a leaf's or not: so is its level, 0 or above."""
    first = {row, *(low for at in loops if il.Var(at.var) == row for low in at.lows)}
    levels = {i.args[0] for i in first if isinstance(i, il.Call) and i.fn == "level_begin"}
    zero, one = il.Int(0), il.Int(1)
    return tuple(
        at
        if il.Var(at.var) not in levels
        else attrs.evolve(at, highs=(zero,))
        if is_leaf
        else attrs.evolve(at, lows=(one,))
        for at in loops
    )


def _range(index: il.Index, loops: _Loops, functions: Mapping[str, il.FunctionDecl]) -> Range:
    both = [_tidy(_extremes(index, loops, functions, side), side) for side in ("low", "high")]
    return Range(*both)


def _tidy(found: list[il.Index], side: Side) -> tuple[il.Index, ...]:
    """Candidates without those that others make superfluous."""
    plain = [i for i in found if not any(isinstance(n, il.Div) for n in il.walk(i))]
    kept = list(dict.fromkeys(plain or found))
    numbers = [i for i in kept if isinstance(i, il.Int)]
    if numbers:
        best = (max if side == "low" else min)(numbers, key=_value)
        kept = [best, *(i for i in kept if not isinstance(i, il.Int))]
    return tuple(kept)


def _value(index: il.Index) -> int:
    assert isinstance(index, il.Int)
    return index.value


def _extremes(
    index: il.Index, loops: _Loops, functions: Mapping[str, il.FunctionDecl], side: Side
) -> list[il.Index]:
    """Candidates for the least or greatest value of an index."""
    sum_ = _linear(index)
    for atom, factor in sum_.items():
        if isinstance(atom, il.Min | il.Max):
            return _of_either(sum_, atom, factor, loops, functions, side)
    for loop in reversed(loops):
        factor = sum_.get(il.Var(loop.var), 0)
        if factor:
            rest = {a: f for a, f in sum_.items() if a != il.Var(loop.var)}
            ends = loop.highs if (factor > 0) == (side == "high") else loop.lows
            outer = loops[: loops.index(loop)]
            found: list[il.Index] = []
            for end in ends:
                moved = _index(_sum(rest, _times(_linear(end), factor)))
                found += _extremes(moved, outer, functions, side)
            return found[:_MOST]
    return _of_calls(sum_, loops, functions, side)


def _of_either(
    sum_: Linear,
    atom: il.Min | il.Max,
    factor: int,
    loops: _Loops,
    functions: Mapping[str, il.FunctionDecl],
    side: Side,
) -> list[il.Index]:
    rest = {a: f for a, f in sum_.items() if a != atom}
    sides = [
        _extremes(_index(_sum(rest, _times(_linear(x), factor))), loops, functions, side)
        for x in (atom.a, atom.b)
    ]
    least = isinstance(atom, il.Min) == (factor > 0)
    if least == (side == "high"):  # each of both is a bound
        return [*sides[0], *sides[1]][:_MOST]
    pair = il.Max if side == "high" else il.Min
    return [a if a == b else pair(a, b) for a in sides[0] for b in sides[1]][:_MOST]


def _of_calls(
    sum_: Linear, loops: _Loops, functions: Mapping[str, il.FunctionDecl], side: Side
) -> list[il.Index]:
    """A sum of the structure's functions alone, by their declared ranges."""
    total: Linear = {None: sum_.get(None, 0)}
    left = {a: f for a, f in sum_.items() if a is not None}
    for first in list(left):
        for second in list(left):
            if _is_span(first, second):
                shared = min(left[first], -left[second])
                if shared > 0:
                    assert isinstance(first, il.Call)
                    left[first] -= shared
                    left[second] += shared
                    if side == "high":
                        total = _sum(total, {_widest(first, loops): shared})
    for atom, factor in left.items():
        if not factor:
            continue
        upward = (factor > 0) == (side == "high")
        match atom:
            case il.Call(fn, args) if args:
                decl = functions[fn]
                end: il.Index = decl.high if upward else decl.low
                inner = not upward and fn in _OF_LEVEL and _is_inner(atom, loops)
                if inner or (upward and fn == "level_end" and _is_leaves(atom, loops)):
                    end = il.N_LEAVES
            case il.Div(a, b):
                ends = _extremes(a, loops, functions, "high" if upward else "low")
                end = il.div(ends[0], b)
            case _:
                end = atom
        total = _sum(total, _times(_linear(end), factor))
    return [_index(total)]


def _is_span(first: il.Index, second: il.Index) -> bool:
    return (
        isinstance(first, il.Call)
        and isinstance(second, il.Call)
        and (first.fn, second.fn) in _SPANS
        and first.args[: len(second.args)] == second.args[: len(first.args)]
    )


def _widest(end: il.Call, loops: _Loops) -> il.Index:
    """The most rows of the levels that a function of the level runs through."""
    if _is_leaves(end, loops):
        return il.N_LEAVES
    return il.WIDEST_INNER if _is_inner(end, loops) else il.WIDEST


def _is_leaves(call: il.Call, loops: _Loops) -> bool:
    """Whether the level a function is asked about is that of the leaves."""
    return any(il.Var(at.var) == call.args[0] and at.highs == (il.Int(0),) for at in loops)


def _is_inner(call: il.Call, loops: _Loops) -> bool:
    """Whether the level a function is asked about is above the leaves."""
    return any(il.Var(at.var) == call.args[0] and at.lows == (il.Int(1),) for at in loops)


# Sums.


def _linear(index: il.Index) -> Linear:
    match index:
        case il.Int(value):
            return {None: value}
        case il.Add(a, b):
            return _sum(_linear(a), _linear(b))
        case il.Mul(il.Int(value), b):
            return _times(_linear(b), value)
        case _:
            return {index: 1}


def _sum(a: Linear, b: Linear) -> Linear:
    found = dict(a)
    for atom, factor in b.items():
        found[atom] = found.get(atom, 0) + factor
    return {atom: f for atom, f in found.items() if f or atom is None}


def _times(a: Linear, factor: int) -> Linear:
    return {atom: f * factor for atom, f in a.items()}


def _plus(a: Linear, value: int) -> Linear:
    return _sum(a, {None: value})


def _index(a: Linear) -> il.Index:
    found: il.Index = il.Int(0)
    for atom, factor in a.items():
        if atom is not None:
            found = il.add(found, il.mul(il.Int(factor), atom))
    return il.add(found, il.Int(a.get(None, 0)))


# Sizes.


def fit(program: il.Program) -> il.Program:
    """The program with each temporary as large as what is touched of it, and no larger.

    Raises AssertionError if a program touches what its declaration does not have.
    """
    touched = regions(program)
    tensors = {}
    for name, decl in program.tensors.items():
        if decl.scope in ("node", "level", "tile") and touched[name]:
            sizes = (_size(decl, touched[name], n) for n in range(len(decl.shape)))
            decl = attrs.evolve(decl, shape=tuple(sizes))
        tensors[name] = decl
    return attrs.evolve(program, tensors=tensors)


def _size(decl: il.TensorDecl, found: tuple[Region, ...], axis: int) -> il.Index:
    """One more than the last index touched along an axis."""
    lasts = {r.ranges[axis].highs for r in found}
    declared = decl.shape[axis]
    ends: dict[il.Index, None] = {}
    for highs in lasts:
        sizes = [il.add(h, il.Int(1)) for h in highs]
        numbers = [s for s in sizes if isinstance(s, il.Int)]
        # A thread's own scratch has a size that is known ahead.
        ends[numbers[0] if numbers else sizes[0]] = None
    known = [_value(e) for e in ends if isinstance(e, il.Int)]
    if len(known) == len(ends):
        size = max(known)
        if isinstance(declared, il.Int):
            assert size <= declared.value, f"{decl.name} has {declared.value}, {size} touched"
        return il.Int(size)
    if len(ends) > 1 or decl.scope == "tile":
        return declared
    return next(iter(ends))
