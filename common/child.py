"""The child's side of a run: threads, log, context, and the run function itself."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TextIO

import attrs

from common import PAPERS, provenance, steady
from common.context import Context
from common.experiment import Experiment
from common.options import Options
from common.progress import ProgressBoard
from common.run_folder import RunFolder

#: On this signal a child writes the stacks of its threads to its log.
DUMP_SIGNAL = signal.SIGUSR1

READY = "ready"


@attrs.frozen
class Task:
    """What the child is told.

    settings: pickled, and read only once errors can be reported
    folder:   of the run: results/<experiment>/<key>
    scratch:  empty folder of the experiment
    stacks:   file for the Python stacks of a child that crashes or is ended
    """

    experiment: Experiment
    settings: bytes
    folder: Path
    scratch: Path
    stacks: Path
    options: Options


@attrs.frozen
class Report:
    """What the child says at its end, if it lives to say it."""

    status: str
    error: str | None
    peak_mb: float
    sources: Mapping[str, str]


def main(sender: connection.Connection, task: Task) -> None:
    """Entry of the child process."""
    # Its own group, so that a Ctrl-C in the terminal reaches the runner alone, which then decides.
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _die_with_parent()
    log = RunFolder(task.folder.parents[1], task.folder.parent.name, task.folder.name).log
    console = _redirect(log)
    with task.stacks.open("w") as stacks:
        faulthandler.enable(stacks, all_threads=False)
        faulthandler.register(DUMP_SIGNAL, stacks, all_threads=True)
        sender.send(READY)
        report = work(task, None, console)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sender.send(report)
        faulthandler.disable()
        faulthandler.unregister(DUMP_SIGNAL)


def stack_lines(dump: str) -> list[str]:
    """Lines of a dump of stacks that are the experiment's, innermost call first."""
    lines: list[str] = []
    for thread in dump.split("\n\n"):
        frames = [line for line in thread.splitlines() if line and "Extension modules" not in line]
        ours = [i for i, line in enumerate(frames) if __file__ in line]
        if any(_await_end_of_parent.__name__ in frames[i] for i in ours):
            continue
        lines += frames[: ours[0]] if ours else frames
    return lines


def work(task: Task, settings: object | None, console: TextIO | None = None) -> Report:
    """Run the experiment and say how it went.

    settings: unpickled from the task if None
    console:  where a person looks, if standard error is not that
    """
    memory_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, server_started = _start_times()
    packages = ("common", *PAPERS, task.experiment.package)
    sources = provenance.LoadedSources(packages, started, server_started)
    options = task.options
    threads = options.threads_of(task.experiment)
    folder = RunFolder(task.folder.parents[1], task.folder.parent.name, task.folder.name)
    status, error = "ok", None
    with _logger(task.experiment.name, console) as log:
        try:
            steady.set_threads(threads)
            if settings is None:
                settings = pickle.loads(task.settings)
            context = Context(
                task.experiment.name,
                task.experiment.claims,
                folder,
                threads=threads,
                seed=options.seed,
                profile=options.profile,
                scratch=task.scratch,
                log=log,
                board=ProgressBoard(console or sys.stderr, log),
                sources=sources.digests,
                resume=options.resume,
                contended=options.contended,
            )
            task.experiment.load().run(settings, context)
        except KeyboardInterrupt:
            status, error = "interrupted", "SIGINT"
        except BaseException as problem:  # SystemExit in an experiment is a failure too
            status = "failed"
            error = "".join(traceback.format_exception_only(problem)).strip()
            log.error("%s", traceback.format_exc().rstrip())
    memory_end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        status=status,
        error=error,
        peak_mb=(memory_end - memory_start) * 1024 / 1e6,
        sources=sources.digests(),
    )


def _die_with_parent() -> None:
    """End this process, and all it started, when the runner is gone.

    The runner's lock on the run goes with it, and another runner may begin the run afresh.
    """
    parent = parent_process()
    if parent is None:
        return

    threading.Thread(target=_await_end_of_parent, args=(parent.sentinel,), daemon=True).start()


def _await_end_of_parent(sentinel: int) -> None:
    connection.wait([sentinel])
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _redirect(log: Path) -> TextIO:
    """Send all output of this process, that of C code too, to the log; the console is returned."""
    sys.stdout.flush()
    sys.stderr.flush()
    console = os.fdopen(os.dup(2), "w", buffering=1, errors="replace")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    # Fresh objects: those inherited may belong to a test runner or a notebook.
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    return console


@contextlib.contextmanager
def _logger(name: str, console: TextIO | None) -> Iterator[logging.Logger]:
    """Logging of everything to standard error, and of what a person must see to the console."""
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")
    to_log = logging.StreamHandler(sys.stderr)
    to_log.setFormatter(plain)
    handlers: list[logging.Handler] = [to_log]
    if console is not None:
        to_console = logging.StreamHandler(console)
        to_console.setFormatter(logging.Formatter(f"{name}: %(message)s"))
        to_console.addFilter(
            lambda r: r.levelno == logging.WARNING or getattr(r, "on_console", False)
        )
        handlers.append(to_console)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = handlers
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield logging.getLogger(name)
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = before
        root.setLevel(level)


def _start_times() -> tuple[float, float]:
    """Seconds since the epoch: when this process began, and when the server it came from did."""
    import psutil

    now = time.time()
    with contextlib.suppress(psutil.Error):
        me = psutil.Process()
        parent = parent_process()
        if parent is None or me.ppid() == parent.pid:
            # A fresh interpreter, or no child at all: everything was loaded here.
            return now, me.create_time()
        return now, psutil.Process(me.ppid()).create_time()
    return now, now
