"""The store: which runs it shows, its tables, its exports, and that reading stays linear."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.extras import MissingExtra
from common.record import Record, ResultsError, ResultsWarning, RunInfo, Scalar, run_key
from common.results import RunFolder, Store

REPO = Path(__file__).parents[2]


def write_run(
    root: Path,
    records: list[Record],
    *,
    experiment: str = "ttrec_kernels",
    seed: int = 0,
    day: int = 1,
    status: str = "ok",
    **fields: Any,
) -> Path:
    same: dict[str, Any] = {
        "settings": {"batch": 8},
        "profile": "quick",
        "threads": 1,
        "machine_id": "m",
    } | fields
    key = run_key(experiment, seed=seed, **same)
    started = f"2026-01-{day:02}T00:00:00+00:00"
    folder = RunFolder(root, experiment, key)
    folder.begin(RunInfo(experiment=experiment, key=key, seed=seed, started=started, **same))
    # At once, unlike append, which syncs every line.
    (folder.path / "records.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
    if status != "running":
        folder.finish(status, seconds=1.0, peak_mb=2.0)
    return folder.path


def record(value: float = 1.0, **axes: Scalar) -> Record:
    return Record("speedup", value, "x", axes=axes)


def values(store: Store, **kwargs: Any) -> list[float]:
    return list(store.frame(**kwargs)["value"])


def test_empty_and_missing_folders_have_no_runs(tmp_path: Path) -> None:
    for store in (Store(tmp_path), Store(tmp_path / "missing")):
        assert store.run_list() == []
        assert store.frame().empty
        assert {"experiment", "metric", "value", "low"} <= set(store.frame().columns)
        assert store.runs().empty


def test_hidden_and_data_folders_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / ".hydra" / "x").mkdir(parents=True)
    (tmp_path / "data" / "schedules-v1").mkdir(parents=True)
    (tmp_path / "report.html").write_text("")
    path = write_run(tmp_path, [record()])
    (path.parent / ".trash").mkdir()
    assert len(Store(tmp_path).run_list()) == 1


def test_newest_run_stands_for_those_that_differ_in_seed(tmp_path: Path) -> None:
    write_run(tmp_path, [record(1.0)], seed=0, day=2)
    write_run(tmp_path, [record(2.0)], seed=1, day=3)
    write_run(tmp_path, [record(3.0)], seed=2, day=1)
    store = Store(tmp_path)
    assert [run.info.seed for run in store.run_list()] == [1]
    assert [run.info.seed for run in store.run_list(latest=False)] == [2, 0, 1]
    assert sorted(values(store)) == [1.0, 2.0, 3.0]
    assert values(store, latest=True) == [2.0]


def test_unfinished_run_takes_no_finished_one_s_place(tmp_path: Path) -> None:
    write_run(tmp_path, [record(1.0)], seed=0, day=1, status="failed")
    write_run(tmp_path, [record(2.0)], seed=1, day=2)
    assert [run.info.seed for run in Store(tmp_path).run_list()] == [1]
    write_run(tmp_path, [record(3.0)], seed=2, day=3, status="timeout")
    write_run(tmp_path, [record(4.0)], seed=3, day=4, status="failed")
    assert [run.info.seed for run in Store(tmp_path).run_list()] == [1, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"batch": 9}},
        {"profile": "full"},
        {"threads": 2},
        {"machine_id": "other"},
        {"experiment": "ttrec_pooling"},
    ],
)
def test_runs_that_differ_in_more_than_seed_are_all_shown(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_run(tmp_path, [record(1.0)])
    write_run(tmp_path, [record(2.0)], day=2, **change)
    assert len(Store(tmp_path).run_list()) == 2
    assert sorted(values(Store(tmp_path), latest=True)) == [1.0, 2.0]


# --- damaged runs


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("run.json", None),
        ("run.json", lambda text: text.replace('"schema": 1', '"schema": 2')),
        ("run.json", lambda text: text[: len(text) // 2]),
        ("run.json", lambda text: text.replace('"ok"', '"fine"')),
        ("records.jsonl", None),
        ("records.jsonl", lambda text: text[:-1]),
        ("records.jsonl", lambda text: text[: text.index("\n") + 1]),
        ("records.jsonl", lambda text: text.replace("1.0", "7.0")),
        ("records.jsonl", lambda text: "\x00" * len(text)),
    ],
)
def test_damaged_run_is_left_out_with_its_file_named(
    tmp_path: Path, name: str, damage: Any
) -> None:
    path = write_run(tmp_path, [record(1.0), record(2.0)]) / name
    write_run(tmp_path, [record(5.0)], experiment="cortex_other")
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    for read in (Store(tmp_path).frame, Store(tmp_path).run_list, Store(tmp_path).runs):
        with pytest.warns(ResultsWarning) as caught:
            found = read()
        assert [str(w.message).count(str(path)) for w in caught] == [1]
        assert len(found) == 1


def test_running_run_shows_its_whole_records(tmp_path: Path) -> None:
    path = write_run(tmp_path, [record(1.0)], status="running")
    with (path / "records.jsonl").open("a") as file:
        file.write('{"metric":"spee')
    frame = Store(tmp_path).frame()
    assert list(frame["value"]) == [1.0]
    assert list(frame["status"]) == ["running"]


def test_unreadable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ResultsError, match=r"cannot read .*results: Not a directory"):
        Store(tmp_path / "results").run_list()


# --- frame


def test_frame_selects_by_run_record_and_axis(tmp_path: Path) -> None:
    write_run(tmp_path, [record(1.0, rank=8, system="ours"), record(2.0, rank=16)])
    write_run(tmp_path, [record(3.0, rank=8)], experiment="cortex_other")
    store = Store(tmp_path)
    assert values(store, experiment="ttrec_kernels") == [1.0, 2.0]
    assert values(store, **{"axis.rank": 8}) == [3.0, 1.0]
    assert values(store, **{"axis.rank": 8}, experiment="ttrec_kernels") == [1.0]
    assert values(store, **{"axis.system": None}) == [3.0, 2.0]
    assert values(store, metric="speedup", value=2.0) == [2.0]
    assert values(store, **{"axis.nosuch": 1}) == []
    assert values(store, experiment="nosuch") == []


def test_frame_refuses_unknown_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'metrics', did you mean 'metric'"):
        Store(tmp_path).frame(metrics="speedup")
    with pytest.raises(ValueError, match="no column 'rank': Columns are experiment, profile"):
        Store(tmp_path).frame(rank=8)


def test_frame_reads_only_the_wanted_experiment(tmp_path: Path) -> None:
    damaged = write_run(tmp_path, [record()], experiment="cortex_other")
    (damaged / "run.json").write_text("")
    write_run(tmp_path, [record(2.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values(Store(tmp_path), experiment="ttrec_kernels") == [2.0]


def test_axis_columns_keep_their_type(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        [
            record(whole=8, real=0.5, mixed=1, name="a", flag=True, big=2**60, any=1, some=1),
            record(whole=9, real=1.5, mixed=0.5, name="b", flag=False, big=2**60 + 1, any="x"),
        ],
    )
    frame = Store(tmp_path).frame()
    assert str(frame["axis.whole"].dtype) == "int64"
    assert str(frame["axis.real"].dtype) == "float64"
    assert str(frame["axis.mixed"].dtype) == "float64"
    assert str(frame["axis.flag"].dtype) == "bool"
    assert str(frame["axis.some"].dtype) == "Int64"  # 1 beside nothing is not 1.0
    assert list(frame["axis.big"]) == [2**60, 2**60 + 1]
    assert list(frame["axis.any"]) == [1, "x"]
    assert list(frame["axis.name"]) == ["a", "b"]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Scalar] = st.none() | st.booleans() | st.integers() | NUMBERS | st.text()
AXES = st.dictionaries(st.sampled_from(["rank", "system", "é 0", "value"]), SCALARS, max_size=3)
RECORDS = st.lists(
    st.builds(
        Record,
        metric=st.sampled_from(["speedup", "bytes"]),
        value=NUMBERS,
        unit=st.just("x"),
        claim=st.none() | st.text(min_size=1),
        axes=AXES,
        rounds=st.none() | st.integers(0, 100),
        noise=st.none() | NUMBERS,
        noisy=st.booleans(),
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=3), st.integers(0, 1))
def test_frame_equals_brute_force_reading(runs: list[list[Record]], wanted_seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed, records in enumerate(runs):
            write_run(root, records, seed=seed)
        expected = []
        for run_file in root.glob("*/*/run.json"):
            run = json.loads(run_file.read_text())
            for line in run_file.with_name("records.jsonl").read_text().splitlines():
                row = json.loads(line)
                for name, value in row.pop("axes", {}).items():
                    row[f"axis.{name}"] = value
                for name in ("experiment", "key", "seed", "started", "status", "machine_id"):
                    row[name] = run[name]
                expected.append(row)
        assert_same_rows(Store(root).frame(), expected)
        assert_same_rows(
            Store(root).frame(seed=wanted_seed, metric="bytes"),
            [r for r in expected if r["seed"] == wanted_seed and r["metric"] == "bytes"],
        )


def assert_same_rows(frame: pandas.DataFrame, expected: list[dict[str, Any]]) -> None:
    defaults = {"noisy": False, "contended": False}
    assert len(frame) == len(expected)
    assert {c for row in expected for c in row} <= set(frame.columns)
    remaining = list(expected)
    for row in frame.to_dict("records"):
        found = {
            name: value
            for name, value in row.items()
            if not pandas.isna(value) and not (name in defaults and value is False)
        }
        found.pop("profile"), found.pop("threads")
        match = [w for w in remaining if found == {k: v for k, v in w.items() if v is not None}]
        assert match, (found, remaining)
        remaining.remove(match[0])


# --- runs and exports


def test_runs_table_has_a_row_per_run(tmp_path: Path) -> None:
    write_run(tmp_path, [record(), record()])
    write_run(tmp_path, [], experiment="cortex_other", status="failed")
    table = Store(tmp_path).runs()
    assert list(table["experiment"]) == ["cortex_other", "ttrec_kernels"]
    assert list(table["status"]) == ["failed", "ok"]
    assert list(table["n_records"]) == [0, 2]
    assert list(table["settings"]) == ['{"batch":8}'] * 2


def test_exports_hold_every_record(tmp_path: Path) -> None:
    third = 1 / 3
    kept = Record("m", third, "x", axes={"rank": 8}, extra={"energy_j": [1.5]})
    write_run(tmp_path / "results", [kept, record(2.0)])
    store = Store(tmp_path / "results")
    store.export(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [third, 2.0]
    assert [row["axis.rank"] for row in rows] == ["8", ""]
    store.export(tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == [third, 2.0]
    assert lines[0]["energy_j"] == [1.5]
    assert lines[0]["experiment"] == "ttrec_kernels"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.csv", "all.jsonl", "results"]


def test_export_refuses_other_endings_and_bad_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv, \.jsonl, \.parquet, got 'a\.xlsx'"):
        Store(tmp_path).export(tmp_path / "a.xlsx")
    with pytest.raises(ResultsError, match=r"cannot write .*nosuch/a\.jsonl: No such file"):
        Store(tmp_path).export(tmp_path / "nosuch" / "a.jsonl")


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(
        MissingExtra, match="pyarrow is needed for parquet export: pip install pyar"
    ):
        Store(tmp_path).export(tmp_path / "a.parquet")


# --- cost


def count_calls(store: Store) -> int:
    """Python and C functions called while the frame is made."""
    n_calls = 0

    def on_event(frame: Any, event: str, arg: Any) -> None:
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        store.frame()
    finally:
        sys.setprofile(None)
    return n_calls


def test_frame_does_linear_work(tmp_path: Path) -> None:
    pandas.DataFrame({"a": [1]})  # imports of the first use are not counted
    counts = []
    for n in (1000, 2000, 4000):
        root = tmp_path / str(n)
        # Late and early axes: a column that is filled up again and again would be quadratic.
        rows = [record(float(i), rank=i % 7, **{f"late{i * 10 // n}": i}) for i in range(n)]
        for start in range(0, n, 500):  # more records come in more runs
            write_run(root, rows[start : start + 500], seed=start)
        Store(root).frame()
        counts.append(count_calls(Store(root)))
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    assert first > 1000  # the counting counts
    assert second < 2.2 * first


BIG = """
import resource, sys, time
import pandas
from pathlib import Path
from common.results import Store
pandas.DataFrame({"a": [1]})
took = []
for _ in range(3):
    start = time.process_time()
    frame = Store(Path(sys.argv[1])).frame()
    took.append(time.process_time() - start)
    if took[-1] < 3:
        break
print(len(frame), min(took), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_frame_of_100000_rows_in_4_seconds_and_800_mb(tmp_path: Path) -> None:
    for run in range(20):
        rows = [
            Record(
                "speedup",
                1.0 + i * 1e-6,
                "x",
                claim="ttrec.abstract.kernel_speedup",
                low=1.0,
                high=2.0,
                axes={"rank": i % 64, "system": "ours", "baseline": "t3nsor", "batch": i},
                rounds=30,
                noise=0.01,
                seconds=1e-5,
            )
            for i in range(5000)
        ]
        write_run(tmp_path, rows, seed=run)
    command = [sys.executable, "-c", BIG, str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    n_rows, seconds, peak_mb = map(float, done.stdout.split())
    print(f"{seconds:.2f} s, {peak_mb:.0f} MB")
    assert n_rows == 100_000
    assert seconds <= 4.0
    assert peak_mb <= 800.0


def test_store_and_claims_need_neither_pandas_nor_torch_to_import() -> None:
    script = (
        "import sys, common.results, common.claims; common.claims.load();"
        "print([m for m in ('pandas', 'torch', 'numpy', 'ttrec', 'cortex') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
