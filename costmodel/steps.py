"""The transformations, one class each: how a step changes a nest, and how it is written.

A step names a loop by a statement and a level, 0 being the outermost loop around it as the nest
stands when the step is taken. Every statement in the loop is transformed with it. Whether the
result computes the same is not asked here but of the whole schedule (costmodel.legality).
"""

from __future__ import annotations

import re
from typing import ClassVar

import attrs

from costmodel.errors import ScheduleError
from costmodel.nest import Dim, Nest, Placed


@attrs.frozen
class Step:
    """One transformation; str(step) is read back by `parse_step`."""

    word: ClassVar[str]

    def apply(self, nest: Nest) -> Nest:
        """The nest after this step; ScheduleError if it has no such loops or sizes."""
        raise NotImplementedError

    def __str__(self) -> str:
        values: list[object] = []
        for value in attrs.astuple(self, recurse=False):
            values.extend(value) if isinstance(value, tuple) else values.append(value)
        return f"{self.word}({', '.join(map(str, values))})"


@attrs.frozen
class Fuse(Step):
    """Give two statements their first `depth` loops in common, the body of the second last."""

    word = "fuse"
    first: str
    second: str
    depth: int

    def apply(self, nest: Nest) -> Nest:
        if self.first == self.second:
            raise ScheduleError(f"{self}: a statement cannot be fused with itself")
        if self.depth < 1:
            raise ScheduleError(f"{self}: depth is the number of common loops, at least 1")
        for name in (self.first, self.second):
            nest.loop(name, self.depth - 1)
        for level in range(self.depth):
            first, second = nest.find(self.first), nest.find(self.second)
            if first.order[: level + 1] == second.order[: level + 1]:
                continue
            end = 1 + max(p.order[level + 1] for p in nest.loop(self.first, level))

            def move(
                p: Placed, at: int = level, to: int = first.order[level], by: int = end
            ) -> Placed:
                order = (*p.order[:at], to, p.order[at + 1] + by, *p.order[at + 2 :])
                return attrs.evolve(p, order=order)

            nest = nest.change(nest.loop(self.second, level), move).with_dense_order()
        return nest


@attrs.frozen
class Unfuse(Step):
    """Cut a loop in two: the statement and what follows it there get a loop of their own."""

    word = "unfuse"
    statement: str
    level: int

    def apply(self, nest: Nest) -> Nest:
        members = nest.loop(self.statement, self.level)
        at = nest.find(self.statement)
        moving = [p for p in members if p.order[self.level + 1] >= at.order[self.level + 1]]
        if len(moving) == len(members):
            raise ScheduleError(f"{self}: nothing stands before {self.statement} in that loop")
        prefix, number = at.order[: self.level], at.order[self.level]
        later = [
            p
            for p in nest.placed
            if p.order[: self.level] == prefix and p.order[self.level] > number
        ]

        def move(p: Placed) -> Placed:
            order = (*p.order[: self.level], p.order[self.level] + 1, *p.order[self.level + 1 :])
            return attrs.evolve(p, order=order)

        return nest.change([*moving, *later], move).with_dense_order()


@attrs.frozen
class Interchange(Step):
    """Exchange two loops of a perfect band."""

    word = "interchange"
    statement: str
    outer: int
    inner: int

    def apply(self, nest: Nest) -> Nest:
        if self.outer >= self.inner:
            raise ScheduleError(f"{self}: the outer level must be less than the inner one")
        members = nest.band(self.statement, self.outer, self.inner)

        def swap(p: Placed) -> Placed:
            dims = list(p.dims)
            dims[self.outer], dims[self.inner] = dims[self.inner], dims[self.outer]
            return attrs.evolve(p, dims=tuple(dims))

        return nest.change(members, swap)


@attrs.frozen
class Tile(Step):
    """Cut adjacent loops of a perfect band into tiles; sizes need not divide the extents."""

    word = "tile"
    statement: str
    level: int
    sizes: tuple[int, ...]

    def apply(self, nest: Nest) -> Nest:
        if not self.sizes or min(self.sizes) < 1:
            raise ScheduleError(f"{self}: tile sizes must be at least 1")
        first, n = self.level, len(self.sizes)
        members = nest.band(self.statement, first, first + n - 1)

        def tile(p: Placed) -> Placed:
            points = p.dims[first : first + n]
            tiles = tuple(
                _tile_dim(self, d, size) for d, size in zip(points, self.sizes, strict=True)
            )
            order = (*p.order[: first + 1], *[0] * (2 * n - 1), *p.order[first + n :])
            dims = (*p.dims[:first], *tiles, *points, *p.dims[first + n :])
            return attrs.evolve(p, dims=dims, order=order)

        return nest.change(members, tile)


@attrs.frozen
class Unroll(Step):
    """Unroll the innermost loop around a statement."""

    word = "unroll"
    statement: str
    factor: int

    def apply(self, nest: Nest) -> Nest:
        if self.factor < 1:
            raise ScheduleError(f"{self}: the factor must be at least 1")
        level = len(nest.find(self.statement).dims) - 1
        members = nest.loop(self.statement, level)
        return nest.change_dim(members, level, lambda d: attrs.evolve(d, unroll=self.factor))


@attrs.frozen
class Parallel(Step):
    """Share the iterations of a loop among threads."""

    word = "parallel"
    statement: str
    level: int

    def apply(self, nest: Nest) -> Nest:
        members = nest.loop(self.statement, self.level)
        return nest.change_dim(members, self.level, lambda d: attrs.evolve(d, is_parallel=True))


@attrs.frozen
class Vectorize(Step):
    """Run iterations of the innermost loop around a statement in the lanes of vectors."""

    word = "vectorize"
    statement: str

    def apply(self, nest: Nest) -> Nest:
        level = len(nest.find(self.statement).dims) - 1
        members = nest.loop(self.statement, level)
        return nest.change_dim(members, level, lambda d: attrs.evolve(d, is_vector=True))


@attrs.frozen
class Skew(Step):
    """Add a multiple of an outer loop's count to an inner loop's, of one perfect band."""

    word = "skew"
    statement: str
    outer: int
    inner: int
    factor: int

    def apply(self, nest: Nest) -> Nest:
        if self.outer >= self.inner:
            raise ScheduleError(f"{self}: the outer level must be less than the inner one")
        members = nest.band(self.statement, self.outer, self.inner)

        def skew(p: Placed) -> Placed:
            outer = _whole(self, p.dims[self.outer])
            inner = _whole(self, p.dims[self.inner])
            moved = attrs.evolve(
                inner, expression=inner.expression + outer.expression * self.factor
            )
            return attrs.evolve(p, dims=(*p.dims[: self.inner], moved, *p.dims[self.inner + 1 :]))

        return nest.change(members, skew)


@attrs.frozen
class Reverse(Step):
    """Run a loop from its end to its beginning."""

    word = "reverse"
    statement: str
    level: int

    def apply(self, nest: Nest) -> Nest:
        members = nest.loop(self.statement, self.level)
        return nest.change_dim(
            members,
            self.level,
            lambda d: attrs.evolve(d, expression=_whole(self, d).expression * -1),
        )


@attrs.frozen
class Shift(Step):
    """Delay one statement by a number of iterations of a loop, which others may share."""

    word = "shift"
    statement: str
    level: int
    amount: int

    def apply(self, nest: Nest) -> Nest:
        nest.loop(self.statement, self.level)
        return nest.change_dim(
            [nest.find(self.statement)],
            self.level,
            lambda d: attrs.evolve(d, expression=_whole(self, d).expression + self.amount),
        )


@attrs.frozen
class RegisterTile(Step):
    """Hold a block of the written array in registers over the loops inside.

    levels_sizes: level, size, level, size, ...: each of these loops is cut into blocks and the
                  loops over a block go innermost, unrolled whole; the last one is in vectors
    """

    word = "register_tile"
    statement: str
    levels_sizes: tuple[int, ...]

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        return tuple(zip(self.levels_sizes[::2], self.levels_sizes[1::2], strict=False))

    def apply(self, nest: Nest) -> Nest:
        levels = [level for level, _ in self.blocks]
        if not levels or len(self.levels_sizes) % 2 or levels != sorted(set(levels)):
            raise ScheduleError(f"{self}: give level, size pairs with growing levels")
        if min(size for _, size in self.blocks) < 2:
            raise ScheduleError(f"{self}: block sizes must be at least 2")
        innermost = len(nest.find(self.statement).dims) - 1
        members = nest.band(self.statement, levels[0], innermost)
        if len(members) != 1:
            raise ScheduleError(f"{self}: other statements share these loops; unfuse first")
        (p,) = members
        dims, points = list(p.dims), []
        for level, size in self.blocks:
            point = p.dims[level]
            dims[level] = _tile_dim(self, point, size)
            points.append(attrs.evolve(point, register=size))
        order = (*p.order[:-1], *[0] * len(points), p.order[-1])
        return nest.change(members, lambda q: attrs.evolve(q, dims=(*dims, *points), order=order))


@attrs.frozen
class Pack(Step):
    """Copy what a register-tiled statement reads of an array to a buffer, inside `level` loops."""

    word = "pack"
    statement: str
    array: str
    level: int

    def apply(self, nest: Nest) -> Nest:
        placed = nest.find(self.statement)
        loops = sum(1 for dim in placed.dims if not dim.register)
        if loops == len(placed.dims):
            raise ScheduleError(
                f"{self}: only a statement with a register tile packs; make it first"
            )
        if not 0 <= self.level <= loops:
            raise ScheduleError(f"{self}: the level must be from 0 to {loops}")
        if len(nest.loop(self.statement, self.level)) > 1:
            raise ScheduleError(f"{self}: other statements share that loop")
        accesses = {a for a in placed.statement.reads if a.array == self.array}
        if len(accesses) != 1 or self.array == placed.statement.write.array:
            raise ScheduleError(
                f"{self}: {self.statement} must read {self.array} at one place and not write it"
            )
        if not next(iter(accesses)).index:
            raise ScheduleError(f"{self}: {self.array} is one number, which needs no buffer")
        if any(array == self.array for array, _ in placed.packs):
            raise ScheduleError(f"{self}: {self.array} is packed already")
        packs = (*placed.packs, (self.array, self.level))
        return nest.change([placed], lambda p: attrs.evolve(p, packs=packs))


@attrs.frozen
class Contract(Step):
    """Keep `rows` rows of a temporary along one dimension: row r lies in row r mod rows."""

    word = "contract"
    array: str
    dimension: int
    rows: int

    def apply(self, nest: Nest) -> Nest:
        if self.rows < 1:
            raise ScheduleError(f"{self}: at least one row must stay")
        if any(array == self.array for array, _, _ in nest.contractions):
            raise ScheduleError(f"{self}: {self.array} is contracted already")
        contractions = (*nest.contractions, (self.array, self.dimension, self.rows))
        return attrs.evolve(nest, contractions=contractions)


@attrs.frozen
class Inline(Step):
    """Compute a statement's value at each place that reads it, and drop the statement.

    It changes the program, so it stands before all steps that change the nest; statements are
    numbered anew after it. See costmodel.inline.
    """

    word = "inline"
    statement: str

    def apply(self, nest: Nest) -> Nest:
        raise ScheduleError(f"{self}: inline before any other step")


def _tile_dim(step: Step, point: Dim, size: int) -> Dim:
    """The loop over tiles of a loop."""
    return Dim(_whole(step, point).expression, size)


def _whole(step: Step, dim: Dim) -> Dim:
    """The dim itself, if it counts single iterations; a loop over tiles is not changed further."""
    if dim.divisor != 1:
        raise ScheduleError(f"{step}: that loop counts tiles; take this step before tiling")
    return dim


STEPS: dict[str, type[Step]] = {
    kind.word: kind
    for kind in (
        Fuse, Unfuse, Interchange, Tile, Unroll, Parallel, Vectorize, Skew, Reverse, Shift,
        RegisterTile, Pack, Contract, Inline,
    )
}  # fmt: skip

_CALL = re.compile(r"\s*(\w+)\(([^()]*)\)\s*")


def parse_step(text: str) -> Step:
    """The step of a text like `tile(S0, 1, 32, 32)`."""
    match = _CALL.fullmatch(text)
    kind = STEPS.get(match[1]) if match else None
    if match is None or kind is None:
        raise ScheduleError(
            f"'{text.strip()}' is not a step: write one of {', '.join(STEPS)} with its arguments, "
            f"such as tile(S0, 1, 32, 32)"
        )
    words = [_value(word.strip()) for word in match[2].split(",") if word.strip()]
    fields = attrs.fields(kind)
    values: list[int | str | tuple[int | str, ...]] = list(words)
    if fields[-1].type == "tuple[int, ...]" and len(words) >= len(fields):
        values = [*words[: len(fields) - 1], tuple(words[len(fields) - 1 :])]
    if len(values) != len(fields):
        names = ", ".join(field.name for field in fields)
        raise ScheduleError(f"'{text.strip()}': {kind.word} takes {names}")
    for field, value in zip(fields, values, strict=True):
        if not _is(value, str(field.type)):
            raise ScheduleError(f"'{text.strip()}': {field.name} must be {field.type}, got {value}")
    return kind(*values)


def _is(value: int | str | tuple[int | str, ...], wanted: str) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(part, int) for part in value)
    return isinstance(value, str if wanted == "str" else int)


def _value(word: str) -> int | str:
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else word
