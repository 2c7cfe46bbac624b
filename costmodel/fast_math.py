"""Liberties with floats that a user must ask for."""

from __future__ import annotations

import attrs

from costmodel.ir import (
    Binary,
    Call,
    Compare,
    Computation,
    Const,
    Expr,
    Loop,
    Negate,
    Program,
    Select,
)


def with_reciprocals(program: Program) -> Program:
    """The program with divisions of floats by constants as products, some five times faster.

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
    match expr:
        case Binary("/", left, Const(value)) if value:
            return Binary("*", _multiplied(left), Const(1.0 / value))
        case Binary(op, left, right):
            return Binary(op, _multiplied(left), _multiplied(right))
        case Negate(value):
            return Negate(_multiplied(value))
        case Call(function, arguments):
            return Call(function, tuple(map(_multiplied, arguments)))
        case Select(Compare(op, left, right), then, otherwise):
            # A condition decides between values: it stays exact.
            return Select(Compare(op, left, right), _multiplied(then), _multiplied(otherwise))
        case _:
            return expr
