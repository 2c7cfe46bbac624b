"""Other timing methods, and the load they are compared under."""

import os
from collections.abc import Callable, Iterator

import psutil
import pytest

from common import busy, timing_peers
from common.extras import MissingExtra


def count(n: int) -> Callable[[], int]:
    return lambda: sum(range(n))


def test_arms_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(timing_peers, "SAMPLE_S", 1e-5)
    timing_peers.separated(lambda: log.append("slow"), lambda: log.append("fast"), 2e-3)
    first_fast = log.index("fast")
    assert first_fast > 3
    assert set(log[:first_fast]) == {"slow"}
    assert set(log[first_fast:]) == {"fast"}


def test_ratio_is_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    def elapsed(call: Callable[[], int], k: int) -> float:
        call()
        return next(times[call]) * k

    def script(*seconds: float) -> Iterator[float]:
        yield from (seconds[0],) * 3  # the calibration
        yield from seconds
        while True:
            yield seconds[-1]

    slow, fast = count(1), count(2)
    times = {slow: script(3.0, 3.0, 900.0, 3.0), fast: script(2.0, 0.1, 2.0, 2.0)}
    monkeypatch.setattr(timing_peers, "_elapsed_s", elapsed)
    assert timing_peers.separated(slow, fast, 2e-3) == pytest.approx(1.5)


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytest_benchmark", None)
    with pytest.raises(MissingExtra, match=r"pytest_benchmark is needed .*mlsys21\[peers\]"):
        timing_peers.pytest_benchmark(count(1), count(1), 0.01)


@pytest.mark.bench
@pytest.mark.parametrize("method", timing_peers.METHODS)
def test_peers_tell_sixteen_times_the_work_from_one(method: str) -> None:
    # Arms timed apart may each meet another load; sixteenfold work stands out of that.
    ratios = sorted(
        timing_peers.METHODS[method](count(80_000), count(5_000), 0.1) for _ in range(5)
    )
    assert 4.0 < ratios[2] < 64.0


def spinners() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "getppid" in str(child.cmdline())]


def test_spinning_processes_run_inside_and_are_gone_outside() -> None:
    with busy.spinning(2):
        found = spinners()
        assert len(found) == 2
        assert all(child.is_running() for child in found)
    assert spinners() == []
    with busy.spinning(0):
        assert spinners() == []


def test_spinning_processes_end_when_the_work_fails() -> None:
    with pytest.raises(RuntimeError, match="kernel failed"), busy.spinning(1):
        raise RuntimeError("kernel failed")
    assert spinners() == []


def test_spinning_processes_end_with_their_parent() -> None:
    import subprocess
    import sys

    # The parent is killed outright, so that it cannot clean up.
    code = (
        "import os, signal; from common.busy import spinning\n"
        "context = spinning(1); context.__enter__()\n"
        "import psutil; print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    orphan = int(ran.stdout)
    try:
        psutil.Process(orphan).wait(timeout=20)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        os.kill(orphan, 9)
        raise
