"""Run C text on the arrays of a program, compiled without any freedom in arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from common import native
from costmodel.ir import Program

EXACT = ("-O1", "-ffp-contract=off", "-fwrapv", "-w")
C_NUMBERS = {"float32": "float", "float64": "double", "int32": "int32_t"}


def call(
    program: Program, source: str, name: str, arrays: Mapping[str, NDArray[Any]], **options: Any
) -> None:
    """Call the C function of this name in place; it takes a pointer for each array, in order."""
    library = native.build_source(
        f"costmodel_{name}", source.replace(f"void {name}(", f"EXPORT void {name}("), flags=EXACT
    )
    parameters = ", ".join(f"{C_NUMBERS[a.dtype]}* {a.name}" for a in program.arrays)
    library.function(f"void {name}({parameters})")(*(arrays[a.name] for a in program.arrays))
