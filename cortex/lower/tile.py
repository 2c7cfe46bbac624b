"""The fused form: tiles of rows, packed inputs, products by column blocks, then an epilogue.

Operators are placed in stages. Stage 0 packs what enters the first products; every later stage is
a loop over column blocks with its products and the element-by-element rest. A product of a value
that is itself made from products (a TreeGRU's U_h (r * s)) opens a further stage.
"""

from collections.abc import Iterable, Sequence

import attrs

from cortex import ilir as il
from cortex import ra
from cortex.lower.element import Context, Held, element
from cortex.lower.operators import Op, is_gemm, operators, reads
from cortex.lower.part import Emitter, Part, axis_dims, sizes, store_value, stored_at

_M, _J, _BLOCK, _TILE = il.Var("m"), il.Var("j"), il.Var("jb"), il.Var("t")


@attrs.frozen
class Stages:
    """Operators by stage, and which need their whole row kept.

    whole: operators that another stage reads, or that are read at other columns than their own
    """

    ops: tuple[Op, ...]
    stage: dict[Op, int]
    whole: frozenset[Op]

    @property
    def last(self) -> int:
        """The number of the last stage."""
        return max(self.stage.values(), default=0)

    def at(self, number: int) -> list[Op]:
        """The operators of one stage, in order."""
        return [op for op in self.ops if self.stage[op] == number]


def is_map(op: Op) -> bool:
    """Whether an operator is a vector computed element by element."""
    if op.expr.rank != 1:
        return False
    return isinstance(op.expr, ra.Unary | ra.Binary | ra.Slice) or (
        not op.expr.operands and not isinstance(op.expr, ra.Product)
    )


def place(ops: tuple[Op, ...]) -> Stages:
    """The earliest stage of every operator, then as late as its readers allow."""
    kept = {op.expr: op for op in reversed(ops)}
    needs = {op: dict(reads(op, kept)) for op in ops}
    gemm = {op: is_gemm(op.expr) and kept[op.expr] == op for op in ops}
    blocked = {op: gemm[op] or is_map(op) or kept[op.expr] != op for op in ops}
    blocked = {op: b and op.expr.rank == 1 for op, b in blocked.items()}
    stage: dict[Op, int] = {}

    def together(reader: Op, source: Op) -> bool:
        same = needs[reader][source] and reader.expr.shape == source.expr.shape
        return same and blocked[reader] and blocked[source] and not gemm[reader]

    for op in ops:
        first = 1 if gemm[op] else 0
        for source in needs[op]:
            first = max(first, stage[source] + (0 if together(op, source) else 1))
        stage[op] = first
    for op in reversed(ops):
        if op.state or not blocked[op]:
            continue
        readers = [r for r in ops if op in needs[r]]
        latest = [stage[r] if together(r, op) else stage[r] - 1 for r in readers]
        if latest:
            stage[op] = max(stage[op], min(latest))
    whole = {
        source
        for op in ops
        for source in needs[op]
        if stage[source] != stage[op] or not together(op, source)
    }
    return Stages(ops, stage, frozenset(whole))


def block_width(width: int, columns: int) -> int:
    """Columns of a block: `columns` where they divide the width, otherwise all of it."""
    return columns if columns < width and width % columns == 0 else width


@attrs.frozen
class Tiling:
    """Rows of a tile, columns of a block."""

    rows: int
    columns: int


@attrs.define
class _Place:
    """Where statements stand: the node of tile row m, and how wide values are kept."""

    begin: il.Index
    tiling: Tiling
    shared: bool
    rows: str | None

    @property
    def row(self) -> il.Index:
        """The node."""
        number = il.add(self.begin, self.offset)
        return number if self.rows is None else il.Call(self.rows, (number,))

    @property
    def offset(self) -> il.Index:
        """The node's place in its level or part."""
        return il.add(il.mul(il.Int(self.tiling.rows), _TILE), _M)


def row_partition(part: Part, tiling: Tiling, emitter: Emitter) -> il.Stmt:
    """Parallel over tiles of rows; a thread computes all stages of its tile."""
    stages = place(operators(part.states, part.prefix, gather=part.gather))
    spot = _Place(part.begin, tiling, shared=False, rows=part.rows)
    context = Context(spot.row, {})
    steps: list[il.Stmt] = []
    for number in range(stages.last + 1):
        row_steps, blocks, context = _stage(stages, number, spot, context, emitter, part)
        steps += [_rows(s, part, tiling) for s in row_steps]
        for width, body in blocks:
            steps.append(
                _column_loop(
                    il.seq(*(_rows(s, part, tiling) for s in body)), width, tiling, "serial"
                )
            )
    return il.For("t", il.Int(0), _tiles(part, tiling), il.seq(*steps), "parallel", "tile")


def column_partition(parts: Sequence[Part], tiling: Tiling, emitter: Emitter) -> list[il.Stmt]:
    """Parallel over column blocks; a thread computes its columns for all nodes of a part.

    Parts, which do not read one another, go stage by stage, so that they share barriers.
    """
    stages = [_column_stages(part, tiling, emitter) for part in parts]
    longest = max(map(len, stages))
    # Aligned at the end: a kind that has no children to finish starts later.
    found: list[il.Stmt] = []
    for number in range(longest):
        for steps in stages:
            if (at := number - (longest - len(steps))) >= 0:
                found += steps[at]
    return found


def _column_stages(part: Part, tiling: Tiling, emitter: Emitter) -> list[list[il.Stmt]]:
    """The loop nests of each stage of one part."""
    stages = place(operators(part.states, part.prefix, gather=part.gather))
    spot = _Place(part.begin, tiling, shared=True, rows=part.rows)
    context = Context(spot.row, {})
    found: list[list[il.Stmt]] = []
    for number in range(stages.last + 1):
        row_steps, blocks, context = _stage(stages, number, spot, context, emitter, part)
        steps: list[il.Stmt] = []
        if row_steps:
            body = il.seq(*(_rows(s, part, tiling) for s in row_steps))
            steps.append(il.For("t", il.Int(0), _tiles(part, tiling), body, "parallel", "tile"))
        for width, body_steps in blocks:
            body = il.seq(*(_rows(s, part, tiling) for s in body_steps))
            tiles = il.For("t", il.Int(0), _tiles(part, tiling), body, "serial", "tile")
            steps.append(_column_loop(tiles, width, tiling, "parallel"))
        if steps:
            found.append(steps)
    return found


def _tiles(part: Part, tiling: Tiling) -> il.Index:
    return il.ceil_div(il.sub(part.end, part.begin), il.Int(tiling.rows))


def _rows(body: il.Stmt, part: Part, tiling: Tiling) -> il.Stmt:
    """A loop over the rows of tile t."""
    left = il.sub(il.sub(part.end, part.begin), il.mul(il.Int(tiling.rows), _TILE))
    return il.For("m", il.Int(0), il.minimum(il.Int(tiling.rows), left), body, "serial", "node")


def _column_loop(body: il.Stmt, width: int, tiling: Tiling, kind: il.LoopKind) -> il.Stmt:
    count = width // block_width(width, tiling.columns)
    if count == 1 and kind == "serial":
        return body
    return il.For("jb", il.Int(0), il.Int(count), body, kind, "block")


def _stage(
    stages: Stages, number: int, spot: _Place, context: Context, emitter: Emitter, part: Part
) -> tuple[list[il.Stmt], list[tuple[int, list[il.Stmt]]], Context]:
    """Statements of one stage for one row m: those on whole rows, and those of each block."""
    ops = stages.at(number)
    kept = {op.expr: op for op in reversed(stages.ops)}
    gemm = [op for op in ops if is_gemm(op.expr) and kept[op.expr] == op]
    if number == 0:
        plain = ops
    else:
        plain = [op for op in ops if op not in gemm and not (is_map(op) or kept[op.expr] != op)] + [
            op for op in ops if op.expr.rank != 1 and kept[op.expr] != op
        ]
    row_steps: list[il.Stmt] = []
    for op in plain:
        held = _keep(op, stages, spot, emitter, part, whole=True)
        row_steps.append(store_value(held.tensor, held.prefix, op.expr, context, emitter))
        context = attrs.evolve(context, held={op.expr: held, **context.held})
    blocks: list[tuple[int, list[il.Stmt]]] = []
    rest = [op for op in ops if op not in plain]
    for width in _in_order(op.expr.shape[0] for op in rest):
        group = [op for op in rest if op.expr.shape[0] == width]
        first = [op for op in group if op in gemm]
        steps, context = _block(first, group, width, stages, spot, context, emitter, part)
        blocks.append((width, steps))
    return row_steps, blocks, context


def _in_order(values: Iterable[int]) -> Sequence[int]:
    return list(dict.fromkeys(values))


def _block(
    products: list[Op],
    group: list[Op],
    width: int,
    stages: Stages,
    spot: _Place,
    context: Context,
    emitter: Emitter,
    part: Part,
) -> tuple[list[il.Stmt], Context]:
    """Products of a column block, a nest each, then everything else in one nest."""
    size = block_width(width, spot.tiling.columns)
    one = size == width and not spot.shared
    column = _J if one else il.add(il.mul(il.Int(size), _BLOCK), _J)
    steps: list[il.Stmt] = []
    for op in products:
        held, store = _store_column(op, stages, spot, column, context, emitter, part, size)
        steps.append(il.For("j", il.Int(0), il.Int(size), store, "vector", "j"))
        context = attrs.evolve(context, held={op.expr: held, **context.held})
    epilogue: list[il.Stmt] = []
    for op in group:
        if op in products:
            continue
        held, store = _store_column(op, stages, spot, column, context, emitter, part, size)
        epilogue.append(store)
        context = attrs.evolve(context, held={op.expr: held, **context.held})
    if epilogue:
        body = il.seq(*epilogue)
        steps.append(il.For("j", il.Int(0), il.Int(size), body, "vector", "j"))
    return steps, context


def _store_column(
    op: Op,
    stages: Stages,
    spot: _Place,
    column: il.Index,
    context: Context,
    emitter: Emitter,
    part: Part,
    size: int,
) -> tuple[Held, il.Stmt]:
    whole = op.state or op in stages.whole
    held = _keep(op, stages, spot, emitter, part, whole=whole, size=size, column=column)
    where = held.at((column,)).index
    return held, il.Store(held.tensor, where, element(op.expr, (column,), context))


def _keep(
    op: Op,
    stages: Stages,
    spot: _Place,
    emitter: Emitter,
    part: Part,
    *,
    whole: bool,
    size: int = 0,
    column: il.Index = _J,
) -> Held:
    """Declare an operator's tensor where its readers find it."""
    shape, dims = sizes(op.expr.shape), axis_dims(op.expr.shape)
    if op.state:
        name, row = stored_at(op.name, spot.row)
        emitter.declare(name, (il.N_NODES, *shape), ("node", *dims), "state")
        return Held(name, (row,))
    if not whole:
        emitter.declare(op.name, (il.Int(spot.tiling.rows), il.Int(size)), ("node", "j"), "tile")
        return Held(op.name, (_M,), (column, _J))
    if spot.shared:
        emitter.declare(op.name, (il.WIDEST, *shape), ("node", *dims), "level")
        return Held(op.name, (spot.offset,))
    emitter.declare(op.name, (il.Int(spot.tiling.rows), *shape), ("node", *dims), "tile")
    return Held(op.name, (_M,))
