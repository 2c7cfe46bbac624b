"""Expressions, accesses and signatures as C99 text."""

from __future__ import annotations

from collections.abc import Callable

from costmodel.ir import (
    Access,
    Array,
    Binary,
    Call,
    Const,
    Expr,
    Index,
    Load,
    Negate,
    Program,
    Select,
)

C_TYPES = {"float32": "float", "float64": "double", "int32": "int"}

# What generated code may call; put once at the head of a translation unit.
PRELUDE = """\
#include <math.h>
#include <stdlib.h>
#define floord(n, d) (((n) < 0) ? -((-(n) + (d) - 1) / (d)) : (n) / (d))
#define min(x, y) ((x) < (y) ? (x) : (y))
#define max(x, y) ((x) > (y) ? (x) : (y))
"""


def signature(program: Program, name: str) -> str:
    """`void name(...)` with one restrict pointer an array, in the order of the program.

    A of shape (2, 3, 4) is `float (*restrict A)[3][4]`; a scalar `float *restrict A`.
    """
    parameters = ", ".join(_parameter(array) for array in program.arrays)
    return f"void {name}({parameters or 'void'})"


def _parameter(array: Array) -> str:
    const = "const " if array.role == "in" else ""
    kind = f"{const}{C_TYPES[array.dtype]}"
    if len(array.shape) < 2:
        return f"{kind} *restrict {array.name}"
    inner = "".join(f"[{extent}]" for extent in array.shape[1:])
    return f"{kind} (*restrict {array.name}){inner}"


def pointer_type(array: Array) -> str:
    """The type of an array's parameter, for casts: `const float (*)[4]`."""
    kind = ("const " if array.role == "in" else "") + C_TYPES[array.dtype]
    if len(array.shape) < 2:
        return f"{kind} *"
    return f"{kind} (*)" + "".join(f"[{extent}]" for extent in array.shape[1:])


def access(to: Access) -> str:
    if not to.index:
        return f"{to.array}[0]"
    return to.array + "".join(f"[{index}]" for index in to.index)


def expression(expr: Expr, program: Program, written: str, show: Callable[[Access], str]) -> str:
    """C text that computes in the order of the tree.

    written: the array assigned to; float constants take its type
    show:    text of a load
    """
    dtype = program.array(written).dtype
    suffix = "f" if dtype == "float32" else ""

    def go(e: Expr) -> str:
        match e:
            case Load(to):
                return show(to)
            case Const(int(value)):
                return str(value) if value >= 0 else f"({value})"
            case Const(value):
                text = f"{value!r}{suffix}"
                return text if value >= 0 else f"({text})"
            case Index(affine):
                return f"({C_TYPES[dtype]})({affine})"
            case Binary(("min" | "max") as op, left, right):
                return f"{op}({go(left)}, {go(right)})"
            case Binary(op, left, right):
                return f"({go(left)} {op} {go(right)})"
            case Negate(value):
                return f"(-{go(value)})"
            case Call("abs", (value,)):
                return f"{'abs' if dtype == 'int32' else 'fabs' + suffix}({go(value)})"
            case Call(function, arguments):
                return f"{function}{suffix}({', '.join(map(go, arguments))})"
            case Select(condition, then, otherwise):
                test = f"{go(condition.left)} {condition.op} {go(condition.right)}"
                return f"({test} ? {go(then)} : {go(otherwise)})"

    return go(expr)
