"""Inlining: a temporary's value computed where it is read, so that it is never stored."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import islpy as isl

from costmodel.affine import Affine
from costmodel.errors import IllegalSchedule, ScheduleError
from costmodel.ir import (
    Access,
    Computation,
    Expr,
    Load,
    Loop,
    Program,
    Statement,
    rebuilt,
    substitute,
)
from costmodel.poly import access_text, domain_text, polyhedral, space_text


def inlined(program: Program, statement: str) -> Program:
    """The program without a statement, its value computed at each place that reads it.

    Raises ScheduleError where the form of the program does not allow it, IllegalSchedule where a
    reader would see another value.
    """
    producer = next((s for s in program.statements if s.name == statement), None)
    if producer is None:
        known = ", ".join(s.name for s in program.statements)
        raise ScheduleError(f"there is no statement {statement}: the program has {known}")
    _check_form(program, producer)
    _check_values(program, producer)
    return attrs.evolve(program, body=_without(program.body, producer))


def _check_form(program: Program, producer: Statement) -> None:
    written = producer.write.array
    array = program.array(written)
    if array.role != "temp":
        raise ScheduleError(f"{written} is {array.role}, and only a temp need not be stored")
    if any(s.write.array == written for s in program.statements if s is not producer):
        raise ScheduleError(f"another statement writes {written} too")
    if any(read.array == written for read in producer.reads):
        raise ScheduleError(f"{producer.name} reads {written} itself")
    terms = [term for index in producer.write.index for term in index.terms]
    if (
        sorted(name for name, _ in terms) != sorted(producer.iterators)
        or any(factor not in (1, -1) for _, factor in terms)
        or any(len(index.terms) != 1 for index in producer.write.index)
    ):
        raise ScheduleError(f"the subscripts of {producer.write} must be its iterators, one each")
    for reader in _readers(program, written):
        if program.array(reader.write.array).dtype != array.dtype:
            raise ScheduleError(f"{reader.name} computes in another type than {producer.name}")


def _check_values(program: Program, producer: Statement) -> None:
    poly = polyhedral(program)
    written = producer.write.array
    own = _instances(producer)
    stored = isl.UnionSet(f"{{ {domain_text(producer)} }}").apply(poly.writes)
    for reader in _readers(program, written):
        for read in reader.reads:
            cells = isl.UnionMap(f"{{ {access_text(reader, read)} }}")
            reached = cells.intersect_domain(poly.domains).range()
            if read.array == written and not reached.is_subset(stored):
                raise IllegalSchedule(f"{reader.name} reads cells of {written} that are not stored")
        into = poly.dependences.intersect_domain(_instances(reader)).intersect_range(own)
        if not into.is_empty():
            raise IllegalSchedule(f"{reader.name} reads cells of {written} before they are stored")
    overwritten = poly.reads.intersect_domain(own).apply_range(poly.writes.reverse())
    if not overwritten.intersect(poly.dependences).is_empty():
        raise IllegalSchedule(f"what {producer.name} reads is overwritten later")


def _readers(program: Program, array: str) -> list[Statement]:
    return [s for s in program.statements if any(read.array == array for read in s.reads)]


def _instances(statement: Statement) -> isl.UnionSet:
    return isl.UnionSet(f"{{ {space_text(statement)} }}")


def _without(
    nodes: tuple[Loop | Computation, ...], producer: Statement
) -> tuple[Loop | Computation, ...]:
    kept: list[Loop | Computation] = []
    for node in nodes:
        if isinstance(node, Loop):
            body = _without(node.body, producer)
            if body:
                kept.append(attrs.evolve(node, body=body))
        elif node is not producer.computation:
            kept.append(attrs.evolve(node, expr=_inlined(node.expr, producer)))
    return tuple(kept)


def _inlined(expr: Expr, producer: Statement) -> Expr:
    """The expression with loads of the temporary replaced by what was stored there."""

    def go(e: Expr) -> Expr:
        if isinstance(e, Load) and e.access.array == producer.write.array:
            return substitute(producer.computation.expr, _instance(producer, e.access))
        return rebuilt(e, go)

    return go(expr)


def _instance(producer: Statement, access: Access) -> Mapping[str, Affine]:
    """Iterators of the instance that wrote the cell of an access."""
    found: dict[str, Affine] = {}
    for index, wanted in zip(producer.write.index, access.index, strict=True):
        for name, factor in index.terms:
            found[name] = (wanted - index.const) * factor
    return found
