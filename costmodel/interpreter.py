"""The meaning of a program: run in the order of its text, one operation after the other.

Slow and plain, the reference for everything that rearranges or compiles programs. Arithmetic is
that of C: int32 wraps around, ints divide towards zero, every float32 operation is rounded to
float32, mixed operands become the wider type, and functions are those of the C library.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import OutOfBounds
from costmodel.ir import (
    Access,
    Binary,
    Call,
    Computation,
    Const,
    DType,
    Expr,
    Index,
    Load,
    Loop,
    Negate,
    Program,
    Select,
)

Value = Any  # an int (int32), numpy.float32 or numpy.float64
Point = dict[str, int]
Evaluate = Callable[[Point], Value]

_WIDTH: dict[DType, int] = {"int32": 0, "float32": 1, "float64": 2}
_OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "min": lambda a, b: a if a < b else b,
    "max": lambda a, b: a if a > b else b,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def run(program: Program, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Run on numpy arrays, in place.

    arrays: one for each array of the program, by name, in its shape and dtype; a scalar has shape
            (). A temp may be left out and starts as zeros.

    Raises ValueError for a missing or different array, OutOfBounds when a subscript leaves its
    array, and ZeroDivisionError when an int is divided by 0.
    """
    memory: dict[str, NDArray[Any]] = {}
    for array in program.arrays:
        given = arrays.get(array.name)
        if given is None and array.role == "temp":
            given = np.zeros(array.shape, array.dtype)
        if given is None or given.shape != array.shape or given.dtype != array.dtype:
            got = "none" if given is None else f"{given.dtype}{list(given.shape)}"
            wanted = f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"{array.name} must be {wanted} as in the program, got {got}")
        memory[array.name] = given
    with np.errstate(all="ignore"):
        for step in [_prepared(node, program, memory) for node in program.body]:
            step({})


def instances(program: Program) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every execution of a statement in order: its name and the values of its iterators."""
    by_position = {s.position: s.name for s in program.statements}

    def visit(
        nodes: tuple[Loop | Computation, ...], point: Point, at: tuple[int, ...]
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        for place, node in enumerate(nodes):
            if isinstance(node, Loop):
                for value in range(node.lower.value(point), node.upper.value(point)):
                    yield from visit(node.body, {**point, node.name: value}, (*at, place))
            elif all(guard.holds(point) for guard in node.guards):
                yield by_position[(*at, place)], tuple(point.values())

    yield from visit(program.body, {}, ())


def _prepared(
    node: Loop | Computation, program: Program, memory: Mapping[str, NDArray[Any]]
) -> Callable[[Point], None]:
    """The node as a function of the iterators around it."""
    if isinstance(node, Loop):
        inner = [_prepared(child, program, memory) for child in node.body]
        loop = node

        def repeat(point: Point) -> None:
            for value in range(loop.lower.value(point), loop.upper.value(point)):
                point[loop.name] = value
                for step in inner:
                    step(point)
            point.pop(loop.name, None)

        return repeat

    computation = node
    written = program.array(node.write.array).dtype
    place = _subscript(node.write, memory[node.write.array])
    target = memory[node.write.array]
    from_dtype, evaluate = _evaluator(node.expr, program, written, memory)
    convert = _conversion(from_dtype, written)

    def assign(point: Point) -> None:
        if all(guard.holds(point) for guard in computation.guards):
            target[place(point)] = convert(evaluate(point))

    return assign


def _subscript(access: Access, array: NDArray[Any]) -> Callable[[Point], tuple[int, ...]]:
    def find(point: Point) -> tuple[int, ...]:
        found = tuple(index.value(point) for index in access.index)
        for index, extent in zip(found, array.shape, strict=True):
            if not 0 <= index < extent:
                raise OutOfBounds(f"{access} leaves shape {array.shape} at {point}: got {found}")
        return found

    return find


def _evaluator(
    expr: Expr, program: Program, written: DType, memory: Mapping[str, NDArray[Any]]
) -> tuple[DType, Evaluate]:
    """The type of an expression in a statement that writes `written`, and its value at a point."""

    def go(e: Expr) -> tuple[DType, Evaluate]:
        match e:
            case Const(int(number)):
                return "int32", lambda point: number
            case Const(number):
                kind: DType = "float32" if written == "float32" else "float64"
                fixed = _conversion("float64", kind)(np.float64(number))
                return kind, lambda point: fixed
            case Index(affine):
                to_written = _conversion("int32", written)
                return written, lambda point: to_written(affine.value(point))
            case Load(access):
                return _load(access)
            case Negate(part):
                kind, value = go(part)
                wrap = _conversion(kind, kind)
                return kind, lambda point: wrap(-value(point))
            case Binary(op, left, right):
                return _pair(op, go(left), go(right))
            case Call(function, arguments):
                return _call(function, [go(argument) for argument in arguments])
            case Select(condition, then, otherwise):
                _, holds = _pair(condition.op, go(condition.left), go(condition.right))
                (then_kind, then_value), (other_kind, other_value) = go(then), go(otherwise)
                kind = _wider(then_kind, other_kind)
                keep, keep_other = _conversion(then_kind, kind), _conversion(other_kind, kind)

                def choose(point: Point) -> Value:
                    if holds(point):
                        return keep(then_value(point))
                    return keep_other(other_value(point))

                return kind, choose

    def _load(access: Access) -> tuple[DType, Evaluate]:
        array = memory[access.array]
        place = _subscript(access, array)
        kind = program.array(access.array).dtype
        if kind == "int32":
            return kind, lambda point: int(array[place(point)])
        return kind, lambda point: array[place(point)]

    def _pair(
        op: str, left: tuple[DType, Evaluate], right: tuple[DType, Evaluate]
    ) -> tuple[DType, Evaluate]:
        kind = _wider(left[0], right[0])
        first, second = _conversion(left[0], kind), _conversion(right[0], kind)
        apply = _towards_zero if op == "/" and kind == "int32" else _OPERATORS[op]
        result = _conversion(kind, kind) if op in ("+", "-", "*", "/") else _same
        a, b = left[1], right[1]
        return kind, lambda point: result(apply(first(a(point)), second(b(point))))

    def _call(function: str, arguments: list[tuple[DType, Evaluate]]) -> tuple[DType, Evaluate]:
        if function == "abs":
            kind = written
            apply: Callable[..., Value] = abs
        else:
            kind = "float32" if written == "float32" else "float64"
            apply = _library_function(function, kind)
        converted = [(_conversion(k, kind), value) for k, value in arguments]
        result = _conversion(kind, kind)
        return kind, lambda point: result(apply(*(c(value(point)) for c, value in converted)))

    return go(expr)


def _wider(left: DType, right: DType) -> DType:
    return max(left, right, key=_WIDTH.__getitem__)


def _same(value: Value) -> Value:
    return value


def _conversion(source: DType, target: DType) -> Callable[[Value], Value]:
    """C's conversion; from a type to itself it brings an operation's result into range."""
    if target == "float32":
        return np.float32
    if target == "float64":
        return np.float64
    if source == "int32":
        return lambda value: (value + 2**31) % 2**32 - 2**31
    return int


def _towards_zero(left: int, right: int) -> int:
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


@functools.cache
def _library_function(name: str, kind: DType) -> Callable[..., Value]:
    """The C library's own function, so that results equal those of compiled code to the bit."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    number = ctypes.c_float if kind == "float32" else ctypes.c_double
    function = getattr(library, name + ("f" if kind == "float32" else ""))
    function.restype = number
    function.argtypes = [number] * (2 if name == "pow" else 1)
    return function  # type: ignore[no-any-return]
