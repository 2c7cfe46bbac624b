"""The tree a model reads: the program's own loops, joined as the scheduled nest joins them.

Loops keep the order of the program's text, as in the paper (section on program characterization);
what a schedule did to them is said by tags. Only fusion changes the tree itself. Everything here
is read off the nest that code is generated from, never off the list of steps: tags kept beside the
code are how a model comes to score another program than the one that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import attrs

from costmodel.ir import Loop
from costmodel.nest import Dim, Nest, Placed


@attrs.frozen
class LoopTags:
    """What a nest did to one of a statement's own loops.

    level:    of the loop over single iterations, in the nest
    position: of that loop among those over single iterations; its depth if nothing moved it
    tiles:    (level, size) of each loop over tiles of it, outermost first
    """

    iterator: str
    depth: int
    level: int
    position: int
    tiles: tuple[tuple[int, int], ...]
    dim: Dim

    @property
    def is_moved(self) -> bool:
        return self.position != self.depth


@lru_cache(maxsize=4096)
def loop_tags(placed: Placed) -> tuple[LoopTags, ...]:
    """Of each loop of the statement, in the order of the program's text."""
    owners = owners_of(placed)
    levels = [level for level, dim in enumerate(placed.dims) if dim.divisor == 1]
    found = []
    for depth, iterator in enumerate(placed.statement.iterators):
        level = next(at for at in levels if owners[at] == depth)
        tiles = tuple(
            (at, dim.divisor)
            for at, dim in enumerate(placed.dims)
            if dim.divisor != 1 and owners[at] == depth
        )
        position = levels.index(level)
        found.append(LoopTags(iterator, depth, level, position, tiles, placed.dims[level]))
    return tuple(found)


@lru_cache(maxsize=4096)
def owners_of(placed: Placed) -> tuple[int, ...]:
    """For each loop of the nest around a statement, the depth of the statement's loop it runs.

    Loops over single iterations are one for each loop of the program. Where skewing has mixed
    them, they are matched so that each runs a loop its expression contains; a loop over tiles
    belongs with the loop of the same expression, else with the first it contains.
    """
    iterators = placed.statement.iterators
    points = [at for at, dim in enumerate(placed.dims) if dim.divisor == 1]
    owner: dict[int, int] = {}  # depth -> nest level

    def match(at: int, seen: set[int]) -> bool:
        for depth in inside[at]:
            if depth not in seen:
                seen.add(depth)
                if depth not in owner or match(owner[depth], seen):
                    owner[depth] = at
                    return True
        return False

    inside = {
        at: sorted(iterators.index(name) for name in dim.expression.names)
        for at, dim in enumerate(placed.dims)
    }
    # Unmixed loops first; the last iterator of a skewed loop is the one it was before.
    for at in sorted(points, key=lambda p: len(inside[p])):
        match(at, set())
    of_level = {at: depth for depth, at in owner.items()}
    by_expression = {placed.dims[at].expression: depth for at, depth in of_level.items()}
    return tuple(
        of_level[at] if at in of_level else by_expression.get(dim.expression, min(inside[at]))
        for at, dim in enumerate(placed.dims)
    )


@attrs.frozen
class Leaf:
    """A statement in the tree, and its place among the children of its parent."""

    placed: Placed
    tags: tuple[LoopTags, ...]
    place: int


@attrs.frozen
class Node:
    """A loop of the tree. Statements under it are those the scheduled nest joins there.

    depth:      -1 for a root that stands above a program of several nests
    children:   in the order they run
    place:      among the children of the parent
    is_changed: other statements stand under it than under the same loop in the program's text
    """

    depth: int
    children: tuple[Node | Leaf, ...]
    place: int
    is_changed: bool

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(
            leaf for child in self.children for leaf in (
                child.leaves if isinstance(child, Node) else (child,)
            )
        )  # fmt: skip


def nest_tree(nest: Nest) -> Node:
    """The tree of a nest; its root is the outermost loop, or a node of its own above several."""
    order = sorted(nest.placed, key=lambda p: p.order)
    leaves = [Leaf(p, loop_tags(p), 0) for p in order]
    shared = [0, *map(_shared, leaves, leaves[1:])]
    children = _children(leaves, shared, 0)
    if len(children) == 1 and isinstance(children[0], Node):
        return children[0]
    return Node(-1, children, 0, False)


def _shared(before: Leaf, after: Leaf) -> int:
    """How many of the program's loops, from the outside in, two statements share."""
    common = common_levels(before.placed, after.placed)
    depth = 0
    for a, b in zip(before.tags, after.tags, strict=False):
        if max(a.level, b.level) >= common:
            break
        depth += 1
    return depth


def common_levels(a: Placed, b: Placed) -> int:
    """How many loops of the nest two statements share."""
    level = 0
    deepest = min(len(a.dims), len(b.dims))
    while level < deepest and a.order[level] == b.order[level]:
        level += 1
    return level


def _children(leaves: Sequence[Leaf], shared: Sequence[int], depth: int) -> tuple[Node | Leaf, ...]:
    found: list[Node | Leaf] = []
    at = 0
    while at < len(leaves):
        end = at + 1
        if len(leaves[at].tags) == depth:
            found.append(attrs.evolve(leaves[at], place=len(found)))
        else:
            while end < len(leaves) and shared[end] > depth:
                end += 1
            inside = leaves[at:end]
            below = _children(inside, shared[at:end], depth + 1)
            found.append(Node(depth, below, len(found), _is_changed(inside, depth)))
        at = end
    return tuple(found)


def _is_changed(leaves: Sequence[Leaf], depth: int) -> bool:
    """Whether the loop of the program's text around these statements has others, or another order.

    Positions of the text: those under one loop agree up to that loop's own place.
    """
    places = [leaf.placed.statement.position for leaf in leaves]
    heads = {place[: depth + 1] for place in places}
    if len(heads) > 1 or places != sorted(places):
        return True
    # Loop objects of the text know everything inside them.
    loop = leaves[0].placed.statement.loops[depth]
    return len(leaves) != _n_statements(loop.body)


def _n_statements(body: Sequence[object]) -> int:
    return sum(_n_statements(node.body) if isinstance(node, Loop) else 1 for node in body)
