"""Liberties with floats that a user must ask for."""

from __future__ import annotations

import attrs

from costmodel.ir import Binary, Computation, Const, Expr, Loop, Program, Select, rebuilt


def with_reciprocals(program: Program) -> Program:
    """The program with divisions of floats by constants as products with the reciprocal.

    A quotient may change in its last bit; by a power of two none does.
    """

    def visit(nodes: tuple[Loop | Computation, ...]) -> tuple[Loop | Computation, ...]:
        return tuple(
            attrs.evolve(node, body=visit(node.body))
            if isinstance(node, Loop)
            else attrs.evolve(node, expr=_multiplied(node.expr))
            if program.array(node.write.array).dtype != "int32"
            else node
            for node in nodes
        )

    return attrs.evolve(program, body=visit(program.body))


def _multiplied(expr: Expr) -> Expr:
    if isinstance(expr, Select):  # its condition decides between values: it stays exact
        then, otherwise = _multiplied(expr.then), _multiplied(expr.otherwise)
        return Select(expr.condition, then, otherwise)
    changed = rebuilt(expr, _multiplied)
    match changed:
        case Binary("/", left, Const(value)) if value:
            return Binary("*", left, Const(1.0 / value))
    return changed
