"""Programs: loop nests with affine bounds over arrays, and their text.

A program is a tree of loops with computations as leaves, as in the paper (section on program
characterization), with imperfect nests, triangular bounds and guards besides. Sizes are numbers:
parameters are replaced when a program is read. The text of a program is Python:

    def gemm(A: "in float64[20, 30]", B: "in float64[30, 25]", C: "inout float64[20, 25]"):
        for i in range(0, 20):
            for j in range(0, 25):
                for k in range(0, 30):
                    C[i, j] = C[i, j] + A[i, k] * B[k, j]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Literal

import attrs

from costmodel.affine import Affine

DType = Literal["float32", "float64", "int32"]
Role = Literal["in", "out", "inout", "temp"]
BinaryOp = Literal["+", "-", "*", "/", "min", "max"]
CompareOp = Literal["<", "<=", "==", "!=", ">", ">="]
Function = Literal["sqrt", "exp", "log", "abs", "pow", "sin", "cos"]

ITEM_BYTES: dict[str, int] = {"float32": 4, "float64": 8, "int32": 4}


@attrs.frozen
class Array:
    """A row-major array, or a scalar when the shape is ().

    role: in and inout come from the caller, out and inout go back to him; a temp is the program's
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    role: Role

    @property
    def n_items(self) -> int:
        total = 1
        for extent in self.shape:
            total *= extent
        return total

    @property
    def size_bytes(self) -> int:
        return self.n_items * ITEM_BYTES[self.dtype]


@attrs.frozen
class Access:
    """array[index]; the index is () for a scalar."""

    array: str
    index: tuple[Affine, ...]

    def __str__(self) -> str:
        return f"{self.array}[{', '.join(map(str, self.index)) or '()'}]"


@attrs.frozen
class Load:
    access: Access


@attrs.frozen
class Const:
    """A number of the program's text: an int, or a float in the type of what is written."""

    value: int | float = attrs.field(eq=repr)  # 1 and 1.0 differ: 1 / 2 is 0 and 1.0 / 2 is 0.5


@attrs.frozen
class Index:
    """The value of an affine expression of the iterators, as a number."""

    affine: Affine


@attrs.frozen
class Binary:
    """min is `a < b ? a : b`, max `a > b ? a : b`; / of two ints goes towards 0, as in C."""

    op: BinaryOp
    left: Expr
    right: Expr


@attrs.frozen
class Negate:
    value: Expr


@attrs.frozen
class Call:
    function: Function
    arguments: tuple[Expr, ...]


@attrs.frozen
class Compare:
    op: CompareOp
    left: Expr
    right: Expr


@attrs.frozen
class Select:
    """then if the condition holds, else otherwise; both are values, neither is skipped code."""

    condition: Compare
    then: Expr
    otherwise: Expr


Expr = Load | Const | Index | Binary | Negate | Call | Select


@attrs.frozen
class Condition:
    """expression >= 0, or == 0."""

    expression: Affine
    is_equality: bool = False

    def __str__(self) -> str:
        return f"{self.expression} {'==' if self.is_equality else '>='} 0"

    def holds(self, point: Mapping[str, int]) -> bool:
        value = self.expression.value(point)
        return value == 0 if self.is_equality else value >= 0


@attrs.frozen
class Computation:
    """write = expr, where all guards hold."""

    write: Access
    expr: Expr
    guards: tuple[Condition, ...] = ()


@attrs.frozen
class Loop:
    """for name in range(lower, upper): body; the bounds may name the loops outside."""

    name: str
    lower: Affine
    upper: Affine
    body: tuple[Loop | Computation, ...]


@attrs.frozen(slots=False, cache_hash=True)
class Statement:
    """A computation with its place in the program.

    name:     S0, S1, ... in the order of the text
    loops:    outermost first; their bodies are the program's
    position: of each loop among its siblings, then of the computation: len(loops) + 1 numbers
    """

    name: str
    computation: Computation
    loops: tuple[Loop, ...]
    position: tuple[int, ...]

    @cached_property
    def iterators(self) -> tuple[str, ...]:
        return tuple(loop.name for loop in self.loops)

    @property
    def write(self) -> Access:
        return self.computation.write

    @cached_property
    def reads(self) -> tuple[Access, ...]:
        """Loads in the order of the text, repeated ones too."""
        return tuple(loads(self.computation.expr))


@attrs.frozen(slots=False, cache_hash=True)
class Program:
    name: str
    arrays: tuple[Array, ...]
    body: tuple[Loop | Computation, ...]

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        found: list[Statement] = []

        def visit(
            nodes: tuple[Loop | Computation, ...], loops: tuple[Loop, ...], at: tuple[int, ...]
        ) -> None:
            for place, node in enumerate(nodes):
                if isinstance(node, Loop):
                    visit(node.body, (*loops, node), (*at, place))
                else:
                    found.append(Statement(f"S{len(found)}", node, loops, (*at, place)))

        visit(self.body, (), ())
        return tuple(found)

    def array(self, name: str) -> Array:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Array]:
        return {array.name: array for array in self.arrays}

    @cached_property
    def hash(self) -> str:
        """sha256 of the text with arrays, iterators and the program itself renamed by order."""
        return hashlib.sha256(str(renamed(self)).encode()).hexdigest()

    @staticmethod
    def parse(text: str) -> Program:
        """The program of a text that `str` made, or of any Python function of this form."""
        from costmodel.python_frontend import parse_function

        return parse_function(text)

    def __str__(self) -> str:
        heads = ", ".join(
            f'{a.name}: "{a.role} {a.dtype}[{", ".join(map(str, a.shape)) or "()"}]"'
            for a in self.arrays
        )
        return "\n".join([f"def {self.name}({heads}):", *_lines(self.body, "    ")]) + "\n"


def loads(expr: Expr) -> Iterator[Access]:
    """Every load of an expression, from left to right."""
    if isinstance(expr, Load):
        yield expr.access
    for part in operands(expr):
        yield from loads(part)


def operands(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside."""
    match expr:
        case Binary(_, left, right):
            return (left, right)
        case Negate(value):
            return (value,)
        case Call(_, arguments):
            return arguments
        case Select(condition, then, otherwise):
            return (condition.left, condition.right, then, otherwise)
        case _:
            return ()


def rebuilt(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The expression with its operands changed; itself where it has none."""
    match expr:
        case Binary(op, left, right):
            return Binary(op, change(left), change(right))
        case Negate(value):
            return Negate(change(value))
        case Call(function, arguments):
            return Call(function, tuple(map(change, arguments)))
        case Select(Compare(op, left, right), then, otherwise):
            condition = Compare(op, change(left), change(right))
            return Select(condition, change(then), change(otherwise))
        case _:
            return expr


def substitute(
    expr: Expr, iterators: Mapping[str, Affine], arrays: Mapping[str, str] | None = None
) -> Expr:
    """The expression with iterators replaced and arrays renamed."""

    def go(e: Expr) -> Expr:
        match e:
            case Load(access):
                return Load(moved(access, iterators, arrays))
            case Index(affine):
                return Index(affine.substitute(iterators))
            case _:
                return rebuilt(e, go)

    return go(expr)


def moved(
    access: Access, iterators: Mapping[str, Affine], arrays: Mapping[str, str] | None = None
) -> Access:
    """The access with iterators replaced and its array renamed."""
    name = (arrays or {}).get(access.array, access.array)
    return Access(name, tuple(index.substitute(iterators) for index in access.index))


def renamed(program: Program) -> Program:
    """The same program with names that follow from order alone.

    Arrays become A0, A1, ... by first use (those never used follow), the iterator of depth d i<d>.
    """
    arrays: dict[str, str] = {}
    for statement in program.statements:
        for access in (*statement.reads, statement.write):
            arrays.setdefault(access.array, f"A{len(arrays)}")
    for array in program.arrays:
        arrays.setdefault(array.name, f"A{len(arrays)}")

    def visit(
        nodes: tuple[Loop | Computation, ...], names: dict[str, Affine]
    ) -> tuple[Loop | Computation, ...]:
        done: list[Loop | Computation] = []
        for node in nodes:
            if isinstance(node, Loop):
                name = f"i{len(names)}"
                lower, upper = node.lower.substitute(names), node.upper.substitute(names)
                inside = {**names, node.name: Affine.of(name)}
                done.append(Loop(name, lower, upper, visit(node.body, inside)))
            else:
                write = moved(node.write, names, arrays)
                expr = substitute(node.expr, names, arrays)
                guards = tuple(
                    Condition(g.expression.substitute(names), g.is_equality) for g in node.guards
                )
                done.append(Computation(write, expr, guards))
        return tuple(done)

    by_order = sorted(program.arrays, key=lambda a: int(arrays[a.name][1:]))
    return Program(
        "program",
        tuple(attrs.evolve(a, name=arrays[a.name]) for a in by_order),
        visit(program.body, {}),
    )


def _lines(nodes: tuple[Loop | Computation, ...], indent: str) -> Iterator[str]:
    if not nodes:
        yield f"{indent}pass"
    for node in nodes:
        if isinstance(node, Loop):
            yield f"{indent}for {node.name} in range({node.lower}, {node.upper}):"
            yield from _lines(node.body, indent + "    ")
        else:
            inner = indent
            if node.guards:
                yield f"{indent}if {' and '.join(map(str, node.guards))}:"
                inner += "    "
            yield f"{inner}{node.write} = {text_of(node.expr)}"


def text_of(expr: Expr) -> str:
    """Python text of an expression; parentheses show the tree as it is."""
    match expr:
        case Load(access):
            return str(access)
        case Const(value):
            return repr(value)
        case Index(affine):
            return f"index({affine})"
        case Binary(("min" | "max") as op, left, right):
            return f"{op}({text_of(left)}, {text_of(right)})"
        case Binary(op, left, right):
            return f"{_inner(left)} {op} {_inner(right)}"
        case Negate(value):
            return f"-{_inner(value)}"
        case Call(function, arguments):
            return f"{function}({', '.join(map(text_of, arguments))})"
        case Select(Compare(op, left, right), then, otherwise):
            return (
                f"({text_of(then)} if {text_of(left)} {op} {text_of(right)} "
                f"else {text_of(otherwise)})"
            )


def _inner(expr: Expr) -> str:
    text = text_of(expr)
    return f"({text})" if isinstance(expr, Binary) and expr.op not in ("min", "max") else text
