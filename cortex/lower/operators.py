"""Explicit temporaries: which values of a body are kept, in the order they are computed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import attrs

from cortex import ra
from cortex.lower.element import reads_each

_TRIVIAL = (
    ra.Param,
    ra.Lookup,
    ra.Tabulated,
    ra.Hoisted,
    ra.Feature,
    ra.Number,
    ra.ChildState,
    ra.IsLeaf,
)


@attrs.frozen
class Op:
    """A value that is kept.

    name:  its tensor
    expr:  what it is, over leaves and other kept values
    state: whether the tensor is a state, a row a node for good
    """

    name: str
    expr: ra.Expr
    state: bool


def is_trivial(expr: ra.Expr) -> bool:
    """Whether reading the value costs no more than a load."""
    if isinstance(expr, ra.Slice | ra.Transpose):
        return is_trivial(expr.x)
    return isinstance(expr, _TRIVIAL)


def operators(
    states: Mapping[str, ra.Expr],
    prefix: str = "",
    *,
    every: bool = False,
    known: Iterable[ra.Expr] = (),
    gather: bool = False,
) -> tuple[Op, ...]:
    """The kept values of a body, states among them, each after what it reads.

    every:  keep each operator's value (no fusion); otherwise only what a loop nest must have whole:
            products and what enters them, reductions over children, numbers, shared values
    known:  values that are kept already
    gather: rows that products read from other nodes' states are not kept
    """
    known = set(known)
    order = [e for e in ra.walk(states.values(), into_reduce=False) if e not in known]
    named: dict[ra.Expr, str] = {}
    for state, expr in states.items():
        named.setdefault(expr, state)
    keep = {e for e in order if every and not is_trivial(e)}
    if not every:
        keep = _must_keep(order, gather=gather)
    counter: Counter[str] = Counter()
    ops: list[Op] = []
    for expr in order:
        if expr in named:
            ops.append(Op(named[expr], expr, state=True))
        elif expr in keep:
            letter = _letter(expr)
            ops.append(Op(f"{prefix}{letter}{counter[letter]}", expr, state=False))
            counter[letter] += 1
    for state, expr in states.items():
        if named[expr] != state or expr in known:
            ops.append(Op(state, expr, state=True))
    return tuple(ops)


def _letter(expr: ra.Expr) -> str:
    return "p" if isinstance(expr, ra.Product) else "d" if isinstance(expr, ra.Dot) else "t"


def _must_keep(order: list[ra.Expr], *, gather: bool) -> set[ra.Expr]:
    uses = Counter(x for e in order if not isinstance(e, ra.Reduce) for x in e.operands)
    keep: set[ra.Expr] = set()
    for expr in order:
        match expr:
            case ra.Product(x=x, y=y):
                keep.add(expr)
                for side in (x, y):
                    packed = side.rank == 1 and not _static(side)
                    if gather and isinstance(side, ra.ChildState):
                        packed = False
                    if packed or not is_trivial(side):
                        keep.add(side)
            case ra.Dot(x=x, y=y):
                keep.add(expr)
                keep.update(side for side in (x, y) if not is_trivial(side))
            case ra.Reduce() | ra.Concat():
                keep.add(expr)
            case ra.Slice(x=x) if not is_trivial(x):
                keep.add(x)
        if uses[expr] > 1 and isinstance(expr, ra.Unary | ra.Binary):
            keep.add(expr)
    # Numbers that a vector is computed with: once a row, not once an element.
    for expr in order:
        if isinstance(expr, ra.Binary):
            keep.update(
                side for side in (expr.x, expr.y) if side.rank < expr.rank and not is_trivial(side)
            )
    return keep


def _static(expr: ra.Expr) -> bool:
    """Whether a value is a parameter, or a part of one."""
    if isinstance(expr, ra.Slice | ra.Transpose):
        return _static(expr.x)
    return isinstance(expr, ra.Param)


def static_matrix(expr: ra.Expr) -> bool:
    """Whether a value is a matrix of weights."""
    return expr.rank == 2 and _static(expr)


def is_gemm(expr: ra.Expr) -> bool:
    """Whether a product takes a row of values through a matrix of weights."""
    if not isinstance(expr, ra.Product) or expr.rank != 1:
        return False
    return (static_matrix(expr.y) and expr.x.rank == 1) or (
        static_matrix(expr.x) and expr.y.rank == 1
    )


def reads(op: Op, kept: Mapping[ra.Expr, Op]) -> Iterator[tuple[Op, bool]]:
    """The kept values an operator reads, and whether at its own index only."""
    found: dict[Op, bool] = {}

    def visit(expr: ra.Expr, same: bool, root: bool) -> None:
        other = kept.get(expr)
        if other is not None and not root:
            found[other] = found.get(other, True) and same and expr.rank == op.expr.rank
            return
        if isinstance(expr, ra.Reduce):
            for inner in _inside(expr.body):
                if inner in kept:
                    found[kept[inner]] = False
            return
        elementwise = isinstance(expr, ra.Unary | ra.Binary)
        for x in expr.operands:
            visit(x, same and elementwise and x.rank == op.expr.rank, False)

    kept_root = kept.get(op.expr)
    visit(op.expr, True, kept_root is None or kept_root == op)
    return iter(found.items())


def _inside(body: ra.Expr) -> Iterator[ra.Expr]:
    return (e for e in ra.walk((body,)) if not reads_each(e))
