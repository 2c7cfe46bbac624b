"""A quick no to a contracted array: a read that comes too early, or a store that comes between.

isl proves that no read of a contracted array loses its value, in some milliseconds. Most nests a
search asks about do lose one, and often the first or the last read shows it, with the store it
should see or one near that: places in time to compare, in place of relations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import islpy as isl

from costmodel.ir import Access, Program, Statement
from costmodel.nest import Nest, Placed

Point = dict[str, int]


@attrs.frozen(eq=False)
class Seen:
    """A store and the instance of `reader` that sees its value, by their iterators."""

    writer: Statement
    store: Point
    reader: Statement
    read: Point


def some_of(program: Program, reader: Statement, flow: isl.UnionMap) -> tuple[Seen, ...]:
    """The first and the last store of each statement, with the first read of each.

    flow: from stores to instances of the reader
    """
    by_name = {statement.name: statement for statement in program.statements}
    found = []
    parts = flow.get_map_list()
    for part in map(parts.get_at, range(parts.n_map())):
        writer = by_name[part.get_tuple_name(isl.dim_type.in_)]
        stores = part.domain()
        for store in {str(end): end for end in (stores.lexmin(), stores.lexmax())}.values():
            read = part.intersect_domain(store).range().lexmin()
            found.append(Seen(writer, _point(store, writer), reader, _point(read, reader)))
    return tuple(found)


def loses_value(nest: Nest, access: Access, seen: Iterable[Seen]) -> bool:
    """Whether a read precedes its store, or another store near that is between; False says nothing.

    access: of the reader, to a contracted array
    """
    dimension, rows = next((d, n) for array, d, n in nest.contractions if array == access.array)
    for each in seen:
        writer, reader = nest.find(each.writer.name), nest.find(each.reader.name)
        begin, end = _time(writer, each.store), _time(reader, each.read)
        if end < begin:
            return True
        cell = _cell(each.writer.write, each.store, dimension, rows)
        for other in _near(each.writer, each.store, rows):
            if begin < _time(writer, other) < end and cell == _cell(
                each.writer.write, other, dimension, rows
            ):
                return True
    return False


def _near(statement: Statement, point: Point, rows: int) -> Iterator[Point]:
    """Instances one step away along one loop, or as many as there are rows."""
    for name in statement.iterators:
        for step in (1, -1, rows, -rows):
            other = {**point, name: point[name] + step}
            if _runs(statement, other):
                yield other


def _runs(statement: Statement, point: Point) -> bool:
    """Whether there is such an instance. Guards are not looked at: with one, it is taken not to."""
    return not statement.computation.guards and all(
        loop.lower.value(point) <= point[loop.name] < loop.upper.value(point)
        for loop in statement.loops
    )


def _time(placed: Placed, point: Point) -> tuple[int, ...]:
    """Its place in time. Places of different length are never equal as far as both go."""
    found = [placed.order[0]]
    for dim, order in zip(placed.dims, placed.order[1:], strict=True):
        found += [dim.expression.value(point) // dim.divisor, order]
    return tuple(found)


def _cell(access: Access, point: Point, dimension: int, rows: int) -> tuple[int, ...]:
    """Where the access finds its cell when the array keeps so many rows of a dimension."""
    cell = [index.value(point) for index in access.index]
    cell[dimension] %= rows
    return tuple(cell)


def _point(single: isl.Set, statement: Statement) -> Point:
    point = single.sample_point()
    return {
        name: point.get_coordinate_val(isl.dim_type.set, at).to_python()
        for at, name in enumerate(statement.iterators)
    }
