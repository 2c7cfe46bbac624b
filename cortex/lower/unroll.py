"""Unrolling: a block of several heights is computed subtree by subtree, one barrier a block."""

import attrs

from cortex import ilir as il
from cortex.lower.part import Emitter, Part
from cortex.lower.tile import Tiling, row_partition


def block_loop(part: Part, columns: int, emitter: Emitter) -> il.Stmt:
    """Blocks in turn, their super nodes in parallel, the nodes of one in turn, children first."""
    supers = (il.Var("top"),)
    begin, end = il.Call("super_begin", supers), il.Call("super_end", supers)
    # One row a tile: a node's parent is the next but few.
    cells = row_partition(attrs.evolve(part, begin=begin, end=end), Tiling(1, columns), emitter)
    assert isinstance(cells, il.For)
    cells = attrs.evolve(cells, kind="serial")
    first, last = (il.Call(fn, (il.Var("b"),)) for fn in ("block_begin", "block_end"))
    shared_out = il.For("top", first, il.sub(last, first), cells, "parallel", "super")
    return il.For("b", il.Int(0), il.Call("n_blocks"), shared_out, "serial", "block")
