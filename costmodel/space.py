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

import islpy as isl

from costmodel import legality
from costmodel.codegen import VECTOR_BYTES
from costmodel.ir import ITEM_BYTES, Program
from costmodel.legality import direction, stride_along
from costmodel.nest import Nest, Placed
from costmodel.poly import domain_text, polyhedral
from costmodel.schedule import Schedule, ScheduledProgram
from costmodel.steps import (
    Contract,
    Fuse,
    Inline,
    Interchange,
    Pack,
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
Steps = tuple[Step, ...]
#: Alternatives, of which the first that is legal is meant.
Decision = tuple[Steps, ...]
Kind = Callable[[ScheduledProgram, str], Iterator[Decision]]

TILE_SIZES = (32, 64, 128)
UNROLL_FACTORS = (4, 8, 16)
SHIFTS = (0, 1, 2)
ROWS = (2, 3, 4)
#: Vectors of a row, and rows and vectors of a block; 16 registers hold up to twelve of them and
#: what they are made of.
STRIPS = (1, 2, 3, 4, 6, 8, 12)
BLOCKS = ((2, 4), (3, 4), (4, 2), (6, 2), (4, 3), (8, 1), (12, 1))


def inlinings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if scheduled.program.array(placed.statement.write.array).role == "temp":
        yield ((Inline(name),),)


def fusions(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """A statement with the one before it, their common loops from all down to one."""
    before = _before(scheduled.nest, name)
    for depth in _fusion_depths(scheduled.nest, before, name):
        yield ((Fuse(before, name, depth),),)


def shifted_fusions(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Fusions in which the later statement runs some iterations behind, its temporary shortened."""
    nest = scheduled.nest
    before = _before(nest, name)
    for depth in _fusion_depths(nest, before, name):
        fused = [
            (
                *(Shift(name, level, amount) for level, amount in enumerate(amounts) if amount),
                Fuse(before, name, depth),
            )
            for amounts in sorted(itertools.product(SHIFTS, repeat=depth), key=sum)
        ]
        yield tuple(fused)
        for array in _temporaries(scheduled.program, nest, before, name):
            for dimension in range(len(scheduled.program.array(array).shape)):
                for rows in ROWS:
                    yield tuple((*steps, Contract(array, dimension, rows)) for steps in fused)


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
        yield (tuple(Unfuse(name, level) for level in reversed(common[-n:])),)


def interchanges(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    levels = band(scheduled.nest, name)
    for outer, inner in itertools.combinations(levels, 2):
        yield ((Interchange(name, outer, inner),),)


def rotations(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Every order of the loops of a band that two exchanges reach."""
    levels = band(scheduled.nest, name)
    pairs = list(itertools.combinations(levels, 2))
    for pair in pairs:
        yield ((Interchange(name, *pair),),)
    for first, second in itertools.permutations(pairs, 2):
        yield ((Interchange(name, *first), Interchange(name, *second)),)


def tilings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Two or three adjacent loops cut by the sizes of the paper."""
    for tile in _tiles(scheduled, name, (2, 3)):
        yield ((tile,),)


def skewed_tilings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Tiles of one to three loops, and those that need inner loops skewed against an outer one."""
    for tile in _tiles(scheduled, name, (1, 2, 3)):
        inner = range(tile.level + 1, tile.level + len(tile.sizes))
        skewed = (
            (*(Skew(name, tile.level, level, factor) for level in inner), tile)
            for factor in (1, 2)
            if len(inner)
        )
        yield ((tile,), *skewed)


def unrollings(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if placed.dims and not placed.dims[-1].register:
        for factor in UNROLL_FACTORS:
            yield ((Unroll(name, factor),),)


def vectors(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    placed = scheduled.nest.find(name)
    if placed.dims and not placed.dims[-1].register:
        yield ((Vectorize(name),),)


def register_tiles(scheduled: ScheduledProgram, name: str) -> Iterator[Decision]:
    """Blocks of one or two loops that the statement has for itself, with and without packing.

    It has as many of them as it may. The loops around a block: those that move what is written
    first, in either order, so that the block stays in registers over the rest.
    """
    program, prefix = scheduled.program, _most_alone(scheduled, name)
    nest = after(scheduled.nest, prefix)
    placed = nest.find(name)
    levels = [level for level in band(nest, name) if placed.dims[level].divisor == 1]
    if not levels or placed.dims[-1].register or len(nest.loop(name, levels[0])) > 1:
        return
    lanes = VECTOR_BYTES // ITEM_BYTES[program.array(placed.statement.write.array).dtype]
    for level in levels:
        if not _is_contiguous(program, placed, level):
            continue
        tiles = [RegisterTile(name, (level, n * lanes)) for n in (1, 2, 4, 8)]
        tiles += [
            RegisterTile(name, (other, rows, level, n * lanes))
            for other in levels
            if other < level
            for rows, n in BLOCKS
        ]
        for tile in tiles:
            for turn in _turns(after(nest, (tile,)), name):
                steps = (*prefix, tile, *turn)
                yield (steps,)
                turned = after(nest, (tile, *turn))
                yield from (((*steps, pack),) for pack in _packs(program, turned, name))


def _most_alone(scheduled: ScheduledProgram, name: str) -> Steps:
    """Steps that give a statement loops of its own from the outermost level where that is legal."""
    poly = polyhedral(scheduled.program)
    for outermost in range(len(scheduled.nest.find(name).dims)):
        steps = isolation(scheduled.nest, name, outermost)
        # Sums may be re-associated or not: cutting loops leaves their order alone.
        if not steps or legality.kept_is_legal(poly, after(scheduled.nest, steps), False):
            return steps
    return ()


def resized(scheduled: ScheduledProgram) -> Iterator[Schedule]:
    """The schedule with other sizes in one of its steps."""
    steps = scheduled.schedule.steps
    for at, step in enumerate(steps):
        for other in _with_other_sizes(scheduled, step):
            if other != step:
                yield Schedule((*steps[:at], other, *steps[at + 1 :]))


def _with_other_sizes(scheduled: ScheduledProgram, step: Step) -> Iterator[Step]:
    match step:
        case RegisterTile(name, levels_sizes):
            write = scheduled.nest.find(name).statement.write
            lanes = VECTOR_BYTES // ITEM_BYTES[scheduled.program.array(write.array).dtype]
            match levels_sizes[::2]:
                case (level,):
                    for n in STRIPS:
                        yield RegisterTile(name, (level, n * lanes))
                case (outer, level):
                    for rows, n in BLOCKS:
                        yield RegisterTile(name, (outer, rows, level, n * lanes))
        case Tile(name, level, sizes):
            for place, size in enumerate(sizes):
                for other in (size // 2, size * 2):
                    yield Tile(name, level, (*sizes[:place], other, *sizes[place + 1 :]))


def isolation(nest: Nest, name: str, outermost: int = 0) -> Steps:
    """Steps that give a statement loops of its own, from a level inwards.

    Loops are cut before and after it.
    """
    steps: list[Step] = []
    for level in reversed(range(outermost, len(nest.find(name).dims))):
        for is_before in (True, False):
            at = nest.find(name)
            others = [p for p in nest.loop(name, level) if p.name != name]
            if is_before and any(p.order < at.order for p in others):
                steps.append(Unfuse(name, level))
            elif not is_before and any(p.order > at.order for p in others):
                later = min((p for p in others if p.order > at.order), key=lambda p: p.order)
                steps.append(Unfuse(later.name, level))
            else:
                continue
            nest = steps[-1].apply(nest)
    return tuple(steps)


def after(nest: Nest, steps: Steps) -> Nest:
    """The nest with these steps taken, legal or not."""
    for step in steps:
        nest = step.apply(nest)
    return nest


def _turns(nest: Nest, name: str) -> Iterator[Steps]:
    """Orders of the loops around a block: as they are; with those that move the block first."""
    placed = nest.find(name)
    n = sum(1 for dim in placed.dims if not dim.register)
    first = next(level for level in range(n) if len(nest.loop(name, level)) == 1)
    around = list(range(first, n))
    outer = [level for level in around if _moves_write(placed, level)]
    inner = [level for level in around if level not in outer]
    orders = [around, [*outer, *inner]]
    if len(outer) > 1:
        orders.append([*outer[:-2], outer[-1], outer[-2], *inner])
    seen: list[list[int]] = []
    for order in orders:
        if order not in seen:
            seen.append(order)
            yield tuple(_reordering(name, around, order))


def _reordering(name: str, levels: list[int], wanted: list[int]) -> Iterator[Interchange]:
    """Exchanges that bring the loops into an order."""
    now = list(levels)
    for at, loop in enumerate(wanted):
        place = now.index(loop)
        if place != at:
            yield Interchange(name, levels[at], levels[place])
            now[at], now[place] = now[place], now[at]


def _moves_write(placed: Placed, level: int) -> bool:
    moves = direction(placed, _whole(placed, level))
    return any(
        sum(factor * moves.get(it, 0) for it, factor in index.terms)
        for index in placed.statement.write.index
    )


def _whole(placed: Placed, level: int) -> int:
    """The loop over single iterations that a loop counts tiles of; itself if it counts none."""
    wanted = placed.dims[level].expression
    return next(at for at, d in enumerate(placed.dims) if d.expression == wanted and d.divisor == 1)


KINDS: dict[Space, tuple[Kind, ...]] = {
    "paper": (fusions, interchanges, tilings, unrollings),
    "extended": (
        inlinings,
        shifted_fusions,
        register_tiles,
        distributions,
        rotations,
        register_tiles,
        skewed_tilings,
        vectors,
        unrollings,
    ),
}


def by_work(program: Program, least: float = 0.01) -> list[str]:
    """Statements by the accesses they make, most first, counted in the box around each domain.

    least: those below this share of the most are left out
    """
    work: dict[str, float] = {}
    for statement in program.statements:
        domain = isl.Set(f"{{ {domain_text(statement)} }}")
        total = 1.0 + len(statement.reads)
        for at in range(len(statement.loops)):
            if not domain.is_empty():
                low, high = domain.dim_min_val(at), domain.dim_max_val(at)
                total *= high.to_python() - low.to_python() + 1
        work[statement.name] = total
    most = max(work.values(), default=0.0)
    return sorted((n for n in work if work[n] >= least * most), key=lambda n: -work[n])


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


def _packs(program: Program, nest: Nest, name: str) -> Iterator[Pack]:
    """Copies of what is read again by the loop just inside them."""
    placed = nest.find(name)
    written = placed.statement.write.array
    reads = [r for r in dict.fromkeys(placed.statement.reads) if r.index and r.array != written]
    if not reads:
        return
    n = sum(1 for dim in placed.dims if not dim.register)
    moves = {
        level: direction(placed, _whole(placed, level))
        for level in range(1, n)
        if len(nest.loop(name, level)) == 1
    }
    for read in reads:
        for level, move in moves.items():
            if stride_along(program, read, move) == 0:
                yield Pack(name, read.array, level)
