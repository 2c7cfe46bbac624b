"""The loop nest a schedule makes: where every statement stands and which loops surround it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from costmodel.affine import Affine
from costmodel.errors import ScheduleError
from costmodel.ir import Program, Statement


@attrs.frozen
class Dim:
    """A loop around one statement: it counts floor(expression / divisor).

    unroll:   copies of the body, 0 for none
    register: iterations unrolled whole, in one block of registers; 0 for an ordinary loop
    """

    expression: Affine
    divisor: int = 1
    unroll: int = 0
    is_parallel: bool = False
    is_vector: bool = False
    register: int = 0

    def __str__(self) -> str:
        """isl's text of the count."""
        if self.divisor == 1:
            return f"({self.expression})"
        return f"floor(({self.expression})/{self.divisor})"


@attrs.frozen
class Placed:
    """A statement with the loops around it and its place among its siblings.

    order: one number before each loop and one before the statement itself, len(dims) + 1; two
           statements share loop l if their numbers agree up to and with order[l]
    packs: arrays copied to a contiguous buffer, each with the number of loops around the copy;
           only for a statement with register loops
    """

    statement: Statement
    dims: tuple[Dim, ...]
    order: tuple[int, ...]
    packs: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        return self.statement.name


@attrs.frozen
class Nest:
    """Every statement of a program, placed.

    contractions: (array, dimension, rows): row r of the array lies in row r mod rows
    """

    placed: tuple[Placed, ...]
    contractions: tuple[tuple[str, int, int], ...] = ()

    @staticmethod
    def of(program: Program) -> Nest:
        """The nest as the program is written."""
        return Nest(
            tuple(
                Placed(s, tuple(Dim(Affine.of(name)) for name in s.iterators), s.position)
                for s in program.statements
            )
        ).with_dense_order()

    def find(self, name: str) -> Placed:
        for placed in self.placed:
            if placed.name == name:
                return placed
        known = ", ".join(p.name for p in self.placed)
        raise ScheduleError(f"there is no statement {name}: the program has {known}")

    def loop(self, name: str, level: int) -> tuple[Placed, ...]:
        """The statements that share the loop at this level around a statement, it too."""
        at = self.find(name)
        if not 0 <= level < len(at.dims):
            raise ScheduleError(
                f"level {level} is not a loop around {name}: "
                + (f"it has 0 to {len(at.dims) - 1}" if at.dims else "it has none")
            )
        prefix = at.order[: level + 1]
        return tuple(p for p in self.placed if p.order[: level + 1] == prefix and p.dims[level:])

    def band(self, name: str, first: int, last: int) -> tuple[Placed, ...]:
        """The statements of the loop at level first, all of which loop last must surround too."""
        outer, inner = self.loop(name, first), self.loop(name, last)
        if outer != inner:
            others = ", ".join(p.name for p in outer if p not in inner)
            raise ScheduleError(
                f"loops {first} and {last} around {name} are not perfectly nested: {others} "
                f"stands between them; unfuse first"
            )
        return inner

    def change(self, members: Iterable[Placed], change: Callable[[Placed], Placed]) -> Nest:
        """The nest with these statements placed anew."""
        chosen = {placed.name for placed in members}
        placed = tuple(change(p) if p.name in chosen else p for p in self.placed)
        return attrs.evolve(self, placed=placed)

    def change_dim(
        self, members: Iterable[Placed], level: int, change: Callable[[Dim], Dim]
    ) -> Nest:
        """The nest with one loop changed for these statements."""

        def go(p: Placed) -> Placed:
            dims = (*p.dims[:level], change(p.dims[level]), *p.dims[level + 1 :])
            return attrs.evolve(p, dims=dims)

        return self.change(members, go)

    def with_dense_order(self) -> Nest:
        """The same nest with siblings numbered 0, 1, ..."""
        ranks: dict[tuple[int, ...], list[int]] = {}
        for p in self.placed:
            for level, number in enumerate(p.order):
                numbers = ranks.setdefault(p.order[:level], [])
                if number not in numbers:
                    numbers.append(number)
        for numbers in ranks.values():
            numbers.sort()
        placed = tuple(
            attrs.evolve(
                p,
                order=tuple(
                    ranks[p.order[:level]].index(number) for level, number in enumerate(p.order)
                ),
            )
            for p in self.placed
        )
        return attrs.evolve(self, placed=placed)
