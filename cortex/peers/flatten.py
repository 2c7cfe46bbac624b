"""Node objects to levels, in plain Python: what a user of torch writes to batch by height."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Levels:
    """Nodes numbered by height, leaves first.

    bounds:  level b is bounds[b] .. bounds[b + 1] - 1
    tokens:  (n_nodes,) int64, or those of the leaves alone
    kids:    for each level but the first: the first child of every node, then the second of every
             node, ...; with `offsets`: all children of the first node, then of the second, ...
    offsets: for each level but the first where the children of each of its nodes begin, or None
    roots:   (n_roots,) int64
    """

    bounds: list[int]
    tokens: Tensor
    kids: list[Tensor]
    offsets: list[Tensor] | None
    roots: Tensor


def flatten(roots: Sequence[Any], arity: int | None, *, all_tokens: bool) -> Levels:
    """Number the nodes of trees (arity 1, 2, ...) or DAGs (None).

    all_tokens: of inner nodes too, which must then have one
    """
    levels = _by_height(_children_first(roots, arity))
    number: dict[int, int] = {}
    bounds = [0]
    for level in levels:
        for n, node in enumerate(level, bounds[-1]):
            number[id(node)] = n
        bounds.append(bounds[-1] + len(level))
    with_token = levels if all_tokens else levels[:1]
    tokens = torch.tensor([node.token for level in with_token for node in level])
    kids: list[Tensor] = []
    offsets: list[Tensor] | None = None
    if arity is None:
        offsets = []
        for level in levels[1:]:
            kids.append(torch.tensor([number[id(k)] for node in level for k in node.children]))
            counts = torch.tensor([0, *(len(node.children) for node in level[:-1])])
            offsets.append(counts.cumsum(0))
    elif arity == 2:
        for level in levels[1:]:
            pairs = [node.children for node in level]
            kids.append(
                torch.tensor([number[id(a)] for a, _ in pairs] + [number[id(b)] for _, b in pairs])
            )
    else:
        for level in levels[1:]:
            kids.append(
                torch.tensor([number[id(node.children[j])] for j in range(arity) for node in level])
            )
    return Levels(bounds, tokens, kids, offsets, torch.tensor([number[id(r)] for r in roots]))


def _children_first(roots: Sequence[Any], arity: int | None) -> list[Any]:
    """Each node once, its children before it."""
    nodes: list[Any] = []
    stack = list(roots)
    if arity is not None:  # a tree read parents first and turned round
        while stack:
            node = stack.pop()
            nodes.append(node)
            stack.extend(node.children)
        nodes.reverse()
        return nodes
    begun: set[int] = set()
    done: set[int] = set()
    while stack:
        node = stack[-1]
        key = id(node)
        if key in begun:
            stack.pop()
            if key not in done:
                done.add(key)
                nodes.append(node)
        else:
            begun.add(key)
            stack.extend(k for k in node.children if id(k) not in begun)
    return nodes


def _by_height(nodes: list[Any]) -> list[list[Any]]:
    height: dict[int, int] = {}
    levels: list[list[Any]] = [[]]
    for node in nodes:
        kids = node.children
        if kids:
            h = 1 + max([height[id(k)] for k in kids])
            if h == len(levels):
                levels.append([])
        else:
            h = 0
        height[id(node)] = h
        levels[h].append(node)
    return levels
