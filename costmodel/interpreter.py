"""The meaning of a program: run in the order of its text, one operation after the other.

The reference for everything that rearranges or compiles programs. Arithmetic is that of C: int32
wraps around, ints divide towards zero, every float32 operation is rounded to float32, mixed
operands become the wider type, and functions are those of the C library. A program becomes Python
text over flat lists, in which every operation is one call or operator.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import attrs
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

_WIDTH: dict[DType, int] = {"int32": 0, "float32": 1, "float64": 2}


def run(program: Program, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Run on numpy arrays, in place.

    arrays: one for each array of the program, by name, in its shape and dtype; a scalar has shape
            (). A temp may be left out and starts as zeros.

    Raises ValueError for a missing or different array, OutOfBounds when a subscript leaves its
    array, and ZeroDivisionError when an int is divided by 0; arrays then hold what was done so far.
    """
    cells: dict[str, list[Any]] = {}
    for array in program.arrays:
        given = arrays.get(array.name)
        if given is None and array.role == "temp":
            cells[array.name] = [0] * array.n_items
            continue
        if given is None or given.shape != array.shape or given.dtype != array.dtype:
            got = "none" if given is None else f"{given.dtype}{list(given.shape)}"
            wanted = f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"{array.name} must be {wanted} as in the program, got {got}")
        cells[array.name] = given.ravel().tolist()
    try:
        _compiled(program)(cells)
    finally:
        for name, values in cells.items():
            if name in arrays:
                out = arrays[name]
                out[...] = np.array(values, out.dtype).reshape(out.shape)


def instances(program: Program) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every execution of a statement in order: its name and the values of its iterators."""
    names = {s.position: s.name for s in program.statements}

    def visit(
        nodes: tuple[Loop | Computation, ...], point: dict[str, int], at: tuple[int, ...]
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        for place, node in enumerate(nodes):
            if isinstance(node, Loop):
                for value in range(node.lower.value(point), node.upper.value(point)):
                    yield from visit(node.body, {**point, node.name: value}, (*at, place))
            elif all(guard.holds(point) for guard in node.guards):
                yield names[(*at, place)], tuple(point.values())

    yield from visit(program.body, {}, ())


@functools.lru_cache(maxsize=64)
def _compiled(program: Program) -> Callable[[dict[str, list[Any]]], None]:
    heads = [f"    cells_{a.name} = _cells[{a.name!r}]" for a in program.arrays]
    text = "\n".join(["def _run(_cells):", *heads, *_lines(program, program.body, "    ")])
    names: dict[str, Any] = dict(_RUNTIME)
    exec(compile(text, f"<{program.name}>", "exec"), names)
    return names["_run"]  # type: ignore[no-any-return]


def _lines(program: Program, nodes: tuple[Loop | Computation, ...], indent: str) -> Iterator[str]:
    yield f"{indent}pass"
    for node in nodes:
        if isinstance(node, Loop):
            yield f"{indent}for {node.name} in range({node.lower}, {node.upper}):"
            yield from _lines(program, node.body, indent + "    ")
        else:
            dtype = program.array(node.write.array).dtype
            value = _Expressions(program, dtype).value(node.expr).as_type(dtype)
            guard = " and ".join(map(str, node.guards)) or "True"
            yield f"{indent}if {guard}: {_cell(program, node.write)} = {value}"


def _cell(program: Program, access: Access) -> str:
    """The cell of a flat row-major list; every subscript is checked."""
    place = "0"
    for index, extent in zip(access.index, program.array(access.array).shape, strict=True):
        place = f"({place}) * {extent} + _inside({index}, {extent}, {str(access)!r})"
    return f"cells_{access.array}[{place}]"


@attrs.frozen
class _Value:
    """Python text of a value and its type in C."""

    text: str
    dtype: DType

    def as_type(self, dtype: DType) -> str:
        if dtype == self.dtype:
            return self.text
        if dtype == "int32":
            return f"_wrap(int({self.text}))"
        return f"_round({self.text})" if dtype == "float32" else f"float({self.text})"


@attrs.frozen
class _Expressions:
    """Expressions in a statement that writes `written`."""

    program: Program
    written: DType

    @property
    def floating(self) -> DType:
        return "float32" if self.written == "float32" else "float64"

    def value(self, e: Expr) -> _Value:
        match e:
            case Const(int(number)):
                return _Value(f"({number})", "int32")
            case Const(number):
                return _Value(
                    _Value(f"({number!r})", "float64").as_type(self.floating), self.floating
                )
            case Index(affine):
                return _Value(_Value(f"({affine})", "int32").as_type(self.written), self.written)
            case Load(access):
                return _Value(_cell(self.program, access), self.program.array(access.array).dtype)
            case Negate(part):
                value = self.value(part)
                return self._rounded(f"(-{value.text})", value.dtype)
            case Binary(op, left, right):
                return self._binary(op, self.value(left), self.value(right))
            case Call("abs", (part,)):
                return self._rounded(f"abs({self.value(part).as_type(self.written)})", self.written)
            case Call(function, arguments):
                texts = (self.value(a).as_type(self.floating) for a in arguments)
                suffix = "f" if self.floating == "float32" else ""
                return _Value(f"_{function}{suffix}({', '.join(texts)})", self.floating)
            case Select(condition, then, otherwise):
                first, second = self.value(condition.left), self.value(condition.right)
                kind = _wider(first, second)
                test = f"{first.as_type(kind)} {condition.op} {second.as_type(kind)}"
                yes, no = self.value(then), self.value(otherwise)
                kind = _wider(yes, no)
                return _Value(f"({yes.as_type(kind)} if {test} else {no.as_type(kind)})", kind)

    def _binary(self, op: str, left: _Value, right: _Value) -> _Value:
        kind = _wider(left, right)
        a, b = left.as_type(kind), right.as_type(kind)
        match op:
            case "min" | "max":
                return _Value(f"_{op}({a}, {b})", kind)
            case "/" if kind == "int32":
                return self._rounded(f"_towards_zero({a}, {b})", kind)
            case "/":
                return self._rounded(f"_divide({a}, {b})", kind)
            case _:
                return self._rounded(f"({a} {op} {b})", kind)

    @staticmethod
    def _rounded(text: str, dtype: DType) -> _Value:
        """The result of an operation, brought back into its type.

        A float32 operation done in float64 and rounded once more is the float32 operation: 53 bits
        are more than twice 24 and two (Figueroa, "When is double rounding innocuous?", 1995).
        """
        around = {"int32": f"_wrap({text})", "float32": f"_round({text})", "float64": text}
        return _Value(around[dtype], dtype)


def _wider(left: _Value, right: _Value) -> DType:
    return max(left.dtype, right.dtype, key=_WIDTH.__getitem__)


def _inside(index: int, extent: int, access: str) -> int:
    if 0 <= index < extent:
        return index
    _leave(index, extent, access)


def _leave(index: int, extent: int, access: str) -> NoReturn:
    raise OutOfBounds(f"{access} has a subscript of {index} where 0 to {extent - 1} is allowed")


def _wrap(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def _round(value: float) -> float:
    return ctypes.c_float(value).value


def _towards_zero(left: int, right: int) -> int:
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


def _divide(left: float, right: float) -> float:
    try:
        return left / right
    except ZeroDivisionError:
        if left == 0 or math.isnan(left):
            return math.nan
        return math.copysign(math.inf, left) * math.copysign(1.0, right)


def _library_functions() -> dict[str, Any]:
    """The C library's own, so that results equal those of compiled code to the bit."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    found = {}
    for name in ("sqrt", "exp", "log", "pow", "sin", "cos"):
        for suffix, number in (("", ctypes.c_double), ("f", ctypes.c_float)):
            function = getattr(library, name + suffix)
            function.restype = number
            function.argtypes = [number] * (2 if name == "pow" else 1)
            found[f"_{name}{suffix}"] = function
    return found


_RUNTIME: dict[str, Any] = {
    "_inside": _inside,
    "_wrap": _wrap,
    "_round": _round,
    "_towards_zero": _towards_zero,
    "_divide": _divide,
    "_min": lambda a, b: a if a < b else b,
    "_max": lambda a, b: a if a > b else b,
    **_library_functions(),
}
