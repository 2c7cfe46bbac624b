"""An expression of the Recursive API at one index, as a scalar of the loop language."""

from collections.abc import Mapping

import attrs

from cortex import ilir as il
from cortex import ra
from cortex.errors import ModelError


@attrs.frozen
class Held:
    """Where the value of an expression is kept.

    prefix: the index in front of the value's own, usually its row
    swap:   a column as the expression names it, and as the tensor does, for a block of columns
    """

    tensor: str
    prefix: tuple[il.Index, ...]
    swap: tuple[il.Index, il.Index] | None = None

    def at(self, index: tuple[il.Index, ...]) -> il.Load:
        """The element at an index of the value."""
        if self.swap is not None and index and index[-1] == self.swap[0]:
            index = (*index[:-1], self.swap[1])
        return il.Load(self.tensor, (*self.prefix, *index))


@attrs.frozen
class Context:
    """What an expression means at one node.

    row:   the node
    held:  values that are kept already
    each:  the child that Each() means, inside a reduction over children
    depth: number of reductions around, for names of their variables
    """

    row: il.Index
    held: Mapping[ra.Expr, Held]
    each: il.Index | None = None
    depth: int = 0

    def variable(self, letter: str) -> str:
        """A name that no reduction around uses."""
        return letter if self.depth == 0 else f"{letter}{self.depth}"

    def inside_children(self, each: il.Index) -> "Context":
        """The same for a child; what was kept for another child is not."""
        held = {e: h for e, h in self.held.items() if not reads_each(e)}
        return attrs.evolve(self, held=held, each=each, depth=self.depth + 1)


def reads_each(expr: ra.Expr) -> bool:
    """Whether an expression names Each() of a reduction outside it."""
    match expr:
        case ra.ChildState(child=place) | ra.Lookup(of=place) | ra.Tabulated(of=place):
            return isinstance(place, ra.Each)
        case ra.Reduce():
            return False
        case _:
            return any(reads_each(x) for x in expr.operands)


def place_index(place: ra.Own | ra.Child | ra.Each, context: Context) -> il.Index:
    """The node that a place of the Recursive API means."""
    if isinstance(place, ra.Own):  # also a node's own cut value, where a call has been cut
        return context.row
    if isinstance(place, ra.Child):
        return il.Call(f"child{place.position}", (context.row,))
    if context.each is None:
        raise ModelError("Each() stands outside a reduction over children, where it means nothing")
    return context.each


def element(expr: ra.Expr, index: tuple[il.Index, ...], context: Context) -> il.Float:
    """The element of a value at an index; what is not kept is computed in place."""
    kept = context.held.get(expr)
    if kept is not None:
        return kept.at(index)
    match expr:
        case ra.Param(name=name):
            return il.Load(name, index)
        case ra.Lookup(param=param, of=place):
            token = il.Call("token", (place_index(place, context),))
            return il.Load(param.name, (token, *index))
        case ra.Tabulated(name=name, of=place):
            token = il.Call("token", (place_index(place, context),))
            return il.Load(name, (token, *index))
        case ra.Hoisted(name=name):
            return il.Load(name, (context.row, *index))
        case ra.Feature():
            return il.Load("features", (context.row, *index))
        case ra.Number(value=value):
            return il.Num(value)
        case ra.ChildState(child=child, name=name):
            return il.Load(name, (place_index(child, context), *index))
        case ra.Unary(op=op, x=x):
            return il.Apply(op, (element(x, index, context),))
        case ra.Binary(op=op, x=x, y=y):
            left = element(x, index if x.rank else (), context)
            right = element(y, index if y.rank else (), context)
            return il.Apply(op, (left, right))
        case ra.Slice(x=x, begin=begin, axis=axis):
            moved = il.add(index[axis], il.Int(begin))
            return element(x, (*index[:axis], moved, *index[axis + 1 :]), context)
        case ra.Transpose(x=x):
            return element(x, index[::-1], context)
        case ra.Concat(parts=parts, axis=axis):
            return _concat(parts, axis, index, context)
        case ra.Product(x=x, y=y):
            return _product(x, y, index, context)
        case ra.Dot(x=x, y=y):
            return _contract(x, (), y, (), context, x.shape[0])
        case ra.Reduce(op=op, body=body):
            return _over_children(op, body, index, context)
    raise ModelError(f"{expr!r} has no meaning in a loop; at {expr.source}")


def _concat(
    parts: tuple[ra.Expr, ...], axis: int, index: tuple[il.Index, ...], context: Context
) -> il.Float:
    if len(parts) == 1:
        return element(parts[0], index, context)
    size = il.Int(parts[0].shape[axis])
    rest = (*index[:axis], il.sub(index[axis], size), *index[axis + 1 :])
    return il.Pick(
        il.Less(index[axis], size),
        element(parts[0], index, context),
        _concat(parts[1:], axis, rest, context),
    )


def _product(x: ra.Expr, y: ra.Expr, index: tuple[il.Index, ...], context: Context) -> il.Float:
    left = index[: x.rank - 1]
    return _contract(x, left, y, index[len(left) :], context, x.shape[-1])


def _contract(
    x: ra.Expr,
    left: tuple[il.Index, ...],
    y: ra.Expr,
    right: tuple[il.Index, ...],
    context: Context,
    extent: int,
) -> il.Float:
    var = context.variable("k")
    inner = attrs.evolve(context, depth=context.depth + 1)
    k = il.Var(var)
    product = il.Apply("mul", (element(x, (*left, k), inner), element(y, (k, *right), inner)))
    return il.Reduce("sum", var, il.Int(0), il.Int(extent), product)


def _over_children(
    op: str, body: ra.Expr, index: tuple[il.Index, ...], context: Context
) -> il.Float:
    var = context.variable("e")
    begin, end = il.Call("child_begin", (context.row,)), il.Call("child_end", (context.row,))
    inner = context.inside_children(il.Call("child_at", (il.Var(var),)))
    how: il.ReduceOp = "max" if op == "max" else "sum"
    return il.Reduce(how, var, begin, il.sub(end, begin), element(body, index, inner))
