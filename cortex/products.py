"""Which nests of a program are matrix products, and which nests may be one with them.

A nest `for m: for j (vector): stores` whose values hold sums over k of X[m, k] * P[k, j] is a
product with an epilogue. Nests that follow over the same rows and columns join it as long as every
value one writes is read by another at the same element only, so that the order of the elements does
not matter: then sums stay in registers.
"""

from collections.abc import Iterator, Mapping

import attrs

from cortex import affine
from cortex import ilir as il


@attrs.frozen
class Factor:
    """One product: rows of x by P.

    x, x_at, pitch: X[m, k] is x's element x_at + m * pitch + k
    b, b_at, row, column: P[k, j] is b's element b_at + k * row + j * column
    """

    x: str
    x_at: il.Index
    pitch: int
    b: str
    b_at: il.Index
    row: int
    column: int
    depth: int


@attrs.frozen
class Nest:
    """Stores for all columns j of all rows m; without a loop over rows, row is ""."""

    row: str
    begin: il.Index
    extent: il.Index
    kind: il.LoopKind
    column: str
    columns: int
    stores: tuple[il.Store, ...]


@attrs.frozen
class Group:
    """Nests over the same rows and columns, as one; factors: the sums that are products."""

    nest: Nest
    factors: Mapping[il.Reduce, Factor]


def as_nest(stmt: il.Stmt) -> Nest | None:
    """A loop over rows around one over columns, or one over columns alone."""
    row: str = ""
    begin: il.Index = il.Int(0)
    extent: il.Index = il.Int(1)
    kind: il.LoopKind = "serial"
    inner = stmt
    if isinstance(stmt, il.For) and stmt.kind != "vector":
        row, begin, extent, kind = stmt.var, stmt.begin, stmt.extent, stmt.kind
        inner = stmt.body
    if not isinstance(inner, il.For) or inner.kind != "vector" or inner.begin != il.Int(0):
        return None
    stores = inner.body.body if isinstance(inner.body, il.Seq) else (inner.body,)
    if not isinstance(inner.extent, il.Int) or inner.extent.value < 1:
        return None
    if not all(isinstance(s, il.Store) for s in stores) or inner.var == row:
        return None
    return Nest(row, begin, extent, kind, inner.var, inner.extent.value, tuple(stores))  # type: ignore[arg-type]


def as_factor(reduce: il.Reduce, nest: Nest, tensors: Mapping[str, il.TensorDecl]) -> Factor | None:
    """A sum as a product of rows and a matrix, None if it is something else."""
    if reduce.op != "sum" or reduce.begin != il.Int(0) or not isinstance(reduce.extent, il.Int):
        return None
    if reduce.extent.value < 1 or not isinstance(reduce.body, il.Apply) or reduce.body.op != "mul":
        return None
    left, right = reduce.body.args
    for x, b in ((left, right), (right, left)):
        if not isinstance(x, il.Load) or not isinstance(b, il.Load):
            return None
        x_parts = _parts(x, nest, reduce.var, tensors)
        b_parts = _parts(b, nest, reduce.var, tensors)
        if x_parts is None or b_parts is None:
            continue
        pitch, x_column, x_k, x_at = x_parts
        b_row, column, row, b_at = b_parts
        if x_column == 0 and x_k == 1 and b_row == 0 and column != 0 and pitch >= 0:
            depth = reduce.extent.value
            return Factor(x.tensor, x_at, pitch, b.tensor, b_at, row, column, depth)
    return None


def _parts(
    load: il.Load, nest: Nest, k: str, tensors: Mapping[str, il.TensorDecl]
) -> tuple[int, int, int, il.Index] | None:
    """Steps of an element's place along row, column and k, and the rest."""
    rest = affine.flatten(tensors[load.tensor], load.index)
    steps = []
    for var in (nest.row, nest.column, k):
        part = affine.split(rest, var) if var else (0, rest)
        if part is None:
            return None
        steps.append(part[0])
        rest = part[1]
    return steps[0], steps[1], steps[2], rest


def reduces(value: il.Float) -> Iterator[il.Reduce]:
    """The outermost reductions of a value that is computed in any case."""
    if isinstance(value, il.Reduce):
        yield value
    elif isinstance(value, il.Apply):
        for arg in value.args:
            yield from reduces(arg)


def factors_of(
    nest: Nest, tensors: Mapping[str, il.TensorDecl], extents: Mapping[str, int]
) -> dict[il.Reduce, Factor]:
    """Every sum of a nest that a product kernel computes."""
    found = {}
    for store in nest.stores:
        for reduce in reduces(store.value):
            factor = as_factor(reduce, nest, tensors)
            if factor is not None and (factor.column == 1 or is_packed(factor, tensors, extents)):
                found[reduce] = factor
    return found


def is_packed(
    factor: Factor, tensors: Mapping[str, il.TensorDecl], extents: Mapping[str, int]
) -> bool:
    """Whether the matrix is made of weights at places known before the run."""
    known = affine.constant_terms(factor.b_at, extents) is not None
    return known and tensors[factor.b].scope in ("param", "table")


def groups(
    body: tuple[il.Stmt, ...],
    tensors: Mapping[str, il.TensorDecl],
    extents: Mapping[str, int],
) -> Iterator[il.Stmt | Group]:
    """Statements in order, nests with products joined with those that go with them."""
    waiting: Group | None = None
    for stmt in body:
        nest = as_nest(stmt)
        if nest is None:
            if waiting is not None:
                yield waiting
            waiting = None
            yield stmt
            continue
        if waiting is not None:
            joined = _join(waiting, nest, tensors, extents)
            if joined is not None:
                waiting = joined
                continue
            yield waiting
        waiting = None
        found = factors_of(nest, tensors, extents)
        if found and _is_free(nest, found, tensors):
            waiting = Group(nest, found)
        else:
            yield stmt
    if waiting is not None:
        yield waiting


def _join(
    group: Group,
    nest: Nest,
    tensors: Mapping[str, il.TensorDecl],
    extents: Mapping[str, int],
) -> Group | None:
    first = group.nest
    if (first.begin, first.extent, first.kind, first.columns) != (
        nest.begin,
        nest.extent,
        nest.kind,
        nest.columns,
    ) or bool(first.row) != bool(nest.row):
        return None
    names: dict[str, il.Index] = {
        old: il.Var(new)
        for old, new in ((nest.row, first.row), (nest.column, first.column))
        if old != new
    }
    stores = [il.substitute(store, names) for store in nest.stores]
    both = attrs.evolve(first, stores=(*first.stores, *stores))  # type: ignore[arg-type]
    found = factors_of(both, tensors, extents)
    return Group(both, found) if _is_free(both, found, tensors) else None


def _is_own_or_child(
    load: il.Load,
    places: Mapping[str, tuple[il.Index, ...]],
    tensors: Mapping[str, il.TensorDecl],
) -> bool:
    """Whether a load sees the same value in any order of rows that ascends in each column.

    A child's number is below its parent's, so its row is complete before.
    """
    place = places.get(load.tensor, load.index)
    if place == load.index:
        return True
    is_child = isinstance(load.index[0], il.Call) and load.index[0].fn.startswith("child")
    is_row = tensors[load.tensor].scope in ("state", "node")
    return is_child and is_row and load.index[1:] == place[1:]


def _is_free(
    nest: Nest, factors: Mapping[il.Reduce, Factor], tensors: Mapping[str, il.TensorDecl]
) -> bool:
    """Whether elements may be computed in any order, each of them in the order of the stores."""
    places: dict[str, tuple[il.Index, ...]] = {}
    for store in nest.stores:
        if places.setdefault(store.tensor, store.index) != store.index:
            return False
    outside: list[il.Load] = []

    def visit(node: il.Node) -> bool:
        if isinstance(node, il.Reduce) and node in factors:
            factor = factors[node]
            return factor.x not in places and factor.b not in places
        if isinstance(node, il.Load):
            outside.append(node)
        return all(visit(child) for child in il.children(node))

    if not all(visit(store.value) for store in nest.stores):
        return False
    if not all(_is_own_or_child(load, places, tensors) for load in outside):
        return False
    # One place an element, or the last row to write a place would no longer be the last.
    return all(nest.column in il.variables(il.Store(t, i, il.Num(0.0))) for t, i in places.items())
