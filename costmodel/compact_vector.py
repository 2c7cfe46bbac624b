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
    ACCESSES  21, the write first: array, is the reduction's read, element bytes, array bytes, rows
              kept of a contracted array and in which dimension, level of a packed copy, row-major
              offset, row-major stride of each of the program's loops, and of the innermost loop of
              the nest: stride, is 0, is 1
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from costmodel.errors import UnsupportedProgram
from costmodel.extents import extents
from costmodel.feature_limits import MAX_ACCESSES, MAX_DEPTH, accesses_of, op_counts
from costmodel.ir import ITEM_BYTES, Access, Array
from costmodel.nest_tree import Leaf, Node, common_levels, owners_of
from costmodel.poly import reduction_op
from costmodel.schedule import ScheduledProgram

OPS = ("+", "-", "*", "/", "min", "max", "call", "select")
MAX_NEST = 16

N_GENERAL = 7 + len(OPS)
LOOPS = N_GENERAL
PER_LOOP = 5
NEST = LOOPS + PER_LOOP * MAX_DEPTH
PER_LEVEL = 10 + MAX_DEPTH
ACCESSES = NEST + PER_LEVEL * MAX_NEST
PER_ACCESS = 11 + MAX_DEPTH
SIZE = ACCESSES + PER_ACCESS * MAX_ACCESSES


def vector(
    leaf: Leaf,
    before: Sequence[Leaf],
    path: tuple[Node, ...],
    scheduled: ScheduledProgram,
    buffers: Mapping[str, int],
) -> NDArray[np.float32]:
    """(SIZE,) float32; before: the statement that runs before this one, if there is one."""
    placed, program = leaf.placed, scheduled.program
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
    _put_nest(values, leaf, before)
    packs = dict(placed.packs)
    contracted = {array: (dim, rows) for array, dim, rows in scheduled.nest.contractions}
    for number, access in enumerate(accesses_of(statement)):
        array = program.array(access.array)
        dim, rows = contracted.get(array.name, (-1, 0))
        strides, offset = _strides(access, array, statement.iterators)
        inner = _innermost_stride(leaf, strides)
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
        )
    return values.astype(np.float32)


def _put_nest(values: NDArray[np.float64], leaf: Leaf, before: Sequence[Leaf]) -> None:
    placed = leaf.placed
    common = common_levels(before[0].placed, placed) if before else 0
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


def _innermost_stride(leaf: Leaf, strides: Sequence[int]) -> int:
    if not leaf.tags:
        return 0
    return strides[max(leaf.tags, key=lambda tags: tags.level).depth]


def _log(value: float) -> float:
    return math.copysign(math.log2(1 + abs(value)), value)
