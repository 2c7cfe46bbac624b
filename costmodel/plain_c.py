"""A program as C in the order of its text: the baseline, and the reference for all other C."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel import c_text
from costmodel.ir import Computation, Loop, Program


def function(program: Program, name: str | None = None) -> str:
    """One C function of plain loops; its parameters are those of c_text.signature."""
    head = c_text.signature(program, name or program.name)
    return "\n".join([f"{head} {{", *_lines(program.body, program, "  "), "}"]) + "\n"


def source(program: Program, name: str | None = None) -> str:
    """A translation unit of its own, with what the function needs before it."""
    return c_text.PRELUDE + function(program, name)


def _lines(nodes: tuple[Loop | Computation, ...], program: Program, indent: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Loop):
            i = node.name
            yield f"{indent}for (int {i} = {node.lower}; {i} < {node.upper}; {i}++) {{"
            yield from _lines(node.body, program, indent + "  ")
            yield f"{indent}}}"
        else:
            guard = f"if ({' && '.join(map(str, node.guards))}) " if node.guards else ""
            value = c_text.expression(node.expr, program, node.write.array, c_text.access)
            yield f"{indent}{guard}{c_text.access(node.write)} = {value};"
