"""Dense indexing: a temporary that lives within a level has a row a node of that level."""

import attrs

from cortex import ilir as il


def index_densely(program: il.Program) -> il.Program:
    """Shrink node temporaries used within a level to the widest level's rows.

    A temporary qualifies if every access is at the node of a loop inside the level loop; its row n
    becomes n - level_begin(b).
    """
    levels = [n for n in il.walk(program.body) if isinstance(n, il.For) and n.dim == "level"]
    inside = {t for loop in levels for t in _touched(loop.body)}
    outside = _touched(_cut_levels(program.body))
    dense = {
        name
        for name, decl in program.tensors.items()
        if decl.scope == "node"
        and name in inside
        and name not in outside
        and all(i == il.Var("n") for i in _rows(program.body, name))
    }
    tensors = {
        name: attrs.evolve(d, shape=(il.WIDEST, *d.shape[1:]), scope="level")
        if name in dense
        else d
        for name, d in program.tensors.items()
    }
    return attrs.evolve(program, tensors=tensors, body=_densify(program.body, dense, None))


def _touched(stmt: il.Stmt) -> set[str]:
    return {n.tensor for n in il.walk(stmt) if isinstance(n, il.Load | il.Store)}


def _rows(stmt: il.Stmt, tensor: str) -> list[il.Index]:
    return [
        n.index[0]
        for n in il.walk(stmt)
        if isinstance(n, il.Load | il.Store) and n.tensor == tensor
    ]


def _cut_levels(stmt: il.Stmt) -> il.Stmt:
    if isinstance(stmt, il.For) and stmt.dim == "level":
        return il.Seq()
    if isinstance(stmt, il.Seq):
        return il.seq(*(_cut_levels(p) for p in stmt.body))
    return stmt


def _densify(node: il.Stmt, dense: set[str], level: il.Index | None) -> il.Stmt:
    def visit(n: il.Node, level: il.Index | None) -> il.Node:
        if isinstance(n, il.For) and n.dim == "level":
            level = il.Var(n.var)
        inner = level
        n = il.rebuild(n, lambda child: visit(child, inner))
        if level is not None and isinstance(n, il.Load | il.Store) and n.tensor in dense:
            row = il.sub(n.index[0], il.Call("level_begin", (level,)))
            return attrs.evolve(n, index=(row, *n.index[1:]))
        return n

    return visit(node, level)  # type: ignore[return-value]
