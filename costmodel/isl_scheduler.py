"""isl's own scheduler as a peer: the algorithm of Pluto, then tiles of 32 on permutable bands.

Bondhugula et al. 2008; Verdoolaege and Janssens 2017. It knows no machine: it makes dependences
short and loops permutable.
"""

from __future__ import annotations

import subprocess
import sys

import islpy as isl

from costmodel.codegen import c_function_of_tree
from costmodel.errors import UnsupportedProgram
from costmodel.ir import Program
from costmodel.poly import polyhedral

TILE = 32


def isl_scheduled(
    program: Program,
    name: str,
    *,
    tile: int = TILE,
    fuse: bool = True,
    timeout_s: float = 20.0,
) -> str:
    """The program as one C function in the order isl's scheduler finds.

    tile: size of the tiles of permutable bands of two loops and more; 0 leaves them whole
    fuse: whether statements that do not depend on one another in a circle may share loops

    Raises UnsupportedProgram where isl takes longer than timeout_s: dozens of statements can take
    it hours, and nothing but the end of its process stops it.
    """
    words = [sys.executable, "-m", "costmodel.isl_scheduler", name, str(tile), str(int(fuse))]
    try:
        run = subprocess.run(
            words, input=str(program), capture_output=True, text=True, timeout=timeout_s, check=True
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedProgram(
            f"isl's scheduler found no order for {program.name} within {timeout_s:g} s"
        ) from None
    return run.stdout


def scheduled_here(program: Program, name: str, tile: int, fuse: bool) -> str:
    """`isl_scheduled` in this process, for as long as it takes."""
    poly = polyhedral(program)
    constraints = isl.ScheduleConstraints.on_domain(poly.domains)
    constraints = constraints.set_validity(poly.dependences).set_proximity(poly.dependences)
    isl.DEFAULT_CONTEXT.set_schedule_serialize_sccs(int(not fuse))
    tree = constraints.compute_schedule()
    if tile:
        tree = _tiled(tree.get_root(), tile).get_schedule()
    return c_function_of_tree(program, tree, name)


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


if __name__ == "__main__":
    _, name, tile, fuse = sys.argv
    print(scheduled_here(Program.parse(sys.stdin.read()), name, int(tile), fuse == "1"))
