"""One test for every transformation: no dependence may run backwards, or stand still, in time.

A schedule gives each instance a place in time, a vector compared in lexical order. It computes the
same if every dependence goes from an earlier place to a later one (the classical condition;
Feautrier 1992). All transformations and combinations of them are covered, since only the final
places count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import attrs
import islpy as isl
import numpy as np

from costmodel.errors import ScheduleError
from costmodel.ir import Access, Program, Statement
from costmodel.lost_values import Seen, loses_value, some_of
from costmodel.nest import Nest, Placed
from costmodel.poly import Polyhedral, polyhedral, space_text, times


def time_map(nest: Nest) -> isl.UnionMap:
    """Instances to places in time: as many numbers for each statement."""
    columns = _columns(nest)
    parts = (
        f"{space_text(p.statement)} -> [{', '.join(column[at] for column in columns.values())}]"
        for at, p in enumerate(nest.placed)
    )
    return isl.UnionMap("{ " + "; ".join(parts) + " }")


def _columns(nest: Nest) -> dict[int, tuple[str, ...]]:
    """The numbers of a place, each for all statements, by their position among 2 * depth + 1.

    Those that are one constant in all statements are left out: they decide nothing.
    """
    depth = max((len(p.dims) for p in nest.placed), default=0)
    every = zip(*(times(p.order, p.dims, depth) for p in nest.placed), strict=True)
    return {
        position: column
        for position, column in enumerate(every)
        if position % 2 or len(set(column)) > 1
    }


def is_legal(poly: Polyhedral, nest: Nest, reassociate: bool) -> bool:
    """Whether the nest computes what the program does."""
    return bool(_backward(poly, nest, reassociate).is_empty()) and (
        not nest.contractions or why_flow_differs(poly, nest) is None
    )


def kept_is_legal(poly: Polyhedral, nest: Nest, reassociate: bool) -> bool:
    """`is_legal`, remembered: a search asks for one order of instances with many marks on loops."""
    columns = tuple(_columns(nest).items())
    return _answer(_Question(poly.program, reassociate, nest.contractions, columns, poly, nest))


@attrs.frozen
class _Question:
    """All that legality depends on, and what to find it with."""

    program: Program
    reassociate: bool
    contractions: tuple[tuple[str, int, int], ...]
    columns: tuple[tuple[int, tuple[str, ...]], ...]
    poly: Polyhedral = attrs.field(eq=False)
    nest: Nest = attrs.field(eq=False)


@lru_cache(maxsize=4096)
def _answer(question: _Question) -> bool:
    return is_legal(question.poly, question.nest, question.reassociate)


def forget() -> None:
    """Forget what `kept_is_legal` remembers."""
    _answer.cache_clear()
    _stores_as_written.cache_clear()
    _some_as_written.cache_clear()


def check_places(poly: Polyhedral, nest: Nest) -> None:
    """ScheduleError unless every instance has one place in time and no two share one.

    Every step keeps this by construction; it is asked where a nest comes from elsewhere.
    """
    places = time_map(nest).intersect_domain(poly.domains)
    if not places.domain().is_equal(poly.domains):
        raise ScheduleError("some instances have no place in the nest")
    if not places.is_single_valued():
        raise ScheduleError("some instances have two places in the nest")
    if not places.is_injective():
        raise ScheduleError("two instances have the same place in the nest")


def violation(poly: Polyhedral, nest: Nest, reassociate: bool) -> str:
    """One dependence that the nest turns round, in words; the nest must be illegal."""
    places = time_map(nest).intersect_domain(poly.domains)
    wrong = _dependences(poly, nest, reassociate).intersect(places.lex_ge_union_map(places))
    if wrong.is_empty():
        return why_flow_differs(poly, nest) or "nothing is wrong"
    sample = wrong.sample()
    source, sink = sample.domain().sample_point(), sample.range().sample_point()
    before, after = _point_text(source), _point_text(sink)
    return f"{before} must run before {after} ({_kind(poly, source, sink)}), and would run after it"


def _kind(poly: Polyhedral, source: isl.Point, sink: isl.Point) -> str:
    """Which cell both touch, and how."""
    a, b = isl.UnionSet.from_point(source), isl.UnionSet.from_point(sink)
    wrote, read = a.apply(poly.writes), a.apply(poly.reads)
    writes, reads = b.apply(poly.writes), b.apply(poly.reads)
    for first, second, words in (
        (wrote, reads, "which reads the {} it writes"),
        (read, writes, "which overwrites the {} it reads"),
        (wrote, writes, "which overwrites the {} it writes"),
    ):
        cells = first.intersect(second)
        if not cells.is_empty():
            return words.format(_point_text(cells.sample_point()))
    return "by a dependence"


def _point_text(point: isl.Point) -> str:
    return str(point).strip("{} ").strip()


def why_not_parallel(poly: Polyhedral, nest: Nest, name: str, level: int) -> str | None:
    """A reason why iterations of a loop cannot run at the same time; None if they can.

    Reductions count in full: two threads adding to one cell would race.
    """
    members = nest.loop(name, level)
    own = isl.UnionSet("{ " + "; ".join(space_text(p.statement) for p in members) + " }")
    pairs = poly.dependences
    if nest.contractions:
        pairs = _dependences(poly, nest, False).union(poly.conflicts(_contracted(poly, nest)))
    inside = pairs.intersect_domain(own).intersect_range(own)
    positions = tuple(_columns(nest))
    at = positions.index(2 * level + 1)
    carried = _steps_in_time(inside, nest).intersect(_carried_at(at, len(positions)))
    if carried.is_empty():
        return None
    return "carries a dependence between its iterations"


def why_not_vector(poly: Polyhedral, nest: Nest, name: str, level: int) -> str | None:
    """A reason why a loop cannot run in lanes; None if it can.

    It must be innermost, its iterations independent, and each access stay put or move by one.
    """
    if any(len(p.dims) != level + 1 for p in nest.loop(name, level)):
        return "has a loop inside"
    reason = why_not_parallel(poly, nest, name, level)
    if reason is not None:
        return reason
    for placed in nest.loop(name, level):
        if placed.dims[level].divisor != 1:
            return "counts tiles"
        moves = direction(placed, level)
        for access in (placed.statement.write, *placed.statement.reads):
            stride = stride_along(poly.program, access, moves)
            if abs(stride) > 1:
                return f"moves {access} by {stride} elements, where vectors need 0 or 1"
    return None


def stride_along(program: Program, access: Access, moves: Mapping[str, int]) -> int:
    """Elements by which an access moves when the iterators move so."""
    stride, total = 1, 0
    for extent, index in zip(
        reversed(program.array(access.array).shape), reversed(access.index), strict=True
    ):
        total += stride * sum(factor * moves.get(it, 0) for it, factor in index.terms)
        stride *= extent
    return total


def direction(placed: Placed, level: int) -> dict[str, int]:
    """By how much each iterator of the statement changes when one loop goes on by one.

    level: of a loop that counts single iterations; these loops determine the iterators, those over
           tiles follow
    """
    iterators = placed.statement.iterators
    whole = [at for at, dim in enumerate(placed.dims) if dim.divisor == 1]
    rows = [placed.dims[at].expression for at in whole]
    inverse = inverse_of(tuple(tuple(row.factor(it) for it in iterators) for row in rows))
    column = whole.index(level)
    return {it: row[column] for it, row in zip(iterators, inverse, strict=True)}


@lru_cache(maxsize=4096)
def inverse_of(matrix: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The inverse of a unimodular matrix, in whole numbers as it must be."""
    inverse = np.linalg.inv(np.array(matrix, dtype=float).reshape(len(matrix), len(matrix)))
    return tuple(tuple(round(value) for value in row) for row in inverse.tolist())


def why_flow_differs(poly: Polyhedral, nest: Nest) -> str | None:
    """A reason why a read of a contracted array would find another value; None if none does.

    Storage changes there, so the order of the old cells proves nothing: each read must find the
    value of the same store as in the program as it is written.
    """
    contracted = {array for array, _, _ in nest.contractions}
    reads = [
        (statement, read)
        for statement in poly.program.statements
        for read in dict.fromkeys(statement.reads)
        if read.array in contracted
    ]
    for statement, read in reads:
        if loses_value(nest, read, _some_as_written(poly.program, statement, read)):
            return f"{statement.name} would find another value in {read}"
    places = time_map(nest).intersect_domain(poly.domains)
    for statement, read in reads:
        before = _stores_as_written(poly.program, statement, read)
        if not before.is_equal(_last_stores(poly, nest, statement, read, places)):
            return f"{statement.name} would find another value in {read}"
    return None


@lru_cache(maxsize=256)
def _stores_as_written(program: Program, reader: Statement, read: Access) -> isl.UnionMap:
    poly = polyhedral(program)
    return _last_stores(poly, Nest.of(program), reader, read, poly.original)


@lru_cache(maxsize=256)
def _some_as_written(program: Program, reader: Statement, read: Access) -> tuple[Seen, ...]:
    return some_of(program, reader, _stores_as_written(program, reader, read))


def _last_stores(
    poly: Polyhedral, nest: Nest, reader: Statement, read: Access, places: isl.UnionMap
) -> isl.UnionMap:
    """Instances of stores to those of a read that see their values."""
    sink = isl.UnionMap(f"{{ {stored_text(nest, reader, read)} }}").intersect_domain(poly.domains)
    stores = "; ".join(
        stored_text(nest, s, s.write)
        for s in poly.program.statements
        if s.write.array == read.array
    )
    source = isl.UnionMap(f"{{ {stores} }}").intersect_domain(poly.domains)
    info = isl.UnionAccessInfo.from_sink(sink).set_must_source(source).set_schedule_map(places)
    return info.compute_flow().get_must_dependence()


def stored_text(nest: Nest, statement: Statement, access: Access) -> str:
    """isl's text of where an access finds its cell, contractions taken into account."""
    index = [str(i) for i in access.index]
    for array, dimension, rows in nest.contractions:
        if array == access.array:
            index[dimension] = f"({index[dimension]}) mod {rows}"
    return f"{space_text(statement)} -> {access.array}[{', '.join(index)}]"


def _contracted(poly: Polyhedral, nest: Nest) -> Iterator[tuple[str, str]]:
    """Accesses to contracted arrays, as poly.conflicts takes them."""
    contracted = {array for array, _, _ in nest.contractions}
    for statement in poly.program.statements:
        accesses = [("read", read) for read in statement.reads] + [("write", statement.write)]
        for kind, access in accesses:
            if access.array in contracted:
                yield kind, stored_text(nest, statement, access)


def _dependences(poly: Polyhedral, nest: Nest, reassociate: bool) -> isl.UnionMap:
    """Those on cells that lie where the program has them."""
    contracted = frozenset(array for array, _, _ in nest.contractions)
    return poly.constraints(reassociate=reassociate, without=contracted)


def _backward(poly: Polyhedral, nest: Nest, reassociate: bool) -> isl.UnionSet:
    """The steps in time, of all dependences, that are not forward."""
    steps = _steps_in_time(_dependences(poly, nest, reassociate), nest)
    return steps.intersect(_not_forward(len(_columns(nest))))


def _steps_in_time(pairs: isl.UnionMap, nest: Nest) -> isl.UnionSet:
    """Differences of places, of both ends of each pair.

    Far cheaper than comparing all places with one another and then looking for the pairs.
    """
    places = time_map(nest)
    return pairs.apply_domain(places).apply_range(places).deltas()


@lru_cache
def _not_forward(n: int) -> isl.UnionSet:
    """Differences of n numbers that are all zero, or the first other than zero is negative."""
    names = [f"t{at}" for at in range(n)]
    cases = [_and([*(f"{n} = 0" for n in names[:at]), f"{names[at]} < 0"]) for at in range(n)]
    cases.append(_and(f"{n} = 0" for n in names))
    return isl.UnionSet(f"{{ [{', '.join(names)}] : {' or '.join(cases)} }}")


@lru_cache
def _carried_at(at: int, n: int) -> isl.UnionSet:
    """Differences of n numbers that are zero before one of them, and not zero there."""
    names = [f"t{at}" for at in range(n)]
    limits = [f"{n} = 0" for n in names[:at]]
    return isl.UnionSet(f"{{ [{', '.join(names)}] : {_and([*limits, f'{names[at]} != 0'])} }}")


def _and(conditions: Iterable[str]) -> str:
    return "(" + (" and ".join(conditions) or "true") + ")"
