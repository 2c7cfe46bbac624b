"""What makes a process measure alike each time: its environment and its thread pools."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

#: What must stand before a measuring process starts. glibc gives freed blocks above 128 kB back at
#: once, and fetching them anew page by page on every call made the ratio of one training step
#: scatter by 12 to 23% between processes; with freed memory kept it was 3 to 5%. Threads that spin
#: while they wait make two-thread times on a busy machine meaningless.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "OMP_WAIT_POLICY": "passive",
    "PYTHONHASHSEED": "0",
}

#: Read by libraries that load later; those already loaded are told by calls.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def set_threads(n: int) -> None:
    """Give torch, BLAS and OpenMP n threads, whether they are loaded yet or not."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(n)))
    _limit(n)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Hold every thread pool that is loaded to n threads for a while."""
    restore = _limit(n)
    try:
        yield
    finally:
        restore()


def _limit(n: int) -> Callable[[], None]:
    """Limit the loaded pools; call the result to have them as they were."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    pools = threadpool_limits(n)
    if torch is not None:
        torch.set_num_threads(n)

    def restore() -> None:
        if torch is not None:
            torch.set_num_threads(before)
        pools.restore_original_limits()

    return restore
