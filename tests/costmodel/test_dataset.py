"""Data sets: the same whatever happens on the way, split by program, damage seen."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import numpy as np
import pytest

from costmodel import dataset, shards
from costmodel.dataset import describe, draw, generate
from costmodel.errors import DatasetError
from costmodel.ir import Program, renamed
from costmodel.measure import Options
from costmodel.random_programs import random_program
from costmodel.schedule import Schedule, apply
from costmodel.shards import Row, labels, read_rows, read_shard, split_of, write_shard
from costmodel.train import Samples

QUICK = Options(passes=(1, 2), sessions=1, timeout_s=5.0)
N_PROGRAMS, N_SCHEDULES, SHARD = 4, 3, 2


def make(folder: Path, jobs: int = 1, n_programs: int = N_PROGRAMS) -> dataset.DatasetCard:
    return generate(
        folder, n_programs, N_SCHEDULES, seed=5, jobs=jobs, options=QUICK, shard_programs=SHARD
    )


def content(folder: Path) -> list[tuple[object, ...]]:
    """Everything but times."""
    return [
        (row.seed, row.program_hash, row.program_text, row.schedule_text, row.check, row.flags)
        for row in read_rows(folder)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set made without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    make(folder)
    return folder


def test_rows_say_what_was_measured(whole: Path) -> None:
    rows = list(read_rows(whole))
    assert len(rows) >= 2 * N_PROGRAMS
    for row in rows:
        program = Program.parse(row.program_text)
        assert program.hash == row.program_hash
        assert program.hash == random_program(row.seed, "small").hash
        apply(program, row.schedule_text)
        assert row.status in ("ok", "slow")
        assert row.verified
        assert row.is_label
        assert row.base_time_s is not None
        assert row.time_s is not None
        assert row.speedup == pytest.approx(row.base_time_s / row.time_s, rel=1e-12)
        assert "-O2" in row.flags
        assert row.gcc
        assert row.cpu
    samples = Samples.of(labels(rows))
    assert len(samples) == len(rows)
    np.testing.assert_array_equal(samples.speedups, [row.speedup for row in rows])


def test_the_card_counts_the_rows(whole: Path) -> None:
    card = describe(whole)
    rows = list(read_rows(whole))
    assert sum(card.rows.values()) == sum(card.statuses.values()) == len(rows)
    assert sum(card.programs.values()) == len({row.program_hash for row in rows})
    assert card.sampler == dataset.sampler_hash()
    assert json.loads((whole / "card.json").read_text())["speedups"] == list(card.speedups)


def test_compiling_ahead_makes_the_same_set(whole: Path, tmp_path: Path) -> None:
    generate(
        tmp_path, N_PROGRAMS, N_SCHEDULES, 5, jobs=1,
        options=QUICK, shard_programs=SHARD, overlap=True,
    )  # fmt: skip
    assert content(tmp_path) == content(whole)


def test_two_processes_make_the_same_set_as_one(whole: Path, tmp_path: Path) -> None:
    make(tmp_path, jobs=2)
    assert content(tmp_path) == content(whole)


KILLED = """
import sys, time
from pathlib import Path
from costmodel import dataset
from costmodel.measure import Options

inner = dataset._measure
def slow(drawn, compiled, options):
    found = inner(drawn, compiled, options)
    if drawn.seed[1] == 2:
        Path(sys.argv[2]).touch()
        time.sleep(600)
    return found
dataset._measure = slow
dataset.generate(sys.argv[1], 4, 3, seed=5, jobs=1, shard_programs=2,
                 options=Options(passes=(1, 2), sessions=1, timeout_s=5.0))
"""


def test_a_killed_run_goes_on_to_the_same_set(whole: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "set", tmp_path / "mark"
    environment = {**os.environ, "PYTHONPATH": str(Path(dataset.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(mark)], env=environment
    )
    try:
        limit = time.monotonic() + 100
        while not mark.exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.name for path in shards.shards(folder)] == ["rows-00000.jsonl.gz"]
    first = (folder / "rows-00000.jsonl.gz").read_bytes()
    make(folder)
    assert content(folder) == content(whole)
    assert (folder / "rows-00000.jsonl.gz").read_bytes() == first  # not measured again


def test_a_damaged_shard_is_kept_aside_and_made_again(whole: Path, tmp_path: Path) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "rows-00001.jsonl.gz"
    bad.write_bytes(bad.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"rows-00001\.jsonl\.gz is damaged"):
        list(read_rows(tmp_path))
    said: list[str] = []
    generate(
        tmp_path, N_PROGRAMS, N_SCHEDULES, seed=5, jobs=1, options=QUICK, shard_programs=SHARD,
        report=said.append,
    )  # fmt: skip
    assert (tmp_path / "rows-00001.jsonl.gz.bad").exists()
    assert "kept as rows-00001.jsonl.gz.bad" in said[0]
    assert content(tmp_path) == content(whole)


def test_another_set_in_the_folder_is_refused(whole: Path) -> None:
    with pytest.raises(DatasetError, match="seed=5, and 6 was asked for"):
        generate(whole, 4, N_SCHEDULES, seed=6, shard_programs=SHARD)
    with pytest.raises(DatasetError, match="has shards already"):
        generate(whole, 4, N_SCHEDULES, seed=5, shard_programs=SHARD, resume=False)
    with pytest.raises(DatasetError, match="at least 1 program and 2 schedules"):
        generate(whole, 0)


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no rows"):
        list(read_rows(tmp_path))


def some_row(**changes: object) -> Row:
    values: dict[str, object] = {field.name: "x" for field in attrs.fields(Row)}
    values |= {"seed": [1, 2], "speedup": 0.1 + 0.2, "noise": None, "verified": True, "passes": 3}
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def test_rows_read_back_to_the_last_bit(tmp_path: Path) -> None:
    rows = [some_row(), some_row(speedup=1e-300), some_row(program_text="line\nwith é")]
    write_shard(tmp_path / "rows-00000.jsonl.gz", rows)
    assert read_shard(tmp_path / "rows-00000.jsonl.gz") == rows


@pytest.mark.parametrize("damage", ["cut", "flip", "missing row", "no gzip", "empty"])
def test_damage_is_seen(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "rows-00000.jsonl.gz"
    write_shard(path, [some_row(), some_row(passes=4)])
    data = path.read_bytes()
    lines = gzip.decompress(data).decode().splitlines()
    path.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "flip": data[:60] + bytes([data[60] ^ 1]) + data[61:],
            "missing row": gzip.compress("\n".join(lines[1:]).encode()),
            "no gzip": b"rows",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(DatasetError, match=r"rows-00000\.jsonl\.gz is damaged"):
        read_shard(path)


def test_rows_that_failed_or_repeat_are_no_labels() -> None:
    rows = [
        some_row(),
        some_row(),
        some_row(schedule_text="a", verified=False),
        some_row(schedule_text="b", speedup=None),
        some_row(schedule_text="c"),
    ]
    assert [row.schedule_text for row in labels(rows)] == ["x", "c"]


def test_programs_and_their_renamed_copies_are_on_one_side() -> None:
    programs = [random_program([0, number], "small") for number in range(300)]
    sides = [split_of(program.hash) for program in programs]
    assert sides == [split_of(renamed(program).hash) for program in programs]
    shares = {side: sides.count(side) / len(sides) for side in ("train", "validation", "test")}
    # Four standard deviations of 300 draws.
    for side, wanted in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs(shares[side] - wanted) < 4 * (wanted * (1 - wanted) / 300) ** 0.5


def test_schedules_of_a_program_differ_and_the_plain_one_is_rare() -> None:
    for number in range(6):
        drawn = draw(3, number, 16, "small")
        assert len(set(drawn.texts[1:])) == len(drawn.schedules) <= 16
        plain = [schedule for schedule in drawn.schedules if schedule == Schedule()]
        assert len(plain) == (len(drawn.schedules) > dataset.ROWS_FOR_IDENTITY)
        assert "parallel" not in " ".join(map(str, drawn.schedules))
        assert drawn == draw(3, number, 16, "small")


def test_programs_and_schedules_of_the_model_that_ships_are_drawn_as_ever() -> None:
    """The card's hash is of the sampler's text; what it draws must outlive a change of that."""
    lines = (
        f"{drawn.program.hash} {schedule}"
        for drawn in (draw(1, number, 8, "small") for number in range(4))
        for schedule in drawn.schedules
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "20dd6e238ace758042701e3d555a3509c71ee4329ca4cc3e2ba611ec3956f458"
