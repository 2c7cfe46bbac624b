"""C functions of one signature as one translation unit, compiled together.

A compiler spends most of its time on starting and on reading headers, so a baseline and its
variants share one call. What comes out is a library with an entry `call_<n>(void **arrays)` for
each function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from common import native
from costmodel.c_text import PRELUDE, pointer_type
from costmodel.ir import Array, Program

#: For labels: cheaper than -O3, and nearer to "the schedule decides", since gcc then exchanges no
#: loops itself. Sums of int32 wrap around.
FLAGS = ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-fwrapv", "-w")

MAX_FUNCTIONS = 64
MAX_BYTES = 400_000  # of C text, which bounds the memory the compiler takes

_HEAD = re.compile(r"\bvoid\s+(\w+)\s*\(")


@attrs.frozen
class Entry:
    """A compiled function: `symbol(void **arrays)` in a library.

    is_parallel: it runs threads of its own, so that only the wall clock sees its work
    """

    library: Path
    symbol: str
    is_parallel: bool = False


@attrs.frozen
class Failed:
    """A text that does not compile, with the compiler's first message."""

    message: str


@attrs.frozen
class Compiled:
    """Entries of the texts in order; seconds the compiler took, 0 for what was in the cache."""

    entries: tuple[Entry | Failed, ...]
    seconds: float


def compile_batch(
    program: Program,
    texts: Sequence[str],
    *,
    flags: Sequence[str] = FLAGS,
    jobs: int | None = 1,
) -> Compiled:
    """Compile functions of the program's signature, as few compiler calls as the limits allow.

    A text that does not compile is Failed, and the others go on: its unit is halved until it stands
    alone. jobs: compilers at a time, None for one on each core.
    Raises ValueError for a text that holds no function, CompilerNotFound without a compiler.
    """
    return compile_many([(program, texts)], flags=flags, jobs=jobs)[0]


def compile_many(
    batches: Sequence[tuple[Program, Sequence[str]]],
    *,
    flags: Sequence[str] = FLAGS,
    jobs: int | None = None,
) -> list[Compiled]:
    """`compile_batch` of many programs side by side, so that timing can follow undisturbed."""
    found: list[list[Entry | Failed | None]] = [[None] * len(texts) for _, texts in batches]
    seconds = [0.0] * len(batches)
    units = [(b, unit) for b, (_, texts) in enumerate(batches) for unit in _units(texts)]
    while units:
        recipes = [_recipe(batches[b][0], [batches[b][1][i] for i in u], flags) for b, u in units]
        left: list[tuple[int, list[int]]] = []
        for (b, unit), built in zip(units, native.compile_many(recipes, jobs), strict=True):
            if isinstance(built, native.NativeBuildError):
                if len(unit) == 1:
                    found[b][unit[0]] = Failed(str(built))
                else:
                    middle = len(unit) // 2
                    left += [(b, unit[:middle]), (b, unit[middle:])]
                continue
            seconds[b] += built.seconds or 0.0
            for place, i in enumerate(unit):
                text = batches[b][1][i]
                found[b][i] = Entry(built.path, f"call_{place}", is_parallel(text))
        units = left
    return [
        Compiled(tuple(e for e in entries if e is not None), s)
        for entries, s in zip(found, seconds, strict=True)
    ]


def is_parallel(text: str) -> bool:
    return re.search(r"#\s*pragma\s+omp\s+parallel", text) is not None


def unit_text(program: Program, texts: Sequence[str]) -> str:
    """One translation unit: each function under a name of its own, and an entry for each."""
    parts = [PRELUDE]
    for number, text in enumerate(texts):
        head = _HEAD.search(text)
        if head is None:
            raise ValueError(f"text {number} must hold a function `void NAME(...)`: {text[:60]!r}")
        # noinline: in the entry the arrays would lose their restrict.
        renamed = f"__attribute__((noinline)) void variant_{number}("
        parts.append(text[: head.start()] + renamed + text[head.end() :])
        parts.append(entry_text(program.arrays, f"variant_{number}", f"call_{number}"))
    return "\n".join(parts)


def entry_text(arrays: Sequence[Array], function: str, symbol: str) -> str:
    """`void symbol(void **arrays)` that calls `function` with the arrays in their types."""
    arguments = ", ".join(f"({pointer_type(array)})arrays[{i}]" for i, array in enumerate(arrays))
    return f"EXPORT void {symbol}(void **arrays) {{ {function}({arguments}); }}\n"


def _recipe(program: Program, texts: Sequence[str], flags: Sequence[str]) -> native.Recipe:
    return native.Recipe(
        name="variants",
        text=unit_text(program, texts),
        flags=flags,
        openmp=any("omp" in text for text in texts),
    )


def _units(texts: Sequence[str]) -> list[list[int]]:
    """Places of the texts, in groups within the limits."""
    groups: list[list[int]] = []
    size = 0
    for i, text in enumerate(texts):
        if not groups or len(groups[-1]) >= MAX_FUNCTIONS or size + len(text) > MAX_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(i)
        size += len(text)
    return groups
