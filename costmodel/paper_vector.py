"""The paper's vector of a statement: 1267 numbers and their logarithms.

    0               1 for a reduction
    1 + 6 d + k     loop of depth d, d < 7, as the program is written:
                    k = 0 upper bound      1 fused or unfused       2 interchanged
                    3 tiled                4 tile size              5 is a dimension of the result
    43 + 58 a + k   access a, a < 21; the write first, then different reads in the text's order:
                    k = 0 array, numbered from 1 by first use
                    1 + 8 r + c            row r of the access matrix: the coefficient of loop c,
                                           c < 7, and the constant at c = 7
                    57                     the read of the result that makes it a reduction
    1261 .. 1264    additions, subtractions, multiplications, divisions
    1265, 1266      unrolled, unroll factor
    1267 + i        sign(x) log(1 + |x|) of number i

The paper's tags are yes or no where it allows one interchange and one tiling a program. Here a tag
that is not 0 also says which, so that no schedule of several steps looks like another:

    fused or unfused  1 + the place in the loop's body of what leads to this statement, where other
                      statements stand in the loop than in the program's text
    interchanged      1 + the loop's position in the nest, loops over tiles not counted
    tiled             1 + the level of the loop over tiles in the nest (a second one times 16)
    tile size         iterations a tile (a second one times 4096)

What the paper's transformations cannot make is not seen: skewing, reversal, shifting, vectors,
threads, register tiles, buffers. Neither are element types, guards and lower bounds of loops that
begin elsewhere than their tree node.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from costmodel import loop_vector
from costmodel.errors import UnsupportedProgram
from costmodel.extents import extents
from costmodel.feature_limits import (
    MAX_ACCESSES,
    MAX_DEPTH,
    accesses_of,
    op_counts,
    signed_log,
)
from costmodel.nest import Nest
from costmodel.nest_tree import Leaf, Node, common_levels, loop_tags
from costmodel.poly import reduction_op

LOOPS = 1
PER_LOOP = 6
ACCESSES = LOOPS + PER_LOOP * MAX_DEPTH  # 43
COLUMNS = MAX_DEPTH + 1
PER_ACCESS = 2 + MAX_DEPTH * COLUMNS  # 58
COUNTS = ACCESSES + PER_ACCESS * MAX_ACCESSES  # 1261
UNROLL = COUNTS + 4
N_VALUES = UNROLL + 2  # 1267
SIZE = 2 * N_VALUES


def vector(leaf: Leaf, path: tuple[Node, ...], buffers: Mapping[str, int]) -> NDArray[np.float32]:
    """(2534,) float32; path: the loops of the tree around the statement, outermost first."""
    statement = leaf.placed.statement
    values = np.zeros(N_VALUES)
    is_reduction = reduction_op(statement) is not None
    values[0] = is_reduction
    bounds = extents(statement)
    below: list[Node | Leaf] = [*path[1:], leaf]
    for depth, (tags, node) in enumerate(zip(leaf.tags, path, strict=True)):
        values[LOOPS + PER_LOOP * depth :][:PER_LOOP] = (
            bounds[tags.iterator].high,
            1 + below[depth].place if node.is_changed else 0,
            loop_vector.moved(tags),
            loop_vector.tile_level(tags),
            loop_vector.tile_size(tags),
            any(tags.iterator in index.names for index in statement.write.index),
        )
    for number, access in enumerate(accesses_of(statement)):
        part = values[ACCESSES + PER_ACCESS * number :][:PER_ACCESS]
        part[0] = buffers[access.array]
        matrix = part[1:-1].reshape(MAX_DEPTH, COLUMNS)
        for row, index in enumerate(access.index):
            for column, iterator in enumerate(statement.iterators):
                matrix[row, column] = index.factor(iterator)
            matrix[row, -1] = index.const
        part[-1] = number > 0 and is_reduction and access == statement.write
    counts = op_counts(statement.computation.expr)
    values[COUNTS:UNROLL] = [counts[op] for op in "+-*/"]
    unroll = leaf.placed.dims[-1].unroll if leaf.placed.dims else 0
    values[UNROLL:] = unroll > 0, unroll
    return np.concatenate([values.astype(np.float32), signed_log(values)])


def check(nest: Nest) -> None:
    """Raise UnsupportedProgram for a nest that the paper's transformations cannot lead to.

    They are taken in the order fusion, interchange, tiling, unrolling, so statements share whole
    loops of the program from the outside in, and the loops over tiles of just these.
    """
    order = sorted(nest.placed, key=lambda p: p.order)
    for placed in order:
        for tags in loop_tags(placed):
            most = max((size for _, size in tags.tiles), default=0)
            if len(tags.tiles) > 2 or most >= loop_vector.SIZES:
                raise UnsupportedProgram(
                    f"the paper's representation has room for two loops over tiles of fewer than "
                    f"{loop_vector.SIZES} iterations, and loop {tags.depth} around {placed.name} "
                    f"has {len(tags.tiles)} of up to {most}: use 'compact'"
                )
        if len(placed.dims) >= loop_vector.LEVELS:
            raise UnsupportedProgram(
                f"the paper's representation has room for {loop_vector.LEVELS - 1} loops around a "
                f"statement after tiling, and {placed.name} has {len(placed.dims)}: use 'compact'"
            )
    for before, after in itertools.pairwise(order):
        common = common_levels(before, after)
        for placed in (before, after):
            shared = [
                tags.level < common and all(level < common for level, _ in tags.tiles)
                for tags in loop_tags(placed)
            ]
            apart = [
                tags.level >= common and all(level >= common for level, _ in tags.tiles)
                for tags in loop_tags(placed)
            ]
            n = sum(shared)
            if not all(shared[:n]) or not all(apart[n:]):
                raise UnsupportedProgram(
                    f"the paper's representation has no place for {before.name} and {after.name} "
                    f"sharing {common} loops of a nest that was interchanged or tiled before it "
                    "was fused: use 'compact'"
                )
