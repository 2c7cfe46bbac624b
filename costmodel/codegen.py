"""C99 from a scheduled program: isl's syntax tree, walked, with pragmas by loop."""

from __future__ import annotations

import re
from collections.abc import Iterator

import islpy as isl

from costmodel import c_text
from costmodel.affine import Affine
from costmodel.ir import Program, moved, substitute
from costmodel.nest import Nest, Placed
from costmodel.poly import polyhedral
from costmodel.schedule import ScheduledProgram
from costmodel.schedule_tree import schedule_tree



def c_function(scheduled: ScheduledProgram, name: str) -> str:
    """The program as one C function `void name(arrays...)`; see c_text.signature and PRELUDE.

    Loops at level l count in c<l>; pragmas stand on the loops the schedule marked.
    """
    program, nest = scheduled.program, scheduled.nest
    tree = schedule_tree(nest, polyhedral(program).domains)
    build = isl.AstBuild.from_context(isl.Set("{ : }"))
    writer = _Writer(program, nest)
    lines = writer.lines(build.node_from_schedule(tree), 0)
    body = "\n".join(f"  {line}" for line in lines)
    return f"{c_text.signature(program, name)} {{\n{body}\n}}\n"


class _Writer:
    def __init__(self, program: Program, nest: Nest) -> None:
        self._program = program
        self._placed = {p.name: p for p in nest.placed}

    def lines(self, node: isl.AstNode, level: int) -> list[str]:
        """C text of a node inside `level` loops."""
        kind = node.get_type()
        if kind == isl.ast_node_type.for_:
            return self._loop(node, level)
        if kind == isl.ast_node_type.if_:
            return self._branch(node, level)
        if kind == isl.ast_node_type.block:
            children = node.block_get_children()
            nodes = (children.get_at(at) for at in range(children.n_ast_node()))
            return [line for child in nodes for line in self.lines(child, level)]
        if kind == isl.ast_node_type.user:
            return [self._statement(node.user_get_expr())]
        raise AssertionError(f"isl made a node of kind {kind}")

    def _loop(self, node: isl.AstNode, level: int) -> list[str]:
        iterator = node.for_get_iterator().to_C_str()
        start = node.for_get_init().to_C_str()
        body = self.lines(node.for_get_body(), level + 1)
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
        dims = [p.dims[level] for p in self._inside(body)]
        if all(dim.is_parallel for dim in dims):
            yield "#pragma omp parallel for"
        if all(dim.is_vector for dim in dims):
            yield "#pragma omp simd"
        unroll = max((dim.unroll for dim in dims), default=0)
        if unroll > 1:
            yield f"#pragma GCC unroll {unroll}"

    def _inside(self, body: list[str]) -> list[Placed]:
        names = {match[1] for line in body if (match := re.search(r"/\* (\w+) \*/", line))}
        return [self._placed[name] for name in names]

    def _statement(self, call: isl.AstExpr) -> str:
        """The assignment, its iterators replaced by what isl passes for them."""
        name = call.get_op_arg(0).to_C_str()
        statement = self._placed[name].statement
        passed = (affine(call.get_op_arg(at)) for at in range(1, call.get_op_n_arg()))
        values = dict(zip(statement.iterators, passed, strict=True))
        write = moved(statement.write, values)
        value = substitute(statement.computation.expr, values)
        text = c_text.expression(value, self._program, write.array, c_text.access)
        return f"{c_text.access(write)} = {text}; /* {name} */"


def affine(expr: isl.AstExpr) -> Affine:
    """A linear expression of isl's as ours."""
    kind = expr.get_type()
    if kind == isl.ast_expr_type.id:
        return Affine.of(expr.to_C_str())
    if kind == isl.ast_expr_type.int:
        return Affine((), expr.get_val().to_python())
    op = expr.get_op_type()
    parts = [affine(expr.get_op_arg(at)) for at in range(expr.get_op_n_arg())]
    if op == isl.ast_expr_op_type.minus:
        return parts[0] * -1
    if op == isl.ast_expr_op_type.add:
        return parts[0] + parts[1]
    if op == isl.ast_expr_op_type.sub:
        return parts[0] - parts[1]
    if op == isl.ast_expr_op_type.mul:
        factor, other = parts if not parts[0].terms else parts[::-1]
        return other * factor.const
    raise AssertionError(f"{expr.to_C_str()} is not linear")
