"""How an experiment is run, apart from its own settings."""

from __future__ import annotations

from pathlib import Path

import attrs

from common.experiment import Experiment


@attrs.frozen
class Options:
    """How to run an experiment, apart from its own settings.

    threads:   0 takes the experiment's own number
    resume:    use what earlier runs left: whole runs, and finished cells of others
    isolate:   run in a child process; without it a crash or a hang takes the runner along
    memory_gb: resident 1e9 bytes at which the child is ended
    contended: other work runs beside it, so that times are shown but not judged
    """

    results: Path = Path("results")
    profile: str = "quick"
    seed: int = 0
    threads: int = 0
    timeout_s: float = 300.0
    memory_gb: float = 8.0
    resume: bool = True
    isolate: bool = True
    contended: bool = False

    def threads_of(self, experiment: Experiment) -> int:
        """Number of threads the experiment runs with."""
        return self.threads or experiment.threads
