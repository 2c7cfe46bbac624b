"""Which arrays a program takes and gives, from its first use of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Set

import attrs
import islpy as isl

from costmodel.bounds import access_map, instance_set
from costmodel.ir import Access, Program, Role, Statement


def with_roles(program: Program, fixed: Set[str] = frozenset()) -> Program:
    """The program with roles from use, except for the arrays named in `fixed`.

    in:    never written
    out:   every cell is written, and before it is read
    inout: anything else, as cells left alone keep what the caller put there
    """
    arrays = []
    for array in program.arrays:
        if array.name not in fixed:
            array = attrs.evolve(array, role=_role(program, array.name))
        arrays.append(array)
    return attrs.evolve(program, arrays=tuple(arrays))


def _role(program: Program, name: str) -> Role:
    writes = [(s, s.write) for s in program.statements if s.write.array == name]
    if not writes:
        return "in"
    reads = [(s, r) for s in program.statements for r in s.reads if r.array == name]
    return "out" if _is_overwritten_first(program, name, reads, writes) else "inout"


def _is_overwritten_first(
    program: Program,
    name: str,
    reads: list[tuple[Statement, Access]],
    writes: list[tuple[Statement, Access]],
) -> bool:
    written = _union(writes)
    shape = program.array(name).shape
    names = [f"d{place}" for place in range(len(shape))]
    inside = [f"0 <= {n} < {extent}" for n, extent in zip(names, shape, strict=True)]
    cells = isl.Set(f"{{ {name}[{', '.join(names)}] : {' and '.join(inside) or 'true'} }}")
    if not isl.UnionSet.from_set(cells).is_subset(written.range()):
        return False
    flow = (
        isl.UnionAccessInfo.from_sink(_union(reads))
        .set_must_source(written)
        .set_schedule_map(_text_order(program))
        .compute_flow()
    )
    return bool(flow.get_must_no_source().is_empty())


def _union(accesses: list[tuple[Statement, Access]]) -> isl.UnionMap:
    """Instances to cells."""
    total = isl.UnionMap("{ }")
    for statement, access in accesses:
        total = total.union(isl.UnionMap.from_map(access_map(statement, access)))
    return total


def _text_order(program: Program) -> isl.UnionMap:
    """Instances to 2d+1 numbers: places among siblings and iterators in turn, 0 after the last."""
    length = 2 * max(len(s.loops) for s in program.statements) + 1
    total = isl.UnionMap("{ }")
    for statement in program.statements:
        times = list(_time(statement))
        times += ["0"] * (length - len(times))
        text = f"{{ {statement.name}[{', '.join(statement.iterators)}] -> [{', '.join(times)}] }}"
        order = isl.Map(text).intersect_domain(instance_set(statement))
        total = total.union(isl.UnionMap.from_map(order))
    return total


def _time(statement: Statement) -> Iterator[str]:
    for place, iterator in zip(statement.position, statement.iterators, strict=False):
        yield from (str(place), iterator)
    yield str(statement.position[-1])
