"""The compact vector of a statement: the scheduled nest loop by loop, and strides of accesses.

Sizes are logarithms to base 2, log2(1 + x) with x's sign. In order:

    GENERAL   reduction, guards, element bytes, is a float, depth, loops in the nest, iterations,
              8 operation counts (+ - * / min max call select)
    LOOPS     7 loops as the program is written: mean iterations, least value, greatest value,
              is a dimension of the result, is bounded by other loops
    NEST      16 loops of the scheduled nest, outermost first: present, 7 coefficients of the
              program's loops in its count, the constant, tile size, unroll factor, parallel,
              vector, register block, shared with the statement that runs before, place in it of
              what leads here, iterations
    INNER     the 4 innermost loops of the nest, innermost first: iterations, unroll factor, are
              they within tiles, do they move the result
    ACCESSES  21, the write first: array, is the reduction's read, element bytes, array bytes, rows
              kept of a contracted array and in which dimension, level of a packed copy, row-major
              offset, row-major stride of each of the program's loops; of the innermost loop of
              the nest: stride, is 0, is 1; of the next 2 outside it: stride; elements touched
              within the 1, 2 and 3 innermost loops; of the innermost loop of the program: stride,
              is 0, is 1; of the next outside it: stride

What decides a time is mostly said by the innermost loops, before and after: they stand at places of
their own, so that a model need not find them first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel.errors import UnsupportedProgram
from costmodel.extents import extents
from costmodel.feature_limits import MAX_ACCESSES, MAX_DEPTH, accesses_of, numbered, op_counts
from costmodel.ir import ITEM_BYTES, Access, Array, Program
from costmodel.nest import Placed
from costmodel.nest_tree import Leaf, common_levels, loop_tags, owners_of
from costmodel.poly import reduction_op
from costmodel.schedule import ScheduledProgram

OPS = ("+", "-", "*", "/", "min", "max", "call", "select")
MAX_NEST = 16

N_GENERAL = 7 + len(OPS)
LOOPS = N_GENERAL
PER_LOOP = 5
NEST = LOOPS + PER_LOOP * MAX_DEPTH
PER_LEVEL = 10 + MAX_DEPTH
N_INNER = 4
PER_INNER = 4
INNER = NEST + PER_LEVEL * MAX_NEST
ACCESSES = INNER + PER_INNER * N_INNER
N_TOUCHED = 3
PER_ACCESS = 20 + MAX_DEPTH
SIZE = ACCESSES + PER_ACCESS * MAX_ACCESSES


def vector(leaf: Leaf, before: Sequence[Leaf], scheduled: ScheduledProgram) -> NDArray[np.float32]:
    """(SIZE,) float32; before: the statement that runs before this one, if there is one."""
    common = common_levels(before[0].placed, leaf.placed) if before else 0
    return _vector(scheduled.program, leaf.placed, common, scheduled.nest.contractions)


@lru_cache(maxsize=2048)
def _vector(
    program: Program,
    placed: Placed,
    common: int,
    contractions: tuple[tuple[str, int, int], ...],
) -> NDArray[np.float32]:
    """The same; a search changes one statement at a time and asks for the others again.

    common: loops shared with the statement that runs before
    """
    statement = placed.statement
    if len(placed.dims) > MAX_NEST:
        raise UnsupportedProgram(
            f"the model reads at most {MAX_NEST} loops of a nest around a statement, and "
            f"{placed.name} of {program.name} has {len(placed.dims)}"
        )
    values = np.zeros(SIZE)
    bounds = extents(statement)
    is_reduction = reduction_op(statement) is not None
    dtype = program.array(statement.write.array).dtype
    counts = op_counts(statement.computation.expr)
    values[:N_GENERAL] = (
        is_reduction,
        len(statement.computation.guards),
        _log(ITEM_BYTES[dtype]),
        dtype != "int32",
        len(statement.loops),
        len(placed.dims),
        _log(math.prod(e.mean for e in bounds.values())),
        *(_log(counts[op]) for op in OPS),
    )
    for depth, loop in enumerate(statement.loops):
        extent = bounds[loop.name]
        values[LOOPS + PER_LOOP * depth :][:PER_LOOP] = (
            _log(extent.mean),
            _log(extent.low),
            _log(extent.high),
            any(loop.name in index.names for index in statement.write.index),
            bool(loop.lower.terms or loop.upper.terms),
        )
    counts_of = _put_nest(values, placed, common)
    levels = _levels(placed, counts_of)
    result, _ = _strides(statement.write, program.array(statement.write.array), statement.iterators)
    _put_inner(values, levels, result)
    buffers = numbered(program)
    packs = dict(placed.packs)
    contracted = {array: (dim, rows) for array, dim, rows in contractions}
    for number, access in enumerate(accesses_of(statement)):
        array = program.array(access.array)
        dim, rows = contracted.get(array.name, (-1, 0))
        strides, offset = _strides(access, array, statement.iterators)
        inner = _innermost_stride(placed, strides)
        written = [*reversed(strides), 0, 0]
        values[ACCESSES + PER_ACCESS * number :][:PER_ACCESS] = (
            buffers[access.array],
            number > 0 and is_reduction and access == statement.write,
            _log(ITEM_BYTES[array.dtype]),
            _log(array.size_bytes),
            _log(rows),
            1 + dim,
            1 + packs.get(array.name, -1),
            _log(offset),
            *(_log(s) for s in [*strides, *[0] * (MAX_DEPTH - len(strides))]),
            _log(inner),
            inner == 0,
            abs(inner) == 1,
            *(_log(level.stride(strides)) for level in levels[1:3]),
            *[0] * (2 - len(levels[1:3])),
            *(_log(touched) for touched in _touched(levels, strides)),
            _log(written[0]),
            written[0] == 0,
            abs(written[0]) == 1,
            _log(written[1]),
        )
    found = values.astype(np.float32)
    found.flags.writeable = False
    return found


def _put_nest(values: NDArray[np.float64], placed: Placed, common: int) -> list[float]:
    """Returns the iterations of each loop of the nest, outermost first."""
    counts: list[float] = []
    iterators = placed.statement.iterators
    bounds = extents(placed.statement)
    # What is left of each of the program's loops inside the tile loops met so far.
    left = {iterator: bounds[iterator].mean for iterator in iterators}
    owners = owners_of(placed)
    for level, dim in enumerate(placed.dims):
        owner = iterators[owners[level]]
        if dim.divisor > 1:
            count, left[owner] = left[owner] / dim.divisor, min(left[owner], dim.divisor)
        else:
            count = left[owner]
        counts.append(count)
        coefficients = [dim.expression.factor(iterator) for iterator in iterators]
        values[NEST + PER_LEVEL * level :][:PER_LEVEL] = (
            1,
            *coefficients,
            *[0] * (MAX_DEPTH - len(coefficients)),
            dim.expression.const,
            _log(dim.divisor if dim.divisor > 1 else 0),
            _log(dim.unroll),
            dim.is_parallel,
            dim.is_vector,
            _log(dim.register),
            level < common,
            placed.order[level + 1],
            _log(count),
        )
    return counts


@attrs.frozen
class _Level:
    """A loop of the nest. owner: number of the program's loop it runs over;  step: of it"""

    owner: int
    step: int
    count: float
    unroll: int
    is_in_tile: bool

    def stride(self, strides: Sequence[int]) -> int:
        """Elements it moves by, from those of the program's loops."""
        return self.step * strides[self.owner]


def _levels(placed: Placed, counts: Sequence[float]) -> list[_Level]:
    """The loops of the nest that have iterations of their own, innermost first."""
    owners = owners_of(placed)
    tiled: set[int] = set()
    found = []
    for level, dim in enumerate(placed.dims):
        owner = owners[level]
        found.append(_Level(owner, max(1, dim.divisor), counts[level], dim.unroll, owner in tiled))
        if dim.divisor > 1:
            tiled.add(owner)
    return found[::-1]


def _put_inner(
    values: NDArray[np.float64], levels: Sequence[_Level], result: Sequence[int]
) -> None:
    for number, level in enumerate(levels[:N_INNER]):
        values[INNER + PER_INNER * number :][:PER_INNER] = (
            _log(level.count),
            _log(level.unroll),
            level.is_in_tile,
            level.stride(result) != 0,
        )


def _touched(levels: Sequence[_Level], strides: Sequence[int]) -> list[float]:
    """Elements touched within the 1, 2, 3 innermost loops."""
    found, elements = [], 1.0
    for number in range(N_TOUCHED):
        if number < len(levels) and levels[number].stride(strides):
            elements *= max(1.0, levels[number].count)
        found.append(elements)
    return found


def _strides(access: Access, array: Array, iterators: Sequence[str]) -> tuple[list[int], int]:
    """Elements that a step of each loop moves by, and the offset at iterators of 0."""
    unit, units = 1, []
    for extent in reversed(array.shape):
        units.append(unit)
        unit *= extent
    units.reverse()
    strides = [
        sum(index.factor(iterator) * u for index, u in zip(access.index, units, strict=True))
        for iterator in iterators
    ]
    return strides, sum(i.const * u for i, u in zip(access.index, units, strict=True))


def _innermost_stride(placed: Placed, strides: Sequence[int]) -> int:
    tags = loop_tags(placed)
    if not tags:
        return 0
    return strides[max(tags, key=lambda tags: tags.level).depth]


def _log(value: float) -> float:
    return math.copysign(math.log2(1 + abs(value)), value)
