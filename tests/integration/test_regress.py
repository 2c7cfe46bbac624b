"""The regression gate from end to end, on small git repositories."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common import PAPERS
from scripts import regress

ROOT = Path(__file__).parents[2]

# Stands in for common/gates.py: a speed read from a file of its own tree, scattered by the process.
FAKE_GATES = """
import json, os, random, sys, time
from pathlib import Path

tree = Path.cwd()
speeds = json.loads((tree / "speeds.json").read_text())
if sys.argv[1] == "list":
    print(json.dumps({name: 1.0 for name in speeds}))
    sys.exit()
speed = speeds[sys.argv[2]]
if speed == "hang":
    Path(os.environ["HANG_NOTE"]).write_text(str(os.getpid()))
    time.sleep(60)
if not isinstance(speed, float):
    sys.exit(f"the kernel said: {speed}")
estimate = speed * random.lognormvariate(0.0, 0.01)
print(json.dumps({
    "name": sys.argv[2], "floor": 1.0, "estimate": estimate, "low": estimate, "high": estimate,
    "least": estimate, "rounds": 15, "status": "ok", "reason": "", "root": str(tree),
}))
"""

Regress = Callable[..., tuple[int, str, str]]


def git(repo: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "core.hooksPath="]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=repo, check=True, capture_output=True, text=True).stdout


def commit_all(repo: Path) -> None:
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "state")


def set_speeds(repo: Path, **speeds: float | str) -> None:
    (repo / "speeds.json").write_text(json.dumps(speeds))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one gate, toy_bag, at three times the peer's speed; regress works on it."""
    root = tmp_path / "repo"
    (root / "common").mkdir(parents=True)
    (root / "common" / "__init__.py").write_text("")
    (root / "common" / "gates.py").write_text(FAKE_GATES)
    (root / ".gitignore").write_text("results/\n__pycache__/\n")
    set_speeds(root, toy_bag=3.0)
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    commit_all(root)
    monkeypatch.setattr(regress, "ROOT", root)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return root


@pytest.fixture
def call(repo: Path, capsys: pytest.CaptureFixture[str]) -> Regress:
    """Run regress on the repository; afterwards no worktree may be left."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = regress.main(arguments)
        finally:
            signal.signal(signal.SIGTERM, before)
        text = capsys.readouterr()
        assert git(repo, "worktree", "list").count("\n") == 1
        assert list(Path(tempfile.gettempdir()).iterdir()) == []
        return code, text.out, text.err

    return run


def result(repo: Path) -> dict[str, object]:
    found = json.loads((repo / "results" / "regress.json").read_text())
    assert isinstance(found, dict)
    return found


def test_slowdown_in_uncommitted_changes_turns_red(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag=2.5)
    code, out, err = call("base=HEAD")
    assert code == 1
    assert "regressed" in out
    assert "slower than" in out.splitlines()[-1]
    assert "toy_bag" in out.splitlines()[-1]
    assert err.count("toy_bag: ") == 20  # two batches of five processes a side
    written = result(repo)
    assert written["dirty"] is True
    assert written["exit_code"] == 1


def test_slowdown_in_commits_turns_red(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag=2.5)
    commit_all(repo)
    code, _, _ = call("base=HEAD~1")
    assert code == 1
    assert result(repo)["dirty"] is False


def test_unchanged_speed_stays_green(repo: Path, call: Regress) -> None:
    code, out, _ = call("base=main")
    assert code == 0
    assert "no gate" in out.splitlines()[-1]
    written = result(repo)
    assert written["n_measured"] == 1
    assert written["base"] == written["head"] == git(repo, "rev-parse", "main").strip()


def test_only_the_slower_gate_is_named(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag=3.0, toy_tree=4.0)
    commit_all(repo)
    set_speeds(repo, toy_bag=3.0, toy_tree=3.2)
    code, out, _ = call("base=HEAD")
    assert code == 1
    assert out.splitlines()[-1].endswith("toy_tree")


def test_chosen_gates_alone_are_measured(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag=3.0, toy_tree=4.0)
    commit_all(repo)
    set_speeds(repo, toy_bag=3.0, toy_tree=3.2)
    code, _, err = call("base=HEAD", "gates=toy_bag", "processes=4")
    assert code == 0
    assert err.count("toy_bag: ") == 8
    assert "toy_tree" not in err


@pytest.mark.parametrize("missing", ["base", "head", "both"])
def test_nothing_measured_is_a_failure(repo: Path, call: Regress, missing: str) -> None:
    if missing != "head":
        set_speeds(repo)
        commit_all(repo)
    set_speeds(repo, **({"toy_bag": 3.0} if missing == "base" else {}))
    code, out, _ = call("base=HEAD")
    assert code == 3
    assert "nothing was measured" in out


def test_base_from_before_there_were_gates_is_a_failure(repo: Path, call: Regress) -> None:
    source = (repo / "common" / "gates.py").read_text()
    (repo / "common" / "gates.py").unlink()
    commit_all(repo)
    (repo / "common" / "gates.py").write_text(source)
    code, out, _ = call("base=HEAD")
    assert code == 3
    assert "toy_bag: new, nothing to compare it with" in out


def test_new_and_removed_gates_are_told(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag=3.0, toy_old=2.0)
    commit_all(repo)
    set_speeds(repo, toy_bag=3.0, toy_new=2.0)
    code, out, _ = call("base=HEAD")
    assert code == 0
    assert "toy_new: new, nothing to compare it with" in out
    assert "toy_old: removed since the base" in out


def test_gate_that_fails_in_the_working_tree_turns_red(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag="results differ")
    code, out, _ = call("base=HEAD")
    assert code == 1
    assert "the kernel said: results differ" in out
    assert "does not run in the working tree: toy_bag" in out


def test_gates_that_cannot_be_listed_turn_red(repo: Path, call: Regress) -> None:
    (repo / "common" / "gates.py").write_text("raise ImportError('no such kernel')")
    code, out, _ = call("base=HEAD")
    assert code == 1
    assert "the list of gates cannot be loaded" in out
    assert "no such kernel" in out


def test_base_that_cannot_be_measured_is_not_green(repo: Path, call: Regress) -> None:
    set_speeds(repo, toy_bag="results differ")
    commit_all(repo)
    set_speeds(repo, toy_bag=3.0)
    code, out, _ = call("base=HEAD")
    assert code == 3
    assert "at the base, gate toy_bag ended with exit code 1" in out


def test_step_summary_gets_the_table(
    repo: Path, call: Regress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    call("base=HEAD")
    lines = summary.read_text().splitlines()
    assert lines[0] == "earlier step"
    assert "| gate | base | head | slowdown | 95% interval | verdict |" in lines
    assert any(line.startswith("| toy_bag | ") and line.count("|") == 7 for line in lines)


def test_reader_that_goes_away_changes_neither_result_nor_exit_code(repo: Path) -> None:
    set_speeds(repo, toy_bag=2.5)
    process = subprocess.Popen(
        [sys.executable, "-c", program_on(repo)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 1
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert result(repo)["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "base is needed"),
        (["bas=main"], "got 'bas=main', did you mean 'base'?"),
        (["main"], "got 'main'"),
        (["base="], "base must have a value"),
        (["base=mian"], "base names no commit: 'mian', did you mean 'main'?"),
        (["base=--all"], "base names no commit: '--all'"),
        (["base=main", "processes=3"], "processes must be a whole number of at least 4, got '3'"),
        (["base=main", "processes=4.5"], "processes must be a whole number"),
        (["base=main", "tolerance=0.9"], "tolerance must be a number of at least 1, got '0.9'"),
        (["base=main", "tolerance=nan"], "tolerance must be a number"),
        (["base=main", "gates=toy_bug"], "no gate 'toy_bug', did you mean 'toy_bag'?"),
        (["base=main", "output=common"], "output must be a file that can be written"),
        (["base=main", "output=speeds.json/x"], "output cannot be written"),
    ],
)
def test_wrong_call_is_refused(call: Regress, arguments: list[str], message: str) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert out == ""


def test_folder_that_is_no_repository_is_refused(
    call: Regress, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regress, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, _, err = call("base=main")
    assert code == 2
    assert "not a git repository" in err


def test_hook_variables_do_not_divert_git(
    call: Regress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    code, _, _ = call("base=main")
    assert code == 0


def test_users_hooks_do_not_run_for_the_base(repo: Path, call: Regress, tmp_path: Path) -> None:
    hook = repo / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\n")
    hook.chmod(0o755)
    code, _, _ = call("base=main")
    assert code == 0
    assert not (tmp_path / "hook-ran").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_no_process_and_no_worktree(
    repo: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    set_speeds(repo, toy_bag="hang")
    commit_all(repo)
    note = tmp_path / "hanging"
    process = subprocess.Popen(
        [sys.executable, "-c", program_on(repo)],
        cwd=ROOT,
        env=os.environ | {"HANG_NOTE": str(note), "TMPDIR": str(tmp_path / "scratch")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: note.exists() and note.read_text() != "", "a gate is being measured")
        process.send_signal(number)
        assert process.wait(timeout=30) == code  # it ends a gate, and git removes a worktree
    finally:
        process.kill()
        process.wait()
    hanging = Path(f"/proc/{note.read_text()}")
    wait_until(lambda: not hanging.exists(), "the gate's process is gone")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert git(repo, "worktree", "list").count("\n") == 1


def program_on(repo: Path) -> str:
    """What compares a checkout with its last commit, in a process of its own.

    A shell starts its background jobs with SIGINT ignored, and so all below them; not this one.
    """
    return textwrap.dedent(f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pathlib import Path
        from scripts import regress
        regress.ROOT = Path({str(repo)!r})
        raise SystemExit(regress.main(["base=HEAD"]))
    """)


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"waited {limit_s:g} s until {what}"
        time.sleep(0.02)


# --- with this repository's own layer and real clocks ---

KERNEL = """
#include <stdint.h>

/* {steps} times x <- x / 2 + 1. Each step waits for the one before, and nothing is read from
   memory: a loop over an array may run a quarter slower by the luck of its process. */
EXPORT double relax(double x) {{
    for (int64_t step = 0; step < {steps}; step++)
        x = 0.5 * x + 1.0;
    return x;
}}
"""
GATES = """
from pathlib import Path

import numpy as np

from common import native
from common.gates import Gate

def make():
    source = Path(__file__).parent / "kernels" / "relax.c"
    relax = native.build("relax", [source]).function("double relax(double x)")
    x = np.ones(20_000)
    y = np.empty_like(x)
    return lambda: relax(0.0), lambda: np.sqrt(x, out=y), lambda ours, peer: None

GATES = (Gate("ttrec_relax", make, floor=0.5),)
"""


def set_kernel(root: Path, steps: int) -> None:
    (root / "ttrec" / "kernels" / "relax.c").write_text(KERNEL.format(steps=steps))


@pytest.fixture
def real_repo(tmp_path: Path) -> Path:
    """A clone of this layer with one paper that has one kernel in C."""
    root = tmp_path / "real"
    keep = shutil.ignore_patterns("__pycache__", "experiments", "report")
    shutil.copytree(ROOT / "common", root / "common", ignore=keep)
    (root / "scripts").mkdir()
    for name in ("__init__.py", "regress.py", "regress_report.py"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    (root / "ttrec" / "kernels").mkdir(parents=True)
    for paper in PAPERS:  # without gates; else those of the installed packages would be measured
        (root / paper).mkdir(exist_ok=True)
        (root / paper / "__init__.py").write_text("")
    (root / "ttrec" / "gates.py").write_text(GATES)
    set_kernel(root, steps=10_000)
    (root / ".gitignore").write_text("results/\n__pycache__/\n")
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    commit_all(root)
    return root


def run_real(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.regress", "base=main"],
        cwd=root,
        env=os.environ | {"MLSYS21_CACHE": str(root.parent / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernel_made_a_fifth_slower_turns_red(real_repo: Path) -> None:
    set_kernel(real_repo, steps=12_000)
    done = run_real(real_repo)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ttrec_relax" in done.stdout.splitlines()[-1]


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernel_left_alone_stays_green(real_repo: Path) -> None:
    done = run_real(real_repo)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no gate" in done.stdout.splitlines()[-1]
