"""A run on disk: the protocol, kills, full disks, concurrent writers, reuse."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import filelock
import pytest
import yaml

from common.record import Record, ResultsError, RunInfo
from common.run_folder import RunFolder

REPO = Path(__file__).parents[2]


def make_info(**changes: Any) -> RunInfo:
    fields: dict[str, Any] = {
        "experiment": "ttrec_kernels",
        "key": "k1",
        "settings": {"batch": 8, "rates": [1e-05]},
        "profile": "quick",
        "seed": 0,
        "threads": 1,
        "machine_id": "m",
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunInfo(**(fields | changes))


def record(value: float) -> Record:
    return Record("speedup", value, "x", axes={"rank": 8})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "ttrec_kernels", "k1")


def finished(folder: RunFolder, *values: float, **info: Any) -> RunFolder:
    folder.begin(make_info(**info))
    for value in values:
        folder.append(record(value))
    folder.finish("ok", seconds=1.5, peak_mb=20.0)
    return folder


def run_script(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh interpreter, outside of pytest's threads and limits."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)


def test_object_alone_touches_nothing(folder: RunFolder, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert folder.info() is None


def test_begin_writes_running_run_without_records(folder: RunFolder) -> None:
    folder.begin(make_info())
    assert folder.info() == make_info(status="running")
    assert folder.records() == []
    assert folder.cells.is_dir()
    # 1e-05 without a dot is a string to YAML 1.1 readers; it must come back as a number.
    assert yaml.safe_load((folder.path / "settings.yaml").read_text()) == {
        "batch": 8,
        "rates": [1e-05],
    }


def test_finish_describes_the_records(folder: RunFolder) -> None:
    folder.begin(make_info(sources={"a.py": "0"}))
    folder.append(record(1.0))
    folder.append(record(2.0))
    info = folder.finish("ok", seconds=1.5, peak_mb=20.0, sources={"b.py": "1"})
    data = (folder.path / "records.jsonl").read_bytes()
    assert folder.info() == info
    assert (info.status, info.seconds, info.peak_mb) == ("ok", 1.5, 20.0)
    assert info.sources == {"b.py": "1"}
    assert info.n_records == data.count(b"\n") == 2
    assert info.records_sha256 == hashlib.sha256(data).hexdigest()
    assert folder.records() == folder.verified_records(info) == [record(1.0), record(2.0)]


def test_begin_again_drops_records_and_keeps_cells(folder: RunFolder) -> None:
    finished(folder, 1.0)
    (folder.cells / "part.json").write_text("{}")
    (folder.path / "run.json.99.tmp").write_text("left by a killed run")
    folder.begin(make_info())
    assert folder.records() == []
    assert (folder.cells / "part.json").exists()
    assert not list(folder.path.glob("*.tmp"))


def test_finish_before_begin_is_an_error(folder: RunFolder) -> None:
    with pytest.raises(ResultsError, match=r"run\.json is missing: begin\(\) must come before"):
        folder.finish("ok", seconds=1.0, peak_mb=1.0)


@pytest.mark.parametrize("status", ["failed", "timeout", "interrupted"])
def test_cut_line_is_removed_and_earlier_records_stay(folder: RunFolder, status: str) -> None:
    folder.begin(make_info())
    folder.append(record(1.0))
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"metric":"spee')
    assert folder.records() == [record(1.0)]
    info = folder.finish(status, seconds=1.0, peak_mb=1.0, error="SIGKILL")
    assert (info.status, info.error, info.n_records) == (status, "SIGKILL", 1)
    assert folder.verified_records(info) == [record(1.0)]


def test_run_with_a_cut_line_is_not_ok(folder: RunFolder) -> None:
    folder.begin(make_info())
    (folder.path / "records.jsonl").write_text('{"metric":"spee')
    info = folder.finish("ok", seconds=1.0, peak_mb=1.0)
    assert info.status == "failed"
    assert info.error == "the last line of records.jsonl was cut short"
    assert info.n_records == 0


def test_unreadable_record_names_file_and_line(folder: RunFolder) -> None:
    finished(folder, 1.0)
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"metric":"m","value":NaN,"unit":"x"}\n')
    with pytest.raises(ResultsError, match=r"records\.jsonl, line 2, .* must be finite"):
        folder.records()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "must be a JSON object"),
        ('{"schema": 99}', "schema 99 is newer"),
        ('{"schema": 1}', "missing"),
        ("\x00\xff", r"."),
    ],
)
def test_unreadable_run_names_file(folder: RunFolder, text: str, message: str) -> None:
    finished(folder, 1.0)
    (folder.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ResultsError, match=rf"run\.json is not a readable run: .*{message}"):
        folder.info()
    assert folder.reusable(lambda path: None)[0] is False


# --- reuse


def test_finished_run_is_reusable(folder: RunFolder) -> None:
    finished(folder, 1.0, sources={"ttrec/bag.py": "abc"})
    assert folder.reusable({Path("ttrec/bag.py"): "abc"}.get) == (True, "")


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({Path("ttrec/bag.py"): "abd"}, "ttrec/bag.py has changed"),
        ({}, "ttrec/bag.py is gone"),
    ],
)
def test_changed_source_is_named(folder: RunFolder, sources: Any, reason: str) -> None:
    finished(folder, 1.0, sources={"ttrec/bag.py": "abc"})
    assert folder.reusable(sources.get) == (False, reason)


@pytest.mark.parametrize("status", ["running", "failed", "timeout", "interrupted"])
def test_only_ok_is_reusable(folder: RunFolder, status: str) -> None:
    folder.begin(make_info())
    if status != "running":
        folder.finish(status, seconds=1.0, peak_mb=1.0)
    expected = (False, f"the earlier run's status is {status!r}")
    assert folder.reusable(lambda path: None) == expected


def test_no_run_is_not_reusable(folder: RunFolder) -> None:
    assert folder.reusable(lambda path: None) == (False, "there is no earlier run")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-1], "has 1 whole records, run.json says 2"),
        (lambda text: "", "has 0 whole records, run.json says 2"),
        (lambda text: text.replace("2.0", "9.0"), "was changed after the run ended"),
        (lambda text: text + text, "has 4 whole records, run.json says 2"),
        (lambda text: text + "{", "was changed after the run ended"),
    ],
)
def test_changed_records_are_not_reusable(folder: RunFolder, damage: Any, reason: str) -> None:
    finished(folder, 1.0, 2.0)
    path = folder.path / "records.jsonl"
    path.write_text(damage(path.read_text()))
    assert folder.reusable(lambda source: None) == (False, f"{path} {reason}")


def test_missing_records_are_not_reusable(folder: RunFolder) -> None:
    finished(folder, 1.0)
    (folder.path / "records.jsonl").unlink()
    usable, reason = folder.reusable(lambda path: None)
    assert not usable
    assert reason.endswith("records.jsonl: No such file or directory")


# --- locking


def test_lock_excludes_others_and_is_reentrant(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path, "ttrec_kernels", "k1")
    with folder.lock():
        with folder.lock(timeout=0):
            pass
        with pytest.raises(filelock.Timeout), other.lock(timeout=0):
            pytest.fail("two holders")
        neighbour = RunFolder(tmp_path, "ttrec_kernels", "k2")
        with neighbour.lock(timeout=0):
            pass
    with other.lock(timeout=0):
        pass


def test_lock_of_a_killed_holder_is_free(folder: RunFolder, tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from common.run_folder import RunFolder
        with RunFolder(Path(sys.argv[1]), "ttrec_kernels", "k1").lock():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(script, tmp_path).returncode == -9
    with folder.lock(timeout=5):
        pass


# --- failing disks; a file size limit makes write fail half way, as a full disk does

LIMITED = """
    import resource, sys
    from pathlib import Path
    from common.record import Record, ResultsError, RunInfo
    from common.run_folder import RunFolder

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))

    folder = RunFolder(Path(sys.argv[1]), "ttrec_kernels", "k1")
    started = "2026-01-01T00:00:00+00:00"
    info = RunInfo("ttrec_kernels", "k1", {}, "quick", 0, 1, "m", started=started)
"""


def test_failed_append_keeps_earlier_records(folder: RunFolder, tmp_path: Path) -> None:
    script = (
        LIMITED
        + """
    folder.begin(info)
    limit(200)
    for i in range(100):
        try:
            folder.append(Record("speedup", float(i), "x"))
        except ResultsError as error:
            print(i, error)
            whole = (folder.path / "records.jsonl").read_bytes()
            assert whole.count(b"\\n") == i and whole.endswith(b"\\n"), whole
            break
    limit(resource.RLIM_INFINITY)
    folder.finish("failed", seconds=1.0, peak_mb=1.0, error="disk full")
    """
    )
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    count, message = done.stdout.strip().split(" ", 1)
    assert 0 < int(count) < 100
    assert message == f"cannot write {folder.path / 'records.jsonl'}: File too large"
    info = folder.info()
    assert info is not None
    assert info.status == "failed"
    values = [r.value for r in folder.verified_records(info)]
    assert values == [float(i) for i in range(int(count))]


def test_failed_begin_keeps_the_earlier_run(folder: RunFolder, tmp_path: Path) -> None:
    finished(folder, 1.0)
    script = (
        LIMITED
        + """
    limit(0)
    try:
        folder.begin(info)
    except ResultsError as error:
        print(error)
    """
    )
    done = run_script(script, tmp_path)
    assert done.stdout.startswith(f"cannot write {folder.path}/"), done.stderr
    assert done.stdout.endswith(": File too large\n")
    assert folder.reusable(lambda path: None) == (True, "")
    assert not list(folder.path.glob("*.tmp"))


def test_failed_finish_leaves_a_run_that_is_not_reused(folder: RunFolder, tmp_path: Path) -> None:
    script = (
        LIMITED
        + """
    folder.begin(info)
    folder.append(Record("speedup", 1.0, "x"))
    limit(10)
    try:
        folder.finish("ok", seconds=1.0, peak_mb=1.0)
    except ResultsError as error:
        print(error)
    """
    )
    done = run_script(script, tmp_path)
    assert done.stdout == f"cannot write {folder.path / 'run.json'}: File too large\n", done.stderr
    assert folder.reusable(lambda path: None) == (False, "the earlier run's status is 'running'")
    assert [r.value for r in folder.records()] == [1.0]


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "ttrec_kernels").write_text("a file where a folder should be")
    folder = RunFolder(tmp_path, "ttrec_kernels", "k1")
    with pytest.raises(ResultsError, match=r"cannot write .*ttrec_kernels"):
        folder.begin(make_info())
    with pytest.raises(ResultsError, match=r"cannot write .*ttrec_kernels"), folder.lock():
        pytest.fail("locked nothing")


# --- kills

KILLED = """
    import os, shutil, signal, sys
    from pathlib import Path
    import common.run_folder
    from common.record import Record, RunInfo
    from common.results import Store
    from common.run_folder import RunFolder

    root = Path(sys.argv[1])
    traced = common.run_folder.__file__

    def info(key, seed):
        return RunInfo(
            "e", key, {}, "quick", seed, 1, "m", started=f"2026-01-0{seed + 1}T00:00:00+00:00"
        )

    def run(folder, seed, values):
        folder.begin(info(folder.path.name, seed))
        for value in values:
            folder.append(Record("m", value, "x"))
        folder.finish("ok", seconds=1.0, peak_mb=1.0)

    def kill_at(line_number):
        left = line_number
        def local(frame, event, arg):
            nonlocal left
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return local
        def calls(frame, event, arg):
            return local if frame.f_code.co_filename == traced else None
        sys.settrace(calls)

    write = os.write
    def half_a_write(fd, data):  # what a kill within the call leaves
        write(fd, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def check(root, step):
        runs = {run.path.name: run for run in Store(root).run_list(latest=False)}
        assert [r.value for r in runs["other"].records] == [7.0], step
        if "k" in runs:  # else left out with a warning: its records do not belong to its run.json
            found = runs["k"]
            values = [r.value for r in found.records]
            if found.info.seed == 0:
                assert values == [1.0, 2.0] and found.info.status == "ok", (step, values)
            else:
                assert values == [10.0, 20.0][: len(values)], (step, values)
                assert found.info.status == "running" or len(values) == 2, (step, values)
        folder = RunFolder(root, "e", "k")
        usable, reason = folder.reusable(lambda path: None)
        assert usable == ("k" in runs and runs["k"].info.status == "ok"), (step, reason)
        run(folder, 1, [10.0, 20.0])
        assert folder.reusable(lambda path: None) == (True, ""), step
        assert not list(folder.path.glob("*.tmp")), step

    template = root / "template"
    run(RunFolder(template, "e", "other"), 0, [7.0])
    if sys.argv[2] == "again":
        run(RunFolder(template, "e", "k"), 0, [1.0, 2.0])
    step = 0
    outcomes = set()
    while True:
        place = root / str(step)
        shutil.copytree(template, place)
        pid = os.fork()
        if pid == 0:
            if sys.argv[3] == "line":
                kill_at(step)
            elif step == 0:
                os.write = half_a_write
            run(RunFolder(place, "e", "k"), 1, [10.0, 20.0])
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        check(place, step)
        shutil.rmtree(place)
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        step += 1
    print(step)
"""


@pytest.mark.parametrize("before", ["fresh", "again"])
def test_kill_at_any_line_leaves_readable_store(before: str, tmp_path: Path) -> None:
    done = run_script(KILLED, tmp_path, before, "line")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80  # as many kills as lines; a trace that saw none would pass idly


def test_kill_within_a_write_leaves_readable_store(tmp_path: Path) -> None:
    done = run_script(KILLED, tmp_path, "again", "write")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1


# --- concurrent writers

APPENDING = """
    import sys
    from pathlib import Path
    from common.record import Record
    from common.run_folder import RunFolder

    folder = RunFolder(Path(sys.argv[1]), "ttrec_kernels", "k1")
    for i in range(40):
        name = "long " * 2000  # several pages: more than any buffer writes at once
        folder.append(Record("m", float(i), "x", axes={"writer": int(sys.argv[2]), "name": name}))
"""

COMPETING = """
    import sys
    from pathlib import Path
    from common.record import Record, RunInfo
    from common.run_folder import RunFolder

    root, writer = Path(sys.argv[1]), int(sys.argv[2])
    folder = RunFolder(root, "ttrec_kernels", "k1")
    for turn in range(5):
        with folder.lock():
            alone = root / "alone"
            alone.touch(exist_ok=False)  # fails when another is inside
            info = RunInfo(
                "ttrec_kernels", "k1", {}, "quick", writer, 1, "m",
                started="2026-01-01T00:00:00+00:00",
            )
            folder.begin(info)
            for value in range(3):
                folder.append(Record("m", float(value), "x", axes={"writer": writer}))
            folder.finish("ok", seconds=1.0, peak_mb=1.0)
            alone.unlink()
"""


def run_together(script: str, root: Path, n_writers: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(script), str(root)]
    writers = [
        subprocess.Popen([*command, str(i)], cwd=REPO, stderr=subprocess.PIPE, text=True)
        for i in range(n_writers)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors


def test_appends_of_several_processes_stay_whole(folder: RunFolder, tmp_path: Path) -> None:
    folder.begin(make_info())
    run_together(APPENDING, tmp_path, 3)
    found = [(r.axes["writer"], r.value) for r in folder.records()]
    assert sorted(found) == [(w, float(i)) for w in range(3) for i in range(40)]
    for writer in range(3):  # each writer's own records in its order
        assert [v for w, v in found if w == writer] == [float(i) for i in range(40)]


def test_runs_under_the_lock_do_not_mix(folder: RunFolder, tmp_path: Path) -> None:
    run_together(COMPETING, tmp_path, 3)
    info = folder.info()
    assert info is not None
    records = folder.verified_records(info)
    assert [r.value for r in records] == [0.0, 1.0, 2.0]
    assert {r.axes["writer"] for r in records} == {info.seed}


def test_files_are_json_a_person_can_read(folder: RunFolder) -> None:
    finished(folder, 1.0)
    run = json.loads((folder.path / "run.json").read_text())
    assert next(iter(run)) == "experiment"
    assert run["schema"] == 1
    line = (folder.path / "records.jsonl").read_text()
    assert line == ('{"claim":null,"metric":"speedup","value":1.0,"unit":"x","axes":{"rank":8}}\n')
