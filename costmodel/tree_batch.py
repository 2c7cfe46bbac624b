"""Trees of any shapes as one batch: loops of equal height are computed together.

The authors batch only trees of one shape, which leaves most batches small. Here the loops of all
trees are numbered by height (a loop without loops inside has height 0), so a batch needs at most
two recurrent calls for each height, however many shapes are in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costmodel.features import Tree


@attrs.frozen(eq=False)
class Children:
    """Sequences of children, of the loops of one height that have any.

    rows:    (m,) int64, which loops of this height
    index:   (m, longest) int64, rows of the children; 0 behind the end
    lengths: (m,) int64 on the CPU, at least 1
    """

    rows: Tensor
    index: Tensor
    lengths: Tensor


@attrs.frozen(eq=False)
class Level:
    """The loops of one height.

    loops: (n,) int64, rows of TreeBatch.loops
    comps: children among TreeBatch.comps;  inner: among the loops of all lower heights, numbered
           in the order they are computed
    """

    loops: Tensor
    comps: Children | None
    inner: Children | None


@attrs.frozen(eq=False)
class TreeBatch:
    """B trees side by side.

    loops: (L, 16) float32;  comps: (C, F) float32
    comp_tree, loop_tree: (C,) and (L,) int64, the tree each row is of
    roots: (B,) int64, in the order loops are computed
    """

    loops: Tensor
    comps: Tensor
    levels: tuple[Level, ...]
    roots: Tensor
    comp_tree: Tensor
    loop_tree: Tensor

    def __len__(self) -> int:
        return len(self.roots)


def collate(trees: Sequence[Tree]) -> TreeBatch:
    """The batch of trees, in order. Raises ValueError if there is none."""
    forest = _Forest()
    for number, tree in enumerate(trees):
        first_loop, first_comp = len(forest.loops), len(forest.comps)
        forest.comps += list(tree.comps)
        forest.comp_tree += [number] * len(tree.comps)
        for row in tree.post_order:
            inner = tuple(first_loop + child for child in tree.child_loops[row])
            own = tuple(first_comp + child for child in tree.child_comps[row])
            forest.add(tree.loops[row], inner, own, number)
        forest.roots.append(first_loop + tree.root)
    return forest.batch()


def collate_shared(trees: Sequence[Tree]) -> TreeBatch:
    """The same with equal parts of the trees there once: a model computes them once.

    Candidates of a search differ from each other in one statement, mostly. comp_tree and loop_tree
    name the first of the trees that share a row.
    """
    forest = _Forest()
    comps: dict[bytes, int] = {}
    loops: dict[tuple[bytes, tuple[int, ...], tuple[int, ...]], int] = {}
    for number, tree in enumerate(trees):
        comp_at = []
        for comp in tree.comps:
            at = comps.setdefault(comp.tobytes(), len(comps))
            if at == len(forest.comps):
                forest.comps.append(comp)
                forest.comp_tree.append(number)
            comp_at.append(at)
        loop_at: list[int] = []
        for row in tree.post_order:
            inner = tuple(loop_at[child] for child in tree.child_loops[row])
            own = tuple(comp_at[child] for child in tree.child_comps[row])
            at = loops.setdefault((tree.loops[row].tobytes(), inner, own), len(loops))
            if at == len(forest.loops):
                forest.add(tree.loops[row], inner, own, number)
            loop_at.append(at)
        forest.roots.append(loop_at[tree.root])
    return forest.batch()


@attrs.define
class _Forest:
    """Loops and statements of many trees, children before their parents."""

    loops: list[NDArray[np.float32]] = attrs.field(factory=list)
    comps: list[NDArray[np.float32]] = attrs.field(factory=list)
    child_loops: list[tuple[int, ...]] = attrs.field(factory=list)
    child_comps: list[tuple[int, ...]] = attrs.field(factory=list)
    heights: list[int] = attrs.field(factory=list)
    roots: list[int] = attrs.field(factory=list)
    comp_tree: list[int] = attrs.field(factory=list)
    loop_tree: list[int] = attrs.field(factory=list)

    def add(
        self, loop: NDArray[np.float32], inner: tuple[int, ...], own: tuple[int, ...], tree: int
    ) -> None:
        self.loops.append(loop)
        self.child_loops.append(inner)
        self.child_comps.append(own)
        self.heights.append(1 + max((self.heights[child] for child in inner), default=-1))
        self.loop_tree.append(tree)

    def batch(self) -> TreeBatch:
        if not self.roots:
            raise ValueError("a batch needs at least one tree")
        heights = np.array(self.heights)
        order = np.argsort(heights, kind="stable")
        computed = np.empty(len(order), dtype=np.int64)
        computed[order] = np.arange(len(order))
        levels = tuple(
            Level(
                torch.from_numpy(members),
                _children([self.child_comps[row] for row in members]),
                _children([computed[list(self.child_loops[row])].tolist() for row in members]),
            )
            for members in np.split(order, np.cumsum(np.bincount(heights))[:-1])
        )
        return TreeBatch(
            torch.from_numpy(np.stack(self.loops).astype(np.float32)),
            torch.from_numpy(np.stack(self.comps).astype(np.float32)),
            levels,
            torch.from_numpy(computed[self.roots]),
            torch.tensor(self.comp_tree),
            torch.tensor(self.loop_tree),
        )


def _children(sequences: Sequence[Sequence[int]]) -> Children | None:
    rows = [row for row, sequence in enumerate(sequences) if len(sequence)]
    if not rows:
        return None
    lengths = [len(sequences[row]) for row in rows]
    index = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for place, row in enumerate(rows):
        index[place, : lengths[place]] = sequences[row]
    return Children(torch.tensor(rows), torch.from_numpy(index), torch.tensor(lengths))
