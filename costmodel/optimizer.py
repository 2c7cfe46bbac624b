"""A faster form of a loop nest, proven and checked to compute the same."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
import numpy as np
from numpy.typing import NDArray

from costmodel import c_text, parallel
from costmodel import search as searches
from costmodel.codegen import c_function
from costmodel.drop_in import Parameter, drop_in
from costmodel.errors import CompileError, ScheduleError, UnsupportedProgram
from costmodel.execution import FAST_FLAGS, QUICK, Execution
from costmodel.fast_math import with_reciprocals
from costmodel.ir import Array, Program
from costmodel.measure import Measurement, Options
from costmodel.python_frontend import Kernel
from costmodel.schedule import Schedule, ScheduledProgram, apply
from costmodel.search import Evaluator, Found, Key, Tried, by_nest, by_text
from costmodel.space import Space
from costmodel.steps import Parallel
from costmodel.translation_unit import Failed, compile_batch
from costmodel.tree_search import mcts

if TYPE_CHECKING:
    import pandas as pd

    from costmodel.prediction import Model, Prediction

SearchName = Literal["free", "beam", "mcts", "random", "exhaustive"]
SEARCHES: tuple[str, ...] = get_args(SearchName)

#: The search ends in the program as it is written unless a schedule is faster by more than this.
WORTHWHILE = 1.03

FINAL = Options(passes=(10, 40), sessions=2, timeout_s=10.0)


@attrs.define(eq=False)
class Optimized:
    """The schedule found, its C and what is known of its speed; call it with the arrays.

    measured:  speedup over the program as it is written, both timed side by side; None if nothing
               was run
    noise:     relative, of that number
    found:     all that was tried
    predicted: speedup on one thread by the model; None without one
    doubt:     deviation of the logarithm among the members of the model
    parameters: of the C function the program was read from, if it was
    """

    program: Program
    scheduled: ScheduledProgram
    measured: float | None
    noise: float | None
    found: Found
    flags: tuple[str, ...]
    predicted: float | None = None
    doubt: float | None = None
    parameters: tuple[Parameter, ...] | None = None

    @property
    def schedule(self) -> str:
        return str(self.scheduled.schedule)

    @cached_property
    def c_source(self) -> str:
        """A C file with the one function, under the program's name.

        Of a program from C it has the parameters of the function it was read from, in whose place
        it can be compiled.
        """
        head = [f"/* {self.program.name}, by: {self.schedule or 'no transformation'}"]
        if self.measured is not None:
            head.append(f"   measured: {self.measured:.2f} times as fast as before")
        elif self.predicted is not None:
            head.append(f"   predicted, not measured: {self.predicted:.2f} times as fast as before")
        text = drop_in(self.scheduled, self.parameters)
        return "\n".join([*head, "*/", c_text.PRELUDE, text])

    @property
    def table(self) -> pd.DataFrame:
        """A row for each schedule tried: its text and its speedup while searching, and at the end.

        speedup:  predicted where a model searched, else measured in a hurry
        measured: with care, of the best only; NaN for the others
        """
        import pandas as pd

        final = {str(t.scheduled.schedule): t.speedup for t in self.found.measured}
        texts = [str(t.scheduled.schedule) for t in self.found.tried]
        return pd.DataFrame(
            {
                "schedule": texts,
                "speedup": [t.speedup for t in self.found.tried],
                "measured": [final.get(text, np.nan) for text in texts],
            }
        )

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
    search: SearchName = "free",
    space: Space = "extended",
    beam: int = 3,
    level_limit: int = 96,
    samples: int = 100,
    model: Model | None = None,
    caution: float = 0.0,
    execute_top: int | None = 5,
    threads: int = 1,
    fast_math: bool = False,
    seed: int = 0,
    report: Callable[[Found], None] = lambda found: None,
) -> Optimized:
    """Search a schedule that runs faster on this machine.

    program:     a Program, a @kernel function, C source or the path of a C file
    params:      sizes of a C program; function: which one of the file
    budget_s:    the search stops at the end of a level, or sample, after so many seconds
    search:      "free" offers decisions of every kind at each level, "beam" takes one kind after
                 the other as the paper does, "mcts" is the paper's tree search, "random" takes
                 each decision by chance, "exhaustive" tries all combinations
    level_limit: candidates a level of a beam search or a node of the tree, evenly taken from all
    samples:     of the tree search and of random search
    model:       scores the candidates, of which only execute_top are run: a model, the path of
                 one, or "default" for the one that comes with the package. None: all are run
    caution:     as in costmodel.prediction: how much the doubt of an ensemble counts
    execute_top: how many of the best are timed at the end, with care; the fastest is taken, or
                 the program as it is written unless one is more than 3% faster. 0 or None: with a
                 model nothing is compiled, and the best predicted is taken
    threads:     above 1, outermost loops are shared among threads where that is legal
    fast_math:   reductions may be summed in another order though they are of floats, and floats
                 multiplied by the reciprocal of a constant instead of divided by it
    report:      called with all that was tried after each level of the search

    Every candidate is proven legal; those run are also compared with the original's results. A
    program the model has no room for is searched by running candidates, with a warning, if
    execute_top allows it, and else refused with UnsupportedProgram.
    """
    n_run = execute_top or 0
    if n_run < 0 or (model is None and not n_run):
        raise ValueError(
            f"execute_top must be at least 1 without a model, and 0 or more with one, got "
            f"{execute_top}"
        )
    source, parameters = _read(program, params, function)
    program = with_reciprocals(source) if fast_math else source
    reassociate = True if fast_math else None
    prediction = None if model is None else _prediction(model, caution)
    if prediction is not None:
        try:
            prediction([apply(program)])
        except UnsupportedProgram as problem:
            if not n_run:
                raise
            warnings.warn(f"candidates are run instead: {problem}", stacklevel=2)
            prediction = None
    start = time.monotonic()
    found = _searched(
        program,
        prediction
        or Execution(source, options=attrs.evolve(QUICK, threads=threads), flags=FAST_FLAGS),
        key=by_text if prediction is None else by_nest,
        search=search,
        space=space,
        beam=beam,
        level_limit=level_limit,
        samples=samples,
        reassociate=reassociate,
        seed=seed,
        stop=lambda: time.monotonic() - start > budget_s,
        report=report,
    )
    measured: float | None = None
    noise: float | None = None
    if n_run:
        scheduled, best = _final(source, program, found, n_run, threads, reassociate)
        measured, noise = (1.0, 0.0) if best is None else best
    else:
        scheduled = _best_predicted(source, program, found, threads, reassociate)
    predicted, doubt = None, None
    if prediction is not None:
        serial = _serial(scheduled, reassociate)
        (predicted,), (doubt,) = (x.tolist() for x in prediction.predicted([serial]))
    return Optimized(
        program, scheduled, measured, noise, found, FAST_FLAGS, predicted, doubt, parameters
    )


def _prediction(model: Model, caution: float) -> Prediction:
    # torch takes seconds to import, and only models need it.
    from costmodel.prediction import Prediction, loaded

    return Prediction(loaded(model), caution)


def _serial(scheduled: ScheduledProgram, reassociate: bool | None) -> ScheduledProgram:
    """The same on one thread, as the programs were that models are trained on."""
    steps = tuple(s for s in scheduled.schedule.steps if not isinstance(s, Parallel))
    return apply(scheduled.source, Schedule(steps), reassociate=reassociate)


def _searched(
    program: Program,
    evaluate: Evaluator,
    *,
    key: Key,
    search: SearchName,
    space: Space,
    beam: int,
    level_limit: int,
    samples: int,
    reassociate: bool | None,
    seed: int,
    stop: Callable[[], bool],
    report: Callable[[Found], None],
) -> Found:
    """What the search of that name finds."""
    match search:
        case "free" | "beam":
            return (searches.free_search if search == "free" else searches.beam_search)(
                program,
                evaluate,
                space=space,
                beam=beam,
                limit=level_limit,
                reassociate=reassociate,
                key=key,
                stop=stop,
                report=report,
            )
        case "mcts":
            return mcts(
                program,
                evaluate,
                samples=samples,
                space=space,
                limit=level_limit,
                seed=seed,
                reassociate=reassociate,
                key=key,
                stop=stop,
                report=report,
            )
        case "random":
            found = searches.random_search(
                program,
                evaluate,
                n=samples,
                space=space,
                seed=seed,
                reassociate=reassociate,
                key=key,
            )
        case "exhaustive":
            found = searches.exhaustive_search(
                program, evaluate, space=space, reassociate=reassociate, key=key
            )
        case _:
            raise ValueError(f"search must be one of {', '.join(SEARCHES)}, got {search!r}")
    report(found)
    return found


def read(
    program: Program | Kernel | str | Path,
    *,
    params: Mapping[str, int] | None = None,
    function: str | None = None,
) -> Program:
    """The program of anything that `optimize` takes."""
    return _read(program, params, function)[0]


def _read(
    program: Program | Kernel | str | Path,
    params: Mapping[str, int] | None,
    function: str | None,
) -> tuple[Program, tuple[Parameter, ...] | None]:
    """The program, and the parameters of the C function it was read from."""
    if isinstance(program, Program):
        return program, None
    if isinstance(program, Kernel):
        return program.program, None
    from costmodel.c_frontend import from_c_with_parameters

    return from_c_with_parameters(program, function=function, params=params or {})


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
    best = list(itertools.islice(_best(source, program, found), n))
    if threads > 1:
        best += [s for t in best if (s := parallel.outermost(t, reassociate)) is not None]
    if not best:
        return plain, None
    evaluate = Execution(source, options=attrs.evolve(FINAL, threads=threads), flags=FAST_FLAGS)
    measured = evaluate.measured(best)
    speedups = np.nan_to_num(measured.speedups, nan=0.0).tolist()
    found.measured = [
        Tried(plain, 1.0),
        *(Tried(s, x) for s, x in zip(best, speedups, strict=True)),
    ]
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


def _best_predicted(
    source: Program, program: Program, found: Found, threads: int, reassociate: bool | None
) -> ScheduledProgram:
    """The best that C can be made of; the plain program if that gains nothing."""
    for scheduled in _best(source, program, found, WORTHWHILE):
        shared = parallel.outermost(scheduled, reassociate) if threads > 1 else None
        return shared or scheduled
    return apply(source, "", reassociate=reassociate)


def _best(
    source: Program, program: Program, found: Found, least: float = 0.0
) -> Iterator[ScheduledProgram]:
    """What was tried, the fastest first: all that differs from the source, each C once.

    A model scores nests of which no C was made yet, and some cannot be written.
    """
    texts: set[Hashable] = set() if program != source else {by_text(found.tried[0].scheduled)}
    for tried in sorted(found.tried, key=lambda t: -t.speedup):
        if tried.speedup <= least:
            return
        try:
            text = by_text(tried.scheduled)
        except ScheduleError:
            continue
        if text not in texts:
            texts.add(text)
            yield tried.scheduled


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
