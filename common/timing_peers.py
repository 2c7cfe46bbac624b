"""Other ways to tell how much faster one function is than another, each with the same signature.

method(slow, fast, seconds) -> time of slow / time of fast, spending about `seconds` in all.
Each times the two functions as its users do: one after the other, by the wall clock.
"""

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from common.extras import require

Call = Callable[[], Any]
Method = Callable[[Call, Call, float], float]

SAMPLE_S = 2e-3

_PYTEST_FILE = """
def test_arm(benchmark, arm, minima):
    benchmark(arm)
    minima.append(benchmark.stats.stats.min)
"""


def separated(slow: Call, fast: Call, seconds: float) -> float:
    """Ratio of medians, all samples of one function before all of the other (asv's way)."""
    return _median_s(slow, seconds / 2) / _median_s(fast, seconds / 2)


def torch_benchmark(slow: Call, fast: Call, seconds: float) -> float:
    """Ratio of the medians of torch.utils.benchmark's blocked_autorange."""
    timer = require("torch.utils.benchmark", "cortex", "torch.utils.benchmark as a peer").Timer

    def median(call: Call) -> float:
        measured = timer("call()", globals={"call": call}, num_threads=1).blocked_autorange(
            min_run_time=seconds / 2
        )
        return float(measured.median)

    return median(slow) / median(fast)


def pytest_benchmark(slow: Call, fast: Call, seconds: float) -> float:
    """Ratio of the minima two tests with pytest-benchmark's fixture report."""
    require("pytest_benchmark", "peers", "pytest-benchmark as a peer")
    pytest = require("pytest", "peers", "pytest-benchmark as a peer")
    minima: list[float] = []

    class Arms:
        @pytest.fixture(params=[slow, fast], ids=["slow", "fast"])  # type: ignore[untyped-decorator]  # pytest is a module found at run time
        def arm(self, request: Any) -> Call:
            call: Call = request.param
            return call

        @pytest.fixture(name="minima")  # type: ignore[untyped-decorator]  # as above
        def collected(self) -> list[float]:
            return minima

    with TemporaryDirectory() as folder:
        file = Path(folder) / "test_arms.py"
        file.write_text(_PYTEST_FILE)
        options = ["-q", "-c", "/dev/null", "--rootdir", folder, "-p", "no:cacheprovider"]
        options += ["--import-mode=importlib", f"--benchmark-max-time={seconds / 2:.3f}"]
        options += [f"--benchmark-min-time={SAMPLE_S}", "--benchmark-disable-gc"]
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            status = pytest.main([*options, str(file)], plugins=[Arms()])
    if status != 0 or len(minima) != 2:
        raise RuntimeError(f"pytest-benchmark gave {len(minima)} of 2 times:\n{text.getvalue()}")
    return minima[0] / minima[1]


METHODS: dict[str, Method] = {
    "separated": separated,
    "torch_benchmark": torch_benchmark,
    "pytest_benchmark": pytest_benchmark,
}


def _median_s(call: Call, seconds: float) -> float:
    """Median seconds of a call over samples of about 2 ms."""
    start = time.perf_counter()
    once = min(_elapsed_s(call, 1) for _ in range(3))
    k = max(1, round(SAMPLE_S / max(once, 1e-9)))
    samples: list[float] = []
    while not samples or time.perf_counter() - start < seconds:
        samples.append(_elapsed_s(call, k) / k)
    return float(np.median(samples))


def _elapsed_s(call: Call, k: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(k):
        call()
    return (time.perf_counter_ns() - start) * 1e-9
