"""Refactoring: the recursive call is cut at a product, and what follows it moves to the parent.

A body is A1 then A2, with A2 all that depends on the products with one parameter. A node's own call
computes A1 and keeps what A2 reads, the cut values; its parent's call first finishes its children
by A2. So A2 of a level and A1 of the next stand in one loop nest. Roots are finished at the end.
"""

from collections.abc import Mapping

import attrs

from cortex import ilir as il
from cortex import ra
from cortex.errors import ScheduleError
from cortex.lower.part import Emitter, Part
from cortex.lower.sum_order import static
from cortex.lower.tabulate import moved, places
from cortex.lower.tile import Tiling, row_partition


@attrs.frozen
class Refactored:
    """Bodies after the cut.

    kinds: the body of each kind of node; "h@1" is the state h of child 1
    rest:  the states that A2 gives, of a node itself, from its cut values
    cuts:  names of the cut values
    """

    kinds: tuple[dict[str, ra.Expr], ...]
    rest: dict[str, ra.Expr]
    cuts: tuple[str, ...]


def refactor(name: str, node: Mapping[str, ra.Expr], op: str, arity: int) -> Refactored:
    """Cut a body at the products with parameter `op`.

    Raises ScheduleError if no product of the body has it.
    """
    after = _after(node, op)
    if not after:
        products = [e for e in ra.walk(node.values()) if isinstance(e, ra.Product)]
        there = sorted({p for e in products for p in _weights(e)})
        raise ScheduleError(
            f"refactor is illegal for {name}: no product of an inner node has the parameter "
            f"{op!r}; name one of {', '.join(there) or '(there is none)'}"
        )
    cut: dict[ra.Expr, str] = {}
    for e in ra.walk(node.values()):
        if e in after:
            for x in e.operands:
                if x not in after and x not in cut and not _anywhere(x):
                    cut[x] = f"cut{len(cut)}"

    def read(e: ra.Expr, place: ra.Own | ra.Child) -> ra.Expr:
        """A value of A2, of the node at a place, from its cut values."""
        if e in cut:
            # A node's own cut value stands where its state would.
            return ra.ChildState(place, cut[e], e.shape)  # type: ignore[arg-type]
        if e not in after:
            return moved(e, place)
        return e.with_operands(read(x, place) for x in e.operands)

    late = {s: e for s, e in node.items() if e in after}
    own = {s: e for s, e in node.items() if e not in after}
    own |= {cut_name: e for e, cut_name in cut.items()}
    kinds = []
    for mask in range(2**arity):
        finished = {
            (s, ra.Child(j)): read(e, ra.Child(j))
            for s, e in late.items()
            for j in range(arity)
            if not mask >> j & 1
        }

        def change(
            e: ra.Expr, known: Mapping[tuple[str, ra.Child], ra.Expr] = finished
        ) -> ra.Expr | None:
            match e:
                case ra.ChildState(child=ra.Child() as of, name=state):
                    return known.get((state, of))
            return None

        body = {f"{s}@{child.position}": e for (s, child), e in finished.items()}
        body |= {s: ra.rewrite(e, change) for s, e in own.items()}
        kinds.append(body)
    rest = {s: read(e, ra.Own()) for s, e in late.items()}
    return Refactored(tuple(kinds), rest, tuple(cut.values()))


def _after(node: Mapping[str, ra.Expr], op: str) -> set[ra.Expr]:
    """A2: the products with `op` and all that depends on them."""
    after: set[ra.Expr] = set()
    for e in ra.walk(node.values()):
        if (isinstance(e, ra.Product) and op in _weights(e)) or any(x in after for x in e.operands):
            after.add(e)
    return after


def _weights(product: ra.Product) -> set[str]:
    sides = [side for side in (product.x, product.y) if static(side)]
    return {p.name for p in ra.walk(sides) if isinstance(p, ra.Param)}


def _anywhere(e: ra.Expr) -> bool:
    """Whether a value is as well computed for a child: of parameters and the node's token."""
    found = places(e)
    cheap = not any(isinstance(x, ra.Product | ra.Dot) for x in ra.walk((e,)))
    return cheap and found is not None and found <= {ra.Own()}


def at_roots(rest: Mapping[str, ra.Expr], tiling: Tiling, emitter: Emitter) -> il.Stmt:
    """A parallel loop over roots that finishes those that are no leaves."""
    part = Part("root", il.Int(0), il.Call("n_roots"), rest, rows="root")
    loop = row_partition(part, tiling, emitter)

    def guard(n: il.Node) -> il.Node:
        n = il.rebuild(n, guard)
        if isinstance(n, il.Store) and emitter.tensors[n.tensor].scope == "state":
            is_leaf = il.Less(n.index[0], il.N_LEAVES)
            return attrs.evolve(n, value=il.Pick(is_leaf, il.Load(n.tensor, n.index), n.value))
        return n

    return guard(loop)  # type: ignore[return-value]
