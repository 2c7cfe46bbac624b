"""Blocks of the written array held in vector registers over the loops inside them.

A statement whose innermost loops are register loops falls into four kinds of calls: load the block,
update it (once an iteration of the loops inside, unrolled over the block), store it, and the plain
statement for instances in blocks that the border of the domain cuts askew. Blocks that lack rows or
end early have calls of their own (costmodel.blocks).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import attrs
import islpy as isl

from costmodel import c_text
from costmodel.affine import Affine
from costmodel.blocks import Blocks, Row, Run, kept_blocks
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
from costmodel.legality import direction, inverse_of, stride_along
from costmodel.nest import Nest, Placed
from costmodel.packed import Packed
from costmodel.poly import has_fraction, space_text
from costmodel.schedule_tree import Leaf, Order, pairs

MAX_BUFFER_BYTES = 2**20  # they lie on the stack


@attrs.frozen(eq=False)
class _Call:
    """One kind of call.

    kind:    load, tile or store, of rows of a block with a run of lanes; or pack
    places:  of the loops around it
    n_loops: how many these are
    """

    kind: str
    rows: tuple[Row, ...]
    run: Run
    places: isl.Set
    n_loops: int
    order: Order
    pack: Packed | None = None


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
        self._strides: dict[Access, int] = {}
        self._item_bytes = ITEM_BYTES[dtype]
        self._width = vector_bytes // self._item_bytes
        while self._width > self._points[-1].register:
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

    @property
    def domain(self) -> isl.Set:
        return self._blocks.domain

    @cached_property
    def _blocks(self) -> Blocks:
        return kept_blocks(self._statement, self._loops, self._points, self.hoist)

    @property
    def _names(self) -> list[str]:
        return [f"t{level}" for level in range(len(self._loops))]

    @cached_property
    def _calls(self) -> dict[str, _Call]:
        """All calls by their words, in the order of those in one iteration of the same loops."""
        found: dict[str, _Call] = {}
        order, h, n = self._placed.order, self.hoist, len(self._loops)
        parts = itertools.count(1)

        def add(call: _Call) -> None:
            found[f"{call.kind}{len(found)}"] = call

        def outer(kind: str, rows: tuple[Row, ...], run: Run, places: isl.Set, part: int) -> None:
            at = pairs(order[: h + 1], part)
            add(_Call(kind, rows, run, places, h, at))

        before = -len(self.packs)  # buffers are filled before all else, one after the other
        for part, pack in enumerate(self.packs, before):
            if pack.level <= h:
                places = self._held.apply(self._blocks.named("held", pack.level))
                at = pairs(order[: pack.level + 1], part)
                add(_Call("pack", (), (0, 0), places, pack.level, at, pack))
        for family in self._blocks.families:
            for rows, places in family.held:
                outer("load", rows, family.run, places, next(parts))
            shared = next(parts)
            inside = tuple((number, 0) for number in order[h + 1 : n + 1])
            for part, pack in enumerate(self.packs, before):
                if pack.level > h:
                    places = family.places.apply(self._blocks.named("held", pack.level))
                    at = (*pairs(order[: h + 1], shared), *inside)[: pack.level]
                    at = (*at, (order[pack.level], part))
                    add(_Call("pack", (), (0, 0), places, pack.level, at, pack))
            for number, (rows, places) in enumerate(family.updates):
                at = (*pairs(order[: h + 1], shared), *inside[:-1], (order[n], number))
                if h == n:
                    at = pairs(order[: h + 1], next(parts))
                add(_Call("tile", rows, family.run, places, n, at))
            for rows, places in family.held:
                outer("store", rows, family.run, places, next(parts))
        return found

    @cached_property
    def _held(self) -> isl.Set:
        """Places of the loops around blocks that are updated in registers."""
        held = self.domain.apply(self._blocks.to_loops)
        held = held.subtract(held)
        for family in self._blocks.families:
            held = held.union(family.places)
        return held.coalesce()

    def domains(self) -> isl.UnionSet:
        """Instances of all kinds of calls."""
        total = isl.UnionSet.from_set(self._blocks.rest)
        for word, call in self._calls.items():
            places = call.places.set_tuple_name(f"{self.name}_{word}")
            total = total.union(isl.UnionSet.from_set(places))
        return total

    def leaves(self) -> Iterator[Leaf]:
        last = 0
        for word, call in self._calls.items():
            dims = tuple(self._names[: call.n_loops])
            yield Leaf(f"{self.name}_{word}[{', '.join(dims)}]", dims, call.order)
            last = max(last, *(part for _, part in call.order))
        h, rest = self.hoist, Leaf.of(self._placed)
        at = pairs(self._placed.order[: h + 1], last + 1)
        yield Leaf(rest.space, rest.dims, (*at, *rest.order[h + 1 :]))

    # --- C text ----------------------------------------------------------------------------------

    def typedefs(self) -> list[str]:
        """The vector types; loads and stores of them need no alignment beyond an element's."""
        size = self._item_bytes
        widths = {w for f in self._blocks.families for _, w in self._vectors(f.run)}
        return [
            f"typedef {self._c_type} {self._vector(width)} "
            f"__attribute__((vector_size({size * width}), aligned({size}), may_alias));"
            for width in sorted(widths)
        ]

    def _vector(self, width: int) -> str:
        return f"{self._c_type}x{width}"

    def _vectors(self, run: Run) -> Iterator[tuple[int, int]]:
        """First lane and length of the vectors of a row: the longest, then halves of it."""
        at, width = run[0], self._width
        while at < run[1]:
            while width > run[1] - at:
                width //= 2
            yield at, width
            at += width

    def declarations(self, word: str) -> dict[tuple[str, str], int]:
        """What a call needs: types and names, each with the number of loops around it."""
        call = self._calls[word]
        if call.pack:
            return {(self._c_type, call.pack.declarator): call.pack.level}
        return {
            (self._vector(width), self._held_in((*row, at), width)): self.hoist
            for row in call.rows
            for at, width in self._vectors(call.run)
        }

    def lines(self, word: str, passed: list[Affine]) -> list[str]:
        """C text of a call, with the counts of the loops around it."""
        call = self._calls[word]
        if call.pack:
            return call.pack.copy(passed)
        lines: list[str] = []
        for row, (at, width) in itertools.product(call.rows, self._vectors(call.run)):
            held = self._held_in((*row, at), width)
            values = self._iterators(passed, (*row, at))
            vector = self._vector(width)
            cell = f"*({vector} *)&{self._show(moved(self._statement.write, values))}"
            if call.kind == "load":
                lines.append(f"{held} = {cell};")
            elif call.kind == "store":
                lines.append(f"{cell} = {held};")
            else:
                text, is_vector = self._value(values, held, vector, passed)
                broadcast = "" if is_vector else f"({vector}){{0}} + "
                lines.append(f"{held} = {broadcast}{text};")
        # Places that write one cell load and store it once, but each of them updates it.
        return lines if call.kind == "tile" else list(dict.fromkeys(lines))

    @property
    def _statement(self) -> Statement:
        return self._placed.statement

    def _held_in(self, offsets: tuple[int, ...], width: int) -> str:
        """The register of a cell: offsets that write the same cell have the same."""
        places = "_".join(str(move).replace("-", "m") for move in self._cell_moves(offsets))
        return f"{self.name}_{places}" + (f"_x{width}" if width < self._width else "")

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
        return tuple(sum(map(operator.mul, factors, offsets)) for factors in self._cell_factors)

    @cached_property
    def _cell_factors(self) -> tuple[tuple[int, ...], ...]:
        """By how much each place in the block moves each index of the written cell."""
        moves = self._at_points
        return tuple(
            tuple(sum(f * moves[it][at] for it, f in index.terms) for at in range(self._n))
            for index in self._statement.write.index
        )

    def _value(
        self, values: Mapping[str, Affine], held: str, vector: str, passed: list[Affine]
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
                    return f"*(const {vector} *)&{cell}", True
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
        declared = self._program.array(array)
        counts = [Affine.of(name) for name in self._names]
        outer = dict.fromkeys(self._names[level:], Affine())
        bases, lows, extents, is_inside = [], [], [], []
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
            first, last = self._reach(base)
            is_inside.append(first + low >= 0 and last + high < declared.shape[at])
        packed = Packed(
            array, f"{self.name}_{array}", level, tuple(bases), tuple(lows), tuple(extents),
            declared.shape, tuple(is_inside),
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
        if self._held.is_empty():
            return 0, 0
        box = self._held_box
        if box is not None:
            ends = [sorted([factor * n for n in box[name]]) for name, factor in expression.terms]
            low, high = (sum(end[at] for end in ends) for at in range(2))
            return expression.const + low, expression.const + high
        names = ", ".join(self._names)
        values = self._held.apply(isl.Map(f"{{ {self.name}_tile[{names}] -> [{expression}] }}"))
        return values.dim_min_val(0).to_python(), values.dim_max_val(0).to_python()

    @cached_property
    def _held_box(self) -> dict[str, tuple[int, int]] | None:
        """Least and greatest of each loop around whole blocks, None if they depend on others.

        Where they do not, an affine expression has its ends at corners, and isl need not look.
        """
        held = self._held
        product = isl.Set.universe(held.get_space())
        n = len(self._names)
        for at in range(n):
            before = held.eliminate(isl.dim_type.set, 0, at)
            product = product.intersect(before.eliminate(isl.dim_type.set, at + 1, n - at - 1))
        if not product.is_equal(held):
            return None
        return {
            name: (held.dim_min_val(at).to_python(), held.dim_max_val(at).to_python())
            for at, name in enumerate(self._names)
        }

    # --- what it asks for ------------------------------------------------------------------------

    def _check(self) -> None:
        write = self._statement.write
        for access in self._statement.reads:
            if access.array == write.array and access != write and self._is_held(access):
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

    def _is_held(self, access: Access) -> bool:
        """Whether a cell read from memory is written between the load and store of a block."""
        space = space_text(self._statement)
        reads, writes = (
            isl.Map(f"{{ {space} -> {a.array}[{', '.join(map(str, a.index))}] }}").intersect_domain(
                self.domain
            )
            for a in (access, self._statement.write)
        )
        place = self._blocks.to_loops.apply_range(self._blocks.named("held", self.hoist))
        together = place.apply_range(place.reverse())
        return not bool(writes.apply_range(reads.reverse()).intersect(together).is_empty())

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
        lanes: dict[tuple[int, ...], tuple[tuple[int, ...], int, int]] = {}
        size = self._points[-1].register
        for row, (at, width) in itertools.product(self._blocks.rows, self._vectors((0, size))):
            first = self._cell_moves((*row, at))  # what `_held_in` names the register by
            for lane in range(width):
                cell = self._cell_moves((*row, at + lane))
                if lanes.setdefault(cell, (first, width, lane)) != (first, width, lane):
                    raise self._refusal(
                        f"writes {self._statement.write} such that registers of a block overlap"
                    )

    def _refusal(self, reason: str) -> ScheduleError:
        return ScheduleError(f"{self._placed.name} {reason}")

    def _stride(self, access: Access) -> int:
        """Elements by which an access moves along the vectors."""
        if access not in self._strides:
            moves = self._direction(len(self._placed.dims) - 1)
            self._strides[access] = stride_along(self._program, access, moves)
        return self._strides[access]

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
    inverse = inverse_of(tuple(tuple(r.factor(it) for it in iterators) for r in rows))
    found: dict[str, Affine] = {}
    for it, factors in zip(iterators, inverse, strict=True):
        total = Affine()
        for factor, row, value in zip(factors, rows, values, strict=True):
            total = total + (value - row.const) * factor
        found[it] = total
    return found


def _parts(expr: Expr) -> Iterator[Expr]:
    yield expr
    for part in operands(expr):
        yield from _parts(part)
