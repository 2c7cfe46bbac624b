"""A program as a Halide pipeline: the same computations, without any schedule.

An array that is written becomes a Func, and its statements the definitions of that Func in their
order: the first a pure one where it covers the array (or all of it that is ever touched), the
others updates. What comes from the caller and is updated starts undefined, which makes Halide work
in place on the output buffer. A temporary that a loop sets anew in every iteration gets that loop
as a dimension of its own, as one would write it in Halide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from common.extras import require
from costmodel.affine import Affine
from costmodel.errors import UnsupportedProgram
from costmodel.ir import (
    Access,
    Array,
    Binary,
    Call,
    Compare,
    Const,
    Expr,
    Index,
    Load,
    Loop,
    Negate,
    Program,
    Select,
    Statement,
)

Box = tuple[tuple[int, int], ...]  # (least, extent) of each dimension, in the order of the program

_OPS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
_COMPARE = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


@attrs.frozen(eq=False)
class HalidePipeline:
    """A pipeline and its buffers, in the order of the arguments of the compiled function.

    inputs: ImageParams;  arguments: (array, box it covers), the inputs' first, then the outputs'
    """

    pipeline: Any
    inputs: tuple[Any, ...]
    arguments: tuple[tuple[Array, Box], ...]


def make_pipeline(program: Program) -> HalidePipeline:
    """The program's algorithm in Halide.

    Raises UnsupportedProgram for guards, bounds that depend on other loops, statements that take
    turns on an array, an array that is written again after another one was computed from it, and
    what Halide itself refuses; MissingExtra without halide.
    """
    maker = _Maker(program)
    try:
        return maker.make()
    except maker.hl.HalideError as error:
        said = " ".join(str(error).split())
        raise UnsupportedProgram(f"Halide refused {program.name}: {said}") from None


class _Maker:
    def __init__(self, program: Program) -> None:
        self.hl = require("halide", "costmodel_peers", "Halide's auto-schedulers")
        self.program = program
        self.types = {
            "float32": self.hl.Float(32),
            "float64": self.hl.Float(64),
            "int32": self.hl.Int(32),
        }
        self.statements = program.statements
        self.written = list(dict.fromkeys(s.write.array for s in self.statements))
        self.private = {name: self._private_loops(name) for name in self.written}
        self.boxes = {name: self._box(name) for name in self.written}
        self.params: dict[str, Any] = {}
        self.vars: dict[str, list[Any]] = {}  # of a Func's dimensions, in the program's order
        self.funcs: dict[str, Any] = {}
        self.finished: set[str] = set()

    def make(self) -> HalidePipeline:
        self._check_order()
        for statement in self.statements:
            self._define(statement)
        outputs = [a for a in self.program.arrays if self._is_output(a)]
        for array in outputs:
            self._fix(self.funcs[array.name].output_buffer(), array, self.boxes[array.name])
            box = self.boxes[array.name] or ((0, 1),)
            self.funcs[array.name].set_estimates([(low, n) for low, n in reversed(box)])
        arguments = [(self.program.array(name), _whole(self.program, name)) for name in self.params]
        arguments += [(array, self.boxes[array.name]) for array in outputs]
        pipeline = self.hl.Pipeline([self.funcs[array.name] for array in outputs])
        return HalidePipeline(pipeline, tuple(self.params.values()), tuple(arguments))

    # --- definitions ----------------------------------------------------------------------------

    def _define(self, statement: Statement) -> None:
        ranges = _ranges(statement)
        name = statement.write.array
        if name in self.finished:
            raise UnsupportedProgram(
                f"{self.program.name}: Halide computes {name} once, but {statement.name} writes it "
                "again after another array was computed from it"
            )
        self.finished |= {a.array for a in statement.reads if a.array in self.funcs} - {name}
        dims = self._dims(statement.write, name)
        pure = self._pure(dims, ranges, self.boxes[name])
        # A loop of one iteration is only a number.
        fixed = [loop for loop, (_, n) in ranges.items() if n == 1 and loop not in pure]
        if name not in self.funcs:
            self.funcs[name] = self.hl.Func(name)
            places = {place: loop for loop, place in pure.items()}
            self.vars[name] = [
                self.hl.Var(places.get(d, f"d{d}")) for d in range(max(1, len(dims)))
            ]
            reads_itself = any(access.array == name for access in statement.reads)
            if reads_itself or not len(pure) == len(dims) == len(ranges) - len(fixed):
                kind = self.types[self.program.array(name).dtype]
                self.funcs[name][tuple(reversed(self.vars[name]))] = self.hl.undef(kind)
        variables = {loop: self.vars[name][place] for loop, place in pure.items()}
        variables |= {loop: self.hl.Expr(ranges[loop][0]) for loop in fixed}
        rest = [loop for loop in ranges if loop not in variables]
        if rest:
            inner_first = rest[::-1]
            domain = self.hl.RDom([ranges[loop] for loop in inner_first], f"r_{statement.name}")
            variables |= {loop: domain[place] for place, loop in enumerate(inner_first)}
        self._assign(name, dims, statement, variables)

    def _check_order(self) -> None:
        """Each statement may run through all its loops before the next one begins.

        Halide computes one definition after the other. That is the program's order where what two
        statements touch in common is another part of the array in every iteration of the loops they
        share.
        """
        for place, first in enumerate(self.statements):
            for second in self.statements[place + 1 :]:
                for a in (first.write, *first.reads):
                    for b in (second.write, *second.reads):
                        if a.array == b.array and (a is first.write or b is second.write):
                            self._check_apart(first, a, second, b)

    def _check_apart(self, first: Statement, a: Access, second: Statement, b: Access) -> None:
        pinned = set(self.private.get(a.array, ())) | {
            x.names[0]
            for x, y in zip(a.index, b.index, strict=True)
            if x == y and len(x.names) == 1
        }
        for loop, other in zip(first.loops, second.loops, strict=False):
            if loop is not other:
                return
            if loop.name not in pinned and _range(loop)[1] > 1:
                raise UnsupportedProgram(
                    f"{self.program.name}: {first.name} and {second.name} take turns on {a.array} "
                    f"in loop {loop.name}, but Halide computes one definition after the other"
                )

    def _assign(
        self, name: str, dims: list[Affine], statement: Statement, variables: Mapping[str, Any]
    ) -> None:
        value = self._expr(statement.computation.expr, statement, variables)
        kind = self.types[self.program.array(name).dtype]
        index = tuple(self._affine(d, variables) for d in reversed(dims)) or (0,)
        self.funcs[name][index] = self.hl.cast(kind, value)

    def _pure(
        self, dims: list[Affine], ranges: Mapping[str, tuple[int, int]], box: Box
    ) -> dict[str, int]:
        """Loops that run over a whole dimension of their own, with its place: Vars, not RDoms."""
        found: dict[str, int] = {}
        for place, (dim, extent) in enumerate(zip(dims, box, strict=True)):
            loop = dim.names[0] if dim.names else ""
            is_alone = [d for d in dims if loop in d.names] == [Affine.of(loop)]
            if is_alone and dim == Affine.of(loop) and ranges[loop] == extent:
                found[loop] = place
        return found

    def _expr(self, expr: Expr, statement: Statement, variables: Mapping[str, Any]) -> Any:
        hl, kind = self.hl, self.types[self.program.array(statement.write.array).dtype]

        def go(e: Expr) -> Any:
            match e:
                case Load(access):
                    return self._load(access, variables)
                case Const(value):
                    return hl.cast(
                        kind, hl.f64(value) if isinstance(value, float) else hl.Expr(value)
                    )
                case Index(affine):
                    return hl.cast(kind, self._affine(affine, variables))
                case Binary("min", left, right):
                    return hl.min(go(left), go(right))
                case Binary("max", left, right):
                    return hl.max(go(left), go(right))
                case Binary("/", left, right) if kind == self.types["int32"]:
                    return hl.div_round_to_zero(go(left), go(right))  # as C; / would round down
                case Binary(op, left, right):
                    return _OPS[op](go(left), go(right))
                case Negate(value):
                    return -go(value)
                case Call(function, arguments):
                    return getattr(hl, function)(*map(go, arguments))
                case Select(Compare(op, left, right), then, otherwise):
                    return hl.select(_COMPARE[op](go(left), go(right)), go(then), go(otherwise))
            raise AssertionError(e)

        return go(expr)

    def _load(self, access: Access, variables: Mapping[str, Any]) -> Any:
        name = access.array
        dims = self._dims(access, name) if name in self.funcs else list(access.index)
        index = tuple(self._affine(d, variables) for d in reversed(dims)) or (0,)
        if name in self.funcs:
            return self.funcs[name][index]
        if name not in self.params:
            array = self.program.array(name)
            param = self.hl.ImageParam(self.types[array.dtype], max(1, len(array.shape)), name)
            box = _whole(self.program, name)
            self._fix(param, array, box)
            for d, (low, n) in enumerate(reversed(box or ((0, 1),))):
                param.dim(d).set_estimate(low, n)
            self.params[name] = param
        return self.params[name][index]

    def _affine(self, affine: Affine, variables: Mapping[str, Any]) -> Any:
        total: Any = self.hl.Expr(affine.const)
        for name, factor in affine.terms:
            total = total + variables[name] * factor
        # A definition needs its pure variables bare, not as a sum.
        is_bare = affine.const == 0 and [f for _, f in affine.terms] == [1]
        return variables[affine.names[0]] if is_bare else total

    # --- shapes ---------------------------------------------------------------------------------

    def _is_output(self, array: Array) -> bool:
        return array.name in self.funcs and array.role in ("out", "inout")

    def _private_loops(self, name: str) -> list[str]:
        """Loops around everything that touches a temporary, in which it is set anew each time."""
        if self.program.array(name).role != "temp":
            return []
        users = [
            s
            for s in self.statements
            if s.write.array == name or any(a.array == name for a in s.reads)
        ]
        first = next(s for s in self.statements if s.write.array == name)
        if any(a.array == name for a in first.reads):
            return []
        shared = []
        for level, loop in enumerate(users[0].loops):
            if any(len(s.loops) <= level or s.loops[level] is not loop for s in users):
                break
            used = {n for index in first.write.index for n in index.names}
            if loop.name in used:
                break
            shared.append(loop.name)
        return shared

    def _dims(self, access: Access, name: str) -> list[Affine]:
        return [*map(Affine.of, self.private[name]), *access.index]

    def _box(self, name: str) -> Box:
        """What is computed of an array: all of it, or what its only statement writes."""
        array = self.program.array(name)
        writers = [s for s in self.statements if s.write.array == name]
        ranges = _ranges(writers[0])
        private = tuple(ranges[loop] for loop in self.private[name])
        is_read = any(a.array == name for s in self.statements for a in s.reads)
        index = writers[0].write.index
        is_plain = all(len(i.names) == 1 and i == Affine.of(i.names[0]) for i in index)
        if len(writers) == 1 and not is_read and is_plain:
            return private + tuple(ranges[i.names[0]] for i in index)
        return private + tuple((0, n) for n in array.shape)

    def _fix(self, buffer: Any, array: Array, box: Box) -> None:
        """Tell Halide the sizes and strides, as the C text has them as constants."""
        strides = strides_of(array)
        for d, ((low, n), stride) in enumerate(
            zip(reversed(box or ((0, 1),)), reversed(strides), strict=True)
        ):
            buffer.dim(d).set_bounds(low, n)
            if d:
                buffer.dim(d).set_stride(stride)


def strides_of(array: Array) -> list[int]:
    """Items from one index to the next, of each dimension; [1] for a scalar."""
    strides = [1]
    for extent in reversed(array.shape[1:]):
        strides.append(strides[-1] * extent)
    return strides[::-1]


def _whole(program: Program, name: str) -> Box:
    return tuple((0, n) for n in program.array(name).shape)


def _ranges(statement: Statement) -> dict[str, tuple[int, int]]:
    """(least, extent) of each loop; UnsupportedProgram where that is not a number."""
    if statement.computation.guards:
        raise UnsupportedProgram(f"{statement.name} has a guard, which is not put into Halide here")
    return {loop.name: _range(loop) for loop in statement.loops}


def _range(loop: Loop) -> tuple[int, int]:
    if loop.lower.terms or loop.upper.terms:
        raise UnsupportedProgram(
            f"the bounds of loop {loop.name} depend on other loops, which is not put into Halide "
            "here"
        )
    return loop.lower.const, max(0, loop.upper.const - loop.lower.const)
