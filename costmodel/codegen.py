"""C99 from a scheduled program: isl's syntax tree, walked, with pragmas by loop."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator

import islpy as isl

from costmodel import c_text
from costmodel.affine import Affine
from costmodel.errors import ScheduleError
from costmodel.ir import Access, Program, moved, substitute
from costmodel.nest import Nest, Placed
from costmodel.poly import polyhedral
from costmodel.register_tile import RegisterTile
from costmodel.schedule import ScheduledProgram
from costmodel.schedule_tree import Leaf, level_of, schedule_tree

VECTOR_BYTES = 32


def c_function(scheduled: ScheduledProgram, name: str, *, vector_bytes: int = VECTOR_BYTES) -> str:
    """The program as one C function `void name(arrays...)`; see c_text.signature and PRELUDE.

    Pragmas stand on the loops the schedule marked.

    vector_bytes: of a register, for statements with register tiles

    Raises ScheduleError where isl fails to find the loops.
    """
    program, nest = scheduled.program, scheduled.nest
    writer = _Writer(program, nest, vector_bytes)
    domains, leaves = polyhedral(program).domains, []
    for placed in nest.placed:
        tile = writer.tiles.get(placed.name)
        if tile is None:
            leaves.append(Leaf.of(placed))
        else:
            domains = domains.subtract(isl.UnionSet.from_set(tile.domain)).union(tile.domains())
            leaves.extend(tile.leaves())
    try:
        return writer.function(schedule_tree(leaves, domains), name)
    except isl.Error:  # at some unions beside register tiles: "input involves unknown divs"
        pass
    try:
        return writer.function(schedule_tree(leaves, _in_one_piece(domains)), name)
    except isl.Error as problem:
        raise ScheduleError(
            f"isl finds no loops for this schedule of {program.name} ({problem}): choose other "
            f"sizes of tiles"
        ) from None


def _in_one_piece(domains: isl.UnionSet) -> isl.UnionSet:
    """The same sets, those that are convex without being written so as one basic set."""
    sets = domains.get_set_list()
    found = isl.UnionSet("{ }")
    for at in range(sets.n_set()):
        domain = sets.get_at(at)
        hull = isl.Set.from_basic_set(domain.convex_hull())
        found = found.union(hull if hull.is_equal(domain) else domain)
    return found


@functools.lru_cache(maxsize=512)
def kept_c_function(scheduled: ScheduledProgram, name: str) -> str:
    """`c_function`, remembered: a search asks for the text of a candidate more than once."""
    return c_function(scheduled, name)


def c_function_of_tree(program: Program, tree: isl.Schedule, name: str) -> str:
    """The program as one C function, in the order of any schedule tree of isl's."""
    nest = Nest(tuple(Placed(s, (), ()) for s in program.statements))
    return _Writer(program, nest, VECTOR_BYTES).function(tree, name)


def _iterators(program: Program, number: int = 64) -> isl.IdList:
    """c0, c1, ... or other letters where arrays have such names."""
    arrays = {array.name for array in program.arrays}
    letters = ("c", "t", "x", "y", "z", "loop")
    prefix = next(x for x in letters if not arrays & {f"{x}{at}" for at in range(number)})
    names = isl.IdList.alloc(isl.DEFAULT_CONTEXT, number)
    for at in range(number):
        names = names.add(isl.Id(f"{prefix}{at}"))
    return names


@contextlib.contextmanager
def _together(is_wanted: bool) -> Iterator[None]:
    """Calls in one iteration of a loop stay in one loop of the text.

    isl otherwise takes those of the last iteration out of it where only they remain, away from the
    registers and buffers that live in that iteration.
    """
    context = isl.DEFAULT_CONTEXT
    before = context.get_ast_build_group_coscheduled()
    context.set_ast_build_group_coscheduled(int(is_wanted))
    try:
        yield
    finally:
        context.set_ast_build_group_coscheduled(before)


class _Writer:
    def __init__(self, program: Program, nest: Nest, vector_bytes: int) -> None:
        self._program = program
        self._contractions = nest.contractions
        self._placed = {p.name: p for p in nest.placed}
        self.tiles = {
            p.name: RegisterTile(program, p, vector_bytes, self._cell)
            for p in nest.placed
            if p.dims and p.dims[-1].register
        }
        self._needed: dict[tuple[str, str], int] = {}  # types and names, with the loops around

    def function(self, tree: isl.Schedule, name: str) -> str:
        """The whole C function of a schedule tree."""
        build = isl.AstBuild.from_context(isl.Set("{ : }"))
        build = build.set_iterators(_iterators(self._program))
        with _together(bool(self.tiles)):
            node = build.node_from_schedule(tree)
        body = "".join(f"  {line}\n" for line in self.scope(node, 0))
        typedefs = dict.fromkeys(text for t in self.tiles.values() for text in t.typedefs())
        types = "".join(f"{text}\n" for text in typedefs)
        return f"{types}{c_text.signature(self._program, name)} {{\n{body}}}\n"

    def scope(self, node: isl.AstNode, level: int) -> list[str]:
        """C text of a node with the registers and buffers that live inside `level` loops."""
        outside, self._needed = self._needed, {}
        lines = self.lines(node, level)
        here: dict[str, list[str]] = {}
        for (kind, name), depth in self._needed.items():
            if depth >= level:
                here.setdefault(kind, []).append(name)
            else:
                outside[kind, name] = depth
        self._needed = outside
        return [*(f"{kind} {', '.join(names)};" for kind, names in here.items()), *lines]

    def lines(self, node: isl.AstNode, level: int) -> list[str]:
        """C text of a node; loops up to the next mark are at this level.

        Neither the depth of a loop in isl's tree tells its level nor the number in its iterator's
        name: loops of one iteration are left out, and numbers may be skipped.
        """
        match _kind(node.get_type()):
            case "mark":
                return self.lines(node.mark_get_node(), level_of(node.mark_get_id()))
            case "for_":
                return self._loop(node, level)
            case "if_":
                return self._branch(node, level)
            case "block":
                children = node.block_get_children()
                nodes = (children.get_at(at) for at in range(children.n_ast_node()))
                return [line for child in nodes for line in self.lines(child, level)]
            case "user":
                return self._call(node.user_get_expr())
            case kind:
                raise AssertionError(f"isl made a node of kind {kind}")

    def _loop(self, node: isl.AstNode, level: int) -> list[str]:
        iterator = node.for_get_iterator().to_C_str()
        start = node.for_get_init().to_C_str()
        body = self.scope(node.for_get_body(), level + 1)
        inside = [f"  {line}" for line in body]
        if node.for_is_degenerate():
            return ["{", f"  const int {iterator} = {start};", *inside, "}"]
        condition, step = node.for_get_cond().to_C_str(), node.for_get_inc().to_C_str()
        head = f"for (int {iterator} = {start}; {condition}; {iterator} += {step}) {{"
        return [*self._pragmas(body, level), head, *inside, "}"]

    def _branch(self, node: isl.AstNode, level: int) -> list[str]:
        lines = [f"if ({node.if_get_cond().to_C_str()}) {{"]
        lines += [f"  {line}" for line in self.lines(node.if_get_then_node(), level)]
        if node.if_has_else_node():
            lines.append("} else {")
            lines += [f"  {line}" for line in self.lines(node.if_get_else_node(), level)]
        return [*lines, "}"]

    def _pragmas(self, body: list[str], level: int) -> Iterator[str]:
        """Those of the loop at this level around the statements of the body."""
        dims = [p.dims[level] for p in self._inside(body) if p.dims[level:]]
        if not dims:  # of a tree that is not ours
            return
        is_vector = all(dim.is_vector for dim in dims)
        unroll = max((dim.unroll for dim in dims), default=0)
        if all(dim.is_parallel for dim in dims):
            yield "#pragma omp parallel for" + (" simd" if is_vector else "")
            return
        if is_vector:  # gcc takes no other pragma beside one of OpenMP
            yield "#pragma GCC ivdep" if unroll > 1 else "#pragma omp simd"
        if unroll > 1:
            yield f"#pragma GCC unroll {unroll}"

    def _inside(self, body: list[str]) -> list[Placed]:
        names = {match[1] for line in body if (match := re.search(r"/\* (\w+) \*/", line))}
        return [self._placed[name] for name in names]

    def _call(self, call: isl.AstExpr) -> list[str]:
        """The statement isl calls, its iterators replaced by what isl passes for them."""
        name = call.get_op_arg(0).to_C_str()
        passed = [affine(call.get_op_arg(at)) for at in range(1, call.get_op_n_arg())]
        if name not in self._placed:
            base, _, word = name.partition("_")
            self._needed.update(self.tiles[base].declarations(word))
            lines = self.tiles[base].lines(word, passed)
            return [*lines[:-1], f"{lines[-1]} /* {base} */"]
        statement = self._placed[name].statement
        values = dict(zip(statement.iterators, passed, strict=True))
        write = moved(statement.write, values)
        value = substitute(statement.computation.expr, values)
        text = c_text.expression(value, self._program, write.array, self._cell)
        return [f"{self._cell(write)} = {text}; /* {name} */"]

    def _cell(self, access: Access) -> str:
        """C text of where an access finds its cell."""
        index = [str(i) for i in access.index]
        for array, dimension, rows in self._contractions:
            if array == access.array:
                index[dimension] = f"({index[dimension]}) % {rows}"
        return access.array + "".join(f"[{i}]" for i in index or ["0"])


def affine(expr: isl.AstExpr) -> Affine:
    """An expression of isl's as ours; what is not linear stands in it as one name, in C.

    Quotients occur where a loop was skewed by more than 1 and then moved outwards.
    """
    match _kind(expr.get_type()):
        case "id":
            return Affine.of(expr.to_C_str())
        case "int":
            return Affine((), expr.get_val().to_python())
    match _kind(expr.get_op_type()):
        case "minus":
            return affine(expr.get_op_arg(0)) * -1
        case "add":
            return affine(expr.get_op_arg(0)) + affine(expr.get_op_arg(1))
        case "sub":
            return affine(expr.get_op_arg(0)) - affine(expr.get_op_arg(1))
        case "mul":
            one, other = affine(expr.get_op_arg(0)), affine(expr.get_op_arg(1))
            return other * one.const if not one.terms else one * other.const
    return Affine.of(f"({expr.to_C_str()})")


def _kind(member: object) -> str:
    """The name of a member of one of islpy's enumerations, which its stubs take for numbers."""
    return str(member).rpartition(".")[2]
