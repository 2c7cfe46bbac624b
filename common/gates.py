"""Speed floors: (ours, peer) pairs that must stay above a stated ratio, measured on one thread.

Each paper lists its gates in `<paper>/gates.py`:

    GATES = (Gate("ttrec_bag_forward", make_bag_forward, floor=2.1),)

`make()` builds the inputs and returns (ours, peer, verify). The measured value is how many times
faster ours is than the peer, so it hardly moves with the machine. A floor is 0.7 of the ratio seen
on the reference machine: it catches a lost optimisation, `scripts/regress.py` catches the rest.

    python -m common.gates list
    python -m common.gates measure ttrec_bag_forward --json
"""

from __future__ import annotations

import argparse
import enum
import importlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from common import PAPERS, steady
from common.spelling import did_you_mean

if TYPE_CHECKING:
    from common.bench import Comparison

#: The folder that holds this `common` package: the checkout whose gates this process measures.
ROOT = Path(__file__).resolve().parents[1]

#: Longest time one gate may take in its own process, kernel builds included.
PROCESS_LIMIT_S = 600.0

Pair = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]


def _is_name(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not value or not value.replace(".", "_").isidentifier():
        raise ValueError(
            f"{attribute.name} of a gate must be words joined by '_' or '.', got {value!r}"
        )


def _is_positive(instance: Gate, attribute: attrs.Attribute[float], value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"{attribute.name} of gate {instance.name} must be a positive number, got {value!r}"
        )


@attrs.frozen
class Gate:
    """A kernel of ours beside a live peer, and the ratio below which it counts as broken.

    make:  builds the inputs, returns (ours, peer, verify); verify(result, peer_result) raises
           when the two disagree and is called before anything is timed
    floor: least acceptable peer time / our time
    claims: ids of what is lost with the speed, headline claims among them
    """

    name: str = attrs.field(validator=_is_name)
    make: Callable[[], Pair]
    floor: float = attrs.field(validator=_is_positive)
    claims: tuple[str, ...] = ()


class GateError(RuntimeError):
    """A gate's process ended without a measurement."""


@attrs.frozen
class Reading:
    """One process's measurement of one gate; what the command line prints as JSON.

    estimate, low, high: peer time / our time with its 95% interval
    least:               the lowest of that interval and of what either clock says
    most:                the highest of the same; None where an older writer left it out
    status, reason:      "ok" or "noisy" and why, as in `common.bench.Comparison`
    root:                the checkout that was measured
    """

    name: str
    floor: float
    estimate: float
    low: float
    high: float
    least: float
    rounds: int
    status: str
    reason: str
    root: str
    most: float | None = None

    @classmethod
    def of(cls, gate: Gate, comparison: Comparison) -> Reading:
        """Keep what a judge of the floor needs from a comparison of `measure`."""
        ours = comparison["ours"]
        return cls(
            name=gate.name,
            floor=gate.floor,
            estimate=ours.estimate,
            low=ours.low,
            high=ours.high,
            least=min(ours.low, ours.wall_ratio, ours.cpu_ratio or ours.wall_ratio),
            rounds=ours.rounds,
            status=ours.status,
            reason=ours.reason,
            root=str(ROOT),
            most=max(ours.high, ours.wall_ratio, ours.cpu_ratio or ours.wall_ratio),
        )

    def to_json(self) -> str:
        """One line; `from_json` reads it back."""
        return json.dumps(attrs.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Reading:
        """Read a line of `to_json`; keys that a newer writer added are dropped."""
        values = json.loads(line)
        wanted = [field.name for field in attrs.fields(cls)]
        wanted = [name for name in wanted if name in values or name != "most"]
        return cls(**{name: values[name] for name in wanted})

    @property
    def noisy(self) -> bool:
        """The comparison did not settle."""
        return self.status != "ok"

    @property
    def holds(self) -> bool:
        """The floor is within the interval or below it; if noisy, below all that was seen.

        A noisy interval is wide enough to reach any floor, so reaching it proves nothing; but one
        that lies wholly above the floor is clear, however wide.
        """
        return (self.least if self.noisy else self.high) >= self.floor

    @property
    def falls_short(self) -> bool:
        """The floor is above the interval; if noisy, above all that was seen."""
        highest = self.most if self.noisy else self.high
        return highest is not None and highest < self.floor

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.estimate:.3f}x the peer's speed"
            f" [{self.low:.3f}, {self.high:.3f}], floor {self.floor:g}, {self.status}"
            + (f" ({self.reason})" if self.reason else "")
        )


class Outcome(enum.StrEnum):
    """What one or two readings say about a floor."""

    PASSED = "passed"
    FAILED = "failed"
    NOISY = "noisy"


def all_gates(packages: Sequence[str] = PAPERS) -> dict[str, Gate]:
    """Collect `<package>/gates.py: GATES` of every package that has one, by gate name.

    Only packages with a gates.py get that file imported, so a paper without gates costs no torch
    import. Raises ValueError when two gates share a name.
    """
    gates: dict[str, Gate] = {}
    for package in packages:
        for gate in _gates_of(package):
            if gate.name in gates:
                raise ValueError(
                    f"gate names must be unique: {gate.name} is listed twice, "
                    f"the second time in {package}/gates.py"
                )
            gates[gate.name] = gate
    return gates


def _gates_of(package: str) -> tuple[Gate, ...]:
    if importlib.util.find_spec(package) is None:
        return ()  # a wheel may hold fewer papers than the checkout
    module = f"{package}.gates"
    if importlib.util.find_spec(module) is None:
        return ()
    return tuple(importlib.import_module(module).GATES)


def measure(gate: Gate) -> Comparison:
    """Compare the gate's pair on one thread; the candidates are "ours" and "peer" (the baseline).

    Raises what verify raises when the two disagree: a wrong kernel is never timed.
    """
    from common import bench

    ours, peer, verify = gate.make()
    # Two threads on a busy machine give ratios that are wrong several times over.
    with steady.threads(1):
        return bench.compare(
            {"ours": ours, "peer": peer}, baseline="peer", verify=verify, threads=1
        )


def measure_in_process(name: str, root: Path = ROOT, limit_s: float = PROCESS_LIMIT_S) -> Reading:
    """Measure a gate of the checkout at `root` in a fresh interpreter, with that checkout's code.

    Raises GateError with the last lines of its output when it ends without a reading.
    """
    command = [sys.executable, "-m", "common.gates", "measure", name, "--json"]
    done = run_in_checkout(command, root, limit_s)
    if done.returncode != 0:
        raise GateError(f"gate {name} {_how_it_ended(done)}")
    # Kernels may print; the reading is the last line.
    try:
        reading = Reading.from_json(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError, KeyError) as error:
        raise GateError(f"gate {name} printed no reading ({error!r})") from error
    if Path(reading.root) != root.resolve():
        raise GateError(
            f"gate {name} must be measured with the code in {root}, got {reading.root}: "
            "is another checkout first on PYTHONPATH?"
        )
    return reading


def run_in_checkout(
    command: Sequence[str], root: Path, limit_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a Python command with `root` as its source tree, in a process group of its own.

    Raises GateError past limit_s. Then, and on an interrupt, the whole group is ended.
    """
    process = subprocess.Popen(
        command,
        cwd=root,
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise GateError(f"{' '.join(command[1:])} took longer than {limit_s:g} s") from error
    finally:
        _end_group(process)
    return subprocess.CompletedProcess(list(command), process.returncode, stdout, stderr)


def _environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Environment of a measuring process: one thread, steady memory, own folder first."""
    inside = {
        key: value
        for key, value in outside.items()
        # Either would let an installed copy win over the checkout in the working directory.
        if key not in ("PYTHONSAFEPATH", "PYTHONHOME")
    }
    return inside | dict.fromkeys(steady.THREAD_VARIABLES, "1") | steady.ENVIRONMENT


def _end_group(process: subprocess.Popen[str]) -> None:
    # Only a process that has not been waited for still owns its number.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    how = (
        f"was killed by signal {-done.returncode}"
        if done.returncode < 0
        else f"ended with exit code {done.returncode}"
    )
    tail = done.stderr.strip().splitlines()[-20:]
    return "\n    ".join([how, *tail])


def judge(readings: Sequence[Reading]) -> Outcome:
    """Decide a floor from the readings so far.

    Passed when one of them holds the floor. Else failed when one of them settled or all of them,
    noisy as they are, lie wholly below it; else noisy.
    """
    if any(reading.holds for reading in readings):
        return Outcome.PASSED
    is_clear = all(reading.falls_short for reading in readings)
    is_noisy = all(reading.noisy for reading in readings) and not is_clear
    return Outcome.NOISY if is_noisy else Outcome.FAILED


def check(
    gate: Gate, measure_once: Callable[[str], Reading] = measure_in_process
) -> tuple[Outcome, tuple[Reading, ...]]:
    """Measure a gate in a fresh process and, unless that passes, in another one; then judge.

    A process keeps its luck with memory layout for life, so repeating inside it would not help.
    """
    readings = [measure_once(gate.name)]
    if judge(readings) is not Outcome.PASSED:
        readings.append(measure_once(gate.name))
    return judge(readings), tuple(readings)


def find(name: str, gates: Mapping[str, Gate]) -> Gate:
    """The gate of that name; ValueError with the nearest names when there is none."""
    if name in gates:
        return gates[name]
    hint = did_you_mean(name, gates) or "."
    known = ", ".join(gates) or "none"
    raise ValueError(f"there is no gate {name!r}{hint} Known gates: {known}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: list the gates, or measure one. Exit code 2 for an unknown gate."""
    parser = argparse.ArgumentParser(prog="python -m common.gates", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    lister = commands.add_parser("list", help="names and floors of all gates")
    lister.add_argument("--json", action="store_true", help="one JSON object on one line")
    measurer = commands.add_parser("measure", help="measure one gate in this process")
    measurer.add_argument("name")
    measurer.add_argument("--json", action="store_true", help="the reading as one JSON line")
    options = parser.parse_args(arguments)

    gates = all_gates()
    if options.command == "list":
        floors = {name: gate.floor for name, gate in gates.items()}
        rows = [f"{name}  floor {floor:g}" for name, floor in floors.items()]
        print(json.dumps(floors) if options.json else "\n".join(rows))
        return 0
    try:
        gate = find(options.name, gates)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    reading = Reading.of(gate, measure(gate))
    print(reading.to_json() if options.json else reading)
    return 0


if __name__ == "__main__":
    sys.exit(main())
