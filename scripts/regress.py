"""Tell whether the working tree is slower than another revision, on whatever machine this is.

    python -m scripts.regress base=<git ref> [gates=a,b] [processes=5] [tolerance=1.05]
                              [output=results/regress.json]

The base revision is checked out beside the working tree, and every speed gate that both have is
measured in fresh processes of both, in random order within minutes of each other. Each process
gives one number, how many times faster ours is than the gate's live peer, so the machine's mood
cancels twice. The slowdown is the base's number over the head's, with an exact 95% interval from
the 5 + 5 processes: the process is what is repeated, because repeats inside one share its luck.

A gate has regressed if that interval lies wholly above the tolerance in two batches; one that looks
slower is measured up to three times. Uncommitted changes are part of the head.

Exit codes: 0 nothing regressed; 1 a gate regressed, or fails to run in the working tree; 2 wrong
call; 3 nothing could be measured; 130 and 143 interrupted.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
from rich.console import Console

from common.gates import GateError, measure_in_process, run_in_checkout
from common.regression import GateResult, Outcome, Side, Verdict, judge_gate
from common.spelling import did_you_mean
from scripts.regress_report import markdown, print_outcome, write_json

ROOT = Path(__file__).resolve().parents[1]
GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class UsageError(ValueError):
    """The call cannot be carried out as written."""


@attrs.frozen
class Options:
    """The command line, read."""

    base: str
    gates: tuple[str, ...] = ()
    processes: int = 5
    tolerance: float = 1.05
    output: Path = Path("results/regress.json")


def git(*arguments: str) -> str:
    """Run git in the checkout; UsageError with git's own words when it fails."""
    # Called from a hook, these would point at the hook's repository and index.
    env = {key: value for key, value in os.environ.items() if key not in GIT_VARIABLES}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UsageError("git is needed to check out the base: apt-get install git") from None
    if done.returncode != 0:
        raise UsageError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def commit_of(ref: str) -> str:
    """The commit a ref names; UsageError with the nearest refs when there is none."""
    git("rev-parse", "--git-dir")  # without a repository every ref would seem unknown
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except UsageError:
        known = git("for-each-ref", "--format=%(refname:short)").splitlines()
        hint = did_you_mean(ref, known) or "."
        raise UsageError(f"base names no commit: {ref!r}{hint}") from None


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder, and remove it whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="regress-")).resolve()
    tree = folder / "base"
    try:
        # A hook of the user's has no business in a folder that is gone in a minute.
        git(
            "-c", "core.hooksPath=/dev/null", "worktree", "add", "-q", "--detach", str(tree), commit
        )
        yield tree
    finally:
        with _no_interrupts(), suppress(UsageError):
            shutil.rmtree(folder, ignore_errors=True)
            git("worktree", "prune")


@contextmanager
def _no_interrupts() -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def gates_of(tree: Path) -> tuple[str, ...]:
    """Names of the gates a source tree lists; GateError when its list cannot be loaded."""
    if not (tree / "common" / "gates.py").is_file():
        return ()
    command = [sys.executable, "-m", "common.gates", "list", "--json"]
    done = run_in_checkout(command, tree, limit_s=120.0)
    if done.returncode != 0:
        last = "\n    ".join(done.stderr.strip().splitlines()[-20:])
        raise GateError(f"the list of gates cannot be loaded:\n    {last}")
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))


def regress(options: Options, tell: Callable[[str], None]) -> Outcome:
    """Compare the working tree with the base revision, gate by gate."""
    base, head = commit_of(options.base), commit_of("HEAD")
    dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    with worktree(base) as tree:
        trees: Mapping[Side, Path] = {"base": tree, "head": ROOT}
        listed: dict[Side, tuple[str, ...]] = {}
        for side, folder in trees.items():
            try:
                listed[side] = gates_of(folder)
            except GateError as error:
                # A head whose gates do not load is broken; a base only gives nothing to compare.
                verdict = Verdict.BROKEN if side == "head" else Verdict.UNMEASURED
                lost = GateResult("all gates", verdict, reason=f"at the {side}, {error}")
                return Outcome(base, head, dirty, options.tolerance, (lost,))
        chosen, notes = _choose(options.gates, listed)
        rng = random.Random()
        results = [
            judge_gate(
                name,
                lambda side, gate: measure_in_process(gate, trees[side]),
                options.processes,
                options.tolerance,
                rng,
                tell,
            )
            for name in chosen
        ]
    return Outcome(base, head, dirty, options.tolerance, tuple(results), notes)


def _choose(
    wanted: Sequence[str], listed: Mapping[Side, Sequence[str]]
) -> tuple[list[str], tuple[str, ...]]:
    for name in wanted:
        if name not in listed["head"]:
            raise UsageError(
                f"there is no gate {name!r}{did_you_mean(name, listed['head']) or '.'}"
                f" Gates: {', '.join(listed['head']) or 'none'}"
            )
    considered = wanted or tuple(dict.fromkeys((*listed["head"], *listed["base"])))
    new = [name for name in considered if name not in listed["base"]]
    gone = [name for name in considered if name not in listed["head"]]
    notes = [f"{name}: new, nothing to compare it with" for name in new]
    notes += [f"{name}: removed since the base" for name in gone]
    return [name for name in considered if name not in new + gone], tuple(notes)


def parse(arguments: Sequence[str]) -> Options:
    """Read key=value arguments; UsageError names what is wrong and what was meant."""
    names = [field.name for field in attrs.fields(Options)]
    given: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in names or not equals:
            raise UsageError(
                f"arguments are {', '.join(f'{known}=...' for known in names)}; "
                f"got {argument!r}{did_you_mean(name, names) or '.'}"
            )
        if not value:
            raise UsageError(f"{name} must have a value, got {argument!r}")
        given[name] = value
    if "base" not in given:
        raise UsageError("base is needed: python -m scripts.regress base=<git ref>, e.g. base=main")
    options = Options(base=given["base"])
    if "gates" in given:
        options = attrs.evolve(options, gates=tuple(given["gates"].split(",")))
    if "processes" in given:
        processes = _number(given, "processes", int, at_least=4)
        options = attrs.evolve(options, processes=int(processes))
    if "tolerance" in given:
        options = attrs.evolve(options, tolerance=_number(given, "tolerance", float, at_least=1))
    if "output" in given:
        options = attrs.evolve(options, output=Path(given["output"]))
    return options


def _prepare(output: Path) -> None:
    """Find out before minutes of measuring, not after, that its result cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output cannot be written: {error}") from None
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise UsageError(f"output must be a file that can be written, got {output}")


def _number(given: Mapping[str, str], name: str, kind: type[float], at_least: float) -> float:
    try:
        value = kind(given[name])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= at_least):
        raise UsageError(
            f"{name} must be {'a whole number' if kind is int else 'a number'} "
            f"of at least {at_least:g}, got {given[name]!r}"
        )
    return value


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the top of this file."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    signal.signal(signal.SIGTERM, _stop)
    progress = Console(stderr=True)
    try:
        options = parse(arguments)
        _prepare(ROOT / options.output)
        with progress.status("checking the base out") as status:
            outcome = regress(options, lambda line: _tell(progress, status.update, line))
    except UsageError as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("regress: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    write_json(outcome, ROOT / options.output)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a") as file:
            file.write(markdown(outcome))
    # With a reader that has gone away (| head), rich ends the program with a code of its own.
    with suppress(SystemExit):
        print_outcome(outcome, Console())
    return outcome.exit_code


def _tell(console: Console, update: Callable[[str], None], line: str) -> None:
    if console.is_terminal:
        update(line)
    else:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
