"""Random programs after the paper's generator (its section on data generation).

One or two branches share an outer nest; a branch has one or two computations, each of one of five
kinds. Later computations often read what earlier ones wrote, so that fusing them has a point.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import attrs
import numpy as np

from costmodel.affine import Affine
from costmodel.ir import (
    Access,
    Array,
    Binary,
    BinaryOp,
    Computation,
    Const,
    DType,
    Expr,
    Load,
    Loop,
    Program,
    loads,
)

T = TypeVar("T")
Kind = Literal["simple", "assign", "stencil", "reduction", "convolution"]
KINDS: tuple[Kind, ...] = ("simple", "assign", "stencil", "reduction", "convolution")

# How likely each kind is in a computation of this depth, in the order of KINDS.
_KIND_WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (0.33, 0.34, 0.33, 0, 0),
    2: (0.33, 0.34, 0.33, 0, 0),
    3: (0.23, 0.23, 0.27, 0.27, 0),
    4: (0.05, 0.26, 0.35, 0.34, 0),
    5: (0, 0.10, 0.30, 0.25, 0.35),
    6: (0, 0.10, 0.10, 0.10, 0.70),
    7: (0, 0.02, 0.02, 0.02, 0.94),
}

_BIG = np.arange(128, 3073, 128)
_MEDIUM = (8, 32, 32, 64, 64, 64, 96)
_SMALL = (3, 3, 3, 4, 5, 6, 7, 8, 9, 10)
_KERNEL = (3, 3, 5)

# Loops of a convolution by depth: batch n, feature f, row y, column x, channel c, kernel p and q.
_CONVOLUTION_LOOPS = {7: "nfyxcpq", 6: "fyxcpq", 5: "fyxpq", 3: "fxq", 2: "xq"}


@attrs.frozen
class Profile:
    """What programs to draw.

    depths:         how likely each depth of the first branch is
    kinds:          how likely each kind is, by depth
    big:            extents of the inner loops; the first are likelier
    points:         least and most instances of all statements; None for no limit
    max_bytes:      of all arrays
    dtypes:         of which one is drawn for the whole program
    link:           how likely an input is what an earlier computation wrote
    part:           how likely computations share fewer loops than they could
    start:          how likely a loop begins at 1
    triangle:       how likely a loop ends at the iterator of one outside
    """

    depths: dict[int, float]
    big: tuple[int, ...]
    points: tuple[float, float] | None
    max_bytes: int
    dtypes: tuple[DType, ...]
    link: float
    part: float
    start: float = 0.0
    triangle: float = 0.0
    kinds: dict[int, tuple[float, ...]] = attrs.field(factory=lambda: _KIND_WEIGHTS)
    medium: tuple[int, ...] = _MEDIUM
    small: tuple[int, ...] = _SMALL
    kernel: tuple[int, ...] = _KERNEL


PROFILES: dict[str, Profile] = {
    "paper": Profile(
        depths={2: 0.17, 3: 0.30, 4: 0.30, 5: 0.03, 6: 0.03, 7: 0.17},
        big=tuple(map(int, _BIG)),
        points=None,
        max_bytes=2**28,
        dtypes=("int32",),
        link=0.3,
        part=0.0,
    ),
    # For two cores: a program runs for some 10 us to 2 ms.
    "small": Profile(
        depths={2: 0.20, 3: 0.32, 4: 0.28, 5: 0.20},
        big=(64, 96, 128, 32, 192, 256, 384, 512, 768, 1024, 1536, 2048),
        points=(1e5, 6e6),
        max_bytes=2**26,
        dtypes=("float32", "int32"),
        link=0.6,
        part=0.5,
        start=0.15,
    ),
    # For brute force: all pairs of instances can be looked at.
    "tiny": Profile(
        depths={1: 0.15, 2: 0.45, 3: 0.40},
        big=(2, 3, 4, 5, 6),
        points=(1, 160),
        max_bytes=2**20,
        dtypes=("float32", "int32"),
        link=0.7,
        part=0.5,
        start=0.2,
        triangle=0.2,
        kinds={
            1: (0.2, 0.4, 0.4, 0, 0),
            2: (0.1, 0.25, 0.45, 0, 0.2),
            3: (0.1, 0.2, 0.25, 0.3, 0.15),
        },
        medium=(2, 3, 4),
        small=(2, 3),
        kernel=(2, 3),
    ),
}


def random_program(
    seed: int | Sequence[int], profile: Literal["paper", "small", "tiny"] = "paper"
) -> Program:
    """The program of a seed: the same wherever and whenever it is asked for.

    seed: of numpy's SeedSequence; program i of a data set of seed s has [s, i]
    """
    return _Maker(np.random.default_rng(np.random.SeedSequence(seed)), PROFILES[profile]).program()


@attrs.define(eq=False)
class _Extent:
    """A loop whose size is not settled yet; loops that branches share are one object.

    outer: level of the loop whose iterator is the last value, None for a rectangle
    """

    size: int
    lower: int = 0
    outer: int | None = None
    is_kernel: bool = False


@attrs.frozen
class _Placed:
    """A computation, the loops around it, and how many of them it shares with the one before."""

    computation: Computation
    extents: list[_Extent]
    shared: int

    def ranges(self) -> list[tuple[int, int]]:
        """Least and greatest value of each iterator."""
        found: list[tuple[int, int]] = []
        for extent in self.extents:
            last = extent.lower + extent.size - 1
            found.append((extent.lower, last if extent.outer is None else found[extent.outer][1]))
        return found


class _Maker:
    """One program, drawn step by step.

    The iterator of depth d is i<d>. Arrays are sized last, from the accesses to them.
    """

    def __init__(self, rng: np.random.Generator, profile: Profile) -> None:
        self._rng = rng
        self._profile = profile
        self._dtype: DType = self._choose(profile.dtypes)
        self._ranks: dict[str, int] = {}  # of every array so far
        self._origin: dict[str, int] = {}  # subscript at which writes to an array begin
        self._written: list[str] = []
        self._placed: list[_Placed] = []

    def program(self) -> Program:
        n_branches = 2 if self._chance(0.5) else 1
        depths = [self._draw(self._profile.depths) for _ in range(n_branches)]
        kinds = [self._kinds(at, depth) for at, depth in enumerate(depths)]
        extents = self._extents(depths, kinds)
        for branch, (depth, names) in enumerate(zip(depths, kinds, strict=True)):
            between = min(4, *depths) if branch else 0
            self._branch(depth, names, extents[branch], self._part(between))
        self._fit()
        body = _tree([(p.computation, p.extents, p.shared) for p in self._placed])
        return Program("program", self._arrays(), body)

    # --- drawing ---------------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _choose(self, values: Sequence[T]) -> T:
        return values[int(self._rng.integers(len(values)))]

    def _draw(self, weights: dict[T, float]) -> T:
        values, w = list(weights), np.array(list(weights.values()))
        return values[int(self._rng.choice(len(values), p=w / w.sum()))]

    def _part(self, most: int) -> int:
        """How many loops to share, of those that could be."""
        if most and self._chance(self._profile.part):
            return int(self._rng.integers(most))
        return most

    def _kinds(self, branch: int, depth: int) -> list[Kind]:
        second = 0.1 if depth > 4 or branch else 0.6
        n = 2 if self._chance(second) else 1
        weights = dict(zip(KINDS, self._profile.kinds[depth], strict=True))
        return [self._draw(weights) for _ in range(n)]

    def _extents(self, depths: list[int], kinds: list[list[Kind]]) -> list[list[_Extent]]:
        """The loops of each branch; those that branches may share come from the deepest."""
        found: dict[int, list[_Extent]] = {}
        common: list[_Extent] = []
        for branch in sorted(range(len(depths)), key=lambda b: -depths[b]):
            own = self._loops(depths[branch], "convolution" in kinds[branch])
            found[branch] = common + own[len(common) :]
            common = common or own[: min(4, *depths)]
        return [found[branch] for branch in range(len(depths))]

    def _loops(self, depth: int, is_convolution: bool) -> list[_Extent]:
        loops: list[_Extent] = []
        for level in range(depth):
            letter = _CONVOLUTION_LOOPS[depth][level] if is_convolution else ""
            extent = _Extent(self._size(level, depth, letter), is_kernel=letter in ("p", "q"))
            if not letter and level and self._chance(self._profile.triangle):
                extent.outer = int(self._rng.integers(level))
            elif self._chance(self._profile.start) and not extent.is_kernel:
                extent.lower = 1
            if extent.outer is not None and loops[extent.outer].outer is not None:
                extent.outer = None
            loops.append(extent)
        return loops

    def _size(self, level: int, depth: int, letter: str) -> int:
        p = self._profile
        if letter:
            sizes = {"f": p.medium, "n": p.small, "c": p.small, "p": p.kernel, "q": p.kernel}
            return self._choose(sizes[letter]) if letter in sizes else self._big()
        if level == 0 and self._chance(0.5):
            return self._choose(p.small)
        return self._big() if level >= depth - 3 else self._choose(p.medium)

    def _big(self) -> int:
        sizes = self._profile.big
        weights = 1 / (1 + np.arange(len(sizes)))
        return sizes[int(self._rng.choice(len(sizes), p=weights / weights.sum()))]

    # --- computations ----------------------------------------------------------------------------

    def _branch(self, depth: int, kinds: list[Kind], extents: list[_Extent], shared: int) -> None:
        for at, kind in enumerate(kinds):
            if at:
                shared = self._part(depth)
            iterators = [Affine.of(f"i{level}") for level in range(depth)]
            if kind in ("reduction", "convolution") and at == 1 and self._chance(0.5):
                self._reduce_into_new(kind, iterators, extents)
                continue
            make = {
                "simple": self._simple,
                "assign": self._assign,
                "stencil": self._stencil,
                "reduction": self._reduction,
                "convolution": self._convolution,
            }[kind]
            self._placed.append(_Placed(make(iterators), extents, shared))

    def _reduce_into_new(self, kind: Kind, iterators: list[Affine], extents: list[_Extent]) -> None:
        """A reduction whose result the computation before it sets to 0: that one is replaced."""
        before = self._placed.pop()
        make = self._reduction if kind == "reduction" else self._convolution
        reduction = make(iterators, innermost=True)
        n_out = len({name for index in reduction.write.index for name in index.names})
        zero = Computation(reduction.write, Const(0 if self._dtype == "int32" else 0.0))
        shared = min(before.shared, n_out)
        self._placed.append(_Placed(zero, extents[:n_out], shared))
        self._placed.append(_Placed(reduction, extents, self._part(n_out)))

    def _simple(self, iterators: list[Affine]) -> Computation:
        """An expression of constants."""
        expr: Expr = self._const()
        if self._chance(0.5):
            expr = Binary(self._choose(("+", "-", "*")), expr, self._const())
        return Computation(self._output(iterators), expr)

    def _assign(self, iterators: list[Affine]) -> Computation:
        """One to three inputs of up to three dimensions, joined point by point."""
        terms: list[Expr] = []
        for _ in range(self._draw({1: 0.5, 2: 0.3, 3: 0.2})):
            rank = int(self._rng.integers(1, min(3, len(iterators)) + 1))
            index = self._some(iterators, rank)
            term: Expr = Load(self._input(index))
            if self._chance(0.3):
                term = Binary("*", self._const(), term)
            terms.append(term)
        expr = terms[0]
        for term in terms[1:]:
            expr = Binary(self._draw({"+": 0.5, "-": 0.3, "*": 0.2}), expr, term)
        if self._dtype != "int32" and self._chance(0.1):
            expr = Binary("/", expr, self._const())
        return Computation(self._output(iterators), expr)

    def _some(self, iterators: list[Affine], rank: int) -> list[Affine]:
        """Some of the iterators, in their order with probability 0.85."""
        chosen = self._rng.choice(len(iterators), rank, replace=False)
        if self._chance(0.85):
            chosen.sort()
        return [iterators[at] for at in chosen]

    def _stencil(self, iterators: list[Affine]) -> Computation:
        """Neighbours along one or two dimensions, two or three of each, in a box or a cross."""
        rank = len(iterators)
        if rank > 3 and self._chance(0.5):
            rank = int(self._rng.integers(2, 4))
        index = iterators[len(iterators) - rank :]
        dims = self._rng.choice(rank, min(rank, 2 if self._chance(0.5) else 1), replace=False)
        reach = {int(dim): self._offsets() for dim in dims}
        places = [{dim: offset} for dim, offsets in reach.items() for offset in offsets]
        if len(reach) == 2 and self._chance(0.5):
            (a, of_a), (b, of_b) = reach.items()
            places = [{a: x, b: y} for x in of_a for y in of_b]
        in_place = self._profile.part and rank == len(iterators) and self._chance(0.15)
        write = self._output(iterators, origin=1)
        source = write if in_place else self._input(index, origin=1)
        reads: dict[Access, None] = {}
        for place in places:
            moved = (
                each + (place.get(dim, 0) if self._origin[source.array] or place.get(dim, 0) > 0
                        else 0)
                for dim, each in enumerate(source.index)
            )  # fmt: skip
            reads[Access(source.array, tuple(moved))] = None
        return Computation(write, self._scaled(_sum([Load(read) for read in reads])))

    def _offsets(self) -> tuple[int, ...]:
        return self._choose(((-1, 0, 1), (-1, 0, 1), (0, 1), (-1, 0), (-1, 1)))

    def _scaled(self, expr: Expr) -> Expr:
        if self._chance(0.5):
            return Binary("*", expr, self._const())
        return expr

    def _reduction(self, iterators: list[Affine], innermost: bool = False) -> Computation:
        """out[a, b] += left[a, k] * right[k, b]: the dimensions of the result are split in two."""
        n = 2 if len(iterators) > 3 and self._chance(0.2) else 1
        summed = list(range(len(iterators) - n, len(iterators)))
        if not innermost and self._chance(0.4):
            summed = sorted(map(int, self._rng.choice(len(iterators), n, replace=False)))
        over = [iterators[at] for at in summed]
        kept = [it for at, it in enumerate(iterators) if at not in summed]
        split = int(self._rng.integers(1, max(2, len(kept))))
        write = self._output(kept)
        left, right = self._input([*kept[:split], *over]), self._input([*over, *kept[split:]])
        product = Binary("*", Load(left), Load(right))
        return Computation(write, Binary("+", Load(write), product))

    def _convolution(self, iterators: list[Affine], innermost: bool = True) -> Computation:
        """out[n, f, y, x] += in[n, c, y + p, x + q] * weight[f, c, p, q], or fewer dimensions."""
        letters = _CONVOLUTION_LOOPS[len(iterators)]
        by = dict(zip(letters, iterators, strict=True))
        window = [by[a] + by[b] for a, b in ("yp", "xq") if a in by]
        write = self._output([by[letter] for letter in "nfyx" if letter in by])
        image = self._input([*(by[letter] for letter in "nc" if letter in by), *window])
        weight = self._input([by[letter] for letter in "fcpq" if letter in by])
        product = Binary("*", Load(image), Load(weight))
        return Computation(write, Binary("+", Load(write), product))

    def _const(self) -> Const:
        """A power of two: products with it are exact."""
        if self._dtype == "int32":
            return Const(self._choose((1, 2, 4, -1, -2)))
        return Const(self._choose((0.25, 0.5, 1.0, 2.0, 4.0)))

    # --- arrays ----------------------------------------------------------------------------------

    def _output(self, index: list[Affine], origin: int = 0) -> Access:
        """A new array, or one already written, at a place that no reader's offset leaves."""
        same = [name for name in self._written if self._ranks[name] == len(index)]
        if self._profile.part and same and self._chance(0.1):
            name = self._choose(same)
        else:
            name = self._new(len(index), origin if self._chance(0.7) else 0)
        if name not in self._written:
            self._written.append(name)
        return Access(name, tuple(each + self._origin[name] for each in index))

    def _input(self, index: list[Affine], origin: int = 0) -> Access:
        """An array written before, one read before, or a new one."""
        fit = [name for name, rank in self._ranks.items() if rank == len(index)]
        # The last one written is what the computation at hand writes, if it was asked for before.
        made = {p.computation.write.array for p in self._placed}
        linked = [name for name in fit if name in made]
        known = [name for name in fit if name not in self._written]
        if linked and self._chance(self._profile.link):
            name = self._choose(linked)
        elif known and self._chance(0.2):
            name = self._choose(known)
        else:
            name = self._new(len(index), origin)
        return Access(name, tuple(each + self._origin[name] for each in index))

    def _new(self, rank: int, origin: int) -> str:
        name = f"A{len(self._ranks)}"
        self._ranks[name] = rank
        self._origin[name] = origin
        return name

    def _shapes(self) -> dict[str, list[int]]:
        """Extents of every array in use: the greatest subscript and one more."""
        shapes = {name: [1] * rank for name, rank in self._ranks.items()}
        used: set[str] = set()
        for placed in self._placed:
            last = {f"i{level}": high for level, (_, high) in enumerate(placed.ranges())}
            for access in (placed.computation.write, *loads(placed.computation.expr)):
                used.add(access.array)
                shape = shapes[access.array]
                for dim, index in enumerate(access.index):
                    shape[dim] = max(shape[dim], index.value(last) + 1)
        return {name: shape for name, shape in shapes.items() if name in used}

    def _arrays(self) -> tuple[Array, ...]:
        # Written ones are inout: to find out whether each cell is written first would take longer
        # than all else here.
        return tuple(
            Array(name, tuple(shape), self._dtype, "inout" if name in self._written else "in")
            for name, shape in self._shapes().items()
        )

    # --- sizes -----------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Shrink and grow loops until instances and memory are within the profile's limits."""
        if self._profile.points is not None:
            least, most = self._profile.points
            target = math.exp(self._rng.uniform(math.log(least), math.log(most)))
            self._scale(lambda: self._points() > max(target, 2 * least), 0.5)
            self._scale(lambda: self._points() < least, 2)
            self._scale(lambda: self._points() > most, 0.5)
        largest = max(self._free(), key=lambda extent: extent.size)
        while 4 * sum(map(math.prod, self._shapes().values())) > self._profile.max_bytes:
            largest.size = max(1, largest.size - 32)
            largest = max(self._free(), key=lambda extent: extent.size)

    def _scale(self, is_wanted: Callable[[], bool], by: float) -> None:
        """Halve or double random loops, large ones first to shrink."""
        while is_wanted():
            free = self._free()
            if by < 1:
                floor = next((f for f in (32, 8, 3, 2) if any(e.size > f for e in free)), None)
                if floor is None:
                    return
                free = [extent for extent in free if extent.size > floor]
            extent = self._choose(free)
            extent.size = max(2, int(extent.size * by))

    def _free(self) -> list[_Extent]:
        """Every loop that is no window of a convolution, once."""
        every = {id(e): e for p in self._placed for e in p.extents if not e.is_kernel}
        return list(every.values())

    def _points(self) -> int:
        """Instances of all statements, triangles counted as rectangles."""
        return sum(
            math.prod(high - low + 1 for low, high in placed.ranges()) for placed in self._placed
        )


def _sum(terms: list[Expr]) -> Expr:
    plus: BinaryOp = "+"
    return functools.reduce(lambda a, b: Binary(plus, a, b), terms)


def _tree(
    placed: Sequence[tuple[Computation, list[_Extent], int]], level: int = 0
) -> tuple[Loop | Computation, ...]:
    """Loops with their computations in order; a run that shares loop `level` becomes one loop."""
    nodes: list[Loop | Computation] = []
    at = 0
    while at < len(placed):
        computation, extents, _ = placed[at]
        end = at + 1
        if len(extents) == level:
            nodes.append(computation)
        else:
            while end < len(placed) and placed[end][2] > level:
                end += 1
            nodes.append(_loop(extents, level, _tree(placed[at:end], level + 1)))
        at = end
    return tuple(nodes)


def _loop(extents: list[_Extent], level: int, body: tuple[Loop | Computation, ...]) -> Loop:
    extent = extents[level]
    upper = Affine((), extent.lower + extent.size)
    if extent.outer is not None:
        upper = Affine.of(f"i{extent.outer}") + 1
    return Loop(f"i{level}", Affine((), extent.lower), upper, body)
