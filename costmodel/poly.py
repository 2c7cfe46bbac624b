"""A program as integer sets and maps: domains, accesses, the order of the text, dependences.

All set work is isl's. Objects of islpy belong to one process and are not pickled: what goes between
processes is text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

import islpy as isl

from costmodel.ir import (
    Access,
    Binary,
    Call,
    Const,
    Expr,
    Load,
    Program,
    Statement,
    loads,
    operands,
)

REDUCTION_OPS = ("+", "*", "min", "max")


def space_text(statement: Statement) -> str:
    """`S0[i, j]`: an instance of the statement, by its iterators."""
    return f"{statement.name}[{', '.join(statement.iterators)}]"


def domain_text(statement: Statement) -> str:
    """`S0[i, j] : 0 <= i < 20 and ...`: the instances that run."""
    limits = [f"{loop.lower} <= {loop.name} < {loop.upper}" for loop in statement.loops]
    limits += [str(guard).replace("==", "=") for guard in statement.computation.guards]
    return f"{space_text(statement)} : {' and '.join(limits) or 'true'}"


def access_text(statement: Statement, access: Access) -> str:
    """`S0[i, j] -> A[i + 1, j]`."""
    return f"{space_text(statement)} -> {access.array}[{', '.join(map(str, access.index))}]"


class Polyhedral:
    """The sets and maps of one program, each made when first asked for."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._constraints: dict[tuple[bool, frozenset[str]], isl.UnionMap] = {}

    @cached_property
    def domains(self) -> isl.UnionSet:
        """Every instance of every statement that runs."""
        return isl.UnionSet(_union(map(domain_text, self.program.statements)))

    def _accesses(self, pairs: Iterable[tuple[Statement, Access]]) -> isl.UnionMap:
        text = _union(access_text(statement, access) for statement, access in pairs)
        return isl.UnionMap(text).intersect_domain(self.domains)

    @cached_property
    def reads(self) -> isl.UnionMap:
        """From instances to the cells they load."""
        return self._accesses((s, a) for s in self.program.statements for a in s.reads)

    @cached_property
    def writes(self) -> isl.UnionMap:
        """From instances to the cell they store to."""
        return self._accesses((s, s.write) for s in self.program.statements)

    @cached_property
    def depth(self) -> int:
        """Loops around the deepest statement."""
        return max((len(s.loops) for s in self.program.statements), default=0)

    @cached_property
    def original(self) -> isl.UnionMap:
        """The order of the text, as instances' places in time: 2 * depth + 1 numbers each."""
        return isl.UnionMap(
            _union(
                f"{space_text(s)} -> [{', '.join(times(s.position, s.iterators, self.depth))}]"
                for s in self.program.statements
            )
        ).intersect_domain(self.domains)

    @cached_property
    def dependences(self) -> isl.UnionMap:
        """Pairs (first, second) on one cell, one of them a store, in the order of the text.

        Memory-based: exact for programs whose subscripts, bounds and guards are affine.
        """
        return self.constraints(reassociate=False)

    def constraints(
        self, *, reassociate: bool, without: frozenset[str] = frozenset()
    ) -> isl.UnionMap:
        """The dependences that a schedule must keep.

        reassociate: leave out those that only fix the order of a reduction
        without:     arrays whose cells do not count
        """
        key = (reassociate, without)
        if key not in self._constraints:
            pairs = _conflicts(self._but(self.reads, without), self._but(self.writes, without))
            pairs = pairs.intersect(self.original.lex_lt_union_map(self.original))
            for statement in self.program.statements if reassociate else ():
                if reduction_op(statement) is not None and not self._is_cut(statement):
                    update = self._accesses([(statement, statement.write)])
                    pairs = pairs.subtract(_conflicts(update, update))
            self._constraints[key] = pairs.coalesce()
        return self._constraints[key]

    def _is_cut(self, statement: Statement) -> bool:
        """Whether an int takes the sum of an int and a float: each store cuts a fraction off."""
        return self.program.array(statement.write.array).dtype == "int32" and (
            any(self.program.array(read.array).dtype != "int32" for read in statement.reads)
            or has_fraction(statement.computation.expr)
        )

    def _but(self, accesses: isl.UnionMap, without: frozenset[str]) -> isl.UnionMap:
        for name in without:
            n = len(self.program.array(name).shape)
            cells = isl.UnionSet(f"{{ {name}[{', '.join(f'x{at}' for at in range(n))}] }}")
            accesses = accesses.subtract_range(cells)
        return accesses

    def conflicts(self, access_texts: Iterable[tuple[str, str]]) -> isl.UnionMap:
        """Pairs of instances, either first, on one cell of these ("read" | "write", text)."""
        kinds: dict[str, list[str]] = {"read": [], "write": []}
        for kind, text in access_texts:
            kinds[kind].append(text)
        maps = (
            isl.UnionMap(_union(kinds[kind])).intersect_domain(self.domains)
            for kind in ("read", "write")
        )
        return _conflicts(*maps)


def _conflicts(reads: isl.UnionMap, writes: isl.UnionMap) -> isl.UnionMap:
    """Pairs that touch one cell and do not both read it."""
    to_writers = writes.reverse()
    pairs = reads.apply_range(to_writers).union(writes.apply_range(reads.reverse()))
    return pairs.union(writes.apply_range(to_writers))


@lru_cache(maxsize=64)
def polyhedral(program: Program) -> Polyhedral:
    """The sets and maps of a program; the same object for the same program."""
    return Polyhedral(program)


def times(order: Iterable[int], dims: Iterable[object], depth: int) -> list[str]:
    """Constants and loops in turn, filled up with zeros to 2 * depth + 1.

    One length for all: isl passes over pairs from spaces of different length without a word.
    """
    text = [str(part) for pair in zip(order, [*dims, None], strict=True) for part in pair][:-1]
    return text + ["0"] * (2 * depth + 1 - len(text))


def reduction_op(statement: Statement) -> str | None:
    """The operation of X[f] = X[f] op e that may be re-associated; None if it is no reduction.

    e, guards and bounds must not read X (bounds and guards are affine, so they never do), and
    X[f] must stand once: `A[i] += A[i-1]` is a recurrence.
    """
    expr = statement.computation.expr
    if not isinstance(expr, Binary) or expr.op not in REDUCTION_OPS:
        return None
    own = Load(statement.write)
    other = expr.right if expr.left == own else expr.left if expr.right == own else None
    if other is None or any(to.array == statement.write.array for to in loads(other)):
        return None
    return expr.op


def has_fraction(expr: Expr) -> bool:
    """Whether an expression of ints computes in floats on the way."""
    if isinstance(expr, Const):
        return isinstance(expr.value, float)
    if isinstance(expr, Call) and expr.function != "abs":
        return True
    return any(map(has_fraction, operands(expr)))


def _union(parts: Iterable[str]) -> str:
    return "{ " + "; ".join(parts) + " }"
