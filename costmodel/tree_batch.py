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
    if not trees:
        raise ValueError("a batch needs at least one tree")
    loop_at = np.cumsum([0, *(len(tree.loops) for tree in trees)])
    comp_at = np.cumsum([0, *(len(tree.comps) for tree in trees)])
    by_height: list[list[tuple[int, tuple[int, ...], tuple[int, ...]]]] = []
    roots = [int(at) + tree.root for at, tree in zip(loop_at, trees, strict=False)]
    for tree, first_loop, first_comp in zip(trees, loop_at, comp_at, strict=False):
        heights = _heights(tree)
        for row, height in enumerate(heights):
            while len(by_height) <= height:
                by_height.append([])
            by_height[height].append(
                (
                    int(first_loop) + row,
                    tuple(int(first_comp) + child for child in tree.child_comps[row]),
                    tuple(int(first_loop) + child for child in tree.child_loops[row]),
                )
            )
    computed = np.empty(int(loop_at[-1]), dtype=np.int64)
    order = [loop for level in by_height for loop, _, _ in level]
    computed[order] = np.arange(len(order))
    levels = tuple(
        Level(
            torch.tensor([loop for loop, _, _ in level]),
            _children([comps for _, comps, _ in level]),
            _children([computed[list(inner)].tolist() for _, _, inner in level]),
        )
        for level in by_height
    )
    return TreeBatch(
        torch.from_numpy(np.concatenate([tree.loops for tree in trees]).astype(np.float32)),
        torch.from_numpy(np.concatenate([tree.comps for tree in trees]).astype(np.float32)),
        levels,
        torch.from_numpy(computed[roots]),
        torch.from_numpy(_owner(comp_at)),
        torch.from_numpy(_owner(loop_at)),
    )


def _owner(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _heights(tree: Tree) -> list[int]:
    heights: list[int] = []
    for row in tree.post_order:
        heights.append(1 + max((heights[child] for child in tree.child_loops[row]), default=-1))
    return heights


def _children(sequences: Sequence[Sequence[int]]) -> Children | None:
    rows = [row for row, sequence in enumerate(sequences) if len(sequence)]
    if not rows:
        return None
    lengths = [len(sequences[row]) for row in rows]
    index = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    for place, row in enumerate(rows):
        index[place, : lengths[place]] = sequences[row]
    return Children(torch.tensor(rows), torch.from_numpy(index), torch.tensor(lengths))
