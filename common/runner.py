"""Run experiments one after another: reuse what is done, isolate the rest, keep how each ended."""

from __future__ import annotations

import contextlib
import functools
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from common import provenance
from common.experiment import Experiment
from common.options import Options
from common.record import ResultsError, RunInfo, run_key
from common.run_folder import RunFolder

if TYPE_CHECKING:
    from common.machine import Machine

NOT_STARTED = "not started"
REUSED = "reused"
STALE = "stale"


class Interrupted(KeyboardInterrupt):
    """A signal asked the runner to stop; what was done is kept."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@attrs.frozen
class Job:
    """One experiment with its settings, ready to run.

    command: the command line that makes this run again
    """

    experiment: Experiment
    settings: Any
    options: Options
    command: str = ""

    @property
    def key(self) -> str:
        """Name of the run's folder, were it run on this machine."""
        return self._key_on(machine_id())

    @functools.cached_property
    def plan_id(self) -> str:
        """What tells the job from others of one command, the same on every machine."""
        return self._key_on("any")

    def _key_on(self, machine: str) -> str:
        return run_key(
            self.experiment.name,
            attrs.asdict(self.settings),
            self.options.seed,
            self.options.profile,
            self.options.threads_of(self.experiment),
            machine,
        )

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.options.results, self.experiment.name, self.key)


@attrs.frozen
class Outcome:
    """How a job stands.

    status: of a run that has just been made "ok", "failed" or "timeout"; of an earlier one also
            "reused" (it stands), "stale" (it was ok), "interrupted", "running", "not started"
    reason: for a run that cannot be reused, why not
    error:  of a run that did not end well: what ended it, and the last lines of its log
    key:    name of the run's folder
    """

    job: Job
    status: str
    reason: str = ""
    seconds: float | None = None
    error: str | None = None
    n_records: int | None = None
    key: str = attrs.field()

    @key.default
    def _key_here(self) -> str:
        return self.job.key  # a launcher may have run the job on another machine than this

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.job.options.results, self.job.experiment.name, self.key)

    @property
    def is_done(self) -> bool:
        """Whether the records of this run stand."""
        return self.status in ("ok", REUSED)


def state(job: Job) -> Outcome:
    """How the job stands on disk, without running anything."""
    try:
        yes, reason = job.folder.reusable(provenance.digest)
        info = job.folder.info()
    except ResultsError as problem:
        return Outcome(job, "failed", reason=str(problem), error=str(problem))
    if info is None:
        return Outcome(job, NOT_STARTED, reason=reason)
    status = STALE if info.status == "ok" else info.status
    return Outcome(
        job,
        REUSED if yes else status,
        reason=reason,
        seconds=info.seconds,
        error=info.error,
        n_records=info.n_records,
    )


def run_one(job: Job, waiting: Callable[[str], None] | None = None) -> Outcome:
    """Run the job, or reuse its run if that is allowed and possible.

    A run that another process is busy with is waited for, and then reused; `waiting` is told.
    Raises Interrupted after a signal, once the run is written down; ResultsError if the results
    folder cannot be written.
    """
    folder = job.folder
    with contextlib.ExitStack() as held:
        _lock(held, folder, job, waiting)
        if job.options.resume:
            earlier = state(job)
            if earlier.is_done:
                return earlier
        folder.begin(run_info(job))
        return _run_and_finish(job, folder)


def close_abandoned(job: Job, status: str) -> None:
    """Give a run that says it is running, but that nobody runs, the status it ended with."""
    import filelock

    folder = job.folder
    with contextlib.suppress(filelock.Timeout, ResultsError), folder.lock(timeout=0):
        info = folder.info()
        if info is not None and info.status == "running":
            folder.finish(status, seconds=None, peak_mb=None, error="the runner was ended")


def check_writable(results: Path) -> None:
    """Raise ResultsError naming the folder if results cannot be written there."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as problem:
        raise ResultsError(
            f"cannot write results to {results}: {problem.strerror or problem}; "
            "give another folder by results=<folder>"
        ) from problem


@functools.lru_cache(maxsize=1)
def machine_id() -> str:
    """Id of this machine's stable properties."""
    return _machine().id


@functools.lru_cache(maxsize=1)
def _machine() -> Machine:
    from common import machine

    return machine.fingerprint()


def _lock(
    held: contextlib.ExitStack,
    folder: RunFolder,
    job: Job,
    waiting: Callable[[str], None] | None,
) -> None:
    import filelock

    try:
        held.enter_context(folder.lock(timeout=0))
    except filelock.Timeout:
        if waiting:
            waiting(f"{job.experiment.name}: another process is running it; waiting")
        held.enter_context(folder.lock())


def run_info(job: Job) -> RunInfo:
    root = provenance.package_folder(job.experiment.package)
    sha, dirty = provenance.git_state(root) if root else (None, None)
    return RunInfo(
        experiment=job.experiment.name,
        key=job.key,
        settings=attrs.asdict(job.settings),
        profile=job.options.profile,
        seed=job.options.seed,
        threads=job.options.threads_of(job.experiment),
        machine_id=machine_id(),
        machine=_machine().to_dict(),
        git_sha=sha,
        git_dirty=dirty,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        contended=job.options.contended,
        command=job.command,
    )


def _run_and_finish(job: Job, folder: RunFolder) -> Outcome:
    from common.isolation import run_isolated

    start = time.monotonic()
    ending = run_isolated(
        job.experiment, job.settings, folder, job.options, env=job.experiment.env or None
    )
    info = folder.finish(
        ending.status,
        seconds=ending.seconds,
        peak_mb=ending.peak_mb,
        error=ending.error,
        sources=ending.sources or {},
    )
    if ending.signum is not None:
        raise Interrupted(ending.signum)
    return Outcome(
        job,
        info.status,
        seconds=time.monotonic() - start,
        error=info.error,
        n_records=info.n_records,
    )
