"""isl's own scheduler as a peer: the algorithm of Pluto, then tiles of 32 on permutable bands.

Bondhugula et al. 2008; Verdoolaege and Janssens 2017. It knows no machine: it makes dependences
short and loops permutable.
"""

from __future__ import annotations

import islpy as isl

from costmodel.codegen import c_function_of_tree
from costmodel.errors import UnsupportedProgram
from costmodel.ir import Program
from costmodel.poly import polyhedral

TILE = 32
MAX_OPERATIONS = 20_000_000  # of isl: programs of dozens of statements take hours


def isl_scheduled(program: Program, name: str, *, tile: int = TILE) -> str:
    """The program as one C function in the order isl's scheduler finds.

    Raises UnsupportedProgram where isl takes too long.

    tile: size of the tiles of permutable bands of two loops and more; 0 leaves them whole
    """
    poly = polyhedral(program)
    constraints = isl.ScheduleConstraints.on_domain(poly.domains)
    constraints = constraints.set_validity(poly.dependences).set_proximity(poly.dependences)
    tree = _computed(constraints)
    if tile:
        tree = _tiled(tree.get_root(), tile).get_schedule()
    return c_function_of_tree(program, tree, name)


def _computed(constraints: isl.ScheduleConstraints) -> isl.Schedule:
    context = isl.DEFAULT_CONTEXT
    context.reset_operations()
    context.set_max_operations(MAX_OPERATIONS)
    try:
        return constraints.compute_schedule()
    except isl.Error:
        raise UnsupportedProgram(
            f"isl's scheduler found no order within {MAX_OPERATIONS} operations"
        ) from None
    finally:
        context.set_max_operations(0)


def _tiled(node: isl.ScheduleNode, tile: int) -> isl.ScheduleNode:
    """The node with all permutable bands at and under it tiled."""
    if (
        str(node.get_type()).endswith(".band")
        and node.band_n_member() > 1
        and node.band_get_permutable()
    ):
        space = node.band_get_space()
        sizes = isl.MultiVal.zero(space)
        for member in range(node.band_n_member()):
            sizes = sizes.set_val(member, isl.Val(tile))
        node = node.band_tile(sizes).child(0)
        below = _children(node, tile)
        return below.parent()
    return _children(node, tile)


def _children(node: isl.ScheduleNode, tile: int) -> isl.ScheduleNode:
    for at in range(node.n_children()):
        node = _tiled(node.child(at), tile).parent()
    return node
