"""Make a machine busy on purpose, to see what measuring on it is worth."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

# Ends by itself when the process that started it is gone.
_SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextlib.contextmanager
def spinning(n: int) -> Iterator[None]:
    """Run n processes that compute without end; all are gone again on leaving."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(n):
            processes.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", _SPIN]))
        if n:
            time.sleep(0.3)  # until all have started, and the scheduler has spread them
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
