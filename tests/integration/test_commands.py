"""The commands test.sh, reproduce.sh and .ci/run: what they call, with what, in what order."""

import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]

# Both note their call; the exit code of a pytest phase is read from a file named by its markers.
SETUP = """#!/bin/bash
echo "setup $*" >>"$LOG"
exit "${SETUP_CODE:-0}"
"""
PYTHON = """#!/bin/bash
echo "$(basename "$PWD")|omp=${OMP_NUM_THREADS:-}|$*" >>"$LOG"
case "$*" in
  *"not slow and not bench"*) exit "${FAST:-0}" ;;
  *"slow and not bench"*) exit "${SLOW:-0}" ;;
  *"-m bench"*) exit "${BENCH:-0}" ;;
esac
exit "${OTHER:-0}"
"""
TOOL = """#!/bin/bash
echo "${0##*/} $*" >>"$LOG"
[[ " ${FAILING:-} " != *" ${0##*/} "* ]]
"""


@attrs.frozen
class Checkout:
    """A copy of the commands beside a setup and an environment that only take notes."""

    root: Path

    def run(self, command: str, *arguments: str, cwd: str = "/", **env: str) -> tuple[int, str]:
        bash = shutil.which("bash")
        assert bash is not None
        done = subprocess.run(
            [bash, str(self.root / command), *arguments],
            cwd=cwd,
            env={"PATH": "/usr/bin:/bin", "LOG": str(self.root / "log"), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout

    def calls(self) -> list[str]:
        return (self.root / "log").read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "checkout"
    for folder in ("scripts", ".ci", ".venv/bin", "tests/ttrec"):
        (root / folder).mkdir(parents=True)
    for name in ("scripts/test.sh", "scripts/reproduce.sh", ".ci/run"):
        shutil.copy(ROOT / name, root / name)
    (root / "scripts" / "setup.sh").write_text(SETUP)
    (root / "tests" / "ttrec" / "test_bag.py").touch()
    for name, text in {"python": PYTHON, "ruff": TOOL, "mypy": TOOL}.items():
        path = root / ".venv" / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
    return Checkout(root)


PYTEST = "-m pytest -p no:randomly"
PHASES = [
    "setup dev",
    f"checkout|omp=1|{PYTEST} -m not slow and not bench and not soak -n 2 --dist loadfile",
    f"checkout|omp=1|{PYTEST} -m slow and not bench and not soak -n 2 --dist worksteal",
    f"checkout|omp=1|{PYTEST} -m bench",
]


def test_tests_run_in_parallel_and_timed_ones_alone_and_last(checkout: Checkout) -> None:
    code, out = checkout.run("scripts/test.sh")
    assert code == 0
    assert checkout.calls() == PHASES
    assert [line.split(",")[0] for line in out.splitlines()[-3:]] == [
        "== fast: passed",
        "== slow: passed",
        "== bench: passed",
    ]


@pytest.mark.parametrize("phase", ["FAST", "SLOW", "BENCH"])
def test_failing_phase_is_told_and_the_others_still_run(checkout: Checkout, phase: str) -> None:
    code, out = checkout.run("scripts/test.sh", **{phase: "1"})
    assert code == 1
    assert f"== {phase.lower()}: failed (1)" in out
    assert out.count(": passed") == 2
    assert checkout.calls() == PHASES


@pytest.mark.parametrize(("phase", "code"), [("FAST", "2"), ("SLOW", "3"), ("BENCH", "4")])
def test_phase_that_pytest_could_not_run_is_a_failure(
    checkout: Checkout, phase: str, code: str
) -> None:
    assert checkout.run("scripts/test.sh", **{phase: code})[0] == 1


def test_phase_without_tests_is_no_failure(checkout: Checkout) -> None:
    code, out = checkout.run("scripts/test.sh", SLOW="5")
    assert code == 0
    assert "== slow: none selected" in out


def test_no_tests_at_all_is_a_failure(checkout: Checkout) -> None:
    code, out = checkout.run("scripts/test.sh", FAST="5", SLOW="5", BENCH="5")
    assert code == 1
    assert "no test was selected in any phase" in out


def test_arguments_go_to_one_pytest_call_unchanged(checkout: Checkout) -> None:
    code, _ = checkout.run("scripts/test.sh", "-k", "ranks and not bag", "tests/ttrec", OTHER="5")
    assert code == 5
    assert checkout.calls() == [
        "setup dev",
        f"checkout|omp=|{PYTEST} -k ranks and not bag tests/ttrec",
    ]


def test_paths_are_understood_from_where_the_caller_stands(checkout: Checkout) -> None:
    here = checkout.root / "tests"
    checkout.run("scripts/test.sh", "-x", "ttrec/test_bag.py::test_sum", cwd=str(here))
    assert checkout.calls()[-1] == f"checkout|omp=|{PYTEST} -x {here}/ttrec/test_bag.py::test_sum"


def test_experiments_get_the_overrides_and_the_peers(checkout: Checkout) -> None:
    code, _ = checkout.run(
        "scripts/reproduce.sh", "paper=ttrec", "experiment.ranks=[8, 16]", OTHER="3"
    )
    assert code == 3
    assert checkout.calls() == [
        "setup all",
        "checkout|omp=|-m scripts.reproduce paper=ttrec experiment.ranks=[8, 16]",
    ]


@pytest.mark.parametrize("command", ["scripts/test.sh", "scripts/reproduce.sh"])
def test_nothing_runs_when_setup_fails(checkout: Checkout, command: str) -> None:
    code, _ = checkout.run(command, SETUP_CODE="2")
    assert code == 2
    assert len(checkout.calls()) == 1


STEPS = ["ruff check .", "ruff format --check .", "mypy "]


def test_a_change_must_pass_tests_lint_format_and_types(checkout: Checkout) -> None:
    code, out = checkout.run(".ci/run")
    assert code == 0
    assert checkout.calls() == [*PHASES, *STEPS]
    assert [line for line in out.splitlines() if line.startswith("==> ")] == [
        "==> bash scripts/test.sh",
        "==> .venv/bin/ruff check .",
        "==> .venv/bin/ruff format --check .",
        "==> .venv/bin/mypy",
        "==> all passed",
    ]


@pytest.mark.parametrize(
    ("env", "failed"),
    [
        ({"FAST": "1"}, "bash scripts/test.sh"),
        ({"FAILING": "ruff"}, ".venv/bin/ruff check ."),
        ({"FAILING": "mypy"}, ".venv/bin/mypy"),
    ],
)
def test_failed_step_is_named_after_all_have_run(
    checkout: Checkout, env: dict[str, str], failed: str
) -> None:
    code, out = checkout.run(".ci/run", **env)
    assert code == 1
    assert f"==> failed: {failed}" in out
    assert "all passed" not in out
    assert checkout.calls() == [*PHASES, *STEPS]


def test_checks_without_an_environment_fail(checkout: Checkout) -> None:
    shutil.rmtree(checkout.root / ".venv")
    code, out = checkout.run(".ci/run", SETUP_CODE="2")
    assert code == 1
    assert "nothing to check with" in out
