"""From a model and a schedule to a program of loops, pass by pass; every stage can be run."""

from typing import Any

import attrs

from cortex import ilir as il
from cortex import ra
from cortex.bounds import fit
from cortex.lower.barriers import insert_barriers
from cortex.lower.dense import index_densely
from cortex.lower.expand import expand_children, push_slices
from cortex.lower.hoist import Hoisting, before_levels, why_none
from cortex.lower.nests import conditional, node_body, operator_nests
from cortex.lower.part import Emitter, Part
from cortex.lower.refactor import at_roots, refactor
from cortex.lower.sum_order import sum_first
from cortex.lower.tabulate import Table, Tables, leaf_kind
from cortex.lower.tile import Tiling, column_partition, row_partition
from cortex.lower.unroll import block_loop
from cortex.schedule import Schedule, check

__all__ = ["Lowered", "Table", "lower"]


#: Tiles of a nest among nests of single operators.
_PLAIN = Tiling(8, 64)


@attrs.frozen
class Lowered:
    """A lowered model.

    tables:         to be built from weights before the program runs
    linear_options: how structures must be numbered for it
    refused:        primitives that were asked for and left out, with the reason
    each_level:     whether threads start and end with each level, not with the call
    stages:         the program after every pass, the last one the result
    """

    program: il.Program
    tables: tuple[Table, ...]
    linear_options: dict[str, Any]
    refused: tuple[tuple[str, str], ...]
    stages: tuple[tuple[str, il.Program], ...]
    each_level: bool = False


@attrs.frozen
class _Bodies:
    """What is computed at leaves, at internal nodes of each kind, and at roots in the end.

    before: what is computed for all internal nodes before the levels
    """

    leaf: dict[str, ra.Expr]
    node: dict[str, ra.Expr]
    kinds: tuple[dict[str, ra.Expr], ...] = ()
    rest: dict[str, ra.Expr] = attrs.field(factory=dict)
    before: dict[str, ra.Expr] = attrs.field(factory=dict)


def lower(model: ra.Model, schedule: Schedule, *, threads: int = 1) -> Lowered:
    """Lower a model as a schedule says, for a call of at most so many threads.

    Raises ScheduleError for an illegal primitive and ModelError for an expression that no loop
    computes.
    """
    check(schedule, model)
    refused: list[tuple[str, str]] = []
    schedule = schedule.resolved(model)
    if schedule.persistent and (why := _why_not_persistent(schedule, threads)):
        refused.append(("persist", why))
    stages: list[tuple[str, il.Program]] = []
    bodies = _Bodies(dict(model.leaf), dict(model.node))
    found: tuple[Table, ...] = ()

    def note(name: str, program: il.Program) -> il.Program:
        stages.append((name, program))
        return program

    arity = model.structure.max_children
    if arity is not None:
        node = {k: expand_children(e, arity) for k, e in bodies.node.items()}
        bodies = attrs.evolve(bodies, node=node)
    program = note("operators", one_by_one(model, bodies, found))
    bodies = attrs.evolve(
        bodies,
        leaf={k: sum_first(push_slices(e)) for k, e in bodies.leaf.items()},
        node={k: sum_first(push_slices(e)) for k, e in bodies.node.items()},
    )
    program = note("sum order", one_by_one(model, bodies, found))
    if not schedule.by_height:
        if model.hoist_inputs:
            refused.append(("hoist", "nodes are processed one by one; add batch()"))
        program = note("bounds", fit(program))
        program = note("barriers", insert_barriers(program))
        return Lowered(program, (), _options(schedule), tuple(refused), tuple(stages))
    by_node = len(stages)
    program = note("batch", by_level(model, bodies, found))
    if schedule.leaf_apart:
        program = note("specialize leaf", apart(model, bodies, found))
    if schedule.children_apart:
        assert arity is not None
        kinds = tuple(bodies.node for _ in range(2**arity))
        bodies = attrs.evolve(bodies, kinds=kinds)
        program = note("specialize children", apart(model, bodies, found))
    if schedule.cut is not None:
        assert arity is not None
        cut = refactor(model.name, bodies.node, schedule.cut, arity)
        bodies = attrs.evolve(bodies, kinds=cut.kinds, rest=cut.rest)
        program = note("refactor", apart(model, bodies, found))
    if schedule.tables:
        bodies, found, reason = tabulated(model, bodies, schedule)
        if reason:
            refused.append(("tabulate", reason))
        emit = apart if schedule.leaf_apart else by_level
        program = note("tabulate", emit(model, bodies, found))
    if model.hoist_inputs:
        bodies = hoisted(bodies)
        if bodies.before:
            emit = apart if schedule.leaf_apart else by_level
            program = note("hoist", emit(model, bodies, found))
        else:
            refused.append(("hoist", why_none(schedule.tables)))
    if schedule.depth > 1:
        # Nodes are numbered by blocks, so of the stages before only those without levels hold.
        del stages[by_node:]
        program = note(f"unroll {schedule.depth}", unrolled(model, bodies, found, schedule))
    elif schedule.fused != "none":
        program = note(f"fuse {schedule.fused}", fused(model, bodies, found, schedule))
    program = note("dense indexing", index_densely(program))
    program = note("bounds", fit(program))
    program = note("barriers", insert_barriers(program))
    each_level = schedule.fused == "level"
    return Lowered(
        program, found, _options(schedule), tuple(refused), tuple(stages), each_level=each_level
    )


def _why_not_persistent(schedule: Schedule, threads: int) -> str | None:
    """Why no weight stays nearer to a core than it would anyway, or None."""
    if threads < 2:
        return "weights are packed once under every schedule, and one thread reads all of them"
    if schedule.parts != "column":
        return (
            "weights are packed once under every schedule, and each thread reads all of them; "
            "partition('column') keeps a part of them in the cache of each core"
        )
    return None


def _options(schedule: Schedule) -> dict[str, Any]:
    if schedule.depth > 1:
        return {"depth": schedule.depth}
    kinds = schedule.children_apart or schedule.cut is not None
    return {"kinds": kinds, "dedup": schedule.shared}


def tabulated(
    model: ra.Model, bodies: _Bodies, schedule: Schedule
) -> tuple[_Bodies, tuple[Table, ...], str | None]:
    """Bodies that read tables, and the tables."""
    assert model.vocab is not None
    tables = Tables(model.vocab, schedule.table_bytes)
    leaf = {k: tables.rewrite(e) for k, e in bodies.leaf.items()}
    node = {k: tables.rewrite(e) for k, e in bodies.node.items()}
    kinds = []
    for mask, body in enumerate(bodies.kinds):
        written = leaf_kind(body, bodies.leaf, mask)
        kinds.append({k: tables.rewrite(e) for k, e in written.items()})
    reason = None
    if tables.too_large:
        reason = f"{tables.too_large} values would take tables beyond {tables.max_bytes} bytes"
    return _Bodies(leaf, node, tuple(kinds), bodies.rest), tuple(tables.found.values()), reason


def hoisted(bodies: _Bodies) -> _Bodies:
    """Bodies whose inner nodes read products of their own input from where they are kept."""
    hoisting = Hoisting()
    if bodies.kinds:  # they stand for the node
        kinds = tuple(hoisting.body(body) for body in bodies.kinds)
        return attrs.evolve(bodies, kinds=kinds, before=hoisting.found)
    node = hoisting.body(bodies.node)
    return attrs.evolve(bodies, node=node, before=hoisting.found)


def one_by_one(model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...]) -> il.Program:
    """Every node in turn, every operator in turn, by one thread."""
    emitter = Emitter()
    row = il.Var("n")
    leaf, node = _parts(bodies, il.Int(0), il.N_NODES)
    body = conditional(node_body(leaf, row, emitter), node_body(node, row, emitter), row)
    nodes = il.For("n", il.Int(0), il.N_NODES, body, "serial", "node")
    once = il.For("once", il.Int(0), il.Int(1), nodes, "parallel", "once")
    return _program(model, emitter, once, tables)


def by_level(model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...]) -> il.Program:
    """Levels in turn, the nodes of one in parallel, with a check for leaves."""
    emitter = Emitter()
    row = il.Var("n")
    begin, end = _level("level_begin"), _level("level_end")
    leaf, node = _parts(bodies, begin, end)
    body = conditional(node_body(leaf, row, emitter), node_body(node, row, emitter), row)
    nodes = il.For("n", begin, il.sub(end, begin), body, "parallel", "node")
    levels = il.For("b", il.Int(0), il.N_LEVELS, nodes, "serial", "level")
    before = before_levels(bodies.before, _PLAIN, emitter)
    return _program(model, emitter, il.seq(before, levels), tables)


def apart(
    model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...], *, every: bool = True
) -> il.Program:
    """A loop nest an operator: leaves first, then level by level, kind by kind."""
    emitter = Emitter()
    leaf, *rest = _apart_parts(bodies)
    first = operator_nests(leaf, emitter, every=every)
    inner = [s for part in rest for s in operator_nests(part, emitter, every=every)]
    last = _roots(bodies, _PLAIN, emitter)
    before = before_levels(bodies.before, _PLAIN, emitter)
    body = il.seq(before, *first, _levels(il.seq(*inner)), last)
    return _program(model, emitter, body, tables)


def fused(
    model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...], schedule: Schedule
) -> il.Program:
    """Cells or whole levels in one loop nest."""
    if schedule.fused == "cell":
        if schedule.leaf_apart:
            return apart(model, bodies, tables, every=False)
        return _checked(model, bodies, tables, schedule)
    if not schedule.leaf_apart:
        return _checked(model, bodies, tables, schedule)
    emitter = Emitter()
    leaf, *rest = _apart_parts(bodies)
    tiling = Tiling(schedule.rows, schedule.columns)
    first = row_partition(leaf, tiling, emitter)
    inner: list[il.Stmt] = []
    if schedule.parts == "column":
        parts = [attrs.evolve(part, gather=bool(bodies.rest)) for part in rest]
        inner += column_partition(parts, tiling, emitter)
    else:
        inner += [row_partition(part, tiling, emitter) for part in rest]
    last = _roots(bodies, tiling, emitter)
    before = before_levels(bodies.before, tiling, emitter)
    body = il.seq(before, first, _levels(il.seq(*inner)), last)
    return _program(model, emitter, body, tables)


def _roots(bodies: _Bodies, tiling: Tiling, emitter: Emitter) -> il.Stmt:
    return at_roots(bodies.rest, tiling, emitter) if bodies.rest else il.Seq()


def unrolled(
    model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...], schedule: Schedule
) -> il.Program:
    """Leaves, then block by block."""
    emitter = Emitter()
    leaf, node = _apart_parts(bodies)
    tiling = Tiling(schedule.rows, schedule.columns)
    before = before_levels(bodies.before, tiling, emitter)
    first = row_partition(leaf, tiling, emitter)
    blocks = block_loop(node, schedule.columns, emitter)
    return _program(model, emitter, il.seq(before, first, blocks), tables)


def _checked(
    model: ra.Model, bodies: _Bodies, tables: tuple[Table, ...], schedule: Schedule
) -> il.Program:
    """Fused, without a nest for leaves: each level asks whether it is the leaves'."""
    emitter = Emitter()
    begin, end = _level("level_begin"), _level("level_end")
    leaf, node = _parts(bodies, begin, end)
    tiling = Tiling(schedule.rows, schedule.columns)

    def nests(part: Part) -> list[il.Stmt]:
        if schedule.fused == "cell":
            return operator_nests(part, emitter, every=False)
        if schedule.parts == "column":
            return column_partition([part], tiling, emitter)
        return [row_partition(part, tiling, emitter)]

    body = conditional(nests(leaf), nests(node), begin)
    levels = il.For("b", il.Int(0), il.N_LEVELS, body, "serial", "level")
    before = before_levels(bodies.before, tiling, emitter)
    return _program(model, emitter, il.seq(before, levels), tables)


def _level(fn: str) -> il.Index:
    return il.Call(fn, (il.Var("b"),))


def _levels(body: il.Stmt) -> il.Stmt:
    """The loop over levels above the leaves."""
    return il.For("b", il.Int(1), il.sub(il.N_LEVELS, il.Int(1)), body, "serial", "level")


def _parts(bodies: _Bodies, begin: il.Index, end: il.Index) -> tuple[Part, Part]:
    return Part("leaf", begin, end, bodies.leaf), Part("node", begin, end, bodies.node)


def _apart_parts(bodies: _Bodies) -> list[Part]:
    parts = [Part("leaf", il.Int(0), il.N_LEAVES, bodies.leaf)]
    for kind, body in enumerate(bodies.kinds):
        where = (il.Var("b"), il.Int(kind))
        begin, end = il.Call("kind_begin", where), il.Call("kind_end", where)
        parts.append(Part(f"kind{kind}", begin, end, body))
    if not bodies.kinds:
        parts.append(Part("node", _level("level_begin"), _level("level_end"), bodies.node))
    return parts


def _program(
    model: ra.Model, emitter: Emitter, body: il.Stmt, tables: tuple[Table, ...]
) -> il.Program:
    used = {n.tensor for n in il.walk(body) if isinstance(n, il.Load | il.Store)}
    tensors: dict[str, il.TensorDecl] = {}
    for name, shape in model.params.items():
        if name in used:
            sizes = tuple(il.Int(n) for n in shape)
            tensors[name] = il.TensorDecl(name, sizes, ("",) * len(shape), "param")
    for table in tables:
        if table.name in used:
            shape = table.expr.shape
            sizes = (il.Int(model.vocab or 0), *(il.Int(n) for n in shape))
            dims = ("token",) + ("",) * len(shape)
            tensors[table.name] = il.TensorDecl(table.name, sizes, dims, "table")
    if "features" in used:
        rows = (il.N_NODES, il.Int(model.feature_width or 0))
        tensors["features"] = il.TensorDecl("features", rows, ("node", "j"), "feature")
    tensors |= emitter.tensors
    functions = il.structure_functions(model.structure.max_children)
    return il.Program(model.name, tensors, functions, body, tuple(model.states))
