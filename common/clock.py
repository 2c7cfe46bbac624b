"""Clocks a comparison can read: the host's, a GPU's, or a scripted one in tests."""

import math
import resource
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, Protocol

import attrs

# Named by the resource module on Linux only; elsewhere no wait is ever seen.
_THREAD_USAGE: int | None = getattr(resource, "RUSAGE_THREAD", None)


@attrs.frozen
class Sample:
    """Seconds that a run of calls took, all calls together.

    wall:   elapsed seconds
    cpu:    seconds this thread computed, None where that says nothing about the work
    waited: the thread gave its core away (slept, read, waited for another thread), so that
            `cpu` misses part of the work; being pre-empted is not waiting
    """

    wall: float
    cpu: float | None = None
    waited: bool = False


class Clock(Protocol):
    """What `bench.compare` needs to know of time."""

    def now(self) -> float:
        """Seconds since any fixed moment; read for budgets, not for results."""
        ...

    def busy(self) -> float:
        """Seconds this thread computed so far, or as `now` where that is unknown."""
        ...

    def sample(self, call: Callable[[], Any], k: int) -> Sample:
        """Call `call` k times and say how long that took."""
        ...


class HostClock:
    """Wall clock, and the calling thread's CPU clock when all the work is on that thread."""

    def __init__(self, threads: int = 1) -> None:
        self.reads_cpu = threads == 1 and thread_clock_step_s() < 1e-5

    def now(self) -> float:
        return time.perf_counter()

    def busy(self) -> float:
        return time.thread_time() if self.reads_cpu else time.perf_counter()

    def sample(self, call: Callable[[], Any], k: int) -> Sample:
        times = repeat(None, k)
        if not self.reads_cpu:
            start = time.perf_counter_ns()
            for _ in times:
                call()
            return Sample((time.perf_counter_ns() - start) * 1e-9)
        waits = _voluntary_switches()
        # The wall clock is read inside: it is the cheaper and so disturbs the CPU figure less.
        cpu_start = time.thread_time_ns()
        start = time.perf_counter_ns()
        for _ in times:
            call()
        stop = time.perf_counter_ns()
        cpu_stop = time.thread_time_ns()
        waited = _voluntary_switches() > waits
        return Sample((stop - start) * 1e-9, (cpu_stop - cpu_start) * 1e-9, waited)


class ProcessClock(HostClock):
    """The host's clock for work that another process may do while this thread waits for it.

    The CPU figure is that of this thread and the main thread of the other process, which a busy
    machine disturbs less than what has passed on the wall.
    """

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._usage = Path(f"/proc/{pid}/schedstat")
        self.reads_cpu = self.reads_cpu and self._usage.exists()

    def busy(self) -> float:
        return super().busy() + (self._theirs() if self.reads_cpu else 0.0)

    def sample(self, call: Callable[[], Any], k: int) -> Sample:
        if not self.reads_cpu:
            return super().sample(call, k)
        before = self._theirs()
        own = super().sample(call, k)
        assert own.cpu is not None
        return Sample(own.wall, own.cpu + self._theirs() - before)

    def _theirs(self) -> float:
        """Seconds the other process was on a core."""
        return int(self._usage.read_text().split()[0]) * 1e-9


class CudaClock:
    """Device time between two recorded events; `cuda` is torch.cuda unless one is given."""

    def __init__(self, cuda: Any = None) -> None:
        if cuda is None:
            from torch import cuda
        self._cuda = cuda

    def now(self) -> float:
        return time.perf_counter()

    def busy(self) -> float:
        return time.perf_counter()

    def sample(self, call: Callable[[], Any], k: int) -> Sample:
        start = self._cuda.Event(enable_timing=True)
        stop = self._cuda.Event(enable_timing=True)
        start.record()
        for _ in repeat(None, k):
            call()
        stop.record()
        stop.synchronize()
        return Sample(start.elapsed_time(stop) * 1e-3)


@lru_cache(maxsize=1)
def thread_clock_step_s() -> float:
    """Smallest step the thread's CPU clock was seen to make; infinite if it stood still.

    Some kernels tick in 10 ms. Counted in reads, not in elapsed time, which a pre-emption eats.
    """
    reads = [time.thread_time_ns() for _ in range(1000)]
    steps = [later - earlier for earlier, later in pairwise(reads) if later > earlier]
    return min(steps, default=math.inf) * 1e-9


def _voluntary_switches() -> int:
    if _THREAD_USAGE is None:
        return 0
    return resource.getrusage(_THREAD_USAGE).ru_nvcsw
