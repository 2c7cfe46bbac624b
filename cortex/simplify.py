"""Constant propagation: what a zero initial state removes (sec. 4.1 of the paper).

0 @ W, 0 * x and 0 / x are zero, 0 + x is x; a function of a constant is a constant. As the paper
does, this takes parameters and payload to be finite.
"""

import math
from collections.abc import Callable

from cortex import ra
from cortex.ra import Expr, Number

_UNARY: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "exp": lambda x: math.exp(x) if x < 709 else math.inf,
    "neg": lambda x: -x,
}
_BINARY: dict[str, Callable[[float, float], float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "max": max,
    "min": min,
}


def without_children(expr: Expr, arity: int | None) -> Expr:
    """The value at a node whose children are absent: their states are zero.

    A sum or maximum over any number of children is zero; over a fixed number it is that of
    `arity` children in state zero.
    """

    def absent(x: Expr) -> Expr | None:
        if isinstance(x, ra.ChildState):
            return Number(0.0, x.shape)
        if isinstance(x, ra.Reduce):
            if arity is None:
                return Number(0.0, x.shape)
            return x.body * arity if x.op == "sum" else x.body
        return None

    return ra.rewrite(expr, absent)


def simplify(expr: Expr, where: str | None = None) -> Expr:
    """An expression of equal value without the operations whose result is known."""

    def step(x: Expr) -> Expr | None:
        match x:
            case ra.Unary(op, Number(value)):
                return Number(_UNARY[op](value), x.shape)
            case ra.Unary("neg", ra.Unary("neg", inner)):
                return inner
            case ra.Binary():
                return _binary(x, where)
            case ra.Product(Number(0.0), _) | ra.Product(_, Number(0.0)):
                return Number(0.0, x.shape)
            case ra.Dot(Number(0.0), _) | ra.Dot(_, Number(0.0)):
                return Number(0.0)
            case ra.Slice():
                return _slice(x)
            case ra.Concat(parts, _) if all(isinstance(p, Number) for p in parts):
                values = {p.value for p in parts if isinstance(p, Number)}
                return Number(values.pop(), x.shape) if len(values) == 1 else None
            case ra.Reduce("sum", Number(0.0)):
                return Number(0.0, x.shape)
            case ra.Reduce("max", Number(value)):
                return Number(value, x.shape)
        return None

    return ra.rewrite(expr, step)


def _slice(at: ra.Slice) -> Expr | None:
    """A slice of an element-wise value is that value of slices: unread parts are not computed."""
    begin, end, axis = at.begin, at.end, at.axis

    def part(y: Expr) -> Expr:
        return part_of(y, begin, end, axis) if y.rank else y

    match at.x:
        case Number(value):
            return Number(value, at.shape)
        case inner if (begin, end) == (0, inner.shape[axis]):
            return inner
        case ra.Slice(inner, first, _, along) if along == axis:
            return part_of(inner, first + begin, first + end, axis)
        case ra.Unary(op, y):
            return ra.Unary(op, part(y))
        case ra.Binary(op, y, z):
            return ra.Binary(op, part(y), part(z))
        case ra.Concat(parts, along) if along == axis:
            offset = 0
            for y in parts:
                if offset <= begin and end <= offset + y.shape[axis]:
                    return part_of(y, begin - offset, end - offset, axis)
                offset += y.shape[axis]
    return None


def part_of(x: Expr, begin: int, end: int, axis: int) -> Expr:
    """A slice in its simplest form."""
    made = ra.Slice(x, begin, end, axis)
    found = _slice(made)
    return made if found is None else found


def _binary(at: ra.Binary, where: str | None) -> Expr | None:
    op, x, y = at.op, at.x, at.y
    if op == "div" and isinstance(y, Number) and y.value == 0:
        ra.refuse(f"{at!r} divides by zero; a model whose leaf needs none has a leaf method", where)
    if isinstance(x, Number) and isinstance(y, Number):
        return Number(_BINARY[op](x.value, y.value), at.shape)
    left = x.value if isinstance(x, Number) else None
    right = y.value if isinstance(y, Number) else None
    if 0.0 in (left, right) and (op == "mul" or (op == "div" and left == 0.0)):
        return Number(0.0, at.shape)
    # What is left must have the shape of the result: a number may stand for a vector.
    if right == {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(op) and x.shape == at.shape:
        return x if right is not None else None
    if y.shape == at.shape and left is not None:
        if (op, left) in (("add", 0.0), ("mul", 1.0)):
            return y
        if (op, left) == ("sub", 0.0):
            return -y
    return None
