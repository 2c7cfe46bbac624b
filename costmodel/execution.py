"""Speedups by running: candidates compiled together and timed side by side."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import plain_c
from costmodel.codegen import kept_c_function
from costmodel.errors import ScheduleError
from costmodel.ir import Program
from costmodel.measure import Measured, Options, measure
from costmodel.schedule import ScheduledProgram
from costmodel.translation_unit import FLAGS

#: For code that is to be used: what a user compiles the plain program with.
FAST_FLAGS = ("-O3", "-fwrapv", "-w")

#: Few passes decide which candidates a search follows; the last ones are timed again with more.
QUICK = Options(passes=(2, 4), sessions=1, timeout_s=5.0, slow_s=1e-3)
LONG_S = 5e-3  # a call of this length says enough in one pass or two
LONG_PASSES = (1, 2)
FAR_BEHIND = 1.25  # so many times slower than the best, a candidate is timed once


@attrs.define
class Execution:
    """Measures schedules of one program against the program as it is written.

    The better the best so far, the sooner a candidate is given up as slow.

    n_runs:    schedules timed so far
    compile_s: how long the compiler took
    best:      the greatest speedup so far
    """

    program: Program
    options: Options = QUICK
    flags: Sequence[str] = FLAGS
    batch: int = 48
    n_runs: int = 0
    compile_s: float = 0.0
    best: float = 1.0
    _baseline_s: float = 0.0

    def __call__(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[np.float64]:
        """(n,) speedups; 0 for a schedule without code, or whose code crashes, hangs or differs."""
        speedups = np.zeros(len(scheduled))
        written = [at for at, each in enumerate(scheduled) if _has_code(each)]
        for first in range(0, len(written), self.batch):
            places = written[first : first + self.batch]
            options = attrs.evolve(self.options, slow_ratio=FAR_BEHIND / self.best)
            if self._baseline_s > LONG_S:
                options = attrs.evolve(options, passes=LONG_PASSES)
            found = self.measured([scheduled[at] for at in places], options)
            speedups[places] = np.nan_to_num(found.speedups, nan=0.0)
            self.best = max(self.best, float(speedups[places].max()))
            self._baseline_s = found.baseline.seconds
        return speedups

    def measured(
        self, scheduled: Sequence[ScheduledProgram], options: Options | None = None
    ) -> Measured:
        """All that is known of a batch."""
        texts = [kept_c_function(s, "f") for s in scheduled]
        baseline = plain_c.function(self.program, "f")
        options = options or self.options
        found = measure(self.program, baseline, texts, flags=self.flags, options=options)
        self.n_runs += len(texts)
        self.compile_s += found.compile_s
        return found


def _has_code(scheduled: ScheduledProgram) -> bool:
    try:
        kept_c_function(scheduled, "f")
    except ScheduleError:
        return False
    return True
