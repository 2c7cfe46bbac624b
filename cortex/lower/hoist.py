"""Hoisting: products of a node's own input are computed for all inner nodes before the levels.

x(n) W depends on the node's features or token and on parameters, not on the recursion, and so does
what is computed from it alone (sec. 4.1 of the paper). It is made in one nest with a row a node,
where a level may have but a few, and the levels read it. Leaves need none: they are one level.
"""

from collections.abc import Iterable, Mapping

from cortex import ilir as il
from cortex import ra
from cortex.lower.part import Emitter, Part
from cortex.lower.tile import Tiling, row_partition


class Hoisting:
    """Rewrites bodies of inner nodes; `found` holds the values to compute before, by name."""

    def __init__(self) -> None:
        self._names: dict[ra.Expr, str] = {}

    @property
    def found(self) -> dict[str, ra.Expr]:
        """Name -> value, in the order they were met."""
        return {name: e for e, name in self._names.items()}

    def body(self, states: Mapping[str, ra.Expr]) -> dict[str, ra.Expr]:
        """A body with the largest hoisted values read from where they are kept."""
        invariant = _invariant(states.values())
        done: dict[ra.Expr, ra.Expr] = {}

        def visit(e: ra.Expr) -> ra.Expr:
            if e not in done:
                if invariant.get(e) and _is_worth(e):
                    name = self._names.setdefault(e, f"hoist{len(self._names)}")
                    done[e] = ra.Hoisted(name, e.shape)
                else:
                    new = tuple(visit(x) for x in e.operands)
                    done[e] = e if new == e.operands else e.with_operands(new)
            return done[e]

        return {name: visit(e) for name, e in states.items()}


def _invariant(exprs: Iterable[ra.Expr]) -> dict[ra.Expr, bool]:
    """Whether each expression is made of parameters, numbers and the node's own payload alone."""
    found: dict[ra.Expr, bool] = {}
    for e in ra.walk(exprs):
        match e:
            case ra.Lookup(of=place) | ra.Tabulated(of=place):
                found[e] = isinstance(place, ra.Own)
            case ra.ChildState() | ra.Reduce() | ra.IsLeaf() | ra.Hoisted():
                found[e] = False
            case _:
                found[e] = all(found[x] for x in e.operands)
    return found


def _is_worth(expr: ra.Expr) -> bool:
    """Whether an expression of the payload holds a product that the payload enters."""
    return any(
        isinstance(e, ra.Product | ra.Dot)
        and any(isinstance(x, ra.Feature | ra.Lookup | ra.Tabulated) for x in ra.walk((e,)))
        for e in ra.walk((expr,))
    )


def before_levels(values: Mapping[str, ra.Expr], tiling: Tiling, emitter: Emitter) -> il.Stmt:
    """The nest that computes hoisted values for all inner nodes; nothing if there are none."""
    if not values:
        return il.Seq()
    loop = row_partition(Part("hoist", il.N_LEAVES, il.N_NODES, values), tiling, emitter)
    for name, expr in values.items():
        # A row a node, as a state has, but nothing outside the program asks for it.
        shape = tuple(il.Int(n) for n in expr.shape)
        dims = emitter.tensors[name].dims
        emitter.declare(name, (il.N_NODES, *shape), dims, "node")
    return loop


def why_none(tables: bool) -> str:
    """Why a model that asks for hoisting has nothing to hoist."""
    if tables:
        return "no product of an inner node's own input is left beside the tables and the leaves"
    return (
        "no inner node multiplies its own input by a parameter, and leaves are computed "
        "together in any case"
    )
