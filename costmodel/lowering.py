"""From a front end's syntax to a program: bounds, guards, steps, names and types.

Rules for both languages: loops of any constant step count up by one afterwards (down from U: the
iterator becomes U - i'), an affine `if` becomes guards of the statements inside, a ternary is a
Select, scalars are arrays without dimensions, sizes are numbers taken from `params`.
"""

from __future__ import annotations

import ctypes
import keyword
import math
from collections.abc import Mapping
from typing import get_args

import attrs

from costmodel import conditions
from costmodel.affine import Affine
from costmodel.conditions import Cases
from costmodel.errors import NotAffine, UnboundParameter, UnsupportedProgram
from costmodel.ir import (
    Access,
    Array,
    Binary,
    Call,
    Compare,
    CompareOp,
    Computation,
    Condition,
    Const,
    DType,
    Expr,
    Function,
    Index,
    Load,
    Loop,
    Negate,
    Program,
    Select,
)
from costmodel.roles import with_roles
from costmodel.syntax import (
    Action,
    Argument,
    Assign,
    Block,
    Cast,
    Declare,
    Fix,
    For,
    If,
    Item,
    Name,
    Node,
    Number,
    Operation,
    Place,
)
from costmodel.syntax import Function as SyntaxFunction

_MIRRORED: dict[CompareOp, CompareOp] = {
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
    "==": "!=",
    "!=": "==",
}
_OPERANDS = dict.fromkeys(get_args(Function), 1) | {"pow": 2}
_C_WORDS = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while asm typeof floord fabs linux unix main"
)
_ISL_WORDS = "mod exists implies rat infty infinity NaN nan true false ceil floor ceild and or not"
# Words that the text of a program, the C made of it or the text given to isl means otherwise.
_RESERVED = frozenset(
    [
        *keyword.kwlist,
        *get_args(Function),
        *["min", "max", "index", "range"],
        *_C_WORDS.split(),
        *_ISL_WORDS.split(),
    ]
)


@attrs.frozen
class Lowered:
    """A program, and where each of its statements stands in the source."""

    program: Program
    places: tuple[Place, ...]


def lower(function: SyntaxFunction, params: Mapping[str, int], *, c_types: bool = False) -> Lowered:
    """The program of a function.

    params:  sizes by name
    c_types: refuse whole-number arithmetic that a statement of floats would do in floats here

    Raises NotAffine, UnboundParameter and UnsupportedProgram, each with file, line and text.
    """
    lowering = _Lowering(params, c_types)
    for argument in function.arguments:
        lowering.argument(argument)
    body = lowering.actions(function.body)
    arrays = tuple(a for a in lowering.arrays.values() if a.name not in lowering.droppable)
    fixed = {name for name, role in lowering.roles.items() if role is not None}
    name = _safe(function.name, set())
    return Lowered(with_roles(Program(name, arrays, body), fixed), tuple(lowering.places))


def _safe(name: str, taken: set[str]) -> str:
    while name in _RESERVED or name in taken:
        name += "_"
    return name


@attrs.define
class _Scope:
    """What names mean here: sizes, iterators (in terms of the program's), arrays."""

    params: dict[str, int]
    iterators: dict[str, Affine] = attrs.field(factory=dict)
    arrays: dict[str, str] = attrs.field(factory=dict)

    def inside(self) -> _Scope:
        return _Scope(dict(self.params), dict(self.iterators), dict(self.arrays))

    def forget(self, name: str) -> None:
        for meaning in (self.params, self.iterators, self.arrays):
            meaning.pop(name, None)


class _Lowering:
    """State of one function: arrays seen so far, and the scope and guards at this point."""

    def __init__(self, params: Mapping[str, int], c_types: bool) -> None:
        for name, value in params.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise UnboundParameter(f"parameter {name} must be an int, got {value!r}")
        self.scope = _Scope(dict(params))
        self.arrays: dict[str, Array] = {}
        self.roles: dict[str, str | None] = {}
        self.droppable: set[str] = set()  # whole numbers passed by value and not used so far
        self.by_value: set[str] = set()
        self.loops: tuple[str, ...] = ()
        self.ever_loops: set[str] = set()
        self.guards: tuple[Condition, ...] = ()
        self.places: list[Place] = []
        self.c_types = c_types
        self.written: DType = "float64"  # of the statement at hand

    # Declarations

    def argument(self, argument: Argument) -> None:
        if argument.shape is None and argument.name in self.scope.params:
            return
        name = self._array(
            argument.name, argument.dtype, argument.shape or (), argument.role, argument.place
        )
        if argument.shape is None:
            self.by_value.add(name)
            if argument.dtype == "int32":
                self.droppable.add(name)

    def _array(
        self, name: str, dtype: str, shape: tuple[Node, ...], role: str | None, place: Place
    ) -> str:
        if dtype not in get_args(DType):
            raise UnsupportedProgram(
                f"{place} has element type {dtype}: wanted {', '.join(get_args(DType))}"
            )
        extents = tuple(self._extent(name, node) for node in shape)
        own = _safe(name, set(self.arrays) | self.ever_loops)
        self.scope.forget(name)
        self.scope.arrays[name] = own
        self.roles[own] = role
        self.arrays[own] = Array(own, extents, dtype, role or "inout")  # type: ignore[arg-type]
        return own

    def _extent(self, name: str, node: Node) -> int:
        extent = self.affine(node)
        if extent.terms:
            raise UnsupportedProgram(f"{node.place} is an extent of {name} and not a fixed number")
        if extent.const < 0:
            raise UnsupportedProgram(f"{node.place}: array {name} has extent {extent.const} < 0")
        return extent.const

    # Statements

    def actions(self, actions: tuple[Action, ...]) -> tuple[Loop | Computation, ...]:
        outer, self.scope = self.scope, self.scope.inside()
        done: list[Loop | Computation] = []
        for action in actions:
            match action:
                case Assign():
                    done.append(self._assign(action))
                case Declare(name, dtype, shape, place):
                    self._array(name, dtype, shape, "temp", place)
                case Fix():
                    done.extend(self._fix(action))
                case Block(body):
                    done.extend(self.actions(body))
                case For():
                    done.append(self._loop(action))
                case If():
                    done.extend(self._if(action))
        self.scope = outer
        return tuple(done)

    def _assign(self, action: Assign) -> Computation:
        target = action.target
        name = target.id if isinstance(target, Name) else target.name
        if name in self.scope.iterators or name in self.scope.params:
            raise UnsupportedProgram(f"{action.place} writes {name}, which is an iterator or size")
        write = self._access(target)
        if self.roles[write.array] == "in":
            raise UnsupportedProgram(f"{action.place} writes {name}, which is declared an input")
        if write.array in self.by_value:
            raise UnsupportedProgram(
                f"{action.place} writes {name}, which is passed by value: copy it to a local"
            )
        self.written = self.arrays[write.array].dtype
        self.places.append(action.place)
        return Computation(write, self.value(action.value), self.guards)

    def _fix(self, action: Fix) -> list[Computation]:
        """A linear value is put in where the name stands; any other is stored in a scalar."""
        try:
            fixed = self.affine(action.value)
        except NotAffine:
            target = Name(action.name, action.place)
            value = Assign(target, action.value, action.place)
            self._array(action.name, "int32", (), "temp", action.place)
            return [self._assign(value)]
        self.scope.forget(action.name)
        self.scope.iterators[action.name] = fixed
        return []

    def _if(self, action: If) -> list[Loop | Computation]:
        cases = self.test(action.test)
        done: list[Loop | Computation] = []
        for taken, body in ((cases, action.then), (conditions.opposite(cases), action.otherwise)):
            # The text of a program keeps conditions of bare numbers; elsewhere they are decided.
            if self.c_types or _has_name(action.test):
                taken = conditions.decided(taken)
            for case in taken if body else ():
                outer, self.guards = self.guards, self.guards + case
                done.extend(self.actions(body))
                self.guards = outer
        return done

    def _loop(self, loop: For) -> Loop:
        if loop.name in self.scope.iterators:
            raise UnsupportedProgram(f"{loop.place} uses the iterator of a loop around it")
        if loop.step == 0 or (loop.step > 0) != (loop.relation in ("<", "<=")):
            raise UnsupportedProgram(f"{loop.place} never reaches its end by steps of {loop.step}")
        up = loop.step > 0
        sign = 1 if up else -1
        starts = [self.affine(n) * sign for n in _parts(loop.start, "max" if up else "min")]
        inclusive = loop.relation in ("<=", ">=")
        ends = [
            self.affine(n) * sign + int(inclusive)
            for n in _parts(loop.limit, "min" if up else "max")
        ]
        # From here on counting up; going down counts the negated iterator.
        starts, ends = _tightest(starts, 1), _tightest(ends, -1)
        step = abs(loop.step)
        if step > 1 and len(starts) > 1:
            raise UnsupportedProgram(f"{loop.place} has more than one start for steps of {step}")
        name = _safe(loop.name, set(self.arrays) | set(self.loops))
        counter = Affine.of(name)
        guards: list[Condition] = []
        if up and step == 1:
            lower, upper, position = starts[0], ends[0], counter
        else:
            span = ends[0] - starts[0]
            position = starts[0] + counter * step
            lower, upper = Affine(), span
            if step > 1 and not span.terms:
                upper = Affine((), max(0, math.ceil(span.const / step)))
            elif step > 1:
                guards.append(Condition(ends[0] - position - 1))
        guards += [Condition(position - start) for start in starts[1:]]
        guards += [Condition(end - position - 1) for end in ends[1:]]

        outer = (self.scope, self.guards, self.loops)
        self.scope = self.scope.inside()
        self.scope.forget(loop.name)
        self.scope.iterators[loop.name] = position * sign
        self.guards += tuple(guards)
        self.loops += (name,)
        self.ever_loops.add(name)
        body = self.actions(loop.body)
        self.scope, self.guards, self.loops = outer
        return Loop(name, lower, upper, body)

    # Integer expressions

    def affine(self, node: Node) -> Affine:
        match node:
            case Number(int(value)):
                return Affine((), value)
            case Name(name):
                return self._affine_name(name, node.place)
            case Operation("neg", (part,)):
                return self.affine(part) * -1
            case Operation("index", (part,)) | Cast("int32", part):
                return self.affine(part)
            case Operation("+", (left, right)):
                return self.affine(left) + self.affine(right)
            case Operation("-", (left, right)):
                return self.affine(left) - self.affine(right)
            case Operation("*", (left, right)):
                a, b = self.affine(left), self.affine(right)
                if not b.terms:
                    return a * b.const
                if not a.terms:
                    return b * a.const
            case Operation(op, parts) if op in _FIXED:
                numbers = [self.affine(part) for part in parts]
                if not any(number.terms for number in numbers):
                    return Affine((), _fixed_value(op, [n.const for n in numbers], node.place))
        raise NotAffine(f"{node.place} is not linear in the loops around it")

    def _affine_name(self, name: str, place: Place) -> Affine:
        if name in self.scope.iterators:
            return self.scope.iterators[name]
        if name in self.scope.params:
            return Affine((), self.scope.params[name])
        own = self.scope.arrays.get(name)
        if own is not None and not self._may_be_size(own):
            raise NotAffine(f"{place} depends on data: {name} is no iterator and no fixed number")
        raise UnboundParameter(
            f"{place} needs the number {name} stands for: give params={{{name!r}: ...}}"
        )

    def _may_be_size(self, own: str) -> bool:
        """Whether an array is a whole number passed by value, whose number is just not given."""
        return own in self.by_value and self.arrays[own].dtype == "int32"

    def test(self, node: Node) -> Cases:
        """Cases of an affine condition."""
        match node:
            case Operation("and", (left, right)):
                return conditions.both(self.test(left), self.test(right))
            case Operation("or", (left, right)):
                return conditions.either(self.test(left), self.test(right))
            case Operation("not", (part,)):
                return conditions.opposite(self.test(part))
            case Operation(op, (left, right)) if op in _MIRRORED:
                self._refuse_data(node)
                return conditions.compare(op, self.affine(left), self.affine(right))
            case _:
                self._refuse_data(node)
                return conditions.compare("!=", self.affine(node), Affine())

    def _refuse_data(self, condition: Node) -> None:
        if self._names_data(condition):
            raise UnsupportedProgram(
                f"{condition.place} decides by data whether statements run: write the choice as a "
                "value, x = a if condition else b (C: condition ? a : b)"
            )

    def _names_data(self, node: Node) -> bool:
        match node:
            case Item():
                return True
            case Name(name):
                own = self.scope.arrays.get(name)
                return own is not None and not self._may_be_size(own)
            case Operation(_, parts):
                return any(map(self._names_data, parts))
            case Cast(_, part):
                return self._names_data(part)
            case _:
                return False

    # Values

    def value(self, node: Node) -> Expr:
        whole = self._whole_number(node)
        if whole is not None:
            return whole
        if self.c_types:
            self._refuse_int_arithmetic(node)
        match node:
            case Number(value):
                return Const(value)
            case Name() | Item():
                return Load(self._access(node))
            case Cast(dtype, part):
                return self._cast(dtype, part, node.place)
            case Operation("index", (part,)):
                return Index(self.affine(part))
            case Operation("neg", (Number(value),)):
                return Const(-value)
            case Operation("neg", (part,)):
                return Negate(self.value(part))
            case Operation("?", (test, then, otherwise)):
                return self._select(test, self.value(then), self.value(otherwise))
            case Operation(("min" | "max") as op, (first, *rest)) if rest:
                total = self.value(first)
                for part in rest:
                    total = Binary(op, total, self.value(part))
                return total
            case Operation(op, (left, right)) if op in ("+", "-", "*", "/"):
                return Binary(op, self.value(left), self.value(right))  # type: ignore[arg-type]
            case Operation("fabs", (part,)):
                if self.written == "int32":
                    raise UnsupportedProgram(
                        f"{node.place} takes fabs in a statement of ints: use abs"
                    )
                return Call("abs", (self.value(part),))
            case Operation(op, parts) if op in _OPERANDS:
                if len(parts) != _OPERANDS[op]:
                    raise UnsupportedProgram(
                        f"{node.place}: {op} takes {_OPERANDS[op]} arguments, got {len(parts)}"
                    )
                return Call(op, tuple(map(self.value, parts)))  # type: ignore[arg-type]
            case Operation(op):
                raise UnsupportedProgram(f"{node.place} uses {op}, which has no meaning in a value")

    def _select(self, test: Node, then: Expr, otherwise: Expr) -> Expr:
        match test:
            case Operation("and", (left, right)):
                return self._select(left, self._select(right, then, otherwise), otherwise)
            case Operation("or", (left, right)):
                return self._select(left, then, self._select(right, then, otherwise))
            case Operation("not", (part,)):
                return self._select(part, otherwise, then)
            case Operation(op, (left, right)) if op in _MIRRORED:
                compare = Compare(op, self.value(left), self.value(right))
                return Select(compare, then, otherwise)
            case _:
                return Select(Compare("!=", self.value(test), Const(0)), then, otherwise)

    def _cast(self, dtype: str, part: Node, place: Place) -> Expr:
        inner = self.value(part)
        match inner:
            case Const(number) if dtype == "float32" and self.written != "float32":
                return Const(ctypes.c_float(number).value)
            case Const(number) if dtype != "int32":
                return Const(float(number))
            case Index() if dtype != "int32" and self.written != "int32":
                return inner
        if self.type_of(part) != dtype:
            raise UnsupportedProgram(
                f"{place} converts {self.type_of(part)} to {dtype}: a program converts "
                "whole numbers, and whatever it stores to the type of the array"
            )
        return inner

    def type_of(self, node: Node) -> DType:
        """The type C gives a value; constants and functions follow what is written."""
        floating: DType = "float32" if self.written == "float32" else "float64"
        match node:
            case Number(value):
                return "int32" if isinstance(value, int) else floating
            case Cast(dtype, _):
                return dtype  # type: ignore[return-value]
            case Name(name) | Item(name):
                own = self.scope.arrays.get(name)
                return "int32" if own is None else self.arrays[own].dtype
            case Operation("?", (_, *parts)):
                pass
            case Operation("+" | "-" | "*" | "/" | "neg" | "min" | "max", parts):
                pass
            case Operation("index" | "abs"):
                return self.written
            case _:
                return floating
        return max(map(self.type_of, parts), key=("int32", "float32", "float64").index)

    def _refuse_int_arithmetic(self, node: Node) -> None:
        match node:
            case Operation("+" | "-" | "*" | "/" as op) if (
                self.written != "int32" and self.type_of(node) == "int32" and self._uncast(node)
            ):
                raise UnsupportedProgram(
                    f"{node.place} applies {op} to whole numbers in a statement of "
                    f"{self.written}: cast one side to it, or keep the expression linear"
                )
            case Operation("abs") if self.written != "int32":
                raise UnsupportedProgram(f"{node.place} takes abs of a float: C's is fabs")

    def _uncast(self, node: Node) -> bool:
        """Whether an iterator enters the value as an int."""
        match node:
            case Name(name):
                return bool(self.scope.iterators.get(name, Affine()).terms)
            case Operation(_, parts):
                return any(map(self._uncast, parts))
            case _:
                return False

    def _whole_number(self, node: Node) -> Expr | None:
        """Iterators and sizes in a value, as large a part as is linear.

        Sums of literals stay as they are in Python, as the text of a program has to; in C they may
        come from macros and are decided.
        """
        if not self._only_numbers(node) or not (self.c_types or _has_name(node)):
            return None
        try:
            affine = self.affine(node)
        except NotAffine:
            return None
        return Index(affine) if affine.terms else Const(affine.const)

    def _only_numbers(self, node: Node) -> bool:
        match node:
            case Number(value):
                return isinstance(value, int)
            case Name(name):
                return name in self.scope.iterators or name in self.scope.params
            case Cast("int32", part):
                return self._only_numbers(part)
            case Operation(op, parts):
                return op in ("+", "-", "*", "neg") and all(map(self._only_numbers, parts))
            case _:
                return False

    def _access(self, node: Name | Item) -> Access:
        name = node.id if isinstance(node, Name) else node.name
        indices = () if isinstance(node, Name) else node.indices
        own = self.scope.arrays.get(name)
        if own is None:
            raise UnboundParameter(
                f"{node.place} names {name}, which is no array, iterator or size known here: "
                f"declare it or give params={{{name!r}: ...}}"
            )
        rank = len(self.arrays[own].shape)
        if len(indices) != rank:
            raise UnsupportedProgram(
                f"{node.place} has {len(indices)} subscripts and {name} has {rank} dimensions"
            )
        self.droppable.discard(own)
        return Access(own, tuple(map(self.affine, indices)))


_FIXED = ("/", "//", "%", "rem", "min", "max")


def _fixed_value(op: str, numbers: list[int], place: Place) -> int:
    if op == "min":
        return min(numbers)
    if op == "max":
        return max(numbers)
    left, right = numbers
    if right == 0:
        raise UnsupportedProgram(f"{place} divides by 0")
    towards_zero = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    match op:
        case "/":
            return towards_zero
        case "rem":
            return left - right * towards_zero
        case "//":
            return left // right
        case _:
            return left % right


def _parts(node: Node, op: str) -> tuple[Node, ...]:
    """The members of min(...) or max(...), nested ones too; any other node alone."""
    if isinstance(node, Operation) and node.op == op:
        return tuple(inner for part in node.parts for inner in _parts(part, op))
    return (node,)


def _tightest(bounds: list[Affine], sign: int) -> list[Affine]:
    """Of bounds that differ by a number only, the largest (sign 1) or smallest (sign -1)."""
    kept: dict[tuple[tuple[str, int], ...], Affine] = {}
    for bound in bounds:
        known = kept.get(bound.terms)
        if known is None or (bound.const - known.const) * sign > 0:
            kept[bound.terms] = bound
    return list(kept.values())


def _has_name(node: Node) -> bool:
    match node:
        case Name():
            return True
        case Operation(_, parts):
            return any(map(_has_name, parts))
        case Cast(_, part):
            return _has_name(part)
        case _:
            return False
