"""Barriers: one for each dependence between threads, in the outermost loop that carries it."""

import attrs

from cortex import ilir as il

#: What parallel loops share. Parameters, tables and features are read only; tiles are private.
_SHARED = ("state", "node", "level")


@attrs.frozen
class Access:
    """A tensor as one parallel loop touches it.

    rows:  "own" (the loop's own nodes), "child" (nodes of lower levels) or "any"
    nodes: which nodes the loop runs over; loops over different nodes of a level do not meet
    level: the pass through the level loop; another pass is another level, and -1 the leaves'
    dense: whether rows are counted within a level, so that every level has the same ones
    """

    tensor: str
    write: bool
    rows: str
    nodes: object
    level: int
    dense: bool


def insert_barriers(program: il.Program) -> il.Program:
    """The program with every barrier it needs and no other."""
    bare = remove_barriers(program.body)
    body, _ = _Inserter(program).statement(bare, (), 0)
    return attrs.evolve(program, body=body)


def remove_barriers(stmt: il.Stmt) -> il.Stmt:
    """A statement without its barriers."""
    match stmt:
        case il.Seq(parts):
            return il.seq(*(remove_barriers(p) for p in parts if not isinstance(p, il.Barrier)))
        case il.For():
            return attrs.evolve(stmt, body=remove_barriers(stmt.body))
        case il.If(cond, then, orelse):
            return il.If(cond, remove_barriers(then), remove_barriers(orelse))
        case _:
            return stmt


def count_barriers(stmt: il.Stmt) -> int:
    """Barriers in the text of a statement."""
    return sum(isinstance(n, il.Barrier) for n in il.walk(stmt))


def barriers_a_pass(program: il.Program) -> int:
    """Barriers every thread meets in one pass through the loop over levels, or over blocks."""
    loops = [
        n for n in il.walk(program.body) if isinstance(n, il.For) and n.dim in ("level", "block")
    ]
    return sum(_met(loop.body) for loop in loops if loop.kind == "serial" and _has_parallel(loop))


def _met(stmt: il.Stmt) -> int:
    match stmt:
        case il.Barrier():
            return 1
        case il.Seq(parts):
            return sum(_met(p) for p in parts)
        case il.If(_, then, orelse):
            return max(_met(then), _met(orelse))
        case _:
            return 0


def without_barrier(stmt: il.Stmt, number: int) -> il.Stmt:
    """A statement with its barrier of that number, in the order of the text, removed."""
    left = number

    def visit(s: il.Stmt) -> il.Stmt:
        nonlocal left
        match s:
            case il.Barrier():
                left -= 1
                return il.Seq() if left == -1 else s
            case il.Seq(parts):
                return il.seq(*(visit(p) for p in parts))
            case il.For():
                return attrs.evolve(s, body=visit(s.body))
            case il.If(cond, then, orelse):
                return il.If(cond, visit(then), visit(orelse))
            case _:
                return s

    return visit(stmt)


@attrs.define
class _Inserter:
    program: il.Program
    passes: int = 0

    def statement(
        self, stmt: il.Stmt, pending: tuple[Access, ...], level: int
    ) -> tuple[il.Stmt, tuple[Access, ...]]:
        """The statement with barriers, and the accesses no barrier has closed since."""
        match stmt:
            case il.Seq(parts):
                done: list[il.Stmt] = []
                for part in parts:
                    new, pending = self.statement(part, pending, level)
                    done.append(new)
                return il.seq(*done), pending
            case il.For(kind="parallel"):
                accesses = self.accesses(stmt, level)
                if any(_conflict(a, b) for a in pending for b in accesses):
                    return il.seq(il.Barrier(), stmt), accesses
                return stmt, _merge(pending, accesses)
            case il.For() if _has_parallel(stmt.body):
                return self.loop(stmt, pending)
            case il.If(cond, then, orelse):
                # Every thread takes the same side.
                # Only one level is the leaves', so nothing is carried from there to itself.
                at = -1 if cond.b == il.N_LEAVES else level
                before = tuple(p for p in pending if at == level or p.level != at)
                yes, after_yes = self.statement(then, before, at)
                no, after_no = self.statement(orelse, pending, level)
                return il.If(cond, yes, no), _merge(after_yes, after_no)
            case _:
                return stmt, pending

    def loop(self, stmt: il.For, pending: tuple[Access, ...]) -> tuple[il.Stmt, tuple[Access, ...]]:
        """A serial loop: what is pending at its end is pending at its start."""
        self.passes += 1
        first = self.passes
        _, after = self.statement(stmt.body, pending, first)
        self.passes += 1
        body, after = self.statement(stmt.body, _merge(pending, after), self.passes)
        return attrs.evolve(stmt, body=body), _merge(pending, after)

    def accesses(self, loop: il.For, level: int) -> tuple[Access, ...]:
        """What a parallel loop reads and writes of shared tensors."""
        nodes = _nodes(loop)
        # A loop up to the last node has nodes of every level.
        everywhere = any(n == il.N_NODES for n in il.walk(loop))
        found: dict[Access, None] = {}
        for node in il.walk(loop.body):
            if isinstance(node, il.Load | il.Store):
                scope = self.program.tensors[node.tensor].scope
                if scope in _SHARED:
                    below = any(
                        isinstance(i, il.Call) and i.fn.startswith("child")
                        for i in il.walk(node.index[0])
                    )
                    rows = "child" if below else "own"
                    if any(
                        isinstance(i, il.Call) and i.fn == "root" for i in il.walk(node.index[0])
                    ):
                        rows = "any"
                    if everywhere and rows == "own":
                        rows = "any"
                    write = isinstance(node, il.Store)
                    access = Access(node.tensor, write, rows, nodes, level, scope == "level")
                    found[access] = None
        return tuple(found)


def _merge(a: tuple[Access, ...], b: tuple[Access, ...]) -> tuple[Access, ...]:
    return tuple(dict.fromkeys((*a, *b)))


def _has_parallel(stmt: il.Stmt) -> bool:
    return any(isinstance(n, il.For) and n.kind == "parallel" for n in il.walk(stmt))


def _nodes(loop: il.For) -> object:
    """What tells the nodes of a loop apart from those of another: where they begin."""
    calls = [
        n
        for n in il.walk(loop)
        if isinstance(n, il.Call)
        and n.fn in ("level_begin", "kind_begin", "super_begin", "n_leaves", "n_roots")
    ]
    # A dense row of a kind's node counts from level_begin too.
    kinds = [c for c in calls if c.fn == "kind_begin"]
    return frozenset(kinds or calls)


def _conflict(before: Access, after: Access) -> bool:
    if before.tensor != after.tensor or not (before.write or after.write):
        return False
    if "any" in (before.rows, after.rows):
        return True
    if before.level != after.level:
        # Two levels' own nodes never meet, and no level writes what a lower one has read.
        return before.dense or (before.write and after.rows == "child")
    return before.rows == after.rows and before.nodes == after.nodes
