"""Does every subscript stay inside its array? Asked of isl, for all iterations at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import islpy as isl

from costmodel.errors import OutOfBounds
from costmodel.ir import Access, Program, Statement
from costmodel.poly import domain_text, space_text


def check(program: Program, places: Sequence[object] | None = None) -> None:
    """Raise OutOfBounds naming the access and the first iteration in which it leaves its array.

    places: where each statement stands, to begin the message with; its name by default
    """
    for number, statement in enumerate(program.statements):
        domain = isl.Set(f"{{ {domain_text(statement)} }}")
        for access in dict.fromkeys((*statement.reads, statement.write)):
            shape = program.array(access.array).shape
            for constraint, reason in _violations(access, shape):
                outside = domain.intersect(isl.Set(f"{{ {space_text(statement)} : {constraint} }}"))
                if not outside.is_empty():
                    point = _first_point(outside, statement)
                    before = places[number] if places else statement.name
                    raise OutOfBounds(
                        f"{before}: {access} leaves {access.array} of shape {shape} "
                        f"at {point or 'its only iteration'}: {reason}"
                    )


def _violations(access: Access, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    for place, (index, extent) in enumerate(zip(access.index, shape, strict=True)):
        yield f"{index} < 0", f"subscript {place} is below 0"
        yield f"{index} >= {extent}", f"subscript {place} is not below {extent}"


def _first_point(outside: isl.Set, statement: Statement) -> str:
    point = outside.lexmin().sample_point()
    values = (
        point.get_coordinate_val(isl.dim_type.set, place).to_python()
        for place in range(len(statement.iterators))
    )
    return ", ".join(f"{n} = {v}" for n, v in zip(statement.iterators, values, strict=True))
