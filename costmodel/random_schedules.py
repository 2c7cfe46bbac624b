"""Random schedules: each kind of transformation with its own probability, in the paper's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import attrs
import numpy as np

from costmodel.codegen import c_function
from costmodel.errors import ScheduleError
from costmodel.ir import Program, Statement
from costmodel.nest import Dim, Nest, Placed
from costmodel.schedule import Schedule, apply
from costmodel.steps import (
    Fuse,
    Interchange,
    Pack,
    Parallel,
    RegisterTile,
    Reverse,
    Shift,
    Skew,
    Step,
    Tile,
    Unfuse,
    Unroll,
    Vectorize,
)

T = TypeVar("T")
Space = Literal["paper", "extended", "mixed"]

#: How likely a schedule of the mixed space is drawn from the extended one.
EXTENDED_SHARE = 0.4


@attrs.frozen
class Sizes:
    """What factors steps may have.

    blocks: of register tiles, over all loops but the last; vectors: over that
    """

    tiles: tuple[int, ...] = (32, 64, 128)
    unrolls: tuple[int, ...] = (4, 8, 16)
    blocks: tuple[int, ...] = (2, 3, 4, 6)
    vectors: tuple[int, ...] = (8, 16)


TINY = Sizes(tiles=(2, 3), unrolls=(2, 3), blocks=(2, 3), vectors=(2, 4))

# In the order they are taken, with how likely each is.
_PAPER = {"fusion": 0.5, "interchange": 0.5, "tile": 0.55, "unroll": 0.4, "parallel": 0.5}
_EXTENDED = {
    "shift": 0.2,
    "fusion": 0.5,
    "skew": 0.2,
    "reverse": 0.15,
    "interchange": 0.5,
    "tile": 0.5,
    "register_tile": 0.3,
    "pack": 0.4,
    "unroll": 0.3,
    "vectorize": 0.3,
    "parallel": 0.4,
}
_AGAIN = 0.3  # how likely a kind that was drawn is tried once more, elsewhere


def random_steps(
    program: Program, seed: int | Sequence[int], space: Space = "paper", sizes: Sizes = TINY
) -> tuple[Step, ...]:
    """Steps that fit the loops of the program but may be illegal."""
    return _Sampler(program, seed, sizes).steps(space, lambda steps: True)


def random_schedule(
    program: Program,
    seed: int | Sequence[int],
    space: Space = "paper",
    *,
    sizes: Sizes | None = None,
    reassociate: bool | None = None,
) -> Schedule:
    """A legal schedule, () among others; steps that `apply` refuses are left out.

    seed:        of numpy's SeedSequence
    space:       "mixed" draws each schedule from one of the other two
    reassociate: as in `apply`
    """

    def is_legal(steps: tuple[Step, ...]) -> bool:
        try:
            apply(program, Schedule(steps), reassociate=reassociate)
        except ScheduleError:
            return False
        return True

    return Schedule(_Sampler(program, seed, sizes or Sizes()).steps(space, is_legal))


def random_schedules(
    program: Program,
    n: int,
    seed: int | Sequence[int],
    space: Space = "paper",
    *,
    sizes: Sizes | None = None,
    reassociate: bool | None = None,
) -> list[Schedule]:
    """n legal schedules that give different C; fewer if 10 * n draws find no more.

    The program as it is written, Schedule(()), is not among them.
    """
    root = [seed] if isinstance(seed, int) else list(seed)
    seen = {_c_text(program, Schedule(), reassociate)}
    found: list[Schedule] = []
    for draw in range(10 * n):
        if len(found) == n:
            break
        schedule = random_schedule(
            program, [*root, draw], space, sizes=sizes, reassociate=reassociate
        )
        text = _c_text(program, schedule, reassociate)
        if text not in seen:
            seen.add(text)
            found.append(schedule)
    return found


def _c_text(program: Program, schedule: Schedule, reassociate: bool | None) -> str:
    return c_function(apply(program, schedule, reassociate=reassociate), "f")


class _Sampler:
    def __init__(self, program: Program, seed: int | Sequence[int], sizes: Sizes) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        self._sizes = sizes
        self._nest = Nest.of(program)
        self._ranges = {s.name: _ranges(s) for s in program.statements}

    def steps(
        self, space: Space, is_wanted: Callable[[tuple[Step, ...]], bool]
    ) -> tuple[Step, ...]:
        taken: tuple[Step, ...] = ()
        if space == "mixed":
            space = "extended" if self._chance(EXTENDED_SHARE) else "paper"
        for kind, probability in (_PAPER if space == "paper" else _EXTENDED).items():
            while self._chance(probability):
                step = self._draw(kind)
                after = self._after(step) if step else None
                if step and after and is_wanted((*taken, step)):
                    taken, self._nest = (*taken, step), after
                probability = _AGAIN
        return taken

    def _after(self, step: Step) -> Nest | None:
        try:
            return step.apply(self._nest)
        except ScheduleError:
            return None

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _choose(self, values: Sequence[T]) -> T:
        return values[int(self._rng.integers(len(values)))]

    def _draw(self, kind: str) -> Step | None:
        """A step of this kind for a random statement; None if there is none."""
        p = self._choose(self._nest.placed)
        if not p.dims:
            return None
        level = int(self._rng.integers(len(p.dims)))
        match kind:
            case "fusion":
                return self._fusion(p)
            case "interchange":
                return self._interchange(p)
            case "tile":
                return self._tile(p)
            case "unroll":
                fit = [f for f in self._sizes.unrolls if f <= self._extent(p, p.dims[-1])]
                if not fit or p.dims[-1].register:
                    return None
                return Unroll(p.name, self._choose(fit))
            case "parallel":
                return Parallel(p.name, 0)
            case "vectorize":
                return None if p.dims[-1].register else Vectorize(p.name)
            case "reverse":
                return Reverse(p.name, level)
            case "shift":
                return Shift(p.name, level, self._choose((-1, 1, 2)))
            case "skew":
                return self._skew(p)
            case "register_tile":
                return self._register_tile(p)
            case "pack":
                return self._pack(p)
        raise AssertionError(kind)

    def _extent(self, p: Placed, dim: Dim) -> int:
        """Values the loop's expression takes, or the size of a tile around if that is less."""
        ranges = self._ranges[p.name]
        reach = [factor * (ranges[it] - 1) for it, factor in dim.expression.terms]
        tiles = [d.divisor for d in p.dims if d.divisor > 1 and d.expression == dim.expression]
        return min([1 + sum(map(abs, reach)), *tiles])

    def _fusion(self, p: Placed) -> Step | None:
        choices: list[Step] = [
            Unfuse(p.name, level)
            for level in range(len(p.dims))
            if any(
                q.order[: level + 1] == p.order[: level + 1]
                and q.order[level + 1] < p.order[level + 1]
                for q in self._nest.placed
            )
        ]
        for other in self._nest.placed:
            if other.order > p.order:
                common = _common(p, other)
                deepest = min(len(p.dims), len(other.dims))
                choices += [Fuse(p.name, other.name, d) for d in range(common + 1, deepest + 1)]
        return self._choose(choices) if choices else None

    def _interchange(self, p: Placed) -> Step | None:
        if len(p.dims) < 2:
            return None
        outer, inner = sorted(map(int, self._rng.choice(len(p.dims), 2, replace=False)))
        return Interchange(p.name, outer, inner)

    def _tile(self, p: Placed) -> Step | None:
        n = min(self._choose((2, 2, 3)), len(p.dims))
        level = int(self._rng.integers(len(p.dims) - n + 1))
        sizes = []
        for dim in p.dims[level : level + n]:
            fit = [s for s in self._sizes.tiles if s < self._extent(p, dim)]
            if not fit or dim.divisor != 1:
                return None
            sizes.append(self._choose(fit))
        return Tile(p.name, level, tuple(sizes))

    def _skew(self, p: Placed) -> Step | None:
        if len(p.dims) < 2:
            return None
        outer = int(self._rng.integers(len(p.dims) - 1))
        return Skew(p.name, outer, outer + 1, self._choose((1, 1, 2)))

    def _register_tile(self, p: Placed) -> Step | None:
        if not p.statement.write.index or p.dims[-1].register:
            return None
        contiguous = p.statement.write.index[-1].names
        last = [
            level
            for level, dim in enumerate(p.dims)
            if dim.divisor == 1 and set(dim.expression.names) & set(contiguous)
        ]
        if not last:
            return None
        vector = self._choose(last)
        whole = [level for level in range(vector) if p.dims[level].divisor == 1]
        n = min(len(whole), int(self._rng.integers(3)))
        others = sorted(map(int, self._rng.choice(whole, n, replace=False))) if n else []
        pairs: list[int] = []
        for level in others:
            pairs += [level, self._choose(self._sizes.blocks)]
        return RegisterTile(p.name, (*pairs, vector, self._choose(self._sizes.vectors)))

    def _pack(self, p: Placed) -> Step | None:
        loops = sum(1 for dim in p.dims if not dim.register)
        if loops == len(p.dims) or not p.statement.reads:
            return None
        read = self._choose(p.statement.reads)
        return Pack(p.name, read.array, int(self._rng.integers(loops + 1)))


def _common(p: Placed, q: Placed) -> int:
    """Loops that two statements share."""
    deepest = min(len(p.dims), len(q.dims))
    levels: Iterator[int] = (
        level for level in range(deepest) if p.order[: level + 1] != q.order[: level + 1]
    )
    return next(levels, deepest)


def _ranges(statement: Statement) -> dict[str, int]:
    """How many values each iterator may take, whatever the others are."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    for loop in statement.loops:
        low[loop.name] = loop.lower.const + sum(
            min(f * low[it], f * high[it]) for it, f in loop.lower.terms
        )
        last = (
            loop.upper.const - 1 + sum(max(f * low[it], f * high[it]) for it, f in loop.upper.terms)
        )
        high[loop.name] = max(low[loop.name], last)
    return {name: high[name] - low[name] + 1 for name in low}
