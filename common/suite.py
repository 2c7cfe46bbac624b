"""The jobs of one command, whatever launches them: a line for each, and how each ended."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

import attrs

from common.experiment import Experiment
from common.record import ResultsError
from common.runner import Job, Outcome, run_one

if TYPE_CHECKING:
    from omegaconf import DictConfig


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once; when the reader has gone away (`| head`), print nothing any more.

    What is still to run then runs on: its results are on the disk, not in the pipe.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        hush(stream)


def hush(stream: TextIO) -> None:
    """Send what is still written to a stream nobody reads to nowhere."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, stream.fileno())
    os.close(silent)


@attrs.frozen
class Board:
    """Lines about jobs, numbered as planned.

    ids:     plan_id of each job
    started: time.time() when the command began
    output:  which file its standard output is; a launcher may give a job another one
    """

    ids: tuple[str, ...]
    width: int
    started: float
    output: tuple[int, int] | None

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Board:
        """The board of all jobs of a command that begins now."""
        width = max(len(job.experiment.name) for job in jobs)
        return cls(tuple(job.plan_id for job in jobs), width, time.time(), _output())

    def begins(self, job: Job) -> None:
        """Say that a job starts, to someone who watches."""
        if sys.stdout.isatty():
            say(f"{self._lead(job)}  running")

    def ends(self, outcome: Outcome) -> None:
        """Say how a job ended."""
        took = "" if outcome.seconds is None else f"{outcome.seconds:8.1f} s"
        rows = "" if outcome.n_records is None else f"{outcome.n_records:6d} records"
        elapsed = f"{time.time() - self.started:8.1f} s elapsed"
        line = f"{self._lead(outcome.job)}  {outcome.status:11s} {took:10s} {rows:14s} {elapsed}"
        say(line)

    @property
    def is_seen(self) -> bool:
        """Whether what this process prints appears where the command was given."""
        return self.output == _output()

    def _lead(self, job: Job) -> str:
        n = len(self.ids)
        place = self.ids.index(job.plan_id) + 1
        return f"[{place:{len(str(n))}d}/{n}] {job.experiment.name:{self.width}s}"


@attrs.frozen
class JobTask:
    """What a launcher calls for each job, here or in another process, on another machine even."""

    experiments: Mapping[str, Experiment]
    board: Board

    def __call__(self, config: DictConfig) -> tuple[Outcome, bool]:
        """Run the composed job; its outcome, and whether its line has been seen.

        Every failure but an interrupt becomes an outcome.
        """
        from hydra.core.hydra_config import HydraConfig

        from common.config import build_job, register

        register(self.experiments)
        runtime = HydraConfig.get()
        experiment = self.experiments[runtime.runtime.choices["experiment"]]
        _, job = build_job(config, experiment, list(runtime.overrides.task))
        self.board.begins(job)
        try:
            outcome = run_one(job, waiting=say)
        except ResultsError as problem:
            outcome = Outcome(job, "failed", error=str(problem))
        self.board.ends(outcome)
        return outcome, self.board.is_seen


def _output() -> tuple[int, int] | None:
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):  # a stream that is no file
        return None
    return found.st_dev, found.st_ino
