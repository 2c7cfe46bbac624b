"""Programs written as Python functions: their text, and the decorator `kernel`.

    @kernel(N=64)
    def matmul(A: "float32[N, N]", B: "float32[N, N]", C: "out float32[N, N]"):
        for i in range(N):
            for j in range(N):
                C[i, j] = 0.0
                for k in range(N):
                    C[i, j] += A[i, k] * B[k, j]

    matmul.program

The function is read, never run. Numbers mean what they mean in C: int32 wraps around, `/` of two
ints goes towards zero, a float constant has the type of what is written.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NoReturn, Protocol, overload

import attrs

from costmodel import lowering
from costmodel.errors import UnsupportedProgram
from costmodel.ir import Program
from costmodel.syntax import (
    Action,
    Argument,
    Assign,
    Declare,
    For,
    Function,
    If,
    Item,
    Name,
    Node,
    Number,
    Operation,
    Place,
)

_ANNOTATION = re.compile(r"(?:(in|out|inout|temp)\s+)?(\w+)\s*(?:\[(.*)\])?\s*$", re.DOTALL)
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "pow",
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_FUNCTION_NAMES = {"fabs": "abs", "fmin": "min", "fmax": "max", "minimum": "min", "maximum": "max"}


class Shaped(Protocol):
    """A numpy array or torch tensor: something with a shape and an element type."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


def parse_function(
    text: str,
    params: Mapping[str, int] | None = None,
    arrays: Mapping[str, Shaped] | None = None,
    *,
    file: str = "<program>",
    first_line: int = 1,
) -> Program:
    """The program of a Python function, as `str(program)` prints it or richer.

    params: numbers of the sizes the text names
    arrays: shapes and element types of arguments that have no annotation

    Subscripts are taken as they are; `bounds.check` compares them with the shapes.
    Raises NotAffine, UnboundParameter and UnsupportedProgram with file, line and text.
    """
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        line = first_line - 1 + (error.lineno or 1)
        found = (error.text or "").strip()
        raise UnsupportedProgram(f"{file}:{line}: '{found}' is no Python: {error.msg}") from None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        raise UnsupportedProgram(f"{file} must hold one function, got {len(functions)}")
    reader = _Reader(file, first_line, arrays or {})
    return lowering.lower(reader.function(functions[0]), params or {}).program


class _Reader:
    """Python's own syntax tree to ours."""

    def __init__(self, file: str, first_line: int, arrays: Mapping[str, Shaped]) -> None:
        self.file = file
        self.first_line = first_line
        self.arrays = arrays

    def place(self, node: ast.AST) -> Place:
        line = self.first_line - 1 + getattr(node, "lineno", 1)
        return Place(self.file, line, lambda: ast.unparse(node).splitlines()[0])

    def refuse(self, node: ast.AST, why: str) -> NoReturn:
        raise UnsupportedProgram(f"{self.place(node)} {why}")

    def function(self, node: ast.FunctionDef) -> Function:
        given = node.args
        if given.vararg or given.kwarg or given.kwonlyargs or given.posonlyargs or given.defaults:
            self.refuse(node, "may have plain parameters only")
        arguments = tuple(map(self._argument, given.args))
        known = {argument.name for argument in arguments}
        locals_ = self._locals(node, known, arguments)
        return Function(node.name, arguments, (*locals_, *self._block(node.body)), self.place(node))

    def _argument(self, node: ast.arg) -> Argument:
        place = self.place(node)
        if node.annotation is None:
            array = self.arrays.get(node.arg)
            if array is None:
                return Argument(node.arg, "int32", None, None, place)
            shape = tuple(Number(extent, place) for extent in array.shape)
            dtype = str(array.dtype).removeprefix("torch.")
            return Argument(node.arg, dtype, shape, None, place)
        role, dtype, shape_nodes = self._annotation(node.annotation)
        return Argument(node.arg, dtype, shape_nodes, role, place)

    def _annotation(self, node: ast.expr) -> tuple[str | None, str, tuple[Node, ...] | None]:
        """Role, element type and shape of "inout float64[N, M]"; no shape of a plain number."""
        text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
        match = _ANNOTATION.match(text) if isinstance(text, str) else None
        if match is None:
            self.refuse(node, 'is no type: wanted text such as "in float64[20, 30]"')
        role, dtype, shape = match.groups()
        if shape is None:
            return role, dtype, None
        tree = ast.parse(f"({shape},)" if shape.strip() != "()" else "()", mode="eval").body
        assert isinstance(tree, ast.Tuple)
        for part in ast.walk(tree):
            ast.copy_location(part, node)
        return role, dtype, tuple(map(self.node, tree.elts))

    def _locals(
        self, function: ast.FunctionDef, known: set[str], arguments: tuple[Argument, ...]
    ) -> list[Declare]:
        """Names assigned without being parameters, in the order of the text."""
        declared: dict[str, Declare] = {}
        dtypes = {a.dtype for a in arguments if a.shape is not None}
        for node in _statements(function.body):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                _, dtype, shape = self._annotation(node.annotation)
                declared[node.target.id] = Declare(
                    node.target.id, dtype, shape or (), self.place(node)
                )
            elif isinstance(node, ast.Assign | ast.AugAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id not in known | set(declared):
                    if len(dtypes) != 1:
                        self.refuse(node, f'needs a type: write {target.id}: "float64" = ... here')
                    (dtype,) = dtypes
                    declared[target.id] = Declare(target.id, dtype, (), self.place(node))
        return list(declared.values())

    def _block(self, nodes: Iterable[ast.stmt]) -> tuple[Action, ...]:
        return tuple(action for node in nodes for action in self._action(node))

    def _action(self, node: ast.stmt) -> list[Action]:
        place = self.place(node)
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant(value=str())):
                return []
            case ast.Return(value=None):
                return []
            case ast.Assign(targets=[target], value=value):
                return [Assign(self._target(target), self.node(value), place)]
            case ast.AugAssign(target=target, op=op, value=value):
                to = self._target(target)
                return [Assign(to, self._binary(node, op, to, self.node(value)), place)]
            case ast.AnnAssign(target=target, value=maybe):
                return [Assign(self._target(target), self.node(maybe), place)] if maybe else []
            case ast.For(orelse=[]):
                return [self._for(node, place)]
            case ast.If(test=test, body=body, orelse=orelse):
                return [If(self.node(test), self._block(body), self._block(orelse), place)]
            case _:
                self.refuse(node, "is no loop, assignment or affine if")

    def _target(self, node: ast.expr) -> Name | Item:
        target = self.node(node)
        if not isinstance(target, Name | Item):
            self.refuse(node, "is nothing one can assign to here")
        return target

    def _for(self, node: ast.For, place: Place) -> For:
        match node.target, node.iter:
            case ast.Name(id=name), ast.Call(func=ast.Name(id="range"), args=args, keywords=[]):
                bounds = list(map(self.node, args))
            case _:
                self.refuse(node, "must loop over range(...)")
        step = 1
        if len(bounds) == 3:
            match bounds[2]:
                case Number(int(value)):
                    step = value
                case Operation("neg", (Number(int(value)),)):
                    step = -value
                case _:
                    self.refuse(node, "must step by a whole number written out")
        start: Node = bounds[0] if len(bounds) > 1 else Number(0, place)
        limit = bounds[1] if len(bounds) > 1 else bounds[0]
        relation = "<" if step > 0 else ">"
        body = self._block(node.body)
        return For(name, start, relation, limit, step, body, place)  # type: ignore[arg-type]

    def node(self, node: ast.expr) -> Node:
        place = self.place(node)
        match node:
            case ast.Constant(value=bool()):
                self.refuse(node, "is no number")
            case ast.Constant(value=int() | float() as value):
                return Number(value, place)
            case ast.Name(id=name):
                return Name(name, place)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=parts)):
                return Item(name, tuple(map(self.node, parts)), place)
            case ast.Subscript(value=ast.Name(id=name), slice=part):
                return Item(name, (self.node(part),), place)
            case ast.Subscript(value=ast.Subscript() as inner, slice=part):
                outer = self.node(inner)
                assert isinstance(outer, Item)
                return Item(outer.name, (*outer.indices, self.node(part)), place)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, op, self.node(left), self.node(right))
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return Operation("neg", (self.node(part),), place)
            case ast.UnaryOp(op=ast.UAdd(), operand=part):
                return self.node(part)
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return Operation("not", (self.node(part),), place)
            case ast.BoolOp(op=op, values=[first, *rest]):
                total, word = self.node(first), "and" if isinstance(op, ast.And) else "or"
                for part in rest:
                    total = Operation(word, (total, self.node(part)), place)
                return total
            case ast.Compare():
                return self._comparison(node, place)
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                choice = (self.node(test), self.node(then), self.node(otherwise))
                return Operation("?", choice, place)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), keywords=[]):
                name = _FUNCTION_NAMES.get(name, name)
                return Operation(name, tuple(map(self.node, node.args)), place)
            case _:
                self.refuse(node, "is outside the expressions a program may use")

    def _binary(self, node: ast.AST, op: ast.operator, left: Node, right: Node) -> Operation:
        word = _BINARY.get(type(op))
        if word is None:
            self.refuse(node, "uses an operator a program may not use")
        return Operation(word, (left, right), self.place(node))

    def _comparison(self, node: ast.Compare, place: Place) -> Node:
        sides = [self.node(side) for side in (node.left, *node.comparators)]
        total: Node | None = None
        for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
            word = _COMPARE.get(type(op))
            if word is None:
                self.refuse(node, "compares by something other than < <= > >= == !=")
            one = Operation(word, (left, right), place)
            total = one if total is None else Operation("and", (total, one), place)
        assert total is not None
        return total


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement, inner ones too, in the order of the text."""
    for node in body:
        yield node
        if isinstance(node, ast.For | ast.While | ast.If):
            yield from _statements([*node.body, *node.orelse])


@attrs.frozen(slots=False)
class Kernel:
    """A Python function as a program, once its sizes are known."""

    name: str
    text: str
    file: str
    first_line: int
    params: Mapping[str, int] = attrs.field(factory=dict, hash=False)

    def bind(self, **params: int) -> Kernel:
        """The kernel with these sizes, which go before those it had."""
        return attrs.evolve(self, params={**self.params, **params})

    @cached_property
    def program(self) -> Program:
        return self.for_arrays()

    def for_arrays(self, **arrays: Shaped) -> Program:
        """The program whose arguments without annotation look like these arrays."""
        from costmodel import bounds

        program = parse_function(
            self.text, self.params, arrays, file=self.file, first_line=self.first_line
        )
        bounds.check(program)
        return program


@overload
def kernel(function: Callable[..., object], /, **params: int) -> Kernel: ...
@overload
def kernel(
    function: None = None, /, **params: int
) -> Callable[[Callable[..., object]], Kernel]: ...


def kernel(
    function: Callable[..., object] | None = None, /, **params: int
) -> Kernel | Callable[[Callable[..., object]], Kernel]:
    """Read a function as a program; sizes are the ints it sees around it, and `params`.

    Raises UnsupportedProgram if the source of the function cannot be found.
    """
    if function is None:
        return lambda given: kernel(given, **params)
    try:
        lines, first_line = inspect.getsourcelines(function)
    except (OSError, TypeError):
        raise UnsupportedProgram(
            f"the source of {function!r} is not at hand: define it in a file, "
            "or give its text to parse_function"
        ) from None
    seen = inspect.getclosurevars(function)
    around = {
        name: value
        for name, value in {**seen.globals, **seen.nonlocals}.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    around |= _annotation_names(function)
    file = inspect.getsourcefile(function) or "<kernel>"
    return Kernel(
        function.__name__, textwrap.dedent("".join(lines)), file, first_line, {**around, **params}
    )


def _annotation_names(function: Callable[..., object]) -> dict[str, int]:
    """Ints of the module that annotations name: text in quotes is no use the function knows of."""
    words = set(re.findall(r"[A-Za-z_]\w*", " ".join(map(str, function.__annotations__.values()))))
    module: Mapping[str, object] = getattr(function, "__globals__", {})
    found = {word: module[word] for word in words if word in module}
    return {n: v for n, v in found.items() if isinstance(v, int) and not isinstance(v, bool)}
