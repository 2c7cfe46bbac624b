"""Random programs of a few hundred instances, with every construct of the language."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodel.affine import Affine
from costmodel.ir import (
    Access,
    Array,
    Binary,
    Call,
    Compare,
    Computation,
    Condition,
    Const,
    Expr,
    Index,
    Load,
    Loop,
    Negate,
    Program,
    Select,
)

_RANKS = {"A": 2, "B": 2, "x": 1, "y": 1, "s": 0}


def random_program(seed: int, dtype: str = "float64") -> Program:
    """A program whose accesses fit their arrays; triangular bounds and guards are common.

    dtype: of all arrays, or "mixed"
    """
    return _Maker(random.Random(seed), dtype).program()


def random_inputs(program: Program, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Whole numbers from -8 to 8 for every array, temps too."""
    return {
        a.name: np.asarray(rng.integers(-8, 9, a.shape)).astype(a.dtype) for a in program.arrays
    }


class _Maker:
    def __init__(self, rng: random.Random, dtype: str) -> None:
        self.rng = rng
        kinds = ["float32", "float64", "int32"]
        self.dtypes = {n: rng.choice(kinds) if dtype == "mixed" else dtype for n in _RANKS}
        self.ranges: dict[str, tuple[int, int]] = {}
        self.seen: dict[str, list[list[int]]] = {n: [] for n in _RANKS}
        self.n_loops = 0

    def program(self) -> Program:
        body = tuple(self.node(()) for _ in range(self.rng.randint(1, 2)))
        # Subscripts were drawn freely: shift each so that it starts at 0, and size the arrays.
        arrays = []
        for name, rank in _RANKS.items():
            extents = [max((p[d] for p in self.seen[name]), default=0) + 1 for d in range(rank)]
            role = "temp" if name == "s" else "inout"
            arrays.append(Array(name, tuple(extents), self.dtypes[name], role))  # type: ignore[arg-type]
        return Program("small", tuple(arrays), body)

    def node(self, outside: tuple[str, ...]) -> Loop | Computation:
        if len(outside) == 3 or (outside and self.rng.random() < 0.4):
            return self.computation(outside)
        name = f"i{self.n_loops}"
        self.n_loops += 1
        lower, upper = Affine((), self.rng.randint(-1, 2)), Affine((), self.rng.randint(3, 5))
        if outside and self.rng.random() < 0.3:
            lower = Affine.of(self.rng.choice(outside)) + self.rng.randint(-1, 1)
        if outside and self.rng.random() < 0.3:
            upper = Affine.of(self.rng.choice(outside)) + self.rng.randint(0, 2)
        self.ranges[name] = (self.span(lower)[0], max(self.span(lower)[0], self.span(upper)[1] - 1))
        body = tuple(self.node((*outside, name)) for _ in range(self.rng.randint(1, 2)))
        return Loop(name, lower, upper, body)

    def span(self, affine: Affine) -> tuple[int, int]:
        low = high = affine.const
        for name, factor in affine.terms:
            ends = [factor * end for end in self.ranges[name]]
            low, high = low + min(ends), high + max(ends)
        return low, high

    def affine(self, outside: tuple[str, ...]) -> Affine:
        names = self.rng.sample(outside, min(len(outside), self.rng.randint(0, 2)))
        return Affine(
            [(n, self.rng.choice([1, 1, 1, -1, 2])) for n in names], self.rng.randint(-2, 2)
        )

    def access(self, outside: tuple[str, ...]) -> Access:
        name = self.rng.choice(list(_RANKS))
        indices, top = [], []
        for _ in range(_RANKS[name]):
            index = self.affine(outside)
            low, high = self.span(index)
            indices.append(index + max(0, -low))
            top.append(high + max(0, -low))
        self.seen[name].append(top)
        return Access(name, tuple(indices))

    def computation(self, outside: tuple[str, ...]) -> Computation:
        guards = []
        while self.rng.random() < 0.25:
            name = self.rng.choice(outside)
            expression = Affine.of(name) * self.rng.choice([1, -1]) + self.rng.randint(-2, 3)
            guards.append(Condition(expression, is_equality=self.rng.random() < 0.2))
        write = self.access(outside)
        return Computation(write, self.expr(outside, 3), tuple(guards))

    def expr(self, outside: tuple[str, ...], depth: int) -> Expr:
        roll = self.rng.random()
        if depth == 0 or roll < 0.25:
            return Load(self.access(outside))
        if roll < 0.3:
            return Const(self.rng.choice([2, -3, 0.5, -1.25, 0.1]))
        if roll < 0.35:
            return Index(self.affine(outside))
        inner = [self.expr(outside, depth - 1) for _ in range(4)]
        if roll < 0.75:
            op = self.rng.choice(["+", "+", "-", "*", "*", "min", "max"])
            return Binary(op, inner[0], inner[1])  # type: ignore[arg-type]
        if roll < 0.8:
            return Binary("/", inner[0], Const(self.rng.choice([2, 4, -4, 3])))
        if roll < 0.85:
            return Negate(Load(self.access(outside)))
        if roll < 0.9:
            return Call("abs", (inner[0],))
        op = self.rng.choice(["<", "<=", "==", "!=", ">", ">="])
        return Select(Compare(op, inner[0], inner[1]), inner[2], inner[3])  # type: ignore[arg-type]


def copies(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: array.copy() for name, array in arrays.items()}
