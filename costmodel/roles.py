"""Which arrays a program takes and gives, from its first use of each cell."""

from __future__ import annotations

from collections.abc import Set

import attrs

from costmodel.ir import Program


def with_roles(program: Program, fixed: Set[str] = frozenset()) -> Program:
    """The program with roles from use, except for the arrays named in `fixed`.

    Never written: in. Written: inout, as cells it leaves alone keep what the caller put there.
    """
    written = {statement.write.array for statement in program.statements}
    arrays = []
    for array in program.arrays:
        if array.name not in fixed:
            array = attrs.evolve(array, role="inout" if array.name in written else "in")
        arrays.append(array)
    return attrs.evolve(program, arrays=tuple(arrays))
