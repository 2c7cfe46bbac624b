"""Scheduled programs compiled many at a time and run beside the plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from common import native
from common.native import Library
from costmodel import c_text, codegen, interpreter, plain_c
from costmodel.ir import Program
from costmodel.schedule import ScheduledProgram
from tests.costmodel.compiled import C_NUMBERS, EXACT
from tests.costmodel.small_programs import copies, random_inputs

# Without -O2: its vectorizer in gcc 12.2 gets some plain loops wrong (a store that stays in place
# while a loop around it moves it downwards), and then two right answers differ from a wrong one.
FLAGS = (*EXACT, "-fopenmp-simd")


def assert_same_results(variants: Sequence[ScheduledProgram], seed: int = 0) -> None:
    """Every variant leaves in every array, to the last bit, what the plain program leaves.

    Data are whole numbers from -8 to 8.
    """
    texts = [c_text.PRELUDE]
    for at, scheduled in enumerate(variants):
        texts.append(plain_c.function(scheduled.source, f"plain{at}"))
        texts.append(codegen.c_function(scheduled, f"ours{at}"))
    library = _build(texts)
    rng = np.random.default_rng(seed)
    for at, scheduled in enumerate(variants):
        wanted = random_inputs(scheduled.source, rng)
        got = copies(wanted)
        _call(library, f"plain{at}", scheduled.source, wanted)
        _call(library, f"ours{at}", scheduled.program, got)
        for array in scheduled.source.arrays:
            if array.role != "temp":
                np.testing.assert_array_equal(
                    got[array.name],
                    wanted[array.name],
                    err_msg=f"{array.name} of\n{scheduled.source}\n{scheduled.schedule}",
                    strict=True,
                )


def run_both(scheduled: ScheduledProgram) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the interpreter leaves in the arrays, and what the scheduled program does."""
    wanted = random_inputs(scheduled.source, np.random.default_rng(0))
    got = copies(wanted)
    interpreter.run(scheduled.source, wanted)
    library = _build([c_text.PRELUDE, codegen.c_function(scheduled, "ours0")])
    _call(library, "ours0", scheduled.program, got)
    return wanted, got


def with_dtype(program: Program, dtype: str) -> Program:
    """The program with all arrays of one element type."""
    arrays = tuple(attrs.evolve(a, dtype=dtype) for a in program.arrays)
    return attrs.evolve(program, arrays=arrays)


def _build(texts: Sequence[str]) -> Library:
    source = "".join(texts).replace("\nvoid ", "\nEXPORT void ")
    return native.build_source("costmodel_variants", source, flags=FLAGS)


def _call(library: Library, name: str, program: Program, arrays: dict[str, np.ndarray]) -> None:
    parameters = ", ".join(f"{C_NUMBERS[a.dtype]}* {a.name}" for a in program.arrays)
    library.function(f"void {name}({parameters})")(*(arrays[a.name] for a in program.arrays))
