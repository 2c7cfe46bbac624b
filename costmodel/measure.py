"""How long variants of a program take, side by side, and whether they compute what it computes.

The quality of a cost model's labels is decided here (section on data generation: the paper runs
every variant thirty times). A batch runs in a child process pinned to its cores, which a crash or
an endless loop may end: the next one goes on behind it. All arrays lie in one block of huge pages
at fixed offsets, variants take turns pass by pass, and the value is the least of all passes. Serial
code is timed by the CPU clock of its thread, which other processes do not lengthen. A thread on the
other half of a core does: samples count that were taken alone (`QUIET`), if there are any.

Compiling is a phase of its own (costmodel.translation_unit), for a compiler on the next core
disturbs the caches.
"""

from __future__ import annotations

import functools
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from common import native, steady
from costmodel import measure_child
from costmodel.errors import CompileError, MeasureError
from costmodel.inputs import Inputs, plan_inputs
from costmodel.ir import Program
from costmodel.translation_unit import FLAGS, Entry, Failed, compile_batch

Status = Literal["ok", "slow", "wrong", "crash", "timeout", "not compiled"]
Check = Literal["exact", "tolerance", "none"]
Memory = Literal["arena", "apart"]
Clock = Literal["cpu", "wall"]

#: As numbered in kernels/measure.c; the first is "not yet run".
_STATUSES: tuple[Status | None, ...] = (None, "ok", "slow", "wrong", "crash", "timeout")
_CRASH, _TIMEOUT = 4, 5
_ROLES = {"in": 0, "out": 1, "inout": 2, "temp": 3}
_DTYPES = {"float32": 0, "float64": 1, "int32": 2}
_BASELINE_SLOTS = 3
_SAMPLE = 3  # numbers: CPU and wall seconds, and the pace
#: A core is alone while a fixed computation takes at most so many times its least. On a core shared
#: with a stranger's thread it takes 1.3 to 4 times that, and hardly anything lies between.
QUIET = 1.05
#: The least time of that computation so far: a whole batch may meet a busy neighbour.
_fastest: dict[str, float] = {}

#: A call still running after so many times its CPU limit by the wall clock, and so many seconds
#: more, waits for something; other processes may well slow one down by half of that.
PATIENCE, PATIENCE_S = 20.0, 10.0

#: Of the check where rounding may differ, relative to the largest value of the array: some hundred
#: roundings. Elementwise it would be wrong after cancellation.
RTOL, RTOL_DOUBLE = 1e-5, 1e-12

_ARRAY = np.dtype(
    [
        ("n_items", "i8"),
        ("low", "f8"),
        ("step", "f8"),
        ("diagonal", "f8"),
        ("steps", "i8"),
        ("n_diagonal", "i8"),
        ("dtype", "i4"),
        ("role", "i4"),
    ],
    align=True,
)
_RECORD = np.dtype(
    [
        ("status", "i4"),
        ("is_wall", "i4"),
        ("n_samples", "i8"),
        ("repeats", "i8"),
        ("error", "f8"),
        ("estimate_s", "f8"),
    ],
    align=True,
)
_STATE = np.dtype(
    [
        ("current", "i8"),
        ("progress", "i8"),
        ("n_not_finite", "i8"),
        ("overhead_s", "f8"),
        ("pace_s", "f8"),
    ],
    align=True,
)
_CONFIG = np.dtype(
    [
        ("seed", "i8"),
        ("rtol", "f8"),
        ("rtol_double", "f8"),
        ("min_sample_s", "f8"),
        ("slow_s", "f8"),
        ("slow_ratio", "f8"),
        ("wanted_noise", "f8"),
        ("budget_s", "f8"),
        ("timeout_s", "f8"),
        ("quiet_ratio", "f8"),
        ("wait_s", "f8"),
        ("min_passes", "i8"),
        ("max_passes", "i8"),
        ("capacity", "i8"),
        ("is_arena", "i4"),
        ("is_exact", "i4"),
    ],
    align=True,
)


@attrs.frozen
class Options:
    """How to time.

    passes:       least and most over all sessions; more than the least only while some variant has
                  fewer samples that were taken alone, or noise above wanted_noise
    sessions:     child processes the passes are shared among, each with its own memory
    wanted_noise: relative, 0.03 is 3%
    min_sample_s: shorter calls are repeated within a sample
    slow_s, slow_ratio: a variant that takes longer than slow_s and than slow_ratio baselines is
                  timed once
    timeout_s:    of one call, CPU seconds per thread
    budget_s:     of the passes of one session; the pass begun is finished
    wait_s:       of one session, until nobody else is at work on the core
    threads:      cores to pin to, and OpenMP's threads;  core: the first of them, None for the last
    memory:       "apart" gives every array an allocation of its own, to see what that costs
    seed:         of the inputs
    """

    passes: tuple[int, int] = (6, 30)
    sessions: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    wanted_noise: float = 0.03
    min_sample_s: float = 20e-6
    slow_s: float = 8e-3
    slow_ratio: float = 30.0
    timeout_s: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    budget_s: float = math.inf
    wait_s: float = 0.3
    threads: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    core: int | None = None
    memory: Memory = "arena"
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        low, high = self.passes
        if not 1 <= low <= high:
            raise ValueError(f"passes must be (least, most) from 1 on, got {self.passes}")


@attrs.frozen(eq=False)
class Measurement:
    """One function's times; seconds are NaN where it was never timed.

    status:  "slow" was timed once; "wrong" differs from the baseline or writes beyond its arrays;
             "timeout" took longer than timeout_s
    seconds, median_s, q25_s: least, median and lower quartile over the passes
    noise:   |least of one half of the passes - least of the other| / least, halves being sessions
             if there are several; not below the median of the batch. NaN with a single pass
    clock:   "cpu" of the thread, or "wall" for code with threads of its own
    error:   largest difference to the baseline over the largest value, over all results
    message: the compiler's, or ""
    samples: (passes, 2) seconds by CPU and by wall clock
    session: (passes,) which child a pass ran in
    is_quiet: (passes,) whether a sample was taken alone on its core; if any was, all numbers above
             are of these
    """

    status: Status
    seconds: float
    median_s: float
    q25_s: float
    noise: float
    passes: int
    clock: Clock
    error: float
    message: str = ""
    samples: NDArray[np.float64] = attrs.field(factory=lambda: np.empty((0, 2)), repr=False)
    session: NDArray[np.int64] = attrs.field(
        factory=lambda: np.empty(0, dtype=np.int64), repr=False
    )
    is_quiet: NDArray[np.bool_] = attrs.field(factory=lambda: np.empty(0, dtype=bool), repr=False)

    @property
    def is_timed(self) -> bool:
        return self.status in ("ok", "slow")


@attrs.frozen(eq=False)
class Measured:
    """A baseline and its variants in the order given.

    check:  how results were compared: "exact" to the last bit, "tolerance", or "none" where the
            baseline's own results are not finite, so that no comparison proves anything
    flags:  of the compiler, in addition to those of common.native
    compile_s: seconds the compiler took; 0 for what was in the cache
    """

    baseline: Measurement
    variants: tuple[Measurement, ...]
    check: Check
    flags: tuple[str, ...]
    compile_s: float = 0.0

    @property
    def speedups(self) -> NDArray[np.float64]:
        """(variants,) baseline time over variant time; NaN for those not timed."""
        return self.baseline.seconds / np.array([v.seconds for v in self.variants])

    @property
    def paired_speedups(self) -> NDArray[np.float64]:
        """(variants,) median over passes of baseline time over variant time within a pass.

        What slows the machine for a while slows both sides of a pass and cancels. On a busy machine
        its typical errors are larger than those of the ratio of least times, its worst are smaller.
        """
        return np.array([paired_speedup(self.baseline, v, v.clock) for v in self.variants])

    @property
    def noise(self) -> NDArray[np.float64]:
        """(variants,) relative noise of the speedups; NaN where a variant was timed only once."""
        own = np.array([v.noise for v in self.variants], dtype=np.float64)
        return np.sqrt(own**2 + self.baseline.noise**2)


def measure(
    program: Program,
    baseline: str,
    variants: Sequence[str],
    *,
    threads: int | None = None,
    passes: tuple[int, int] | None = None,
    timeout_s: float | None = None,
    flags: Sequence[str] = FLAGS,
    jobs: int | None = 1,
    options: Options | None = None,
) -> Measured:
    """Compile a baseline and variants of a program together, then check and time them.

    baseline, variants: C texts of one function each, with costmodel.c_text.signature's parameters
    threads, passes, timeout_s: instead of those of options

    Raises CompileError if the baseline does not compile, MeasureError if it crashes or takes longer
    than timeout_s. Whatever a variant does is its own status.
    """
    compiled = compile_batch(program, [baseline, *variants], flags=flags, jobs=jobs)
    first = compiled.entries[0]
    if isinstance(first, Failed):
        raise CompileError(f"the baseline does not compile: {first.message}")
    given = {"threads": threads, "passes": passes, "timeout_s": timeout_s}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = attrs.evolve(options or Options(), **changes)
    found = time_batch(program, first, compiled.entries[1:], options=options)
    return attrs.evolve(found, flags=tuple(flags), compile_s=compiled.seconds)


def time_batch(
    program: Program,
    baseline: Entry,
    variants: Sequence[Entry | Failed],
    *,
    options: Options | None = None,
) -> Measured:
    """Check and time compiled functions of one signature, of any compiler, side by side.

    Raises MeasureError as `measure`.
    """
    options = options or Options()
    runnable = [v for v in variants if isinstance(v, Entry)]
    batch = _Batch(program, [baseline, *runnable], plan_inputs(program), options)
    measured = iter(batch.run())
    first = next(measured)
    rows = [
        next(measured) if isinstance(v, Entry) else _never_run("not compiled", v.message)
        for v in variants
    ]
    return Measured(first, tuple(rows), batch.check, ())


def _never_run(status: Status, message: str = "", error: float = math.nan) -> Measurement:
    nan = math.nan
    return Measurement(status, nan, nan, nan, nan, 0, "cpu", error, message)


class _Batch:
    """One measurement: the file shared with its children, and who has to run still."""

    def __init__(
        self, program: Program, entries: Sequence[Entry], inputs: Inputs, options: Options
    ) -> None:
        self._program = program
        self._entries = entries
        self._inputs = inputs
        self._options = options
        self._harness = _harness()
        n, n_arrays = len(entries), len(program.arrays)
        most = options.sessions * math.ceil(options.passes[1] / options.sessions)
        self._capacity = max(1, most * _BASELINE_SLOTS)
        self._offsets: dict[str, int] = {}
        total = 0
        for name, size in (
            ("state", _STATE.itemsize),
            ("config", _CONFIG.itemsize),
            ("arrays", max(1, n_arrays) * _ARRAY.itemsize),
            ("records", n * _RECORD.itemsize),
            ("samples", n * self._capacity * _SAMPLE * 8),
        ):
            self._offsets[name] = total
            total += -(-size // 64) * 64
        self._size = total

    def run(self) -> list[Measurement]:
        with tempfile.NamedTemporaryFile(prefix="mlsys21-measure-", dir=_shared_folder()) as file:
            file.truncate(self._size)
            self._shared = np.memmap(file.name, dtype=np.uint8, mode="r+", shape=(self._size,))
            self._write()
            self._state["pace_s"] = _fastest.get("pace_s", 0.0)
            ends = np.zeros((self._options.sessions, len(self._entries)), dtype=np.int64)
            for session in range(self._options.sessions):
                self._run_session(file.name)
                ends[session] = self._records["n_samples"]
            _fastest["pace_s"] = float(self._state["pace_s"][0])
            return self._read(ends)

    @property
    def check(self) -> Check:
        if self._n_not_finite:
            return "none"
        return "exact" if self._inputs.is_exact else "tolerance"

    def _view(self, name: str, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
        start = self._offsets[name]
        return self._shared[start : start + n * dtype.itemsize].view(dtype)

    @property
    def _records(self) -> NDArray[Any]:
        return self._view("records", _RECORD, len(self._entries))

    @property
    def _state(self) -> NDArray[Any]:
        return self._view("state", _STATE, 1)

    def _write(self) -> None:
        options, inputs = self._options, self._inputs
        arrays = self._view("arrays", _ARRAY, len(self._program.arrays))
        for row, array in zip(arrays, self._program.arrays, strict=True):
            n = inputs.diagonal(array)
            row["n_items"], row["low"], row["step"] = array.n_items, inputs.low, inputs.step
            row["diagonal"], row["steps"], row["n_diagonal"] = 2.0 * n, inputs.steps, n
            row["dtype"], row["role"] = _DTYPES[array.dtype], _ROLES[array.role]
        config = self._view("config", _CONFIG, 1)[0]
        low, high = (-(-p // options.sessions) for p in options.passes)
        config["min_passes"], config["max_passes"] = low, high
        for name in (
            "seed",
            "min_sample_s",
            "slow_s",
            "slow_ratio",
            "wanted_noise",
            "budget_s",
            "wait_s",
        ):
            config[name] = getattr(options, name)
        config["quiet_ratio"] = QUIET
        config["rtol"], config["rtol_double"] = RTOL, RTOL_DOUBLE
        config["timeout_s"] = options.timeout_s * options.threads
        config["capacity"] = self._capacity
        config["is_arena"], config["is_exact"] = options.memory == "arena", inputs.is_exact
        self._records["is_wall"] = [
            entry.is_parallel and options.threads > 1 for entry in self._entries
        ]

    def _run_session(self, path: str) -> None:
        """Start children until one has come to the end of the passes."""
        done = self._records["n_samples"].copy()
        while True:
            code, log = self._run_child(path)
            if code == 0:
                break
            self._blame(code, log)
            # Its passes so far are half a session; those that follow are a session of their own.
            self._records["n_samples"] = done
        self._n_not_finite = int(self._state["n_not_finite"][0])
        if _STATUSES[int(self._records["status"][0])] == "wrong":
            raise MeasureError(
                f"the baseline of {self._program.name} writes beyond its arrays: "
                "their shapes and its subscripts do not fit"
            )

    def _blame(self, code: int, log: str) -> None:
        """Set the status of whoever was running when the child died."""
        current = int(self._state["current"][0])
        is_late = code in (-signal.SIGPROF, -signal.SIGKILL)
        if code > 0 or current < 0:
            raise MeasureError(f"the measuring process failed (exit code {code}): {log.strip()}")
        if current == 0:
            why = (
                f"takes longer than timeout_s={self._options.timeout_s:g}"
                if is_late
                else f"was ended by {signal.Signals(-code).name}"
            )
            raise MeasureError(f"the baseline of {self._program.name} {why}")
        self._records["status"][current] = _TIMEOUT if is_late else _CRASH

    def _run_child(self, path: str) -> tuple[int, str]:
        """Exit code, negative for a signal, and what the child wrote."""
        options = self._options
        request = {
            "harness": str(self._harness),
            "functions": [(str(e.library), e.symbol) for e in self._entries],
            "offsets": self._offsets,
            "n_arrays": len(self._program.arrays),
            "cores": _cores(options.threads, options.core),
        }
        threads = str(options.threads)
        environment = {
            **os.environ,
            **steady.ENVIRONMENT,
            "OMP_NUM_THREADS": threads,
            "HL_NUM_THREADS": threads,
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", measure_child.__file__, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            log = self._await(process)
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        return process.returncode, log

    def _await(self, process: subprocess.Popen[bytes]) -> str:
        """What the child writes until its end; killed if a call goes on without using CPU time.

        The child's own timer counts CPU time, and code that sleeps or waits for a lock uses none.
        """
        assert process.stderr is not None
        limit_s = PATIENCE * self._options.timeout_s + PATIENCE_S
        last, since = -1, time.monotonic()
        log = b""
        while True:
            # Its end closes the pipe: waiting for that costs nothing and ends at once.
            if select.select([process.stderr], [], [], 0.5)[0]:
                part = os.read(process.stderr.fileno(), 65536)
                if not part:
                    process.wait()
                    return log.decode(errors="replace")
                log = (log + part)[-100_000:]
            progress = int(self._state["progress"][0])
            if progress != last or int(self._state["current"][0]) < 0:
                last, since = progress, time.monotonic()
            elif time.monotonic() - since > limit_s:
                process.kill()

    def _read(self, ends: NDArray[np.int64]) -> list[Measurement]:
        n = len(self._entries) * self._capacity * _SAMPLE
        samples = self._view("samples", np.dtype("f8"), n)
        samples = samples.reshape(len(self._entries), self._capacity, _SAMPLE)
        pace_s = float(self._state["pace_s"][0])
        rows = []
        for f, record in enumerate(self._records):
            status = _STATUSES[int(record["status"])]
            assert status is not None
            if status not in ("ok", "slow"):
                rows.append(_never_run(status, error=float(record["error"])))
                continue
            session = np.searchsorted(ends[:, f], np.arange(ends[-1, f]), side="right")
            own = np.array(samples[f, : ends[-1, f]])
            clock: Clock = "wall" if record["is_wall"] else "cpu"
            is_quiet = quiet(own, clock, pace_s)
            error = float(record["error"])
            rows.append(
                summarize(
                    own[:, :2], session, clock=clock, status=status, error=error, is_quiet=is_quiet
                )
            )
        known = [row.noise for row in rows if math.isfinite(row.noise)]
        # One pair of halves may agree by chance; how well the others agree says what to expect.
        floor = float(np.median(known)) if known else math.nan
        return [attrs.evolve(r, noise=max(r.noise, floor)) if r.passes > 1 else r for r in rows]


def quiet(samples: NDArray[np.float64], clock: Clock, pace_s: float) -> NDArray[np.bool_]:
    """(n,) whether samples (n, 3) of CPU and wall seconds and pace were taken alone on the core.

    That is so if a fixed computation just before and after took hardly longer than its least,
    pace_s, and the sample itself was not interrupted: both clocks agree.
    """
    cpu, wall, pace = samples.T
    apart = np.abs(cpu - wall) / wall if clock == "cpu" else np.zeros(len(wall))
    alone: NDArray[np.bool_] = (pace <= QUIET * pace_s) & (apart <= QUIET - 1)
    return alone


def summarize(
    samples: NDArray[np.float64],
    session: NDArray[np.int64],
    *,
    clock: Clock,
    status: Status = "ok",
    error: float = 0.0,
    is_quiet: NDArray[np.bool_] | None = None,
) -> Measurement:
    """Least, quartile, median and half-split noise of samples by one of the two clocks.

    is_quiet: those taken alone; the others are left out if there are any of these
    """
    every = samples[:, 0 if clock == "cpu" else 1]
    times, used = every, session
    if is_quiet is not None and is_quiet.any():
        times, used = times[is_quiet], session[is_quiet]
    least = float(times.min())
    # One session may have had no quiet moment: its halves then, and at last those of all samples.
    ways = ((times, used), (times, np.zeros_like(used)), (every, session))
    noise = next((n for n in (half_split(*way) for way in ways) if math.isfinite(n)), math.nan)
    return Measurement(
        status=status,
        seconds=least,
        median_s=float(np.median(times)),
        q25_s=float(np.quantile(times, 0.25)),
        noise=noise,
        passes=len(samples),
        clock=clock,
        error=error,
        samples=samples,
        session=session,
        is_quiet=np.zeros(len(samples), dtype=bool) if is_quiet is None else is_quiet,
    )


def paired_speedup(baseline: Measurement, variant: Measurement, clock: Clock) -> float:
    """Median over the passes of the baseline's least time in a pass over the variant's.

    A variant takes part in the first passes of a session, the baseline three times in all of them.
    NaN for a variant that was not timed, or only once.
    """
    column = 0 if clock == "cpu" else 1
    ratios: list[float] = []
    for session in np.unique(variant.session):
        own = variant.samples[variant.session == session, column]
        base = baseline.samples[baseline.session == session, column]
        if variant.status == "ok":
            slots = base.reshape(-1, _BASELINE_SLOTS).min(axis=1)
            ratios += (slots[: len(own)] / own).tolist()
    return float(np.median(ratios)) if ratios else math.nan


def half_split(times: NDArray[np.float64], session: NDArray[np.int64]) -> float:
    """|least of one half - least of the other| / least; NaN if a half is empty.

    Halves are even and odd sessions if there are several, else even and odd passes.
    """
    is_odd = (session if len(np.unique(session)) > 1 else np.arange(len(times))) % 2 == 1
    if is_odd.all() or not is_odd.any():
        return math.nan
    return float(abs(times[is_odd].min() - times[~is_odd].min()) / times.min())


def _harness() -> Path:
    """The compiled kernels/measure.c; looked for once for each cache folder."""
    return _built_harness(native.cache_folder())


@functools.lru_cache(maxsize=4)
def _built_harness(folder: Path) -> Path:
    source = Path(__file__).with_name("kernels") / "measure.c"
    (built,) = native.compile_many([native.Recipe(name="measure", sources=[source])])
    if isinstance(built, native.NativeBuildError):
        raise built
    return built.path


def _cores(threads: int, first: int | None) -> list[int]:
    """Cores to pin to: from `first` on, or the last ones, where fewer interrupts go."""
    usable = sorted(os.sched_getaffinity(0))
    if threads > len(usable):
        import warnings

        warnings.warn(
            f"threads={threads} are timed on {len(usable)} usable cores", RuntimeWarning, 2
        )
        return usable
    if first is None:
        return usable[-threads:]
    if first not in usable:
        raise ValueError(f"core must be one of {usable}, got {first}")
    start = min(usable.index(first), len(usable) - threads)
    return usable[start : start + threads]


def _shared_folder() -> str | None:
    """In memory if possible: the child writes there between two samples."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
