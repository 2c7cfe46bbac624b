"""Which arrays a program takes and gives, from its first use of each cell."""

from __future__ import annotations

from collections.abc import Set

import attrs
import islpy as isl

from costmodel.ir import Array, Program, Role
from costmodel.poly import Polyhedral


def with_roles(program: Program, fixed: Set[str] = frozenset()) -> Program:
    """The program with roles from use, except for the arrays named in `fixed`.

    in:    never written
    out:   every cell is written, and before it is read
    inout: anything else, as cells left alone keep what the caller put there
    """
    poly = Polyhedral(program)
    arrays = (
        array if array.name in fixed else attrs.evolve(array, role=_role(poly, array))
        for array in program.arrays
    )
    return attrs.evolve(program, arrays=tuple(arrays))


def _role(poly: Polyhedral, array: Array) -> Role:
    if all(statement.write.array != array.name for statement in poly.program.statements):
        return "in"
    return "out" if _is_overwritten_first(poly, array) else "inout"


def _is_overwritten_first(poly: Polyhedral, array: Array) -> bool:
    names = [f"d{place}" for place in range(len(array.shape))]
    inside = [f"0 <= {n} < {extent}" for n, extent in zip(names, array.shape, strict=True)]
    where = " and ".join(inside) or "true"
    cells = isl.UnionSet(f"{{ {array.name}[{', '.join(names)}] : {where} }}")
    writes = poly.writes.intersect_range(cells)
    if not cells.is_subset(writes.range()):
        return False
    flow = (
        isl.UnionAccessInfo.from_sink(poly.reads.intersect_range(cells))
        .set_must_source(writes)
        .set_schedule_map(poly.original)
        .compute_flow()
    )
    return bool(flow.get_must_no_source().is_empty())
