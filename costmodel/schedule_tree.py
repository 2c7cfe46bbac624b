"""A nest as isl's schedule tree: bands of loops, and sequences where statements part.

isl makes code from a tree several times faster than from a flat map of places in time, since it
need not find out again what the order of siblings is.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import islpy as isl

from costmodel.nest import Placed
from costmodel.poly import space_text

Order = tuple[tuple[int, int], ...]


@attrs.frozen
class Leaf:
    """One kind of call in the code to make.

    space: isl's text of its tuple, `S0[i, j]`
    dims:  loops around it, as isl's text in the variables of the tuple
    order: as in Placed; a pair a number, the second one parts what was one statement
    """

    space: str
    dims: tuple[str, ...]
    order: Order

    @staticmethod
    def of(placed: Placed) -> Leaf:
        return Leaf(space_text(placed.statement), tuple(map(str, placed.dims)), pairs(placed.order))


def pairs(order: Sequence[int], part: int = 0) -> Order:
    """The order with this part at its end."""
    return (*((number, 0) for number in order[:-1]), (order[-1], part))


def schedule_tree(leaves: Sequence[Leaf], domains: isl.UnionSet) -> isl.Schedule:
    """The tree; loop l of a leaf is the l-th band on the way to it."""
    root = isl.Schedule.from_domain(domains).get_root()
    return _grow(root.get_child(0), leaves, 0).get_schedule()


def level_of(mark: isl.Id) -> int:
    """The level of the loop under a mark."""
    return int(mark.get_name())


def _grow(node: isl.ScheduleNode, leaves: Sequence[Leaf], level: int) -> isl.ScheduleNode:
    """Put leaves whose loops before this level are in common in the place of a node."""
    groups: dict[tuple[int, int], list[Leaf]] = {}
    for leaf in sorted(leaves, key=lambda leaf: leaf.order[level]):
        groups.setdefault(leaf.order[level], []).append(leaf)
    if len(groups) == 1:
        return _grow_loops(node, leaves, level)
    filters = isl.UnionSetList.alloc(isl.DEFAULT_CONTEXT, len(groups))
    for group in groups.values():
        filters = filters.add(isl.UnionSet(f"{{ {'; '.join(leaf.space for leaf in group)} }}"))
    node = node.insert_sequence(filters)
    for at, group in enumerate(groups.values()):
        node = _grow_loops(node.get_child(at).get_child(0), group, level).ancestor(2)
    return node


def _grow_loops(node: isl.ScheduleNode, leaves: Sequence[Leaf], level: int) -> isl.ScheduleNode:
    """The same for leaves that share the loop at this level, or one leaf alone.

    Each band has one loop and a mark with its level around it.
    """
    n_nodes = 0
    while len(leaves[0].dims) > level:
        loop = "; ".join(f"{leaf.space} -> [{leaf.dims[level]}]" for leaf in leaves)
        node = node.insert_partial_schedule(isl.MultiUnionPwAff(f"[{{ {loop} }}]"))
        node = node.insert_mark(isl.Id(str(level))).get_child(0).get_child(0)
        n_nodes, level = n_nodes + 2, level + 1
        if len({leaf.order[level] for leaf in leaves}) > 1:
            break
    if len(leaves) > 1:
        node = _grow(node, leaves, level)
    return node.ancestor(n_nodes)
