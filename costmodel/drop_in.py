"""C files that stand in for the function a program was read from: the same name and parameters."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from costmodel import c_text
from costmodel.codegen import c_function
from costmodel.ir import Array, Program
from costmodel.schedule import ScheduledProgram


@attrs.frozen
class Parameter:
    """One parameter as the user declared it.

    kind:     C text of the type of an item, `const float` or `unsigned long`
    is_array: or a number passed by value, which the program may know as a size
    """

    name: str
    kind: str
    is_array: bool


def drop_in(scheduled: ScheduledProgram, parameters: Sequence[Parameter] | None) -> str:
    """The program's function, to be called as the one it was read from.

    Without parameters, or where they do not say all, it takes a pointer an array: see
    c_text.signature.
    """
    program = scheduled.program
    if parameters is None or not _say_all(program, parameters):
        return c_function(scheduled, program.name)
    inner = f"{program.name}_on_arrays"
    head, text = f"void {inner}(", c_function(scheduled, inner)
    # noinline: a function that is inlined loses what restrict says of its arrays.
    text = text.replace(head, f"static __attribute__((noinline)) {head}", 1)
    arrays = {array.name: array for array in program.arrays}
    by_value = {p.name for p in parameters if not p.is_array}
    declared = ", ".join(_declared(p, arrays.get(p.name)) for p in parameters) or "void"
    given = {p.name for p in parameters}
    lines = [f"void {program.name}({declared}) {{"]
    for array in program.arrays:
        if array.name not in given:
            extents = "".join(f"[{extent}]" for extent in array.shape or (1,))
            lines.append(f"  {c_text.C_TYPES[array.dtype]} {array.name}{extents};")
    passed = ", ".join(_passed(array, array.name in by_value) for array in program.arrays)
    return "\n".join([text, *lines, f"  {inner}({passed});", "}", ""])


def _say_all(program: Program, parameters: Sequence[Parameter]) -> bool:
    """Whether everything the program takes comes by a parameter, and nothing by another way."""
    names = {p.name for p in parameters}
    return all(array.role == "temp" or array.name in names for array in program.arrays)


def _declared(parameter: Parameter, array: Array | None) -> str:
    shape = array.shape if array is not None and parameter.is_array else ()
    return f"{parameter.kind} {parameter.name}" + "".join(f"[{extent}]" for extent in shape)


def _passed(array: Array, is_by_value: bool) -> str:
    if is_by_value:
        return f"&({c_text.C_TYPES[array.dtype]}){{{array.name}}}"
    return f"({c_text.pointer_type(array)}){array.name}"
