"""Experiments are found without loading them, and a suite continues where it stopped."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import attrs
import pytest

from common.experiment import PACKAGES, Experiment, all_experiments
from common.record import ResultsError
from common.runner import REUSED, check_writable, close_abandoned, run_info, run_one, state

SETTINGS: dict[str, object] = {"n": 2, "kind": "plain", "scales": []}


def test_all_experiments_are_listed_in_order(toy: Any) -> None:
    assert list(toy.experiments)[:2] == ["toy_passes", "toy_cells"]
    assert toy.experiments["toy_passes"].claims == ("toy.ours.rows",)


def test_missing_package_is_a_note(toy: Any) -> None:
    notes: list[str] = []
    found = all_experiments(("nosuchpaper", "toy"), note=notes.append)
    assert set(found) == set(toy.experiments)
    assert notes == ["nosuchpaper is not installed; experiments of nosuchpaper are left out"]


def test_import_error_inside_a_package_is_not_hidden(toy: Any) -> None:
    listing = toy.root / "toy" / "experiments" / "__init__.py"
    listing.write_text("import nosuchmodule")
    sys.modules.pop("toy.experiments")
    with pytest.raises(ModuleNotFoundError, match="nosuchmodule"):
        all_experiments(("toy",))


@pytest.mark.parametrize(
    ("names", "words"),
    [(("other_a",), "'toy_...', got 'other_a'"), (("toy_a", "toy_a"), "two .* 'toy_a'")],
)
def test_misnamed_experiments_are_refused(toy: Any, names: tuple[str, ...], words: str) -> None:
    sys.modules["toy.experiments"].EXPERIMENTS = tuple(
        Experiment(name, "toy.experiments.passes", ()) for name in names
    )
    with pytest.raises(ValueError, match=words):
        all_experiments(("toy",))


def test_shipped_experiments_are_whole_and_load_without_torch() -> None:
    program = """
        import sys
        from common.experiment import all_experiments
        for experiment in all_experiments().values():
            settings = experiment.settings_class()
            assert callable(experiment.load().run), experiment.name
            assert callable(experiment.load().charts), experiment.name
        heavy = {"torch", "altair", "fbgemm_gpu", "hydra", "omegaconf"} & set(sys.modules)
        assert not heavy, heavy
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_shipped_settings_have_no_defaults_and_full_profiles_a_length() -> None:
    for experiment in all_experiments(PACKAGES).values():
        assert experiment.full_minutes > 0, experiment.name
        for field in attrs.fields(experiment.settings_class()):
            assert field.default is attrs.NOTHING, f"{experiment.name}.{field.name}"


def test_bad_experiments_do_not_keep_the_others_from_running(toy: Any) -> None:
    jobs = [
        toy.job("crashes", {"signum": 11}),
        toy.job("fails", {"text": "no"}),
        toy.job("passes", SETTINGS),
    ]
    assert [run_one(job).status for job in jobs] == ["failed", "failed", "ok"]


def test_finished_run_is_reused_and_resume_false_runs_it_again(toy: Any) -> None:
    job = toy.job("passes", SETTINGS)
    first = run_one(job)
    assert run_one(job).status == REUSED
    assert job.folder.info().started == first.job.folder.info().started
    again = attrs.evolve(job, options=attrs.evolve(job.options, resume=False))
    assert run_one(again).status == "ok"


@pytest.mark.parametrize("change", ["seed", "profile", "threads"])
def test_another_seed_profile_or_thread_count_is_another_run(toy: Any, change: str) -> None:
    job = toy.job("passes", SETTINGS)
    other = {"seed": 5, "profile": "full", "threads": 2}[change]
    assert toy.job("passes", SETTINGS, **{change: other}).key != job.key
    assert toy.job("passes", {**SETTINGS, "n": 3}).key != job.key
    assert toy.job("passes", SETTINGS, timeout_s=7.0, memory_gb=3.0).key == job.key


@pytest.mark.parametrize("damage", ["truncated", "row added", "run.json gone", "newer schema"])
def test_damaged_run_is_done_again(toy: Any, damage: str) -> None:
    job = toy.job("passes", SETTINGS)
    run_one(job)
    records, run = job.folder.path / "records.jsonl", job.folder.path / "run.json"
    if damage == "truncated":
        records.write_bytes(records.read_bytes()[:-5])
    elif damage == "row added":
        records.write_text(records.read_text() + records.read_text().splitlines()[0] + "\n")
    elif damage == "run.json gone":
        run.unlink()
    else:
        run.write_text(run.read_text().replace('"schema": 1', '"schema": 99'))
    assert run_one(job).status == "ok"
    assert len(job.folder.records()) == 2


def test_resume_computes_exactly_the_missing_cells(toy: Any, tmp_path: Path) -> None:
    settings = {"n": 5, "marks": str(tmp_path), "stop_at": 3, "how": "raise"}
    job = toy.job("cells", settings)
    computed = tmp_path / "computed"
    assert run_one(job).status == "failed"
    assert computed.read_text().split() == ["0", "1", "2"]
    (tmp_path / "go").touch()
    assert run_one(job).status == "ok"
    assert computed.read_text().split() == ["0", "1", "2", "3", "4"]
    by_metric: dict[str, list[float]] = {"square": [], "inside": []}
    for record in job.folder.records():
        by_metric[record.metric].append(record.value)
    assert by_metric == {"square": [0, 1, 4, 9, 16], "inside": [0, 1, 2, 3, 4]}


def test_run_is_traced_to_settings_code_machine_and_command(toy: Any) -> None:
    job = attrs.evolve(toy.job("passes", SETTINGS, seed=3), command="python -m this")
    run_one(job)
    info = job.folder.info()
    assert (info.settings, info.seed, info.profile, info.threads) == (SETTINGS, 3, "quick", 1)
    assert info.machine_id == info.machine["id"]
    assert (info.command, info.status) == ("python -m this", "ok")
    assert info.seconds > 0


def test_abandoned_run_is_closed_unless_someone_runs_it(toy: Any) -> None:
    job = toy.job("passes", SETTINGS)
    job.folder.begin(run_info(job))
    with job.folder.lock():
        close_abandoned(job, "interrupted")
        assert job.folder.info().status == "running"
    close_abandoned(job, "interrupted")
    assert state(job).status == "interrupted"


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"file/results.*results=<folder>"):
        check_writable(tmp_path / "file" / "results")


def test_two_runners_share_a_run_without_duplicates(toy: Any, tmp_path: Path) -> None:
    arguments = [
        sys.executable,
        str(toy.driver),
        "experiment=toy_cells",
        "experiment.n=3",
        f"experiment.marks='{tmp_path}'",
        f"results={toy.results}",
    ]
    runners = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(2)
    ]
    outputs = [runner.communicate(timeout=100)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], outputs
    assert (tmp_path / "computed").read_text().split() == ["0", "1", "2"]
    (run,) = (toy.results / "toy_cells").glob("*/records.jsonl")
    assert len(run.read_text().splitlines()) == 6
