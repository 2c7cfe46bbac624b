"""What a model sees of a scheduled program: a tree with a vector for each loop and statement.

The tree is costmodel.nest_tree's. Two representations differ in the statements' vectors:

    paper    2534 numbers as in the paper's section on program characterization, positions in
             costmodel.paper_vector; it tells the paper's transformations apart (fusion,
             interchange, tiling, unrolling) and no others
    compact  fewer numbers that say more: strides in place of matrices, and the nest itself, loop
             by loop, so that every step of the extended space shows (costmodel.compact_vector)

Neither depends on the names of arrays, iterators or the program.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import compact_vector, loop_vector, paper_vector
from costmodel.errors import UnsupportedProgram
from costmodel.feature_limits import MAX_ACCESSES, MAX_DEPTH, accesses_of, numbered
from costmodel.ir import Program
from costmodel.nest_tree import Leaf, Node, nest_tree
from costmodel.schedule import ScheduledProgram

Representation = Literal["paper", "compact"]

#: Goes up with any change of what a position means; checkpoints and feature caches carry it.
FEATURE_VERSION = 2

LOOP_SIZE = loop_vector.SIZE
COMP_SIZES: dict[str, int] = {"paper": paper_vector.SIZE, "compact": compact_vector.SIZE}


@attrs.frozen(eq=False)
class Tree:
    """One scheduled program as a model reads it.

    loops:       (L, 16) float32, a row a loop; children stand before their parents, the root last
    comps:       (C, F) float32, a row a statement, in the order they run
    child_loops: of each loop, rows of the loops directly inside, in order
    child_comps: of each loop, rows of the statements directly inside, in order
    """

    loops: NDArray[np.float32]
    comps: NDArray[np.float32]
    child_loops: tuple[tuple[int, ...], ...]
    child_comps: tuple[tuple[int, ...], ...]

    @property
    def root(self) -> int:
        return len(self.loops) - 1

    @property
    def post_order(self) -> range:
        """Rows of the loops so that children come before parents."""
        return range(len(self.loops))

    @property
    def shape(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Equal for trees of equal structure."""
        return self.child_loops, self.child_comps

    def equals(self, other: Tree) -> bool:
        return (
            self.shape == other.shape
            and np.array_equal(self.loops, other.loops)
            and np.array_equal(self.comps, other.comps)
        )


def featurize(scheduled: ScheduledProgram, representation: Representation = "paper") -> Tree:
    """The tree of a scheduled program.

    Raises UnsupportedProgram, with the limit and what was met, for more than 7 loops around a
    statement or more than 21 different accesses in it, and for a nest the representation has no
    place for.
    """
    _check(scheduled.program)
    if representation == "paper":
        paper_vector.check(scheduled.nest)
    loops: list[NDArray[np.float32]] = []
    comps: list[NDArray[np.float32]] = []
    child_loops: list[tuple[int, ...]] = []
    child_comps: list[tuple[int, ...]] = []
    buffers = numbered(scheduled.program)
    before: list[Leaf] = []

    def comp(leaf: Leaf, path: tuple[Node, ...]) -> int:
        if representation == "paper":
            row = paper_vector.vector(leaf, path, buffers)
        else:
            row = compact_vector.vector(leaf, before[-1:], scheduled)
        before.append(leaf)
        comps.append(row)
        return len(comps) - 1

    def visit(node: Node, path: tuple[Node, ...]) -> int:
        inside = (*path, node) if node.depth >= 0 else path
        below: tuple[list[int], list[int]] = ([], [])
        for child in node.children:
            if isinstance(child, Node):
                below[0].append(visit(child, inside))
            else:
                below[1].append(comp(child, inside))
        loops.append(loop_vector.vector(node))
        child_loops.append(tuple(below[0]))
        child_comps.append(tuple(below[1]))
        return len(loops) - 1

    visit(nest_tree(scheduled.nest), ())
    size = COMP_SIZES[representation]
    return Tree(
        np.stack(loops),
        np.stack(comps) if comps else np.zeros((0, size), np.float32),
        tuple(child_loops),
        tuple(child_comps),
    )


@lru_cache(maxsize=64)
def _check(program: Program) -> None:
    for statement in program.statements:
        depth = len(statement.loops)
        if depth > MAX_DEPTH:
            raise UnsupportedProgram(
                f"the model reads at most {MAX_DEPTH} loops around a statement, and "
                f"{statement.name} of {program.name} has {depth}"
            )
        n = len(accesses_of(statement))
        if n > MAX_ACCESSES:
            raise UnsupportedProgram(
                f"the model reads at most {MAX_ACCESSES} different accesses of a statement, and "
                f"{statement.name} of {program.name} has {n}"
            )
        for access in accesses_of(statement):
            if len(access.index) > MAX_DEPTH:
                raise UnsupportedProgram(
                    f"the model reads arrays of at most {MAX_DEPTH} dimensions, and "
                    f"{access.array} of {program.name} has {len(access.index)}"
                )
