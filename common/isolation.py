"""Run one experiment in a child process: a crash, a hang or a memory eater is one failed run.

Children are forked from a server that has loaded torch and run nothing parallel, so one is ready
within milliseconds and OpenMP works in it. The child does the work and writes records and log; the
parent watches time, memory and signals, and alone decides how the run ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from common import child, steady
from common.child import Task
from common.experiment import Experiment
from common.options import Options
from common.run_folder import RunFolder

POLL_S = 0.05
GRACE_S = 10.0  # for a child that was asked to stop
LOG_LINES = 20

#: Loaded once by the server.
PRELOAD = ["common.preload"]


@attrs.frozen
class Ending:
    """How a run ended, as the parent saw it.

    status:        "ok", "failed", "timeout" or "interrupted"
    seconds:       from the child being ready to its end
    ready_seconds: from asking for a child to its being ready; 0 without isolation
    peak_mb:       most resident memory above what the child began with
    error:         exception, signal or limit, and the last lines of the log
    sources:       digests of the code that was loaded, none if the child died
    signum:        signal that interrupted the run, also if it ended by itself just then
    """

    status: str
    seconds: float
    ready_seconds: float
    peak_mb: float | None
    error: str | None = None
    sources: Mapping[str, str] | None = None
    signum: int | None = None


def run_isolated(
    experiment: Experiment,
    settings: object,
    folder: RunFolder,
    options: Options,
    *,
    env: Mapping[str, str] | None = None,
) -> Ending:
    """Run the experiment in a child, or in this process if options.isolate is off.

    folder: begun by the caller, who also finishes it
    env:    variables that must stand before torch loads: a fresh interpreter is started, which
            takes seconds

    SIGINT and SIGTERM ask the child to stop, a second one kills it; the caller learns of them from
    Ending.signum.
    """
    with tempfile.TemporaryDirectory(
        prefix=f"{experiment.name}-", ignore_cleanup_errors=True
    ) as temporary:
        scratch = Path(temporary, "scratch")
        scratch.mkdir()
        task = Task(
            experiment=experiment,
            settings=pickle.dumps(settings),
            folder=folder.path.absolute(),
            scratch=scratch,
            stacks=Path(temporary, "stacks.txt"),
            options=options,
        )
        if not options.isolate:
            return _run_here(task, settings)
        with _Signals() as signals:
            return _Watch(task, signals, env).run()


def _run_here(task: Task, settings: object) -> Ending:
    """Without a child: for debuggers. Nothing guards against crashes and hangs."""
    start = time.monotonic()
    report = child.work(task, settings)
    return Ending(
        status=report.status,
        seconds=time.monotonic() - start,
        ready_seconds=0.0,
        peak_mb=report.peak_mb,
        error=report.error,
        sources=report.sources,
        signum=signal.SIGINT if report.status == "interrupted" else None,
    )


class _Signals:
    """Counts SIGINT and SIGTERM instead of letting them end this process."""

    def __init__(self) -> None:
        self.count = 0
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _take(self, signum: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.signum = self.signum or signum


class _Watch:
    """One child from its start to its end."""

    def __init__(self, task: Task, signals: _Signals, env: Mapping[str, str] | None) -> None:
        self._task = task
        self._signals = signals
        self._env = env
        self._limit_bytes = task.options.memory_gb * 1e9
        self._report: child.Report | None = None
        self._reason: tuple[str, str] | None = None  # (status, error) of an end the parent decided

    def run(self) -> Ending:
        asked = time.monotonic()
        method = "forkserver" if self._env is None else "spawn"
        context = multiprocessing.get_context(method)
        self._receiver, sender = context.Pipe(duplex=False)
        process = context.Process(  # type: ignore[attr-defined]  # typeshed: BaseContext has none
            target=child.main, args=(sender, self._task), name=self._task.experiment.name
        )
        with _environment(self._env or {}), _start_method(method):
            if self._env is None:
                multiprocessing.set_forkserver_preload(PRELOAD)
            process.start()
        sender.close()
        self._process = process
        try:
            ready = self._await_ready()
            memory = _Resident(process.pid)
            self._attend(ready, memory)
        finally:
            self._end_group()
            self._receiver.close()
        stop = time.monotonic()
        return self._ending(stop - ready, ready - asked, memory)

    def _await_ready(self) -> float:
        """Wait until the child has begun; the server may still be loading torch."""
        while not self._signals.count:
            if connection.wait([self._receiver, self._process.sentinel], POLL_S):
                break
        return time.monotonic()

    def _attend(self, start: float, memory: _Resident) -> None:
        """Return when the child has reported or died, or had to be ended."""
        deadline = start + self._task.options.timeout_s
        stop_by: float | None = None
        while True:
            ready = connection.wait([self._receiver, self._process.sentinel], POLL_S)
            if self._receiver in ready and self._receive():
                return
            if self._process.sentinel in ready:
                while self._receiver.poll() and not self._receive():
                    pass
                return
            now = time.monotonic()
            if self._signals.count:
                if stop_by is None:
                    stop_by = now + GRACE_S
                    _send(self._process.pid, signal.SIGINT)
                if self._signals.count > 1 or now > stop_by:
                    return
            elif now > deadline:
                limit = f"{self._task.options.timeout_s:g}"
                self._reason = ("timeout", f"took longer than timeout_s={limit}")
            elif memory.sample() > self._limit_bytes:
                used, limit = memory.now / 1e9, f"{self._task.options.memory_gb:g}"
                self._reason = ("failed", f"used {used:.2f} GB, more than memory_gb={limit}")
            if self._reason:
                self._dump_stacks()
                return

    def _receive(self) -> bool:
        """Take one message of the child; True when there is nothing more to come."""
        try:
            message = self._receiver.recv()
        except (EOFError, OSError):
            # Closed without a report: dead, or about to be; the exit code tells which way.
            self._process.join(GRACE_S)
            return True
        if isinstance(message, child.Report):
            self._report = message
            self._process.join(GRACE_S)
            return True
        return False

    def _dump_stacks(self) -> None:
        """Have the child write where it is to its log, then give it a moment to do so."""
        _send(self._process.pid, child.DUMP_SIGNAL)
        self._process.join(0.3)

    def _end_group(self) -> None:
        """Kill what is left of the child and of all it started."""
        if self._process.exitcode is None:
            _send(self._process.pid, signal.SIGKILL)
        # The child led a group of its own, in which its number stays taken while anything lives.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join(GRACE_S)

    def _ending(self, seconds: float, ready_seconds: float, memory: _Resident) -> Ending:
        peak_mb = self._report.peak_mb if self._report else memory.peak_mb
        sources = self._report.sources if self._report else None
        status, error = self._verdict()
        if status != "ok" and error is not None:
            error = "\n".join([error, *last_lines(self._task.folder / "log.txt"), *self._stack()])
        return Ending(
            status=status,
            seconds=seconds,
            ready_seconds=ready_seconds,
            peak_mb=peak_mb,
            error=error,
            sources=sources,
            signum=self._signals.signum,
        )

    def _stack(self) -> list[str]:
        """Where the child was when it crashed or was ended; nothing if it could still tell."""
        try:
            return child.stack_lines(self._task.stacks.read_text(errors="replace"))
        except OSError:
            return []

    def _verdict(self) -> tuple[str, str | None]:
        if self._reason:
            return self._reason
        if self._report and self._report.status == "ok":
            return "ok", None
        if self._signals.signum is not None:
            return "interrupted", signal.Signals(self._signals.signum).name
        if self._report:
            return self._report.status, self._report.error
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return "failed", f"ended by {name} ({signal.strsignal(-code)})"
        return "failed", f"exited with code {code} before it had finished"


class _Resident:
    """Resident memory of a process and all it started."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._gone = psutil.Error
        self._processes: list[Any] = []
        self._n_samples = 0
        self.now = 0
        with contextlib.suppress(psutil.Error):
            self._processes = [psutil.Process(pid)]
        self._start = self.sample()
        self._peak = self._start

    @property
    def peak_mb(self) -> float:
        """Most seen, above what the process began with."""
        return (self._peak - self._start) / 1e6

    def sample(self) -> int:
        """Bytes resident now; 0 once the process is gone."""
        # Looking for new processes reads all of /proc, too dear for every look.
        if self._processes and self._n_samples % 20 == 0:
            with contextlib.suppress(self._gone):
                first = self._processes[0]
                self._processes = [first, *first.children(recursive=True)]
        self._n_samples += 1
        self.now = 0
        for process in self._processes:
            with contextlib.suppress(self._gone):
                self.now += process.memory_info().rss
        self._peak = max(getattr(self, "_peak", 0), self.now)
        return self.now


@contextlib.contextmanager
def _environment(extra: Mapping[str, str]) -> Iterator[None]:
    """Set what must stand before the interpreter of a child, or of their server, starts."""
    # What the user has set stands, but for the seed: results must not follow it.
    ours = {name: value for name, value in steady.ENVIRONMENT.items() if name not in os.environ}
    wanted = {**ours, "PYTHONHASHSEED": steady.ENVIRONMENT["PYTHONHASHSEED"], **extra}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _start_method(method: str) -> Iterator[None]:
    """Make the method this process's default while a child starts, for the child inherits it.

    A worker of joblib has a default of its own making, of which the child knows nothing.
    """
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)  # None: undecided, as before


def last_lines(log: Path, n: int = LOG_LINES) -> list[str]:
    """The last n lines of a log file; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-n:]
    except OSError:
        return []


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
