"""python -m scripts.report: what it writes, what it says, how it ends."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common import extras
from common.record import Record
from scripts import report

ROOT = Path(__file__).parents[3]


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "scripts.report", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def results(sample: Any) -> Path:
    sample.run(
        "ttrec_kernels",
        [Record("speedup", 4.0, "x", claim="ttrec.abstract.kernel_speedup", low=3.9, high=4.1)],
    )
    root: Path = sample.root
    return root


def test_missing_store_says_what_to_run_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'none'} holds no run; first run bash scripts/reproduce.sh" in error
    assert not (tmp_path / "none").exists()


def test_page_is_written_and_its_path_is_the_last_line(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(results / "report.html")
    assert any(line.startswith("ttrec ") for line in lines)
    assert (results / "report.html").stat().st_size > 10_000


def test_export_writes_every_record(results: Path, tmp_path: Path) -> None:
    assert report.main(["--results", str(results), "--export", str(tmp_path / "rows.csv")]) == 0
    header, *rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 1
    assert "claim" in header.split(",")
    assert not (results / "report.html").exists()


def test_export_to_an_unknown_format_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", str(results), "--export", str(tmp_path / "rows.xls")]) == 2
    assert "rows.xls" in capsys.readouterr().err


def test_export_to_a_folder_that_is_not_there_fails(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none" / "rows.csv"
    assert report.main(["--results", str(results), "--export", str(file)]) == 1
    assert str(file) in capsys.readouterr().err


def test_reported_takes_the_paper_s_rows(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "ttrec").mkdir()
    assert report.main(["--results", str(results), "--reported", "ttrec"]) == 0
    assert len((tmp_path / "ttrec" / "reported.jsonl").read_text().splitlines()) == 1


def test_reported_takes_the_layer_s_rows(
    sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("false_alarms", 2.0, "%", claim="common.ours.noise_false_alarms")
    sample.run("common_noise", [record])
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "common").mkdir()
    assert report.main(["--results", str(sample.root), "--reported", "common"]) == 0
    assert len((tmp_path / "common" / "reported.jsonl").read_text().splitlines()) == 1


def test_reported_of_a_paper_without_rows_is_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert report.main(["--results", str(results), "--reported", "panama"]) == 2
    assert "no record of a claim of panama" in capsys.readouterr().err


def test_api_without_pdoc_names_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(module: str, extra: str, purpose: str) -> None:
        raise extras.MissingExtra(f'{module} is needed: pip install "mlsys21[{extra}]"')

    monkeypatch.setattr(extras, "require", absent)
    assert report.main(["--results", str(tmp_path), "--api"]) == 2
    assert 'pip install "mlsys21[dev]"' in capsys.readouterr().err


def test_wrong_argument_exits_2() -> None:
    with pytest.raises(SystemExit) as ended:
        report.main(["--reported", "nosuch"])
    assert ended.value.code == 2


def test_entry_ends_with_the_code(tmp_path: Path) -> None:
    done = run("--results", tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_reader_going_away_leaves_no_traceback(results: Path) -> None:
    command = f"{sys.executable} -m scripts.report --results {results} | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_needs_neither_pandas_nor_torch() -> None:
    code = (
        "import sys, contextlib, scripts.report as report\n"
        "with contextlib.suppress(SystemExit): report.main(['--help'])\n"
        "print(sorted({'torch', 'pandas', 'altair'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
