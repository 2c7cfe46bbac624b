"""A faster form of a loop nest, proven and checked to compute the same."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import c_text, parallel, search
from costmodel.codegen import c_function
from costmodel.errors import CompileError
from costmodel.execution import FAST_FLAGS, QUICK, Execution
from costmodel.fast_math import with_reciprocals
from costmodel.ir import Array, Program
from costmodel.measure import Measurement, Options
from costmodel.python_frontend import Kernel
from costmodel.schedule import ScheduledProgram, apply
from costmodel.search import Found
from costmodel.space import Space
from costmodel.translation_unit import Failed, compile_batch

if TYPE_CHECKING:
    import pandas as pd

#: The search ends in the program as it is written unless a schedule is faster by more than this.
WORTHWHILE = 1.03

FINAL = Options(passes=(10, 40), sessions=2, timeout_s=10.0)


@attrs.define(eq=False)
class Optimized:
    """The schedule found, its C and what is known of its speed; call it with the arrays.

    measured: speedup over the program as it is written, both timed side by side; None if nothing
              was run
    noise:    relative, of that number
    found:    all that was tried
    """

    program: Program
    scheduled: ScheduledProgram
    measured: float | None
    noise: float | None
    found: Found
    flags: tuple[str, ...]

    @property
    def schedule(self) -> str:
        return str(self.scheduled.schedule)

    @cached_property
    def c_source(self) -> str:
        """A C file with the one function, under the program's name."""
        head = [f"/* {self.program.name}, by: {self.schedule or 'no transformation'}"]
        if self.measured is not None:
            head.append(f"   measured: {self.measured:.2f} times as fast as before")
        text = c_function(self.scheduled, self.program.name)
        return "\n".join([*head, "*/", c_text.PRELUDE, text])

    @property
    def table(self) -> pd.DataFrame:
        """A row for each schedule tried: its text and the speedup seen while searching."""
        import pandas as pd

        rows = [(str(t.scheduled.schedule), t.speedup) for t in self.found.tried]
        return pd.DataFrame(rows, columns=["schedule", "speedup"])

    def __call__(self, *arrays: Any) -> None:
        """Run it in place on numpy arrays or CPU tensors, in the order of the program, temps apart.

        Raises TypeError for another dtype, ValueError for another shape, a layout that is not
        contiguous, or two arguments that share memory where one is written.
        """
        program = self.program
        wanted = [array for array in program.arrays if array.role != "temp"]
        if len(arrays) != len(wanted):
            names = ", ".join(array.name for array in wanted)
            raise TypeError(
                f"{program.name} takes {len(wanted)} arrays ({names}), got {len(arrays)}"
            )
        given = {
            array.name: _checked(array, value) for array, value in zip(wanted, arrays, strict=True)
        }
        _check_apart(program, given)
        for array in program.arrays:
            if array.role == "temp":
                given[array.name] = np.empty(array.shape, dtype=array.dtype)
        self._run([given[array.name].ctypes.data for array in program.arrays])

    @cached_property
    def _run(self) -> Callable[[list[int]], None]:
        text = c_function(self.scheduled, self.program.name)
        (entry,) = compile_batch(self.program, [text], flags=self.flags).entries
        if isinstance(entry, Failed):
            raise CompileError(entry.message)
        function = ctypes.CDLL(str(entry.library))[entry.symbol]
        function.restype = None

        def run(addresses: list[int]) -> None:
            function((ctypes.c_void_p * len(addresses))(*addresses))

        return run


def optimize(
    program: Program | Kernel | str | Path,
    *,
    params: Mapping[str, int] | None = None,
    function: str | None = None,
    budget_s: float = 60.0,
    method: Literal["free", "beam", "random"] = "free",
    space: Space = "extended",
    beam: int = 3,
    level_limit: int = 96,
    model: None = None,
    execute_top: int = 5,
    threads: int = 1,
    fast_math: bool = False,
    seed: int = 0,
    report: Callable[[Found], None] = lambda found: None,
) -> Optimized:
    """Search a schedule that runs faster on this machine.

    program:     a Program, a @kernel function, C source or the path of a C file
    params:      sizes of a C program; function: which one of the file
    budget_s:    the search stops at the end of a level after so many seconds
    method:      "free" offers decisions of every kind at each level, "beam" takes one kind after
                 the other as the paper does, "random" takes each by chance
    level_limit: candidates a level of the beam search, evenly taken from all
    model:       None: candidates are run; no trained model ships yet
    execute_top: how many of the best are timed again, more carefully; the fastest is taken, or
                 the program as it is written unless one is more than 3% faster
    threads:     above 1, outermost loops are shared among threads where that is legal
    fast_math:   reductions may be summed in another order though they are of floats, and floats
                 multiplied by the reciprocal of a constant instead of divided by it
    report:      called with all that was tried after each level of the search

    Every candidate is proven legal; those run are also compared with the original's results.
    """
    if model is not None:
        raise ValueError("model must be None: no trained model ships yet, candidates are run")
    if execute_top < 1:
        raise ValueError(f"execute_top must be at least 1, got {execute_top}")
    source = read(program, params=params, function=function)
    program = with_reciprocals(source) if fast_math else source
    reassociate = True if fast_math else None
    evaluate = Execution(source, options=attrs.evolve(QUICK, threads=threads), flags=FAST_FLAGS)
    start = time.monotonic()
    if method in ("free", "beam"):
        found = (search.free_search if method == "free" else search.beam_search)(
            program,
            evaluate,
            space=space,
            beam=beam,
            limit=level_limit,
            reassociate=reassociate,
            stop=lambda: time.monotonic() - start > budget_s,
            report=report,
        )
    else:
        found = search.random_search(
            program, evaluate, n=64, space=space, seed=seed, reassociate=reassociate
        )
        report(found)
    scheduled, best = _final(source, program, found, execute_top, threads, reassociate)
    measured, noise = (1.0, 0.0) if best is None else best
    return Optimized(program, scheduled, measured, noise, found, FAST_FLAGS)


def read(
    program: Program | Kernel | str | Path,
    *,
    params: Mapping[str, int] | None = None,
    function: str | None = None,
) -> Program:
    """The program of anything that `optimize` takes."""
    if isinstance(program, Program):
        return program
    if isinstance(program, Kernel):
        return program.program
    from costmodel.c_frontend import from_c

    return from_c(program, function=function, params=params or {})


def _final(
    source: Program,
    program: Program,
    found: Found,
    n: int,
    threads: int,
    reassociate: bool | None,
) -> tuple[ScheduledProgram, tuple[float, float] | None]:
    """The fastest of the best when timed with care; the plain program if that gains nothing."""
    plain = apply(source, "", reassociate=reassociate)
    changed = [t for t in found.top(n) if str(t.scheduled.schedule) or program != source]
    best = [t.scheduled for t in changed if t.speedup > 0]
    if threads > 1:
        best += [s for t in best if (s := parallel.outermost(t, reassociate)) is not None]
    if not best:
        return plain, None
    evaluate = Execution(source, options=attrs.evolve(FINAL, threads=threads), flags=FAST_FLAGS)
    measured = evaluate.measured(best)
    fastest = min(
        (v for v in zip(measured.variants, best, strict=True) if v[0].is_timed),
        key=lambda v: v[0].seconds,
        default=None,
    )
    if fastest is None or _speedup(measured.baseline, fastest[0]) < WORTHWHILE:
        return plain, None
    m, scheduled = fastest
    noise = float(np.hypot(measured.baseline.noise, m.noise))
    return scheduled, (_speedup(measured.baseline, m), noise)


def _speedup(baseline: Measurement, variant: Measurement) -> float:
    return baseline.seconds / variant.seconds


def _checked(array: Array, given: Any) -> NDArray[Any]:
    """The argument as a numpy array on the same memory."""
    value: NDArray[Any] | None = given if isinstance(given, np.ndarray) else None
    if hasattr(given, "detach"):
        with contextlib.suppress(TypeError, RuntimeError):
            value = np.asarray(given.detach())
    if value is None:
        raise TypeError(f"{array.name} must be a numpy array or a CPU tensor, got {type(given)}")
    if value.dtype != array.dtype:
        raise TypeError(f"{array.name} must be {array.dtype}, got {value.dtype}")
    if value.shape != array.shape:
        raise ValueError(f"{array.name} must have shape {array.shape}, got {value.shape}")
    if not value.flags.c_contiguous:
        raise ValueError(
            f"{array.name} is not contiguous in memory: pass np.ascontiguousarray({array.name})"
        )
    if array.role != "in" and not value.flags.writeable:
        raise ValueError(f"{array.name} is written, and the array given is read-only")
    return value


def _check_apart(program: Program, given: Mapping[str, NDArray[Any]]) -> None:
    names = list(given)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            roles = {program.array(one).role, program.array(other).role}
            if roles != {"in"} and np.shares_memory(given[one], given[other]):
                raise ValueError(f"{one} and {other} share memory, and one of them is written")
