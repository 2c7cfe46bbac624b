"""What schedules do to the order of instances, by looking at every instance and every cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from costmodel import interpreter
from costmodel.ir import Access, Binary, Expr, Load, Program, Statement, operands
from costmodel.nest import Nest

Place = tuple[int, ...]


def places(program: Program, nest: Nest) -> list[tuple[Statement, dict[str, int], Place]]:
    """Every instance in the order of the text: its iterators and its place in the nest."""
    statements = {s.name: s for s in program.statements}
    found = []
    for name, values in interpreter.instances(program):
        statement = statements[name]
        point = dict(zip(statement.iterators, values, strict=True))
        placed = nest.find(name)
        place = [placed.order[0]]
        for dim, number in zip(placed.dims, placed.order[1:], strict=True):
            place += [dim.expression.value(point) // dim.divisor, number]
        found.append((statement, point, tuple(place)))
    return found


def backward_pairs(
    program: Program, nest: Nest, reassociate: bool
) -> Iterator[tuple[tuple[Statement, dict[str, int]], tuple[Statement, dict[str, int]]]]:
    """Pairs of instances that touch one cell, not both only reading, and change their order."""
    touched: dict[tuple[str, Place], list[tuple[int, bool]]] = defaultdict(list)
    every = places(program, nest)
    for number, (statement, point, _) in enumerate(every):
        for access in statement.reads:
            touched[_cell(access, point)].append((number, False))
        touched[_cell(statement.write, point)].append((number, True))
    for visits in touched.values():
        for at, (first, stores) in enumerate(visits):
            for second, stores_too in visits[at + 1 :]:
                if first == second or not (stores or stores_too):
                    continue
                (a, a_point, before), (b, b_point, after) = every[first], every[second]
                if reassociate and a is b and is_reduction(a):
                    continue
                if before >= after:
                    yield (a, a_point), (b, b_point)


def is_reduction(statement: Statement) -> bool:
    """cell = cell op other, where other reads nothing of the array: its order is free."""
    expr, cell = statement.computation.expr, statement.write
    if not isinstance(expr, Binary) or expr.op not in {"+", "*", "min", "max"}:
        return False
    own = [side for side in (expr.left, expr.right) if isinstance(side, Load)]
    return any(side.access == cell for side in own) and _count(expr, cell.array) == 1


def _count(expr: Expr, array: str) -> int:
    here = isinstance(expr, Load) and expr.access.array == array
    return int(here) + sum(_count(part, array) for part in operands(expr))


def _cell(access: Access, point: dict[str, int]) -> tuple[str, Place]:
    return access.array, tuple(index.value(point) for index in access.index)
