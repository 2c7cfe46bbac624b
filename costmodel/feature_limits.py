"""What the fixed-size vectors have room for, and the numbers both representations count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from costmodel.ir import Access, Binary, Call, Expr, Negate, Program, Select, Statement, operands

MAX_DEPTH = 7
MAX_ACCESSES = 21  # the write among them


def accesses_of(statement: Statement) -> tuple[Access, ...]:
    """The write, then every different read in the order of the text.

    A read of the written cell is an access of its own: it is what makes a reduction.
    """
    return (statement.write, *dict.fromkeys(statement.reads))


@lru_cache(maxsize=64)
def numbered(program: Program) -> Mapping[str, int]:
    """Arrays numbered from 1 by first use in the program's text, so that names do not matter."""
    numbers: dict[str, int] = {}
    for statement in program.statements:
        for access in (*statement.reads, statement.write):
            numbers.setdefault(access.array, len(numbers) + 1)
    return MappingProxyType(numbers)


def op_counts(expr: Expr) -> Counter[str]:
    """How often each operation occurs: + - * / min max, "call" and "select"; a sign is a -."""
    counts: Counter[str] = Counter()
    match expr:
        case Binary(op, _, _):
            counts[op] += 1
        case Negate(_):
            counts["-"] += 1
        case Call(_, _):
            counts["call"] += 1
        case Select(_, _, _):
            counts["select"] += 1
    for part in operands(expr):
        counts.update(op_counts(part))
    return counts


def signed_log(values: ArrayLike) -> NDArray[np.float32]:
    """sign(x) log(1 + |x|): the logarithm of counts, with room for negative coefficients."""
    x = np.asarray(values, dtype=np.float64)
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)), dtype=np.float32)
