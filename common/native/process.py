"""A compiler as a child process: its own process group, plain English, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


class TimedOut(RuntimeError):
    """The compiler was still running when its time was up; it has been ended."""


class CompilerRun:
    """A compiler started at once and awaited by `result`; leaving the block ends it.

    scratch: where it puts its intermediates, so that those of a killed compiler go with it
    """

    def __init__(self, command: Sequence[str], scratch: Path | None = None) -> None:
        environment = {**os.environ, "LC_ALL": "C"}
        if scratch is not None:
            environment["TMPDIR"] = str(scratch)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def __enter__(self) -> CompilerRun:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # The driver's own children too: they would go on without it.
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def result(self, timeout_s: float = 60) -> tuple[int, str]:
        """The exit code and everything written.

        Raises TimedOut after `timeout_s` seconds.
        """
        try:
            output = self._process.communicate(timeout=timeout_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise TimedOut(f"error: the compiler timed out after {timeout_s:g} s") from None
        code = self._process.returncode
        if code < 0:
            output += f"\nerror: the compiler was ended by {signal.Signals(-code).name}"
        return code, output
