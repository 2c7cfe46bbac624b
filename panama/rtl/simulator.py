"""Builds the hardware for a simulator, once for each content, and runs a cocotb bench on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from panama.rtl.tools import Tool, find_icarus, find_verilator

FOLDER = Path(__file__).parent
TIMESCALE = ("1ns", "1ps")  # cocotb's clock needs one that Icarus does not assume


@attrs.frozen
class Build:
    """A design made ready for a simulator.

    folder: where the simulator keeps what it made; named after everything it depends on
    """

    tool: Tool
    top: str
    parameters: Mapping[str, int]
    folder: Path


def sources() -> list[Path]:
    """All Verilog files of the design, the test frames last."""
    return sorted(FOLDER.glob("*.v")) + sorted((FOLDER / "bench").glob("*.v"))


def build(top: str, parameters: Mapping[str, int], tool: str = "icarus") -> Build:
    """Compile module `top`; at once if the same content was compiled before.

    tool: "icarus" (seconds to build) or "verilator" (a minute, then 20 times as fast)
    Raises ToolMissing when it is not installed, RuntimeError with the log's end when it fails.
    """
    found = _find(tool)
    files = sources()
    folder = _cache() / f"{top}-{tool}-{_digest(found, top, parameters, files)}"
    done = folder / "built"
    if not done.exists():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        from filelock import FileLock

        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                _compile(found, top, parameters, files, folder)
                done.touch()
    return Build(found, top, dict(parameters), folder)


def run(
    design: Build,
    bench: str,
    arguments: Mapping[str, object],
    files: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the cocotb module `bench` on the design in a folder of its own; what it reported.

    arguments: handed to the bench, which reads them with bench_arguments()
    files:     name -> text, written into the working folder first
    wanted:    files that it leaves there; their texts are part of the report, by their names
    Raises RuntimeError with the end of the simulator's log if a check in the bench failed.
    """
    from cocotb_tools.runner import get_runner

    with tempfile.TemporaryDirectory(prefix="panama-rtl-") as name:
        work = Path(name)
        for file, text in (files or {}).items():
            (work / file).write_text(text)
        told = {**arguments, "parent": os.getpid()}
        (work / "arguments.json").write_text(json.dumps(told))
        log = work / "log.txt"
        with _environment({**design.tool.environment, **_python_path()}):
            runner = get_runner(design.tool.name)
            try:
                xml = runner.test(
                    test_module=bench,
                    hdl_toplevel=design.top,
                    hdl_toplevel_lang="verilog",
                    build_dir=design.folder,
                    test_dir=work,
                    results_xml=str(work / "results.xml"),
                    log_file=log,
                    seed=1,
                )
                failed = _failures(xml)
            except (RuntimeError, SystemExit) as error:
                failed = str(error) or "the simulator stopped early"
        report = work / "report.json"
        if failed or not report.exists():
            end = log.read_text()[-4000:] if log.exists() else "no log was written"
            raise RuntimeError(f"{bench} failed on {design.tool.name}: {failed}\n{end}")
        result: dict[str, Any] = json.loads(report.read_text())
        return result | {file: (work / file).read_text() for file in wanted}


def _find(tool: str) -> Tool:
    known = {"icarus": find_icarus, "verilator": find_verilator}
    if tool not in known:
        raise ValueError(f"tool must be one of {', '.join(known)}, got {tool!r}")
    return known[tool]()


def _cache() -> Path:
    from common.cache_folder import cache_folder

    return cache_folder() / "rtl"


def _digest(tool: Tool, top: str, parameters: Mapping[str, int], files: Sequence[Path]) -> str:
    known = hashlib.sha256()
    program = Path(tool.command[0]).stat()
    parts = [tool.command[0], str(program.st_mtime_ns), top, json.dumps(dict(parameters))]
    parts += [json.dumps(_arguments(tool.name))]
    for part in parts + [file.name + "\0" + file.read_text() for file in files]:
        known.update(part.encode() + b"\0\0")
    return known.hexdigest()[:20]


def _arguments(tool: str) -> list[str]:
    if tool == "icarus":
        return ["-g2005"]
    # Unoptimised, a run takes several times as long; -O1 builds in half the time of -O2.
    return [
        "-Wno-fatal", "-Wno-WIDTH", "-Wno-UNUSED", "-MAKEFLAGS", "OPT_FAST=-O1",
        "--public-depth", "1",
    ]  # fmt: skip


def _compile(
    tool: Tool, top: str, parameters: Mapping[str, int], files: Sequence[Path], folder: Path
) -> None:
    from cocotb_tools.runner import get_runner

    folder.mkdir(parents=True)
    log = folder / "build.log"
    with _environment(tool.environment):
        try:
            runner = get_runner(tool.name)
            if tool.name == "verilator":
                _open_the_top_alone(runner)
            runner.build(
                sources=files,
                hdl_toplevel=top,
                parameters=dict(parameters),
                build_args=_arguments(tool.name),
                build_dir=folder,
                timescale=TIMESCALE,
                always=True,
                log_file=log,
            )
        except (RuntimeError, SystemExit, OSError) as error:
            end = log.read_text()[-4000:] if log.exists() else ""
            raise RuntimeError(f"{tool.name} could not build {top}: {error}\n{end}") from error
    if tool.name == "verilator":
        # What the program was made from takes 150 MB.
        for file in folder.iterdir():
            if file.suffix in (".gch", ".o", ".a", ".cpp", ".h"):
                file.unlink()


def _open_the_top_alone(runner: Any) -> None:
    """Let Python write the signals of the top module only.

    cocotb asks Verilator to open every signal of the design; then each change of an input makes
    it compute all logic anew, which takes most of the time of a large design.
    """
    commands = runner._build_command

    def with_less_open() -> list[list[str]]:
        made: list[list[str]] = commands()
        at = made[0].index("--public-flat-rw")
        del made[0][at]  # _arguments opens what is needed
        return made

    runner._build_command = with_less_open


def _python_path() -> dict[str, str]:
    """So that the Python inside the simulator finds this very checkout."""
    root = str(FOLDER.parent.parent)
    old = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": os.pathsep.join([root, *([old] if old else [])]),
        "PYTHONHASHSEED": "0",
        "PYGPI_PYTHON_BIN": sys.executable,
    }


def _failures(xml: Path) -> str:
    import xml.etree.ElementTree as ElementTree

    cases = ElementTree.parse(xml).getroot().iter("testcase")
    bad = [
        case.get("name", "?")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return ", ".join(bad)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
