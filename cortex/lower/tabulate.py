"""Values of a token alone, computed once a vocabulary row; and of nothing, computed once.

A leaf's state depends on its token only, and so does every linear image of it that its parent
needs. With weights fixed they are rows of tables. Products of a sum are distributed over its terms
where a term is such a value (U (h_l + h_r) with a leaf at the left is table + U h_r).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import attrs

from cortex import ra
from cortex.lower.sum_order import static


class Table(NamedTuple):
    """A table: its name, a row for each token or a single value, and the value at Own()."""

    name: str
    of: Literal["token", "once"]
    expr: ra.Expr


def leaf_kind(
    node: Mapping[str, ra.Expr], leaf: Mapping[str, ra.Expr], mask: int
) -> dict[str, ra.Expr]:
    """The node body where bit j of mask says that child j is a leaf: its state is written out."""

    def change(e: ra.Expr) -> ra.Expr | None:
        match e:
            case ra.ChildState(child=ra.Child(position=j) as child) if mask >> j & 1:
                return moved(leaf[e.name], child)
            case _:
                return None

    return {name: ra.rewrite(expr, change) for name, expr in node.items()}


def moved(expr: ra.Expr, place: ra.Own | ra.Child | ra.Each) -> ra.Expr:
    """An expression of a node's own token, for the node at a place."""

    def change(e: ra.Expr) -> ra.Expr | None:
        match e:
            case ra.Lookup(param=param):
                return ra.Lookup(param, place)
            case ra.Tabulated(name=name, shape=shape):
                return ra.Tabulated(name, place, shape)
            case _:
                return None

    return ra.rewrite(expr, change)


@attrs.define
class Tables:
    """Tables found so far; a value asked for twice is one table."""

    vocab: int
    max_bytes: int
    found: dict[ra.Expr, Table] = attrs.field(factory=dict)
    too_large: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(self._bytes(t.expr) for t in self.found.values() if t.of == "token")

    def _bytes(self, expr: ra.Expr) -> int:
        size = 4 * self.vocab
        for n in expr.shape:
            size *= n
        return size

    def rewrite(self, expr: ra.Expr) -> ra.Expr:
        """The expression with the largest values of one token read from tables."""
        done: dict[ra.Expr, ra.Expr] = {}

        def visit(e: ra.Expr) -> ra.Expr:
            if e not in done:
                done[e] = self._visit(e, visit)
            return done[e]

        return visit(distribute(expr))

    def _visit(self, e: ra.Expr, visit: "object") -> ra.Expr:
        found = places(e)
        if found is not None and len(found) == 1 and costly(e):
            (place,) = found
            own = moved(e, ra.Own())
            table = self.found.get(own)
            if table is None and self.nbytes + self._bytes(own) > self.max_bytes:
                self.too_large += 1
            else:
                if table is None:
                    table = self.found[own] = Table(f"table{len(self.found)}", "token", own)
                return ra.Tabulated(table.name, place, e.shape)
        operands = e.operands
        new = tuple(visit(x) for x in operands)  # type: ignore[operator]
        return e if new == operands else e.with_operands(new)


def places(expr: ra.Expr) -> frozenset[ra.Own | ra.Child | ra.Each] | None:
    """The nodes whose tokens a value depends on, or None if it depends on more than tokens."""
    found: set[ra.Own | ra.Child | ra.Each] = set()
    for e in ra.walk((expr,)):
        match e:
            case ra.Lookup(of=place) | ra.Tabulated(of=place):
                found.add(place)
            case ra.ChildState() | ra.Feature() | ra.Hoisted() | ra.Reduce() | ra.IsLeaf():
                return None
            case _:
                pass
    return frozenset(found)


def costly(expr: ra.Expr) -> bool:
    """Whether computing a value is worth a table."""
    return any(
        isinstance(e, ra.Product | ra.Dot)
        or (isinstance(e, ra.Unary) and e.op in ("sigmoid", "tanh", "exp"))
        for e in ra.walk((expr,))
    )


def distribute(expr: ra.Expr) -> ra.Expr:
    """Products of sums and concatenations that hold a value of a token, term by term."""

    def change(e: ra.Expr) -> ra.Expr | None:
        match e:
            case ra.Product(x=x, y=w) if x.rank == 1 and static(w) and x.operands:
                terms = _terms(x, w, side="x")
            case ra.Product(x=w, y=x) if x.rank == 1 and static(w) and x.operands:
                terms = _terms(x, w, side="y")
            case _:
                return None
        if terms is None:
            return None
        total = terms[0]
        for term in terms[1:]:
            total = ra.Binary("add", total, term)
        return total

    return ra.rewrite(expr, change)


def _terms(x: ra.Expr, w: ra.Expr, side: str) -> list[ra.Expr] | None:
    from cortex.lower.expand import push

    def product(part: ra.Expr, weights: ra.Expr) -> ra.Expr:
        return ra.Product(part, weights) if side == "x" else ra.Product(weights, part)

    match x:
        case ra.Binary("add"):
            parts = _summands(x)
            known = [p for p in parts if _of_token(p)]
            rest = [p for p in parts if not _of_token(p)]
            if not known or any(p.shape != x.shape for p in parts):
                return None
            terms = [product(p, w) for p in known]
            if rest:
                total = rest[0]
                for p in rest[1:]:
                    total = ra.Binary("add", total, p)
                terms.append(product(total, w))
            return terms
        case ra.Concat(parts=parts) if any(_of_token(p) for p in parts):
            terms, begin = [], 0
            for p in parts:
                size = p.shape[0]
                terms.append(product(p, push(w, begin, begin + size, 0 if side == "x" else 1)))
                begin += size
            return terms
        case _:
            return None


def _summands(x: ra.Expr) -> list[ra.Expr]:
    if isinstance(x, ra.Binary) and x.op == "add":
        return [*_summands(x.x), *_summands(x.y)]
    return [x]


def _of_token(expr: ra.Expr) -> bool:
    found = places(expr)
    return found is not None and len(found) == 1
