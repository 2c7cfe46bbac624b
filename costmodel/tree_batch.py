"""Trees of any shapes as one batch: loops of equal height are computed together.

The authors batch only trees of one shape, which leaves most batches small. Here the loops of all
trees are numbered by height (a loop without loops inside has height 0), so a batch needs at most
two recurrent calls for each height, however many shapes are in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costmodel.features import Tree

Indices = NDArray[np.int64]


@attrs.frozen(eq=False)
class Children:
    """Sequences of children, of the loops of one height that have any, longest first.

    rows:   (m,) int64, which loops of this height
    index:  (m, longest) int64, rows of the children; any row behind the end
    active: for each place in the sequences, how many have a child there: the first ones
    """

    rows: Tensor
    index: Tensor
    active: tuple[int, ...]


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


@attrs.frozen(eq=False)
class _Lists:
    """Lists of rows. index: (n, longest) int64, 0 behind the end;  lengths: (n,) int64"""

    index: Indices
    lengths: Indices

    @staticmethod
    def of(lists: Sequence[Sequence[int]]) -> _Lists:
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        index = np.zeros((len(lists), max(1, lengths.max(initial=0))), np.int64)
        places = np.arange(index.shape[1]) < lengths[:, None]
        index[places] = np.fromiter(itertools.chain.from_iterable(lists), np.int64, lengths.sum())
        return _Lists(index, lengths)

    def children(self, rows: Indices) -> Children | None:
        """Those of some rows as a batch has them; None if they are all empty."""
        lengths = self.lengths[rows]
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        if not len(order):
            return None
        longest = int(lengths[order[0]])
        active = (lengths[:, None] > np.arange(longest)).sum(axis=0)
        return Children(
            torch.from_numpy(order),
            torch.from_numpy(self.index[rows[order], :longest]),
            tuple(active.tolist()),
        )


@attrs.frozen(eq=False)
class Forest:
    """Trees side by side, out of which batches are cut without a look at each tree.

    loops: (L, 16) float32;  comps: (C, F) float32;  heights: (L,) int64
    inner, own: of each loop, the loops and the statements directly inside
    roots: (B,) int64, rows of loops
    comp_tree, loop_tree: (C,) and (L,) int64, the tree each row is of
    """

    loops: NDArray[np.float32]
    comps: NDArray[np.float32]
    heights: Indices
    inner: _Lists
    own: _Lists
    roots: Indices
    comp_tree: Indices
    loop_tree: Indices

    @staticmethod
    def of(trees: Sequence[Tree]) -> Forest:
        """Raises ValueError if there is no tree."""
        parts = _Parts()
        for number, tree in enumerate(trees):
            first_loop, first_comp = len(parts.loops), len(parts.comps)
            parts.comps += list(tree.comps)
            parts.comp_tree += [number] * len(tree.comps)
            for row in tree.post_order:
                inner = tuple(first_loop + child for child in tree.child_loops[row])
                own = tuple(first_comp + child for child in tree.child_comps[row])
                parts.add(tree.loops[row], inner, own, number)
            parts.roots.append(first_loop + tree.root)
        return parts.forest()

    @staticmethod
    def shared(trees: Sequence[Tree]) -> Forest:
        """The same with equal parts of the trees there once: a model computes them once.

        Candidates of a search differ from each other in one statement, mostly. comp_tree and
        loop_tree name the first of the trees that share a row. `pick` needs trees of their own.
        """
        parts = _Parts()
        comps: dict[bytes, int] = {}
        loops: dict[tuple[bytes, tuple[int, ...], tuple[int, ...]], int] = {}
        for number, tree in enumerate(trees):
            comp_at = []
            for comp in tree.comps:
                at = comps.setdefault(comp.tobytes(), len(comps))
                if at == len(parts.comps):
                    parts.comps.append(comp)
                    parts.comp_tree.append(number)
                comp_at.append(at)
            loop_at: list[int] = []
            for row in tree.post_order:
                inner = tuple(loop_at[child] for child in tree.child_loops[row])
                own = tuple(comp_at[child] for child in tree.child_comps[row])
                at = loops.setdefault((tree.loops[row].tobytes(), inner, own), len(loops))
                if at == len(parts.loops):
                    parts.add(tree.loops[row], inner, own, number)
                loop_at.append(at)
            parts.roots.append(loop_at[tree.root])
        return parts.forest()

    def pick(self, chosen: Indices) -> Forest:
        """A forest of some of the trees, in the order given."""
        loop_rows, loop_tree, loop_shift = _rows_of(self.loop_tree, len(self.roots), chosen)
        comp_rows, comp_tree, comp_shift = _rows_of(self.comp_tree, len(self.roots), chosen)
        return Forest(
            self.loops[loop_rows],
            self.comps[comp_rows],
            self.heights[loop_rows],
            self._moved(self.inner, loop_rows, loop_shift[loop_tree]),
            self._moved(self.own, loop_rows, comp_shift[loop_tree]),
            self.roots[chosen] + loop_shift,
            comp_tree,
            loop_tree,
        )

    @staticmethod
    def _moved(lists: _Lists, rows: Indices, shift: Indices) -> _Lists:
        lengths = lists.lengths[rows]
        index = lists.index[rows] + shift[:, None]
        index[np.arange(index.shape[1]) >= lengths[:, None]] = 0
        return _Lists(index, lengths)

    def batch(self) -> TreeBatch:
        order = np.argsort(self.heights, kind="stable")
        computed = np.empty_like(order)
        computed[order] = np.arange(len(order))
        inner = _Lists(computed[self.inner.index], self.inner.lengths)
        ends = np.cumsum(np.bincount(self.heights))
        levels = tuple(
            Level(torch.from_numpy(rows), self.own.children(rows), inner.children(rows))
            for rows in np.split(order, ends[:-1])
        )
        return TreeBatch(
            torch.from_numpy(self.loops),
            torch.from_numpy(self.comps),
            levels,
            torch.from_numpy(computed[self.roots]),
            torch.from_numpy(self.comp_tree),
            torch.from_numpy(self.loop_tree),
        )


def _rows_of(tree: Indices, n_trees: int, chosen: Indices) -> tuple[Indices, Indices, Indices]:
    """Rows of the trees chosen, the place of each row's tree among them, and each tree's shift.

    tree: (rows,) in rising order
    """
    starts = np.searchsorted(tree, chosen)
    counts = np.bincount(tree, minlength=n_trees)[chosen]
    place = np.repeat(np.arange(len(chosen)), counts)
    shift = np.cumsum(counts) - counts - starts
    return np.arange(len(place)) - shift[place], place, shift


def collate(trees: Sequence[Tree]) -> TreeBatch:
    """The batch of trees, in order. Raises ValueError if there is none."""
    return Forest.of(trees).batch()


def collate_shared(trees: Sequence[Tree]) -> TreeBatch:
    """The same with equal parts of the trees there once (Forest.shared)."""
    return Forest.shared(trees).batch()


@attrs.define
class _Parts:
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

    def forest(self) -> Forest:
        if not self.roots:
            raise ValueError("a batch needs at least one tree")
        return Forest(
            np.stack(self.loops).astype(np.float32, copy=False),
            np.stack(self.comps).astype(np.float32, copy=False),
            np.array(self.heights, np.int64),
            _Lists.of(self.child_loops),
            _Lists.of(self.child_comps),
            np.array(self.roots, np.int64),
            np.array(self.comp_tree, np.int64),
            np.array(self.loop_tree, np.int64),
        )
