"""The command people type: exit codes, output and files, from outside.

What it says to wrong input is in test_wrong_inputs.py.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.results import Store

REPO = Path(__file__).parents[2]
PASSES = "experiment=toy_passes"


@pytest.fixture
def reproduce(toy: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command on the toy paper, as a user would from a shell."""

    def command(*arguments: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, str(toy.driver), *arguments, f"results='{toy.results}'"]
        return subprocess.run(
            words, capture_output=True, text=True, cwd=toy.root, timeout=110, **changes
        )

    return command


@pytest.mark.parametrize(
    ("machine", "launcher", "extra"),
    [
        ("joblib", "hydra-joblib-launcher", "parallel"),
        ("slurm", "hydra-submitit-launcher", "slurm"),
        ("ray", "hydra-ray-launcher", "ray"),
    ],
)
def test_machine_without_its_launcher_exits_with_2_and_the_pip_line(
    toy: Any, machine: str, launcher: str, extra: str
) -> None:
    # Whatever is installed here, the command finds no plugin of hydra.
    program = (
        "import runpy, sys\n"
        "sys.modules['hydra_plugins'] = None\n"
        f"runpy.run_path({str(toy.driver)!r}, run_name='__main__')\n"
    )
    words = [sys.executable, "-c", program, PASSES, f"machine={machine}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 2
    assert done.stderr == f'machine={machine} needs {launcher}: pip install "mlsys21[{extra}]"\n'


def test_all_bad_configurations_are_reported_and_none_is_run(reproduce: Any, toy: Any) -> None:
    for name, good, bad in (("hangs", "false", "maybe"), ("exits", "7", "seven")):
        path = toy.configs / "experiment" / f"toy_{name}.yaml"
        path.write_text(path.read_text().replace(good, bad))
    done = reproduce("paper=toy", f"experiment={','.join(set(toy.experiments) - {'toy_cells'})}")
    assert done.returncode == 2
    assert set(done.stderr.splitlines()) == {
        "toy_hangs: stubborn must be bool, got 'maybe'",
        "toy_exits: code must be int, got 'seven'",
    }
    assert done.stdout == ""
    assert not toy.results.exists()


def test_field_that_one_of_several_experiments_lacks_is_told_for_each(
    reproduce: Any, toy: Any
) -> None:
    done = reproduce("experiment=toy_passes,toy_hangs,toy_exits", "experiment.n=3")
    assert done.returncode == 2
    assert [line.split(";")[0] for line in done.stderr.splitlines()] == [
        "'n' is no field of toy_hangs",
        "'n' is no field of toy_exits",
    ]
    assert not toy.results.exists()


def test_finished_command_prints_states_verdicts_and_the_page(reproduce: Any, toy: Any) -> None:
    done = reproduce(PASSES)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert re.match(r"\[1/1\] toy_passes  ok +\d+\.\d s +2 records", first)
    assert last == str(toy.results / "report.html")
    assert "<html" in Path(last).read_text()
    (run,) = Store(toy.results).run_list()
    assert run.info.status == "ok"
    again = run.info.command.replace("python -m scripts.reproduce ", "")
    assert again.startswith(PASSES)


@pytest.mark.slow
def test_second_command_reuses_and_measures_nothing(reproduce: Any, toy: Any) -> None:
    reproduce(PASSES)
    before = Store(toy.results).run_list()
    done = reproduce(PASSES)
    assert done.stdout.startswith("[1/1] toy_passes  reused")
    assert Store(toy.results).run_list() == before
    assert reproduce(PASSES, "resume=false").stdout.startswith("[1/1] toy_passes  ok")
    assert Store(toy.results).run_list() != before


@pytest.mark.slow
def test_sweep_runs_what_is_missing_of_it(reproduce: Any) -> None:
    reproduce(PASSES, "experiment.n=2")
    done = reproduce(PASSES, "experiment.n=1,2,3")
    states = re.findall(r"\[(\d)/3\] toy_passes  (\w+)", done.stdout)
    assert sorted(set(states)) == [("1", "ok"), ("2", "reused"), ("3", "ok")]


@pytest.mark.slow
def test_failures_are_shown_the_rest_runs_and_the_exit_code_is_1(reproduce: Any, toy: Any) -> None:
    done = reproduce(
        "experiment=toy_crashes,toy_hangs,toy_eats,toy_passes",
        "timeout_s=2",
        "memory_gb=0.5",
    )
    assert done.returncode == 1
    states = dict(re.findall(r"\[\d/4\] (\w+) +(\w+)", done.stdout))
    assert states == {
        "toy_crashes": "failed",
        "toy_hangs": "timeout",
        "toy_eats": "failed",
        "toy_passes": "ok",
    }
    for words in ("SIGSEGV", "last words", "timeout_s=2", "memory_gb=0.5"):
        assert words in done.stderr
    assert {run.info.status for run in Store(toy.results).run_list()} == {
        "failed",
        "timeout",
        "ok",
    }


@pytest.mark.slow
def test_strict_exits_with_3_when_a_claim_is_missed(reproduce: Any, toy: Any) -> None:
    assert reproduce(PASSES).returncode == 0
    done = reproduce(PASSES, "strict=true")
    assert done.returncode == 3
    assert "missed: toy.ours.rows" in done.stderr
    claims = toy.root / "toy" / "claims.toml"
    claims.write_text(claims.read_text().replace("paper = 100.0", "paper = 0.5"))
    assert reproduce(PASSES, "strict=true").returncode == 0


def test_full_disk_is_a_failed_run_with_its_path(reproduce: Any, toy: Any) -> None:
    done = reproduce("experiment=toy_fills")
    assert done.returncode == 1
    assert "records.jsonl: File too large" in done.stderr
    (run,) = Store(toy.results).run_list()
    assert run.info.status == "failed"
    assert len(run.records) > 10


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_command_keeps_its_cells_and_continues(
    reproduce: Any, toy: Any, tmp_path: Path, signum: int, code: int
) -> None:
    arguments = [
        "experiment=toy_cells",
        f"experiment.marks='{tmp_path}'",
        "experiment.stop_at=2",
        "experiment.how=wait",
    ]
    words = [sys.executable, str(toy.driver), *arguments, f"results='{toy.results}'"]
    runner = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: any("waiting" in log.read_text() for log in toy.results.glob("*/*/log.txt")))
    runner.send_signal(signum)
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode == code, errors
    assert "interrupted; the same command continues from here" in errors
    assert "Traceback" not in errors
    (run,) = Store(toy.results).run_list()
    assert run.info.status == "interrupted"
    (tmp_path / "go").touch()
    done = reproduce(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "computed").read_text().split() == ["0", "1", "2", "3"]
    (run,) = Store(toy.results).run_list()
    assert [r.value for r in run.records if r.metric == "square"] == [0, 1, 4, 9]


@pytest.mark.slow
def test_interrupted_suite_leaves_what_was_finished_as_it_is(reproduce: Any, toy: Any) -> None:
    arguments = ["experiment=toy_passes,toy_hangs"]
    words = [sys.executable, str(toy.driver), *arguments, f"results='{toy.results}'"]
    runner = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: any("hanging" in log.read_text() for log in toy.results.glob("*/*/log.txt")))
    runner.send_signal(signal.SIGINT)
    out, errors = runner.communicate(timeout=60)
    assert runner.returncode == 130, errors
    assert out.startswith("[1/2] toy_passes  ok")
    first = _files_of(toy.results / "toy_passes")
    assert first["records.jsonl"].count(b"\n") == 2

    # This time the second experiment comes to its end.
    toy.source("hangs").write_text(toy.source("hangs").read_text().replace("while True", "if True"))
    done = reproduce(*arguments)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"\[\d/2\] (\w+) +(\w+)", done.stdout) == [
        ("toy_passes", "reused"),
        ("toy_hangs", "ok"),
    ]
    assert _files_of(toy.results / "toy_passes") == first
    rows = Store(toy.results).frame(experiment="toy_passes")
    assert len(rows) == len(rows.drop_duplicates(["metric", "axis.i"])) == 2
    assert len(Store(toy.results).run_list(latest=False)) == 2


def test_list_says_what_would_run_and_runs_nothing(reproduce: Any, toy: Any) -> None:
    done = reproduce("experiment=toy_passes,toy_fails", "list=true")
    assert done.returncode == 0
    assert [re.split(" {2,}", line)[:2] for line in done.stdout.splitlines()] == [
        ["toy_passes", "not started"],
        ["toy_fails", "not started"],
    ]
    assert "toy.ours.rows" in done.stdout
    assert "up to" not in done.stdout
    full = reproduce("experiment=toy_passes,toy_fails", "profile=full", "list=true").stdout
    assert [re.split(" {2,}", line)[2] for line in full.splitlines()] == [
        "up to 2.5 h",
        "up to 45 min",
    ]
    swept = reproduce(PASSES, "experiment.n=1,2", "list=true").stdout.splitlines()
    assert [line.split("  ")[0] for line in swept] == [
        "toy_passes experiment.n=1",
        "toy_passes experiment.n=2",
    ]
    assert not toy.results.exists()
    reproduce(PASSES)
    assert "toy_passes  done" in reproduce(PASSES, "list=true").stdout
    toy.source("passes").write_text(toy.source("passes").read_text() + "# edited\n")
    stale = reproduce(PASSES, "list=true").stdout
    assert "stale (toy/experiments/passes.py has changed)" in stale


def test_cfg_shows_the_configuration_and_runs_nothing(reproduce: Any, toy: Any) -> None:
    raw = reproduce(PASSES, "--cfg", "job").stdout
    resolved = reproduce(PASSES, "profile=full", "--cfg", "job", "--resolve").stdout
    assert "${profile:2, 5}" in raw
    assert "'n': 5" in resolved
    assert f"results: {toy.results}" in resolved
    assert not toy.results.exists()


def test_without_isolation_the_command_does_the_same(reproduce: Any, toy: Any) -> None:
    done = reproduce(PASSES, "isolate=false")
    assert done.returncode == 0, done.stderr
    (run,) = Store(toy.results).run_list()
    assert len(run.records) == 2


def test_parallel_launcher_marks_times_as_contended(reproduce: Any, toy: Any) -> None:
    done = reproduce(PASSES, "experiment.n=1,2", "machine=joblib")
    assert done.returncode == 0, done.stderr
    assert [run.info.contended for run in Store(toy.results).run_list()] == [True, True]


def test_help_loads_neither_torch_nor_hydra(toy: Any) -> None:
    program = (
        "import sys\n"
        "from scripts.reproduce import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'altair'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    for words in ("paper=", "profile=", "strict=true", "Exit codes", "experiments:"):
        assert words in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["paper=toy", "experiment=toy_exits"]])
def test_reader_that_goes_away_causes_no_traceback(toy: Any, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, str(toy.driver), *arguments, f"results='{toy.results}'"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert "BrokenPipe" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)  # the experiment fails; the pipe changes nothing


@pytest.mark.slow
def test_unreadable_run_is_a_warning_that_names_the_file(reproduce: Any, toy: Any) -> None:
    reproduce(PASSES)
    other = toy.results / "toy_fails" / ("f" * 16)
    other.mkdir(parents=True)
    (other / "run.json").write_text("{")
    done = reproduce(PASSES)
    assert done.returncode == 0
    assert f"{other / 'run.json'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_module_runs_as_the_readme_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.reproduce", "paper=nosuch"],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert done.returncode == 2
    assert "got 'nosuch'" in done.stderr


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _files_of(experiment: Path) -> dict[str, bytes]:
    """Content of what the one run of an experiment keeps of itself."""
    (run,) = experiment.glob("*/run.json")
    return {name: (run.parent / name).read_bytes() for name in ("run.json", "records.jsonl")}
