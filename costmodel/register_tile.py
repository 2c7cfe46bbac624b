"""Blocks of the written array held in vector registers over the loops inside them.

A statement whose innermost loops are register loops falls into four kinds of calls: load the block,
update it (once an iteration of the loops inside, unrolled over the block), store it, and the plain
statement for instances in blocks that are cut by the border of the domain.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import attrs
import islpy as isl
import numpy as np

from costmodel import c_text
from costmodel.affine import Affine
from costmodel.errors import ScheduleError
from costmodel.ir import (
    ITEM_BYTES,
    Access,
    Binary,
    Const,
    Expr,
    Load,
    Negate,
    Program,
    Statement,
    moved,
    operands,
)
from costmodel.legality import direction, stride_along
from costmodel.nest import Nest, Placed
from costmodel.poly import domain_text, has_fraction, space_text
from costmodel.schedule_tree import Leaf, pairs

MAX_BUFFER_BYTES = 2**20  # they lie on the stack


@attrs.frozen
class Packed:
    """A contiguous copy of a box of an array.

    bases:   per dimension, where the box lies: linear in the counts t0, t1, ... of the loops around
    lows:    where it begins relative to that
    extents: of the box
    """

    array: str
    buffer: str
    level: int
    bases: tuple[Affine, ...]
    lows: tuple[int, ...]
    extents: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def call(self) -> str:
        return f"pack{self.array}"

    def declaration(self, c_type: str) -> str:
        extents = "".join(f"[{extent}]" for extent in self.extents)
        return f"{c_type} {self.buffer}{extents} __attribute__((aligned(64)));"

    def cell(self, access: Access, passed: list[Affine]) -> str:
        """The copy of a cell."""
        starts = self._starts(passed)
        places = (i - start for i, start in zip(access.index, starts, strict=True))
        return self.buffer + "".join(f"[{place}]" for place in places)

    def copy(self, passed: list[Affine]) -> list[str]:
        """Loops that fill the buffer; where the box sticks out of the array they stop."""
        lines, source, target = [], self.array, self.buffer
        for at, (start, extent, end) in enumerate(
            zip(self._starts(passed), self.extents, self.shape, strict=True)
        ):
            name = f"p{at}"
            lines.append(
                f"for (int {name} = max(0, -({start})); {name} < min({extent}, {end} - ({start})); "
                f"{name} += 1)"
            )
            source += f"[{start + Affine.of(name)}]"
            target += f"[{name}]"
        return [*lines, f"  {target} = {source};"]

    def _starts(self, passed: list[Affine]) -> list[Affine]:
        counts = {f"t{at}": count for at, count in enumerate(passed)}
        return [b.substitute(counts) + low for b, low in zip(self.bases, self.lows, strict=True)]


class RegisterTile:
    """The calls and the C text of one statement with register loops."""

    def __init__(
        self,
        program: Program,
        placed: Placed,
        vector_bytes: int = 32,
        show: Callable[[Access], str] = c_text.access,
    ) -> None:
        self._program = program
        self._show = show
        self._placed = placed
        self._n = sum(1 for dim in placed.dims if dim.register)
        self._check_loops()
        self._loops = placed.dims[: -self._n]
        self._points = placed.dims[-self._n :]
        dtype = program.array(placed.statement.write.array).dtype
        self._bases: dict[tuple[Affine, ...], dict[str, Affine]] = {}
        self._width = vector_bytes // ITEM_BYTES[dtype]
        while self._points[-1].register % self._width:
            self._width //= 2
        self._c_type = c_text.C_TYPES[dtype]
        self._check()

    @property
    def name(self) -> str:
        return self._placed.name

    @cached_property
    def hoist(self) -> int:
        """Loops around the block's load and store; the update has those inside as well."""
        level = len(self._loops)
        while level and not self._moves_write(level - 1):
            level -= 1
        return level

    # --- instances -------------------------------------------------------------------------------

    @cached_property
    def _to_loops(self) -> isl.Map:
        """Instances to the loops around their block."""
        loops = ", ".join(map(str, self._loops))
        return isl.Map(f"{{ {space_text(self._placed.statement)} -> {self.name}_tile[{loops}] }}")

    @cached_property
    def domain(self) -> isl.Set:
        return isl.Set(f"{{ {domain_text(self._placed.statement)} }}")

    @cached_property
    def full(self) -> isl.Set:
        """Places of the loops where no block, for any iteration of the loops inside, is cut.

        A block is whole if its corners are in the domain, which is convex.
        """
        touched = self.domain.apply(self._to_loops)
        whole = touched
        for corner in itertools.product(*({0, dim.register - 1} for dim in self._points)):
            at = " and ".join(
                f"({dim.expression}) mod {dim.register} = {offset}"
                for dim, offset in zip(self._points, corner, strict=True)
            )
            space = space_text(self._placed.statement)
            instances = self.domain.intersect(isl.Set(f"{{ {space} : {at} }}"))
            whole = whole.intersect(instances.apply(self._to_loops))
        outside = self._named("load", self.hoist)
        cut = touched.subtract(whole).apply(outside)
        return whole.subtract(cut.apply(outside.reverse())).coalesce()

    @property
    def _names(self) -> list[str]:
        return [f"t{level}" for level in range(len(self._loops))]

    def _named(self, call: str, n_loops: int) -> isl.Map:
        """The loops of the update to the outermost of them, under a call's name."""
        names = self._names
        return isl.Map(
            f"{{ {self.name}_tile[{', '.join(names)}] -> "
            f"{self.name}_{call}[{', '.join(names[:n_loops])}] }}"
        )

    def domains(self) -> isl.UnionSet:
        """Instances of all kinds of calls."""
        rest = self.domain.subtract(self.full.apply(self._to_loops.reverse())).coalesce()
        parts = [self.full, rest]
        for call in ("load", "store"):
            parts.append(self.full.apply(self._named(call, self.hoist)))
        for pack in self.packs:
            parts.append(self.full.apply(self._named(pack.call, pack.level)))
        total = isl.UnionSet("{ }")
        for part in parts:
            total = total.union(isl.UnionSet.from_set(part))
        return total

    def leaves(self) -> Iterator[Leaf]:
        order, h, names = self._placed.order, self.hoist, self._names
        outside, whole = tuple(names[:h]), tuple(names)
        inside = tuple((number, 0) for number in order[h + 1 : len(whole) + 1])
        tile = (*pairs(order[: h + 1], 1), *inside)
        for word, part in (("load", 0), ("store", 2)):
            yield Leaf(
                f"{self.name}_{word}[{', '.join(outside)}]", outside, pairs(order[: h + 1], part)
            )
        for pack in self.packs:
            dims, at = tuple(names[: pack.level]), order[: pack.level + 1]
            before = pairs(at, -1) if pack.level <= h else (*tile[: pack.level], (at[-1], -1))
            yield Leaf(f"{self.name}_{pack.call}[{', '.join(dims)}]", dims, before)
        yield Leaf(f"{self.name}_tile[{', '.join(whole)}]", whole, tile)
        rest = Leaf.of(self._placed)
        yield Leaf(rest.space, rest.dims, (*pairs(order[: h + 1], 3), *rest.order[h + 1 :]))

    # --- C text ----------------------------------------------------------------------------------

    def typedef(self) -> str:
        """The vector type; loads and stores of it need no alignment beyond an element's."""
        size = self._width * {"float": 4, "double": 8, "int": 4}[self._c_type]
        attributes = f"vector_size({size}), aligned({size // self._width}), may_alias"
        return f"typedef {self._c_type} {self._vector} __attribute__(({attributes}));"

    @property
    def _vector(self) -> str:
        return f"{self._c_type}x{self._width}"

    def declarations(self) -> dict[str, int]:
        """Registers and buffers, each with the number of loops around it."""
        buffers = {pack.declaration(self._c_type): pack.level for pack in self.packs}
        return {**buffers, self._registers(): self.hoist}

    def _registers(self) -> str:
        names = dict.fromkeys(self._held(offsets) for offsets in self._offsets())
        return f"{self._vector} {', '.join(names)};"

    def lines(self, word: str, passed: list[Affine]) -> list[str]:
        """C text of a call: load, tile or store, with the counts of the loops around it."""
        for pack in self.packs:
            if pack.call == word:
                return pack.copy(passed)
        lines: list[str] = []
        for offsets in self._offsets():
            held = self._held(offsets)
            values = self._iterators(passed, offsets)
            cell = f"*({self._vector} *)&{self._show(moved(self._statement.write, values))}"
            if word == "load":
                lines.append(f"{held} = {cell};")
            elif word == "store":
                lines.append(f"{cell} = {held};")
            else:
                text, is_vector = self._value(values, held, passed)
                broadcast = "" if is_vector else f"({self._vector}){{0}} + "
                lines.append(f"{held} = {broadcast}{text};")
        # Places that write one cell load and store it once, but each of them updates it.
        return lines if word == "tile" else list(dict.fromkeys(lines))

    @property
    def _statement(self) -> Statement:
        return self._placed.statement

    def _offsets(self) -> Iterator[tuple[int, ...]]:
        """Places in the block at which vectors begin, in the order of the loops."""
        *outer, last = (dim.register for dim in self._points)
        return itertools.product(*map(range, outer), range(0, last, self._width))

    def _held(self, offsets: tuple[int, ...]) -> str:
        """The register of a cell: offsets that write the same cell have the same."""
        places = "_".join(str(move).replace("-", "m") for move in self._cell_moves(offsets))
        return f"{self.name}_{places}"

    def _iterators(self, passed: list[Affine], offsets: tuple[int, ...]) -> dict[str, Affine]:
        """The statement's iterators at a place in the block, from the loops' counts.

        Loops the text does not pass (those inside the load and store) count 0: they do not move
        the written cell.
        """
        key = tuple(passed)
        if key not in self._bases:
            counts = {f"t{level}": count for level, count in enumerate(passed)}
            counts |= {name: Affine() for name in self._names[len(passed) :]}
            self._bases[key] = {it: at.substitute(counts) for it, at in self._at_loops.items()}
        return {it: base + self._moved_by(it, offsets) for it, base in self._bases[key].items()}

    def _moved_by(self, iterator: str, offsets: tuple[int, ...]) -> int:
        """What a place in the block adds to an iterator."""
        return sum(map(operator.mul, self._at_points[iterator], offsets))

    @cached_property
    def _solved(self) -> dict[str, Affine]:
        """The iterators from counts of the loops t0, t1, ... and places in the block o0, o1, ..."""
        values = [
            Affine.of(name)
            for name, dim in zip(self._names, self._loops, strict=True)
            if dim.divisor == 1
        ]
        for at, dim in enumerate(self._points):
            block = next(
                name
                for name, loop in zip(self._names, self._loops, strict=True)
                if loop.expression == dim.expression and loop.divisor == dim.register
            )
            values.append(Affine.of(block) * dim.register + Affine.of(f"o{at}"))
        return solve(self._placed, values)

    @cached_property
    def _at_loops(self) -> dict[str, Affine]:
        """The iterators at the beginning of a block."""
        zero = {f"o{at}": Affine() for at in range(self._n)}
        return {it: value.substitute(zero) for it, value in self._solved.items()}

    @cached_property
    def _at_points(self) -> dict[str, tuple[int, ...]]:
        """By how much each place in the block moves an iterator."""
        return {
            it: tuple(value.factor(f"o{at}") for at in range(self._n))
            for it, value in self._solved.items()
        }

    def _cell_moves(self, offsets: tuple[int, ...]) -> tuple[int, ...]:
        """Where a place in the block writes, from where its beginning does."""
        return tuple(
            sum(factor * self._moved_by(it, offsets) for it, factor in index.terms)
            for index in self._statement.write.index
        )

    def _value(
        self, values: Mapping[str, Affine], held: str, passed: list[Affine]
    ) -> tuple[str, bool]:
        """C text of the new value at a place in the block, and whether it is a vector."""

        def go(e: Expr) -> tuple[str, bool]:
            match e:
                case Load(access) if access == self._statement.write:
                    return held, True
                case Load(access):
                    cell = self._cell(moved(access, values), passed)
                    if self._stride(access) == 0:
                        return cell, False
                    return f"*(const {self._vector} *)&{cell}", True
                case Binary(op, left, right):
                    (a, is_a), (b, is_b) = go(left), go(right)
                    return f"({a} {op} {b})", is_a or is_b
                case Negate(value):
                    text, is_vector = go(value)
                    return f"(-{text})", is_vector
                case _:
                    written = self._statement.write.array
                    return c_text.expression(e, self._program, written, self._show), False

        return go(self._statement.computation.expr)

    def _cell(self, access: Access, passed: list[Affine]) -> str:
        for pack in self.packs:
            if pack.array == access.array:
                return pack.cell(access, passed)
        return self._show(access)

    # --- buffers ---------------------------------------------------------------------------------

    @cached_property
    def packs(self) -> tuple[Packed, ...]:
        return tuple(self._packed(array, level) for array, level in self._placed.packs)

    def _packed(self, array: str, level: int) -> Packed:
        """The buffer of an array: what the loops inside `level` reach of it, in a box."""
        access = next(a for a in self._statement.reads if a.array == array)
        counts = [Affine.of(name) for name in self._names]
        outer = dict.fromkeys(self._names[level:], Affine())
        bases, lows, extents = [], [], []
        corners = list(itertools.product(*({0, dim.register - 1} for dim in self._points)))
        for at in range(len(access.index)):
            places = [
                moved(access, self._iterators(counts, corner)).index[at] for corner in corners
            ]
            base = Affine(places[0].substitute(outer).terms)
            inner = [place - base for place in places]
            reach = [self._reach(expression) for expression in inner]
            low, high = min(r[0] for r in reach), max(r[1] for r in reach)
            bases.append(base)
            lows.append(low)
            extents.append(high - low + 1)
        declared = self._program.array(array)
        packed = Packed(
            array, f"{self.name}_{array}", level, tuple(bases), tuple(lows), tuple(extents),
            declared.shape,
        )  # fmt: skip
        size = declared.size_bytes // max(1, declared.n_items) * math.prod(extents)
        if size > MAX_BUFFER_BYTES:
            raise ScheduleError(
                f"the buffer of {array} would take {size} bytes, more than "
                f"{MAX_BUFFER_BYTES}; pack inside more loops, or tile first"
            )
        return packed

    def _reach(self, expression: Affine) -> tuple[int, int]:
        """Least and greatest value over the whole blocks."""
        names = ", ".join(self._names)
        values = self.full.apply(isl.Map(f"{{ {self.name}_tile[{names}] -> [{expression}] }}"))
        if values.is_empty():
            return 0, 0
        return values.dim_min_val(0).to_python(), values.dim_max_val(0).to_python()

    # --- what it asks for ------------------------------------------------------------------------

    def _check(self) -> None:
        write = self._statement.write
        for access in self._statement.reads:
            if access.array == write.array and access != write:
                raise self._refusal(f"reads {access} beside {write}, which registers hold")
            if self._stride(access) not in (0, 1):
                raise self._refusal(f"moves {access} by {self._stride(access)} along the vectors")
        if self._stride(write) != 1:
            raise self._refusal(f"moves {write} by {self._stride(write)} along the vectors")
        for part in _parts(self._statement.computation.expr):
            if not isinstance(part, Load | Binary | Negate | Const) or (
                isinstance(part, Binary) and part.op in ("min", "max")
            ):
                raise self._refusal("computes more than + - * / of loads and constants")
        dtypes = {self._program.array(a.array).dtype for a in (write, *self._statement.reads)}
        if len(dtypes) > 1:
            raise self._refusal(f"mixes {' and '.join(sorted(dtypes))}")
        if dtypes == {"int32"} and has_fraction(self._statement.computation.expr):
            raise self._refusal("mixes int32 and constants with a fraction")
        self._check_cells()

    def _check_loops(self) -> None:
        """The loops over a block are innermost, as the step made them."""
        loops, points = self._placed.dims[: -self._n], self._placed.dims[-self._n :]
        blocks = {(dim.expression, dim.divisor) for dim in loops}
        if any((point.expression, point.register) not in blocks for point in points):
            raise self._refusal("had its loops changed after the register tile was made")

    def check_alone(self, nest: Nest) -> None:
        """No other statement may stand in the loops over which registers are held."""
        others = [p.name for p in nest.loop(self.name, min(self.hoist, len(self._loops) - 1))[1:]]
        if others:
            raise self._refusal(f"has {', '.join(others)} in the loops that registers live in")

    def _check_cells(self) -> None:
        """A cell of the block lies in one lane of one register."""
        lanes: dict[tuple[int, ...], tuple[str, int]] = {}
        for *outer, last in self._offsets():
            held = self._held((*outer, last))
            for lane in range(self._width):
                cell = self._cell_moves((*outer, last + lane))
                if lanes.setdefault(cell, (held, lane)) != (held, lane):
                    raise self._refusal(
                        f"writes {self._statement.write} such that registers of a block overlap"
                    )

    def _refusal(self, reason: str) -> ScheduleError:
        return ScheduleError(f"{self._placed.name} {reason}")

    def _stride(self, access: Access) -> int:
        return stride_along(self._program, access, self._direction(len(self._placed.dims) - 1))

    def _direction(self, level: int) -> dict[str, int]:
        return direction(self._placed, level)

    def _moves_write(self, level: int) -> bool:
        """Whether the written cell changes with a loop around the block."""
        dim = self._loops[level]
        at = next(
            place
            for place, d in enumerate(self._placed.dims)
            if d.expression == dim.expression and d.divisor == 1
        )
        moves = self._direction(at)
        return any(
            sum(f * moves.get(it, 0) for it, f in index.terms)
            for index in self._statement.write.index
        )


def solve(placed: Placed, values: list[Affine]) -> dict[str, Affine]:
    """The statement's iterators from the counts of its loops over single iterations, in order."""
    rows = [dim.expression for dim in placed.dims if dim.divisor == 1]
    iterators = placed.statement.iterators
    inverse = np.linalg.inv(
        np.array([[r.factor(it) for it in iterators] for r in rows], dtype=float)
    )
    found: dict[str, Affine] = {}
    for it, factors in zip(iterators, inverse, strict=True):
        total = Affine()
        for factor, row, value in zip(factors, rows, values, strict=True):
            total = total + (value - row.const) * round(float(factor))
        found[it] = total
    return found


def _parts(expr: Expr) -> Iterator[Expr]:
    yield expr
    for part in operands(expr):
        yield from _parts(part)
