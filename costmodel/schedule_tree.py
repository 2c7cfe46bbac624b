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
    return isl.Schedule(f'{{ domain: "{domains}"{_child(_node(leaves, 0))} }}')


def _node(leaves: Sequence[Leaf], level: int) -> str:
    """The tree of leaves whose loops before this level are in common; "" for none."""
    groups: dict[tuple[int, int], list[Leaf]] = {}
    for leaf in sorted(leaves, key=lambda leaf: leaf.order[level]):
        groups.setdefault(leaf.order[level], []).append(leaf)
    if len(groups) == 1:
        return _group(leaves, level)
    parts = (
        f'{{ filter: "{{ {"; ".join(leaf.space for leaf in group)} }}"'
        f"{_child(_group(group, level))} }}"
        for group in groups.values()
    )
    return f"{{ sequence: [ {', '.join(parts)} ] }}"


def _group(leaves: Sequence[Leaf], level: int) -> str:
    """The tree of leaves that share the loop at this level, or of one leaf alone.

    Each band has one loop and a mark with its level around it.
    """
    bands: list[str] = []
    while len(leaves[0].dims) > level:
        loop = "; ".join(f"{leaf.space} -> [{leaf.dims[level]}]" for leaf in leaves)
        bands.append(f'{{ mark: "{level}", child: {{ schedule: "[{{ {loop} }}]"')
        level += 1
        if len({leaf.order[level] for leaf in leaves}) > 1:
            break
    inside = _node(leaves, level) if len(leaves) > 1 else ""
    for band in reversed(bands):
        inside = f"{band}{_child(inside)} }} }}"
    return inside


def level_of(mark: isl.Id) -> int:
    """The level of the loop under a mark."""
    return int(mark.get_name())


def _child(text: str) -> str:
    return f", child: {text}" if text else ""
