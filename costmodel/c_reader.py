"""pycparser's syntax tree to ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NoReturn

from pycparser import c_ast, c_generator  # type: ignore[import-untyped]  # it publishes no types

from costmodel.drop_in import Parameter
from costmodel.errors import NotAffine, UnsupportedProgram
from costmodel.syntax import (
    Action,
    Argument,
    Assign,
    Block,
    Cast,
    Declare,
    Fix,
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

_DTYPES = {"double": "float64", "float": "float32", "int": "int32", "signed int": "int32"}
_WHOLE = {"int", "signed", "unsigned", "long", "short", "size_t"}
# min and max are no functions of C, but every tiled loop nest has them as macros.
_FUNCTIONS = {"fabs": "fabs", "fmin": "min", "fmax": "max"} | {
    name: name for name in ("sqrt", "exp", "log", "pow", "sin", "cos", "abs", "min", "max")
}
_BINARY = {"+": "+", "-": "-", "*": "*", "/": "/", "%": "rem", "&&": "and", "||": "or"} | {
    op: op for op in ("<", "<=", ">", ">=", "==", "!=")
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}
_NAMES: dict[type, str] = {
    c_ast.Goto: "goto",
    c_ast.Label: "a label",
    c_ast.Break: "break",
    c_ast.Continue: "continue",
    c_ast.Switch: "switch",
    c_ast.Return: "a return before the end",
    c_ast.StructRef: "a struct",
    c_ast.ExprList: "the comma operator",
    c_ast.FuncCall: "a call whose effects are unknown",
}


class Reader:
    """One source file.

    tree:   the file, for its typedefs and global variables
    params: sizes, where a step needs its number
    """

    def __init__(self, file: str, tree: c_ast.FileAST, params: Mapping[str, int]) -> None:
        self.file = file
        self.params = params
        self.typedefs = {n.name: n for n in tree.ext if isinstance(n, c_ast.Typedef)}
        self.globals = [n for n in tree.ext if isinstance(n, c_ast.Decl) and _is_variable(n)]
        self.iterators: set[str] = set()
        self.assigned: set[str] = set()  # names the function writes to after their declaration

    def place(self, node: c_ast.Node) -> Place:
        coord = node.coord
        file, line = (coord.file, coord.line) if coord else (self.file, 0)
        return Place(file, line, lambda: _text(node))

    def refuse(self, node: c_ast.Node, why: str) -> NoReturn:
        raise UnsupportedProgram(f"{self.place(node)} {why}")

    # Declarations

    def function(self, definition: c_ast.FuncDef) -> Function:
        """Parameters, the global variables used, and the region or body."""
        given = definition.decl.type.args
        nodes = [n for n in (given.params if given else []) if not _is_void(n)]
        before, items, after = self._region(definition)
        loops = map(_loop_name, _find(definition.body, c_ast.For))
        self.iterators = {name for name in loops if name is not None}
        self.assigned = set(_written(definition.body))
        used = {n.name for n in _find(definition.body, c_ast.ID)}
        inner = {n.name for n in (*nodes, *_find(definition.body, c_ast.Decl))}
        arguments = [self._argument(n) for n in nodes]
        start: list[Action] = []
        for decl in self.globals:
            if decl.name in used - inner:
                start += self._outside(decl, arguments, is_shared="const" not in decl.quals)
        others = [n for n in before if not isinstance(n, c_ast.Decl)] + after
        shared = {n.name for other in others for n in _find(other, c_ast.ID)}
        for decl in before:
            if isinstance(decl, c_ast.Decl) and decl.name not in self.iterators:
                start += self._outside(decl, arguments, is_shared=decl.name in shared)
        body = self._block(items, is_last=True)
        name = definition.decl.name
        return Function(name, tuple(arguments), (*start, *body), self.place(definition.decl))

    def parameters(self, definition: c_ast.FuncDef) -> tuple[Parameter, ...] | None:
        """The parameters as declared; None if the function returns a value."""
        if self._words(definition.decl.type.type) != {"void"}:
            return None
        given = definition.decl.type.args
        return tuple(self._parameter(n) for n in (given.params if given else []) if not _is_void(n))

    def _parameter(self, decl: c_ast.Decl) -> Parameter:
        at = decl.type
        while isinstance(at, c_ast.ArrayDecl):
            at = at.type
        kind = " ".join([*dict.fromkeys(at.quals), *sorted(self._words(at) - {"const"})])
        return Parameter(decl.name, kind, is_array=at is not decl.type)

    def _region(
        self, definition: c_ast.FuncDef
    ) -> tuple[list[c_ast.Node], list[c_ast.Node], list[c_ast.Node]]:
        """Before the region, the region, and after it; without pragmas all is the region."""
        items = definition.body.block_items or []
        marks = {
            word: [
                place
                for place, node in enumerate(items)
                if isinstance(node, c_ast.Pragma) and (node.string or "").split()[:1] == [word]
            ]
            for word in ("scop", "endscop")
        }
        if not marks["scop"] and not marks["endscop"]:
            inside = {(n.string or "").strip() for n in _find(definition.body, c_ast.Pragma)}
            if "scop" in inside:
                self.refuse(definition.decl, "has its #pragma scop inside another block")
            return [], items, []
        if len(marks["scop"]) != 1 or len(marks["endscop"]) != 1:
            self.refuse(definition.decl, "must have one #pragma scop and one #pragma endscop")
        first, last = marks["scop"][0], marks["endscop"][0]
        return items[:first], items[first + 1 : last], items[last + 1 :]

    def _outside(
        self, decl: c_ast.Decl, arguments: list[Argument], is_shared: bool
    ) -> Iterable[Action]:
        """A variable declared outside the region.

        is_shared: other code writes or reads it, so that it comes in and goes out as an argument
        """
        if is_shared and decl.name not in self.params:
            arguments.append(self._argument(decl))
            return ()
        return tuple(self._local(decl))

    def _argument(self, decl: c_ast.Decl) -> Argument:
        place = self.place(decl)
        if not isinstance(decl, c_ast.Decl) or decl.name is None:
            self.refuse(decl, "has no name")
        dtype, shape, is_const = self._type(decl)
        role = "in" if is_const and shape is not None else None
        return Argument(decl.name, dtype, shape, role, place)

    def _type(self, decl: c_ast.Decl) -> tuple[str, tuple[Node, ...] | None, bool]:
        """Element type, extents (None for a plain number), whether it is const."""
        extents: list[Node] = []
        at = decl.type
        while isinstance(at, c_ast.ArrayDecl):
            if at.dim is None:
                self.refuse(decl, f"leaves an extent of {decl.name} open: write {decl.name}[N]")
            extents.append(self.node(at.dim))
            at = at.type
        if isinstance(at, c_ast.PtrDecl):
            self.refuse(
                decl,
                f"is a pointer, whose extent is unknown: declare the array, such as {decl.name}[N]",
            )
        if not isinstance(at, c_ast.TypeDecl):
            self.refuse(decl, "is no number or array of numbers")
        words = self._words(at)
        shape = tuple(extents) if extents else None
        name = " ".join(sorted(words - {"const"}, key=["signed", "int"].__contains__))
        if shape is None and words - {"const"} <= _WHOLE:
            return "int32", None, "const" in at.quals
        if name not in _DTYPES:
            self.refuse(decl, f"has element type {name}: wanted double, float or int")
        return _DTYPES[name], shape, "const" in at.quals

    def _words(self, node: c_ast.TypeDecl) -> set[str]:
        """The words of a type, typedefs replaced."""
        if not isinstance(node.type, c_ast.IdentifierType):
            return {_text(node)}
        words = set(node.type.names)
        while len(words) == 1 and (known := self.typedefs.get(next(iter(words)))):
            if not isinstance(known.type, c_ast.TypeDecl):
                break
            words = set(known.type.type.names)
        return words

    # Statements

    def _block(self, items: list[c_ast.Node] | None, is_last: bool = False) -> tuple[Action, ...]:
        done: list[Action] = []
        for place, node in enumerate(items or []):
            at_end = is_last and place == len(items or []) - 1
            if isinstance(node, c_ast.Return) and node.expr is None and at_end:
                continue
            done.extend(self._action(node))
        return tuple(done)

    def _body(self, node: c_ast.Node | None) -> tuple[Action, ...]:
        if isinstance(node, c_ast.Compound):
            return self._block(node.block_items)
        return self._block([node] if node is not None else [])

    def _action(self, node: c_ast.Node) -> Iterator[Action]:
        match node:
            case c_ast.Compound():
                yield Block(self._block(node.block_items))
            case c_ast.Decl():
                yield from self._local(node)
            case c_ast.Assignment():
                yield from self._assignments(node)
            case c_ast.UnaryOp(op="++" | "p++" | "--" | "p--"):
                target, one = self._target(node.expr), Number(1, self.place(node))
                value = Operation("+" if "+" in node.op else "-", (target, one), self.place(node))
                yield Assign(target, value, self.place(node))
            case c_ast.For():
                yield self._for(node)
            case c_ast.If():
                then, otherwise = self._body(node.iftrue), self._body(node.iffalse)
                yield If(self.node(node.cond), then, otherwise, self.place(node))
            case c_ast.EmptyStatement() | c_ast.Pragma():
                pass
            case c_ast.While() | c_ast.DoWhile():
                raise NotAffine(
                    f"{self.place(node.cond)} is the condition of a while: "
                    "how often it runs is not linear in the loops around it"
                )
            case _:
                self._refuse_construct(node)

    def _refuse_construct(self, node: c_ast.Node) -> NoReturn:
        what = _NAMES.get(type(node), f"{type(node).__name__}")
        self.refuse(node, f"is {what}, which a program cannot have")

    def _local(self, decl: c_ast.Decl) -> Iterator[Action]:
        if isinstance(decl.type, c_ast.FuncDecl):
            self.refuse(decl, "declares a function inside the program")
        if {"static", "extern"} & set(decl.storage) and "const" not in decl.quals:
            self.refuse(decl, "keeps its value between calls")
        if isinstance(decl.type, c_ast.PtrDecl):
            self.refuse(decl, f"is a pointer: {decl.name} may be another name of an array")
        is_number = isinstance(decl.type, c_ast.TypeDecl)
        is_whole = is_number and self._words(decl.type) <= _WHOLE
        if is_whole and decl.init is not None and decl.name not in self.assigned | self.iterators:
            yield Fix(decl.name, self.node(decl.init), self.place(decl))
            return
        if decl.name in self.params and is_number:
            return
        if decl.name in self.iterators and is_number and decl.init is None:
            return
        dtype, shape, _ = self._type(decl)
        yield Declare(decl.name, dtype, shape or (), self.place(decl))
        if decl.init is not None:
            if shape is not None:
                self.refuse(decl, "fills an array at its declaration: write the loop")
            target = Name(decl.name, self.place(decl))
            yield Assign(target, self.node(decl.init), self.place(decl))

    def _assignments(self, node: c_ast.Assignment) -> Iterator[Assign]:
        """`a = b = c` is b = c and then a = b."""
        target, place = self._target(node.lvalue), self.place(node)
        if isinstance(node.rvalue, c_ast.Assignment):
            yield from self._assignments(node.rvalue)
            value = self.node(node.rvalue.lvalue)
        else:
            value = self.node(node.rvalue)
        if node.op in ("+=", "-=", "*=", "/="):
            value = Operation(node.op[0], (target, value), place)
        elif node.op != "=":
            self.refuse(node, f"assigns by {node.op}: wanted = += -= *= /=")
        yield Assign(target, value, place)

    def _target(self, node: c_ast.Node) -> Name | Item:
        target = self.node(node)
        if not isinstance(target, Name | Item):
            self.refuse(node, "is nothing a program can write to")
        return target

    # Loops

    def _for(self, node: c_ast.For) -> For:
        place, name = self.place(node), _loop_name(node)
        if name is None or node.cond is None or node.next is None:
            self.refuse(node, "must have the form for (i = start; i < limit; i += step)")
        start = node.init.decls[0].init if isinstance(node.init, c_ast.DeclList) else node.init
        if isinstance(start, c_ast.Assignment):
            start = start.rvalue
        step = self._step(node, name)
        relation, limit = self._limit(node.cond, name, step)
        body = self._body(node.stmt)
        return For(name, self.node(start), relation, limit, step, body, place)

    def _step(self, node: c_ast.For, name: str) -> int:
        match node.next:
            case c_ast.UnaryOp(op="++" | "p++", expr=c_ast.ID(name=own)) if own == name:
                return 1
            case c_ast.UnaryOp(op="--" | "p--", expr=c_ast.ID(name=own)) if own == name:
                return -1
            case c_ast.Assignment(op=("+=" | "-=") as op, lvalue=c_ast.ID(name=own), rvalue=by) if (
                own == name
            ):
                return self._fixed(by) * (1 if op == "+=" else -1)
            case c_ast.Assignment(
                op="=",
                lvalue=c_ast.ID(name=own),
                rvalue=c_ast.BinaryOp(op=("+" | "-") as op, left=c_ast.ID(name=same), right=by),
            ) if own == name == same:
                return self._fixed(by) * (1 if op == "+" else -1)
            case _:
                self.refuse(node.next, f"must step {name} by a fixed number")

    def _fixed(self, node: c_ast.Node) -> int:
        match self.node(node):
            case Number(int(value)):
                return value
            case Operation("neg", (Number(int(value)),)):
                return -value
            case Name(name) if name in self.params:
                return self.params[name]
            case _:
                self.refuse(node, "must be a fixed whole number, as it is a step")

    def _limit(
        self, node: c_ast.Node, name: str, step: int
    ) -> tuple[Literal["<", "<=", ">", ">="], Node]:
        """Relation and limit of `i < n`, `n > i`, `i < n && i < m`."""
        if isinstance(node, c_ast.BinaryOp) and node.op == "&&":
            first, left = self._limit(node.left, name, step)
            second, right = self._limit(node.right, name, step)
            place = self.place(node)
            one = Number(1, place)
            if first != second:  # make both strict
                outwards = "+" if step > 0 else "-"
                if first in ("<=", ">="):
                    left = Operation(outwards, (left, one), place)
                else:
                    right = Operation(outwards, (right, one), place)
                first = "<" if step > 0 else ">"
            return first, Operation("min" if step > 0 else "max", (left, right), place)
        if isinstance(node, c_ast.BinaryOp) and node.op in _MIRRORED:
            op, limit = node.op, node.right
            if not _is_name(node.left, name):
                op, limit = _MIRRORED[op], node.left
                if not _is_name(node.right, name):
                    self.refuse(node, f"must compare {name} with a limit")
            if op == "!=" and abs(step) == 1:
                op = "<" if step > 0 else ">"
            if op in ("<", "<=") if step > 0 else op in (">", ">="):
                return op, self.node(limit)
        self.refuse(node, f"must be a limit of {name}, which steps by {step}")

    # Values

    def node(self, node: c_ast.Node) -> Node:
        place = self.place(node)
        match node:
            case c_ast.Constant():
                number = Number(self._number(node), place)
                return Cast("float32", number, place) if node.type == "float" else number
            case c_ast.ID(name=name):
                return Name(name, place)
            case c_ast.ArrayRef():
                return self._item(node, place)
            case c_ast.BinaryOp(op=op) if op in _BINARY:
                return Operation(_BINARY[op], (self.node(node.left), self.node(node.right)), place)
            case c_ast.UnaryOp(op="-"):
                return Operation("neg", (self.node(node.expr),), place)
            case c_ast.UnaryOp(op="+"):
                return self.node(node.expr)
            case c_ast.UnaryOp(op="!"):
                return Operation("not", (self.node(node.expr),), place)
            case c_ast.UnaryOp(op="++" | "p++" | "--" | "p--") | c_ast.Assignment():
                self.refuse(node, "changes a variable inside an expression")
            case c_ast.UnaryOp(op="*" | "&"):
                self.refuse(node, "is pointer arithmetic: write array[index]")
            case c_ast.TernaryOp():
                parts = (node.cond, node.iftrue, node.iffalse)
                return Operation("?", tuple(map(self.node, parts)), place)
            case c_ast.Cast():
                return Cast(self._cast_type(node), self.node(node.expr), place)
            case c_ast.FuncCall(name=c_ast.ID(name=name)):
                return self._call(node, name, place)
            case _:
                self._refuse_construct(node)

    def _call(self, node: c_ast.FuncCall, name: str, place: Place) -> Node:
        arguments = tuple(map(self.node, node.args.exprs if node.args else []))
        known = _FUNCTIONS.get(name) or _FUNCTIONS.get(name.removesuffix("f"))
        if known is None:
            self.refuse(node, f"calls {name}, whose effects are unknown")
        return Operation(known, arguments, place)

    def _cast_type(self, node: c_ast.Cast) -> str:
        at = node.to_type.type
        if isinstance(at, c_ast.TypeDecl):
            words = self._words(at) - {"const"}
            if words <= _WHOLE:
                return "int32"
            if len(words) == 1 and (dtype := _DTYPES.get(next(iter(words)))):
                return dtype
        self.refuse(node, "converts to a type other than double, float and int")

    def _item(self, node: c_ast.ArrayRef, place: Place) -> Item:
        indices: list[Node] = []
        at: Any = node
        while isinstance(at, c_ast.ArrayRef):
            indices.insert(0, self.node(at.subscript))
            at = at.name
        if not isinstance(at, c_ast.ID):
            self.refuse(node, "is pointer arithmetic: write array[index]")
        return Item(at.name, tuple(indices), place)

    def _number(self, node: c_ast.Constant) -> int | float:
        text = node.value
        if node.type in ("float", "double", "long double"):
            value = text.rstrip("fFlL") if not text.lower().startswith("0x") else text
            return float.fromhex(value) if value.lower().startswith("0x") else float(value)
        if "int" in node.type:
            digits = text.rstrip("uUlL")
            is_octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
            return int(digits, 8 if is_octal else 0)
        self.refuse(node, "is no number")


def _text(node: c_ast.Node) -> str:
    return str(c_generator.CGenerator().visit(node)).strip().splitlines()[0]


def _find(node: c_ast.Node, kind: type) -> Iterator[Any]:
    if isinstance(node, kind):
        yield node
    for _, child in node.children():
        yield from _find(child, kind)


def _written(body: c_ast.Node) -> Iterator[str]:
    """Scalars that are assigned to, stepped, or whose address is taken."""
    for node in _find(body, c_ast.Assignment):
        if isinstance(node.lvalue, c_ast.ID):
            yield node.lvalue.name
    for node in _find(body, c_ast.UnaryOp):
        if node.op in ("++", "p++", "--", "p--", "&") and isinstance(node.expr, c_ast.ID):
            yield node.expr.name


def _loop_name(node: c_ast.For) -> str | None:
    match node.init:
        case c_ast.DeclList(decls=[c_ast.Decl(name=str(name))]):
            return name
        case c_ast.Assignment(op="=", lvalue=c_ast.ID(name=str(name))):
            return name
    return None


def _is_name(node: c_ast.Node, name: str) -> bool:
    return isinstance(node, c_ast.ID) and node.name == name


def _is_variable(node: c_ast.Decl) -> bool:
    return not isinstance(node.type, c_ast.FuncDecl | c_ast.Struct | c_ast.Union | c_ast.Enum)


def _is_void(node: c_ast.Node) -> bool:
    return isinstance(node, c_ast.Typename) and _text(node) == "void"
