"""A body of a model for some of its nodes: what every emitter of loop nests works on."""

from collections.abc import Mapping

import attrs

from cortex import ilir as il
from cortex import ra
from cortex.lower.element import Context, Held, element
from cortex.lower.operators import Op, operators

#: Loop variables of a value's axes, outermost first.
AXES = {0: (), 1: ("j",), 2: ("i", "j")}


@attrs.frozen
class Part:
    """Nodes begin .. end - 1 of the current loop, and what is computed at each.

    name:   "leaf", "node", "root" or "kind<mask>"
    states: state -> expression; "h@1" is the state h of child 1
    rows:   a function from begin .. end - 1 to nodes, if these are not nodes themselves
    gather: products read children's rows where they are, without packing them first
    """

    name: str
    begin: il.Index
    end: il.Index
    states: Mapping[str, ra.Expr]
    rows: str | None = None
    gather: bool = False

    @property
    def prefix(self) -> str:
        """What the names of its temporaries begin with."""
        return {"node": "", "leaf": "leaf_"}.get(self.name, f"{self.name}_")


def stored_at(state: str, row: il.Index) -> tuple[str, il.Index]:
    """The tensor of a state and its row: the node's own, or that of a child it finishes."""
    name, _, child = state.partition("@")
    return name, il.Call(f"child{child}", (row,)) if child else row


@attrs.define
class Emitter:
    """Collects tensors while statements are built."""

    tensors: dict[str, il.TensorDecl] = attrs.field(factory=dict)

    def declare(
        self, name: str, shape: tuple[il.Index, ...], dims: tuple[str, ...], scope: il.Scope
    ) -> None:
        """Note a tensor; the same declaration twice is one."""
        self.tensors[name] = il.TensorDecl(name, shape, dims, scope)


def sizes(shape: ra.Shape) -> tuple[il.Index, ...]:
    """A value's shape as constants."""
    return tuple(il.Int(n) for n in shape)


def axis_dims(shape: ra.Shape) -> tuple[str, ...]:
    """Names of a value's axes."""
    return AXES[len(shape)]


def store_value(
    tensor: str,
    prefix: tuple[il.Index, ...],
    expr: ra.Expr,
    context: Context,
    emitter: Emitter,
) -> il.Stmt:
    """Loops that store a whole value; the parts of a concatenation one after another."""
    return _store(tensor, prefix, expr, context, emitter, (0,) * expr.rank)


def _store(
    tensor: str,
    prefix: tuple[il.Index, ...],
    expr: ra.Expr,
    context: Context,
    emitter: Emitter,
    shift: tuple[int, ...],
) -> il.Stmt:
    if isinstance(expr, ra.Concat) and expr not in context.held:
        stores = []
        for part in expr.parts:
            stores.append(_store(tensor, prefix, part, context, emitter, shift))
            moved = shift[expr.axis] + part.shape[expr.axis]
            shift = (*shift[: expr.axis], moved, *shift[expr.axis + 1 :])
        return il.seq(*stores)
    if isinstance(expr, ra.Reduce) and expr not in context.held:
        nested = operators({"": expr.body})
        if len(nested) > 1:
            return _store_over_children(tensor, prefix, expr, context, emitter, shift)
    axes = AXES[expr.rank]
    index = tuple(il.Var(a) for a in axes)
    where = tuple(il.add(i, il.Int(s)) for i, s in zip(index, shift, strict=True))
    return wrap_axes(il.Store(tensor, (*prefix, *where), element(expr, index, context)), expr.shape)


def wrap_axes(body: il.Stmt, shape: ra.Shape) -> il.Stmt:
    """Loops over a value's axes, the innermost a vector."""
    axes = AXES[len(shape)]
    for n, (axis, size) in enumerate(reversed(list(zip(axes, shape, strict=True)))):
        kind: il.LoopKind = "serial" if n else "vector"
        body = il.For(axis, il.Int(0), il.Int(size), body, kind, axis)
    return body


def _store_over_children(
    tensor: str,
    prefix: tuple[il.Index, ...],
    expr: ra.Reduce,
    context: Context,
    emitter: Emitter,
    shift: tuple[int, ...],
) -> il.Stmt:
    """A reduction whose body needs values of its own at each child: an explicit loop."""
    index = tuple(il.add(il.Var(a), il.Int(s)) for a, s in zip(AXES[expr.rank], shift, strict=True))
    where = (*prefix, *index)
    first = il.Num(float("-inf") if expr.op == "max" else 0.0)
    start = wrap_axes(il.Store(tensor, where, first), expr.shape)
    var = context.variable("e")
    inner = context.inside_children(il.Call("child_at", (il.Var(var),)))
    name = f"{tensor}_each"
    steps, inner = store_all(operators({"": expr.body}, f"{name}_")[:-1], inner, emitter, ())
    value = element(expr.body, tuple(il.Var(a) for a in AXES[expr.rank]), inner)
    op = "max" if expr.op == "max" else "add"
    step = il.Store(tensor, where, il.Apply(op, (il.Load(tensor, where), value)))
    begin, end = il.Call("child_begin", (context.row,)), il.Call("child_end", (context.row,))
    body = il.seq(*steps, wrap_axes(step, expr.shape))
    return il.seq(start, il.For(var, begin, il.sub(end, begin), body, "serial", "child"))


def store_all(
    ops: tuple[Op, ...], context: Context, emitter: Emitter, prefix: tuple[il.Index, ...]
) -> tuple[list[il.Stmt], Context]:
    """Stores of operators into a thread's own scratch, and the context that knows them."""
    steps: list[il.Stmt] = []
    for op in ops:
        emitter.declare(op.name, sizes(op.expr.shape), axis_dims(op.expr.shape), "tile")
        steps.append(store_value(op.name, prefix, op.expr, context, emitter))
        context = attrs.evolve(context, held={**context.held, op.expr: Held(op.name, prefix)})
    return steps, context
