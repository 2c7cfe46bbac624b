"""Area and clock of the adder tree on an FPGA, by yosys and nextpnr.

The part is the Lattice ECP5-85 (LFE5U-85F, CABGA756 package), speed grade 8. What is said here
holds for it alone: another family has other tables, carry chains and wires.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from panama.rtl.parent import end_with
from panama.rtl.simulator import FOLDER
from panama.rtl.tools import Tool, find_nextpnr, find_yosys

PART = "ECP5-85, speed grade 8"
_NEXTPNR = ("--85k", "--package", "CABGA756", "--speed", "8")


@attrs.frozen
class Area:
    """What a tree takes before placing, marks and contributors aside.

    luts: 4-input tables, two for each cell of a carry chain;  ffs: flip-flops
    """

    ports: int
    lanes: int
    stages: int
    luts: int
    ffs: int

    @property
    def adders(self) -> int:
        return (self.ports - 1) * self.lanes


@attrs.frozen
class Clock:
    """The clock that a placed and routed tree reaches, from register to register.

    mhz: the best and by_seed all of the runs, which differ in where the placer starts
    """

    ports: int
    lanes: int
    stages: int
    by_seed: tuple[float, ...]

    @property
    def mhz(self) -> float:
        return max(self.by_seed)


def area(ports: int, lanes: int, stages: int) -> Area:
    """Cells of a tree for ECP5, flattened, by yosys. Raises ToolMissing."""
    wanted = {"P": ports, "L": lanes, "FADD_STAGES": stages}
    cells = _cached("area", wanted, find_yosys(), lambda: _synthesise("tree", wanted, None))
    count = {name: int(n) for name, n in cells.items()}
    luts = count.get("LUT4", 0) + 2 * count.get("CCU2C", 0)
    return Area(ports, lanes, stages, luts, count.get("TRELLIS_FF", 0))


def fmax(stages: int, ports: int = 2, lanes: int = 1, seeds: int = 3) -> Clock:
    """The clock of a tree after place and route; two ports and one lane are one adder.

    seeds: runs of the placer, whose result varies by some percent
    Raises ToolMissing.
    """
    wanted = {"P": ports, "L": lanes, "FADD_STAGES": stages}

    def place() -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="panama-synth-") as name:
            netlist = Path(name) / "netlist.json"
            _synthesise("timed_tree", wanted, netlist)
            return {str(seed): _place(netlist, seed) for seed in range(1, seeds + 1)}

    find_yosys()
    found = _cached("fmax", wanted | {"seeds": seeds}, find_nextpnr(), place)
    return Clock(ports, lanes, stages, tuple(float(mhz) for mhz in found.values()))


def check_switch(ports: int, fmt_code: int = 0) -> None:
    """Elaborate a small switch with yosys: nothing undriven, driven twice or looping.

    Raises ToolMissing, or RuntimeError with yosys' words.
    """
    small = {"P": ports, "L": 1, "FMT": fmt_code, "FADD_STAGES": 2, "LOG_JOBS": 1, "LOG_SLOTS": 2,
             "BEATS": 3, "LOG_BUFFER": 3}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="panama-synth-") as name:
        files = sorted(FOLDER.glob("*.v"))
        for file in files:
            (Path(name) / file.name).write_text(file.read_text())
        sets = " ".join(f"-set {key} {value}" for key, value in small.items())
        script = (
            f"read_verilog {' '.join(file.name for file in files)}; chparam {sets} panama_top; "
            "hierarchy -check -top panama_top; proc; flatten; check -assert"
        )
        _call(find_yosys(), ["-q", "-p", script], Path(name))


def linear_fit(areas: list[Area], quantity: str = "luts") -> tuple[float, float, float]:
    """(slope, intercept, R2) of luts or ffs over the number of adders, by least squares."""
    x = np.array([each.adders for each in areas], float)
    y = np.array([getattr(each, quantity) for each in areas], float)
    slope, intercept = np.polyfit(x, y, 1)
    left = ((y - slope * x - intercept) ** 2).sum()
    return float(slope), float(intercept), float(1 - left / ((y - y.mean()) ** 2).sum())


def _synthesise(top: str, parameters: Mapping[str, int], netlist: Path | None) -> dict[str, int]:
    """Cell counts by type; the netlist is written where it is wanted."""
    with tempfile.TemporaryDirectory(prefix="panama-synth-") as name:
        work = Path(name)
        files = [*sorted(FOLDER.glob("*.v")), FOLDER / "bench" / "timed_tree.v"]
        for file in files:
            (work / file.name).write_text(file.read_text())
        sets = " ".join(f"-set {key} {value}" for key, value in parameters.items())
        script = (
            f"read_verilog {' '.join(file.name for file in files)}; chparam {sets} {top}; "
            f"synth_ecp5 -top {top} -json netlist.json; tee -o stat.json stat -json"
        )
        _call(find_yosys(), ["-q", "-p", script], work)
        text = (work / "stat.json").read_text()
        report: dict[str, Any] = json.loads(text[text.index("{") :])
        if netlist is not None:
            netlist.write_bytes((work / "netlist.json").read_bytes())
        return {kind: int(n) for kind, n in report["design"]["num_cells_by_type"].items()}


def _place(netlist: Path, seed: int) -> float:
    """MHz after routing."""
    options = ["--json", netlist.name, "--seed", str(seed), "--freq", "250"]
    options += ["--report", "report.json", "--lpf-allow-unconstrained", "--timing-allow-fail"]
    _call(find_nextpnr(), [*_NEXTPNR, *options], netlist.parent)
    report = json.loads((netlist.parent / "report.json").read_text())
    return float(min(clock["achieved"] for clock in report["fmax"].values()))


def _call(tool: Tool, arguments: list[str], folder: Path) -> None:
    done = subprocess.run(
        [*tool.command, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=partial(end_with, os.getpid()),
    )
    if done.returncode:
        end = re.sub(r"\s+\n", "\n", done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{tool.name} failed with code {done.returncode}:\n{end}")


def _cached(kind: str, wanted: Mapping[str, int], tool: Tool, make: Any) -> dict[str, Any]:
    """What make() gives, kept by the content it depends on: minutes of work otherwise."""
    from common.cache_folder import cache_folder

    known = hashlib.sha256(json.dumps([kind, dict(wanted), *_NEXTPNR]).encode())
    for program in {tool.command[0], find_yosys().command[0]}:
        known.update(f"{program} {Path(program).stat().st_mtime_ns}".encode())
    for file in [*sorted(FOLDER.glob("*.v")), FOLDER / "bench" / "timed_tree.v"]:
        known.update(file.read_bytes())
    kept = cache_folder() / "rtl" / f"{kind}-{known.hexdigest()[:20]}.json"
    if not kept.exists():
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = make()
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(made))
        part.replace(kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found
