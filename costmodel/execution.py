"""Speedups by running: candidates compiled together and timed side by side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import plain_c
from costmodel.codegen import c_function
from costmodel.ir import Program
from costmodel.measure import Measured, Options, measure
from costmodel.schedule import ScheduledProgram
from costmodel.translation_unit import FLAGS

#: For code that is to be used: what a user compiles the plain program with.
FAST_FLAGS = ("-O3", "-fwrapv", "-w")

#: Few passes decide which candidates a search follows; the last ones are timed again with more.
QUICK = Options(passes=(2, 4), sessions=1, timeout_s=5.0)


@attrs.define
class Execution:
    """Measures schedules of one program against the program as it is written.

    n_runs:  schedules timed so far
    seconds: how long the compiler took
    """

    program: Program
    options: Options = QUICK
    flags: Sequence[str] = FLAGS
    batch: int = 48
    n_runs: int = 0
    compile_s: float = 0.0

    def __call__(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[np.float64]:
        """(n,) speedups; 0 for a schedule that does not compile, crashes, hangs or differs."""
        parts = [
            self.measured(scheduled[at : at + self.batch]).speedups
            for at in range(0, len(scheduled), self.batch)
        ]
        return np.nan_to_num(np.concatenate(parts), nan=0.0) if parts else np.empty(0)

    def measured(self, scheduled: Sequence[ScheduledProgram]) -> Measured:
        """All that is known of a batch."""
        texts = [c_function(s, "f") for s in scheduled]
        baseline = plain_c.function(self.program, "f")
        found = measure(self.program, baseline, texts, flags=self.flags, options=self.options)
        self.n_runs += len(texts)
        self.compile_s += found.compile_s
        return found
