"""The vector of a loop of the tree: 8 numbers, then their logarithms, log(1 + x) with x's sign.

    0  upper bound, the largest it gets            4  tiled: levels of its tile loops, 0 for none
    1  lower bound, the least it gets              5  tile size
    2  fused or unfused                            6  unrolled
    3  interchanged: 1 + its new position, or 0    7  unroll factor

2 is 0 where the same statements in the same order stand in the loop as in the program's text, else
1 + the loop's place among its siblings, which tells `a; for b` from `for b; a`. 4 and 5 are as in
costmodel.paper_vector. Loops joined by fusion may differ: bounds are then those that hold all, tags
those of the first statement inside. A root above several nests is all zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodel.extents import extents
from costmodel.feature_limits import signed_log
from costmodel.nest_tree import LoopTags, Node

SIZE = 16
LEVELS = 16  # a digit of tile_level
SIZES = 4096  # a digit of tile_size


def vector(node: Node) -> NDArray[np.float32]:
    """(16,) float32."""
    values = np.zeros(SIZE // 2)
    if node.depth >= 0:
        bounds = [
            extents(leaf.placed.statement)[leaf.tags[node.depth].iterator] for leaf in node.leaves
        ]
        tags = node.leaves[0].tags[node.depth]
        values[:] = (
            max(b.high for b in bounds),
            min(b.low for b in bounds),
            fused(node),
            moved(tags),
            tile_level(tags),
            tile_size(tags),
            tags.dim.unroll > 0,
            tags.dim.unroll,
        )
    return np.concatenate([values.astype(np.float32), signed_log(values)])


def fused(node: Node) -> int:
    return 1 + node.place if node.is_changed else 0


def moved(tags: LoopTags) -> int:
    return 1 + tags.position if tags.is_moved else 0


def tile_level(tags: LoopTags) -> int:
    """1 + the level of the loop over tiles; a second one is the next digit in base 16."""
    return sum((1 + level) * LEVELS**place for place, (level, _) in enumerate(tags.tiles))


def tile_size(tags: LoopTags) -> int:
    """Iterations a tile; the size of a second tile loop is the next digit in base 4096."""
    return sum(size * SIZES**place for place, (_, size) in enumerate(tags.tiles))
