"""Blocks of unrolled recursion: nodes renumbered so that a subtree of a block is contiguous.

The native linearizer numbers so at once; this is the same in NumPy, for where there is no compiler.
"""

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from cortex.forest import IntArray
from cortex.linearize import Linear


def into_blocks(linear: Linear, depth: int) -> Linear:
    """The structure numbered by blocks of `depth` heights; of trees only.

    Block b holds the heights b * depth + 1 .. (b + 1) * depth. Its nodes fall into super nodes:
    a node whose parent is in another block, with all below it that are in this one. The nodes of a
    super node are contiguous, children first. Leaves keep their numbers; a level of the result is
    a block.

    Raises ValueError for nodes with several parents: they would belong to several super nodes.
    """
    n, first = linear.n_nodes, linear.n_leaves
    height = np.repeat(np.arange(linear.n_levels), np.diff(linear.level_ptr))
    block = (height[first:] - 1) // depth
    parent = np.full(n, -1, np.int64)
    if linear.child is not None:
        for row in linear.child:
            parent[row] = np.arange(first, n)
    else:
        assert linear.child_ptr is not None
        assert linear.child_at is not None
        parent[linear.child_at] = np.repeat(np.arange(first, n), np.diff(linear.child_ptr))
    edges_of = linear.child_at if linear.child is None else linear.child
    assert edges_of is not None
    if (parent >= 0).sum() != edges_of.size:
        raise ValueError("blocks need a tree, got nodes with several parents: use a depth of 1")
    # The top of each node's super node: up by parents of the same block, twice as far each time.
    up = np.maximum(parent[first:] - first, 0)
    inside = (parent[first:] >= 0) & (block[up] == block) if len(block) else up < 0
    top = np.where(inside, up, np.arange(n - first))
    while len(top) and ((further := top[top]) != top).any():
        top = further
    top += first
    sequence = np.lexsort((height[first:], top, block))  # new inner node -> old, less the leaves
    old = np.concatenate([np.arange(first), sequence + first])
    new = np.empty(n, np.int64)
    new[old] = np.arange(n)
    block, top = block[sequence], top[sequence]
    starts = np.flatnonzero(np.diff(top, prepend=-1))
    n_blocks = int(block[-1]) + 1 if len(block) else 0
    level_ptr = first + np.searchsorted(block, np.arange(n_blocks + 1))
    child, child_ptr, child_at = linear.child, None, None
    if child is not None:
        child = _ints(new[child[:, sequence]])
    elif linear.child_ptr is not None and linear.child_at is not None:
        counts = np.diff(linear.child_ptr)[sequence]
        ends = np.cumsum(counts)
        child_ptr = _ints(np.concatenate([[0], ends]))
        begin = linear.child_ptr[:-1][sequence]
        edges = np.arange(len(linear.child_at)) + np.repeat(begin - (ends - counts), counts)
        child_at = _ints(new[linear.child_at[edges]])
    return attrs.evolve(
        linear,
        n_levels=n_blocks + 1 if n else 0,
        order=_ints(linear.order[old]),
        id_of=_ints(new[linear.id_of]),
        level_ptr=_ints(np.concatenate([[0], level_ptr]) if n else level_ptr),
        kind_ptr=None,
        child=child,
        child_ptr=child_ptr,
        child_at=child_at,
        token=_ints(linear.token[old]),
        roots=_ints(new[linear.roots]),
        features=None if linear.features is None else linear.features[old],
        block_ptr=_ints(np.searchsorted(block[starts], np.arange(n_blocks + 1))),
        super_ptr=_ints(np.concatenate([starts + first, [n]])),
        memory=np.empty(0, np.int32),
    )


def _ints(values: npt.NDArray[Any]) -> IntArray:
    found: IntArray = np.ascontiguousarray(values, np.int32)
    found.flags.writeable = False
    return found
