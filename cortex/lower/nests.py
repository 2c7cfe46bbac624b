"""Unfused forms: one loop nest an operator, its value kept for every node."""

from collections.abc import Iterable

import attrs

from cortex import ilir as il
from cortex.lower.element import Context, Held
from cortex.lower.operators import operators
from cortex.lower.part import Emitter, Part, axis_dims, sizes, store_value, stored_at


def node_body(part: Part, row: il.Index, emitter: Emitter, *, every: bool = True) -> list[il.Stmt]:
    """A statement for each operator at one node; temporaries are indexed by the node."""
    context = Context(row, {})
    steps: list[il.Stmt] = []
    for op in operators(part.states, part.prefix, every=every):
        scope: il.Scope = "state" if op.state else "node"
        shape, dims = sizes(op.expr.shape), axis_dims(op.expr.shape)
        name, at = stored_at(op.name, row)
        emitter.declare(name, (il.N_NODES, *shape), ("node", *dims), scope)
        steps.append(store_value(name, (at,), op.expr, context, emitter))
        held = {op.expr: Held(name, (at,)), **context.held}
        context = attrs.evolve(context, held=held)
    return steps


def operator_nests(part: Part, emitter: Emitter, *, every: bool) -> list[il.Stmt]:
    """A parallel loop over the part's nodes for each operator."""
    row = il.Var("n")
    return [
        il.For("n", part.begin, il.sub(part.end, part.begin), step, "parallel", "node")
        for step in node_body(part, row, emitter, every=every)
    ]


def conditional(leaf: Iterable[il.Stmt], node: Iterable[il.Stmt], row: il.Index) -> il.Stmt:
    """The conditional operator: is the node a leaf?"""
    return il.If(il.Less(row, il.N_LEAVES), il.seq(*leaf), il.seq(*node))
