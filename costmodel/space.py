"""What a search may try: for each kind of transformation, the schedules one decision away.

Kinds come in a fixed order, as in the paper (section on the search): fusion, interchange, tiling,
unrolling. The extended space has more of them: inlining, distribution, skewing, contraction,
register tiles with packing, explicit vectors. A decision is taken for one statement at a time; it
is not yet known to be legal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Literal

from costmodel.ir import ITEM_BYTES, Program
from costmodel.legality import direction, stride_along
from costmodel.nest import Nest, Placed
from costmodel.schedule import ScheduledProgram
from costmodel.steps import (
    Contract,
    Fuse,
    Inline,
    Interchange,
    Pack,
    Parallel,
    RegisterTile,
    Shift,
    Skew,
    Step,
    Tile,
    Unfuse,
    Unroll,
    Vectorize,
)

Space = Literal["paper", "extended"]
Decision = tuple[Step, ...]
Kind = Callable[[ScheduledProgram, str], Iterator[Decision]]

TILE_SIZES = (32, 64, 128)
UNROLL_FACTORS = (4, 8, 16)
SHIFTS = (0, 1, 2)
VECTOR_BYTES = 32


def inlinings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if scheduled.program.array(placed.statement.write.array).role == "temp":
        yield (Inline(name),)


def fusions(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """A statement with the one before it, their common loops from all down to one."""
    before = _before(scheduled.nest, name)
    for depth in _fusion_depths(scheduled.nest, before, name):
        yield (Fuse(before, name, depth),)


def shifted_fusions(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Fusions in which the later statement runs some iterations behind, its temporary shortened."""
    nest = scheduled.nest
    before = _before(nest, name)
    for depth in _fusion_depths(nest, before, name):
        for amounts in itertools.product(SHIFTS, repeat=depth):
            shifts = tuple(
                Shift(name, level, amount) for level, amount in enumerate(amounts) if amount
            )
            fused = (*shifts, Fuse(before, name, depth))
            yield fused
            for array in _temporaries(scheduled.program, nest, before, name):
                for dimension in range(len(scheduled.program.array(array).shape)):
                    for rows in (1, 2, 3, 4):
                        yield (*fused, Contract(array, dimension, rows))


def distributions(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """The statement in loops of its own, from some level inwards."""
    nest = scheduled.nest
    at = nest.find(name)
    common = [
        level
        for level in range(len(at.dims))
        if any(p.order < at.order for p in nest.loop(name, level))
    ]
    for n in range(1, len(common) + 1):
        yield tuple(Unfuse(name, level) for level in reversed(common[-n:]))


def interchanges(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    levels = band(scheduled.nest, name)
    for outer, inner in itertools.combinations(levels, 2):
        yield (Interchange(name, outer, inner),)


def rotations(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Every order of the loops of a band that two exchanges reach."""
    levels = band(scheduled.nest, name)
    pairs = list(itertools.combinations(levels, 2))
    for pair in pairs:
        yield (Interchange(name, *pair),)
    for first, second in itertools.permutations(pairs, 2):
        yield Interchange(name, *first), Interchange(name, *second)


def tilings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Two or three adjacent loops cut by the sizes of the paper."""
    for tile in _tiles(scheduled, name, (2, 3)):
        yield (tile,)


def skewed_tilings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Tiles of one to three loops, and those that need inner loops skewed against an outer one."""
    levels = band(scheduled.nest, name)
    for tile in _tiles(scheduled, name, (1, 2, 3)):
        yield (tile,)
        for factor in (1, 2):
            inner = range(tile.level + 1, tile.level + len(tile.sizes))
            if len(inner) and tile.level in levels:
                yield (*(Skew(name, tile.level, level, factor) for level in inner), tile)


def unrollings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if placed.dims and not placed.dims[-1].register:
        for factor in UNROLL_FACTORS:
            yield (Unroll(name, factor),)


def vectors(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if placed.dims and not placed.dims[-1].register:
        yield (Vectorize(name),)


def register_tiles(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Blocks of one or two loops, the loops over them in either order, with and without packing."""
    nest, program = scheduled.nest, scheduled.program
    placed = nest.find(name)
    levels = [level for level in band(nest, name) if placed.dims[level].divisor == 1]
    if not levels or placed.dims[-1].register or len(nest.loop(name, levels[0])) > 1:
        return
    lanes = VECTOR_BYTES // ITEM_BYTES[program.array(placed.statement.write.array).dtype]
    for level in levels:
        if not _is_contiguous(program, placed, level):
            continue
        for n in (1, 2, 4, 8):
            yield (RegisterTile(name, (level, n * lanes)),)
        for other in (o for o in levels if o < level):
            for rows, n in ((2, 4), (3, 4), (4, 2), (6, 2), (4, 3), (8, 1), (12, 1)):
                tile = RegisterTile(name, (other, rows, level, n * lanes))
                for turn in ((), (Interchange(name, other, level),)):
                    yield (tile, *turn)
                    yield from (
                        (tile, *turn, pack) for pack in _packs(program, nest, name, tile, turn)
                    )


def parallels(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """The outermost loop around a statement, else the next one."""
    placed = scheduled.nest.find(name)
    for level in range(min(2, len(placed.dims))):
        if not placed.dims[level].register:
            yield (Parallel(name, level),)


KINDS: dict[Space, tuple[Kind, ...]] = {
    "paper": (fusions, interchanges, tilings, unrollings),
    "extended": (
        inlinings,
        shifted_fusions,
        distributions,
        rotations,
        skewed_tilings,
        register_tiles,
        vectors,
        unrollings,
    ),
}


def band(nest: Nest, name: str) -> range:
    """Levels of the innermost perfect band around a statement."""
    placed = nest.find(name)
    n = sum(1 for dim in placed.dims if not dim.register)
    if not n:
        return range(0)
    members = nest.loop(name, n - 1)
    first = n - 1
    while first and nest.loop(name, first - 1) == members:
        first -= 1
    return range(first, n)


def _before(nest: Nest, name: str) -> str:
    """The statement that stands before this one; itself if it is the first."""
    ordered = sorted(nest.placed, key=lambda p: p.order)
    at = next(place for place, p in enumerate(ordered) if p.name == name)
    return ordered[max(0, at - 1)].name


def _fusion_depths(nest: Nest, first: str, second: str) -> Iterator[int]:
    if first == second:
        return
    a, b = nest.find(first), nest.find(second)
    common = next(
        (n for n, pair in enumerate(zip(a.order, b.order, strict=False)) if pair[0] != pair[1]), 0
    )
    yield from range(min(len(a.dims), len(b.dims)), common, -1)


def _temporaries(program: Program, nest: Nest, writer: str, reader: str) -> Iterator[str]:
    """Temporaries that one statement writes and the other reads."""
    array = nest.find(writer).statement.write.array
    kept = {name for name, _, _ in nest.contractions}
    reads = nest.find(reader).statement.reads
    if (
        program.array(array).role == "temp"
        and array not in kept
        and any(read.array == array for read in reads)
    ):
        yield array


def _tiles(scheduled: ScheduledProgram, name: str, depths: tuple[int, ...]) -> Iterator[Tile]:
    levels = band(scheduled.nest, name)
    placed = scheduled.nest.find(name)
    if any(dim.divisor > 1 or dim.register for dim in placed.dims):
        return
    extents = [_extent(placed, level) for level in range(len(placed.dims))]
    for depth in depths:
        for first in levels:
            inside = range(first, first + depth)
            if inside.stop > levels.stop:
                continue
            options = [[s for s in TILE_SIZES if s < extents[level]] for level in inside]
            for sizes in itertools.product(*options):
                yield Tile(name, first, sizes)


def _extent(placed: Placed, level: int) -> int:
    """Iterations of the loop at a level as the program wrote it, where its bounds are numbers."""
    names = placed.dims[level].expression.names
    loops = [loop for loop in placed.statement.loops if loop.name in names]
    spans = [loop.upper - loop.lower for loop in loops]
    return max((span.const if not span.terms else 1 << 30 for span in spans), default=1)


def _is_contiguous(program: Program, placed: Placed, level: int) -> bool:
    """Whether the loop moves what is written by one element and what is read by one or none."""
    moves = direction(placed, level)
    write = placed.statement.write
    return stride_along(program, write, moves) == 1 and all(
        stride_along(program, read, moves) in (0, 1) for read in placed.statement.reads
    )


def _packs(
    program: Program, nest: Nest, name: str, tile: RegisterTile, turn: Decision
) -> Iterator[Pack]:
    """Copies of what is read again by the loop just inside them, but not next to each other."""
    after = tile.apply(nest)
    for step in turn:
        after = step.apply(after)
    placed = after.find(name)
    loops = [dim for dim in placed.dims if not dim.register]
    for read in dict.fromkeys(placed.statement.reads):
        if read.array == placed.statement.write.array:
            continue
        for level, dim in enumerate(loops):
            whole = next(
                at
                for at, d in enumerate(placed.dims)
                if d.expression == dim.expression and d.divisor == 1
            )
            if stride_along(program, read, direction(placed, whole)) == 0 and level:
                yield Pack(name, read.array, level)
