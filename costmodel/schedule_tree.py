"""A nest as isl's schedule tree: bands of loops, and sequences where statements part.

isl makes code from a tree several times faster than from a flat map of places in time, since it
need not find out again what the order of siblings is.
"""

from __future__ import annotations

from collections.abc import Sequence

import islpy as isl

from costmodel.nest import Dim, Nest, Placed
from costmodel.poly import space_text


def schedule_tree(nest: Nest, domains: isl.UnionSet) -> isl.Schedule:
    """The tree; loop l of a statement is the l-th band member on the way to it."""
    child = _node(nest.placed, 0)
    text = f', child: {child}' if child else ""
    return isl.Schedule(f'{{ domain: "{domains}"{text} }}')


def _node(members: Sequence[Placed], level: int) -> str:
    """The tree of statements whose loops before this level are in common; "" for none."""
    groups: dict[int, list[Placed]] = {}
    for p in sorted(members, key=lambda p: p.order[level]):
        groups.setdefault(p.order[level], []).append(p)
    if len(groups) > 1:
        parts = [_filter(group, _group(group, level)) for group in groups.values()]
        return f"{{ sequence: [ {', '.join(parts)} ] }}"
    return _group(members, level)


def _group(members: Sequence[Placed], level: int) -> str:
    """The tree of statements that share the loop at this level, or of one statement alone."""
    band: list[str] = []
    while len(members[0].dims) > level:
        dims = [p.dims[level] for p in members]
        band.append(_loop(members, dims))
        level += 1
        if len({p.order[level] for p in members}) > 1:
            break
    inside = ""
    if len(members) > 1:
        inside = _node(members, level)
    if not band:
        return inside
    child = f', child: {inside}' if inside else ""
    return f'{{ schedule: "[{", ".join(band)}]"{child} }}'


def _loop(members: Sequence[Placed], dims: Sequence[Dim]) -> str:
    parts = (
        f"{space_text(p.statement)} -> [{dim}]" for p, dim in zip(members, dims, strict=True)
    )
    return "{ " + "; ".join(parts) + " }"


def _filter(members: Sequence[Placed], child: str) -> str:
    spaces = "; ".join(space_text(p.statement) for p in members)
    text = f', child: {child}' if child else ""
    return f'{{ filter: "{{ {spaces} }}"{text} }}'
