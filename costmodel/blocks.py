"""Which blocks of a register tile are whole, and which lack rows or end early.

A row is a place in the loops over a block but the last one, along which the vectors lie. Where the
domain is no multiple of the block, a block at its border has fewer rows, or a shorter run of lanes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

import attrs
import islpy as isl

from costmodel.ir import Statement
from costmodel.nest import Dim
from costmodel.poly import domain_text, space_text

Row = tuple[int, ...]
#: Lanes from the first to before the last.
Run = tuple[int, int]


@attrs.frozen(eq=False)
class Family:
    """Blocks that are updated in registers, all with one run of lanes in each row they have.

    A block counts as one over all iterations of the loops inside its load and store.

    places:  of all loops around the blocks
    updates: rows that are there together, with the places where they are; each row at a place once
    held:    the same for loads and stores, with places of the loops around those
    """

    run: Run
    places: isl.Set
    updates: tuple[tuple[tuple[Row, ...], isl.Set], ...]
    held: tuple[tuple[tuple[Row, ...], isl.Set], ...]


class Blocks:
    """The blocks of one statement.

    hoist: loops around a block's load and store
    """

    def __init__(
        self, statement: Statement, loops: Sequence[Dim], points: Sequence[Dim], hoist: int
    ) -> None:
        self._name, self._statement = statement.name, statement
        self._loops, self._points = loops, points
        self._outside = self.named("held", hoist)
        self._kept_places: dict[tuple[Row, tuple[int, ...]], isl.Set] = {}

    @cached_property
    def domain(self) -> isl.Set:
        return isl.Set(f"{{ {domain_text(self._statement)} }}")

    @cached_property
    def to_loops(self) -> isl.Map:
        """Instances to the loops around their block."""
        loops = ", ".join(map(str, self._loops))
        return isl.Map(f"{{ {space_text(self._statement)} -> {self._name}_tile[{loops}] }}")

    def named(self, call: str, n_loops: int) -> isl.Map:
        """The loops around a block to the outermost of them, under a call's name."""
        names = [f"t{level}" for level in range(len(self._loops))]
        return isl.Map(
            f"{{ {self._name}_tile[{', '.join(names)}] -> "
            f"{self._name}_{call}[{', '.join(names[:n_loops])}] }}"
        )

    @property
    def rows(self) -> list[Row]:
        return list(itertools.product(*(range(dim.register) for dim in self._points[:-1])))

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """Whole blocks first; those that are in none are for the plain statement."""
        return tuple(self._families())

    @cached_property
    def rest(self) -> isl.Set:
        """Instances in blocks of no family."""
        rest = self.domain
        for family in self.families:
            rest = rest.subtract(family.places.apply(self.to_loops.reverse()))
        return rest.coalesce()

    def _families(self) -> Iterator[Family]:
        touched = self.domain.apply(self.to_loops)
        size = self._points[-1].register
        whole = self._whole
        rows = tuple(self.rows)
        if not whole.is_empty():
            yield Family((0, size), whole, ((rows, whole),), ((rows, whole.apply(self._outside)),))
        left = touched.subtract(whole).coalesce()
        if left.is_empty():
            return
        there = {row: self._places(row, range(size)).intersect(left) for row in rows}
        for run in self._runs:
            fits = {row: self._with_run(row, run).intersect(left) for row in rows}
            places = left
            for row in rows:
                places = places.subtract(self._around(there[row].subtract(fits[row])))
            if places.is_empty():
                continue
            fits = {row: part.intersect(places) for row, part in fits.items()}
            held = {row: part.apply(self._outside) for row, part in fits.items()}
            yield Family(run, places.coalesce(), _together(fits), _together(held))

    @property
    def _whole(self) -> isl.Set:
        """Places where no block, for any iteration of the loops inside, is cut.

        A block is whole if its corners are in the domain, which is convex.
        """
        touched = self.domain.apply(self.to_loops)
        whole = touched
        for corner in itertools.product(*({0, dim.register - 1} for dim in self._points)):
            whole = whole.intersect(self._places(corner[:-1], corner[-1:]))
        return whole.subtract(self._around(touched.subtract(whole))).coalesce()

    @cached_property
    def _runs(self) -> list[Run]:
        """The whole run, and those at both ends of the last loop, where they are fixed."""
        last = self._points[-1]
        size = last.register
        runs = [(0, size)]
        values = self.domain.apply(
            isl.Map(f"{{ {space_text(self._statement)} -> [{last.expression}] }}")
        )
        if not values.is_empty() and values.is_bounded():
            low, high = values.dim_min_val(0).to_python(), values.dim_max_val(0).to_python()
            if low // size == high // size:
                runs.append((low % size, high % size + 1))
            else:
                runs += [(low % size, size), (0, high % size + 1)]
        return list(dict.fromkeys(runs))

    def _with_run(self, row: Row, run: Run) -> isl.Set:
        """Places where the row of a block has just these lanes."""
        begin, end = run
        places = self._places(row, [begin]).intersect(self._places(row, [end - 1]))
        beyond = [lane for lane in (begin - 1, end) if 0 <= lane < self._points[-1].register]
        return places.subtract(self._places(row, beyond)) if beyond else places

    def _places(self, row: Row, lanes: Sequence[int]) -> isl.Set:
        """Places of the loops where one of these lanes of a row is in the domain."""
        key = (row, tuple(lanes))
        if key not in self._kept_places:
            self._kept_places[key] = self._found_places(row, lanes)
        return self._kept_places[key]

    def _found_places(self, row: Row, lanes: Sequence[int]) -> isl.Set:
        at = [
            f"({dim.expression}) mod {dim.register} = {offset}"
            for dim, offset in zip(self._points, row, strict=False)
        ]
        last = self._points[-1]
        if len(lanes) < last.register:
            ends = (f"({last.expression}) mod {last.register} = {lane}" for lane in lanes)
            at.append(f"({' or '.join(ends)})")
        where = isl.Set(f"{{ {space_text(self._statement)} : {' and '.join(at) or 'true'} }}")
        return self.domain.intersect(where).apply(self.to_loops)

    def _around(self, places: isl.Set) -> isl.Set:
        """All places inside the same load and store as some of these."""
        return places.apply(self._outside).apply(self._outside.reverse())


@lru_cache(maxsize=512)
def kept_blocks(
    statement: Statement, loops: tuple[Dim, ...], points: tuple[Dim, ...], hoist: int
) -> Blocks:
    """`Blocks`, remembered: a search packs arrays of the same blocks at one loop after another."""
    return Blocks(statement, loops, points, hoist)


def _together(rows: Mapping[Row, isl.Set]) -> tuple[tuple[tuple[Row, ...], isl.Set], ...]:
    """All rows where all are there, each alone elsewhere."""
    together = next(iter(rows.values()))
    for places in rows.values():
        together = together.intersect(places)
    parts = [(tuple(rows), together.coalesce())]
    if len(rows) > 1:
        parts += [((row,), places.subtract(together).coalesce()) for row, places in rows.items()]
    return tuple((names, places) for names, places in parts if not places.is_empty())
