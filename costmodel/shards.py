"""Rows of measured schedules in files, and what is known of the set as a whole.

Files are gzipped JSON lines. Parquet would need pyarrow, a dependency of 100 MB for a dozen numbers
and two texts a row: gzip takes the repeated program texts out as well, JSON brings floats back to
the last bit, and both are in the standard library.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from common.files import write_whole
from costmodel.errors import DatasetError

Split = Literal["train", "validation", "test"]
SHARD_PROGRAMS = 64


def _numbers(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(values)


@attrs.frozen
class Row:
    """One measured schedule of one program.

    base_time_s, time_s: least CPU seconds of the program as written and as scheduled
    speedup:  base_time_s / time_s; None where there is no time
    noise:    of the speedup, relative (costmodel.measure); None where it was timed once
    status:   of the measurement: "ok", "slow", "wrong", "crash", "timeout", "not compiled"
    verified: the results were compared with the program's and agree
    seed:     of the program: [seed of the set, number of the program]
    """

    program_hash: str
    program_text: str
    schedule_text: str
    status: str
    base_time_s: float | None
    time_s: float | None
    speedup: float | None
    median_s: float | None
    noise: float | None
    passes: int
    clock: str
    verified: bool
    check: str
    flags: str
    gcc: str
    cpu: str
    seed: tuple[int, ...] = attrs.field(converter=_numbers)

    @property
    def split(self) -> Split:
        return split_of(self.program_hash)

    @property
    def is_label(self) -> bool:
        """Whether a model may learn from it."""
        return self.verified and self.speedup is not None and self.speedup > 0


def split_of(program_hash: str) -> Split:
    """60 / 20 / 20 by the hash, so that a program and its renamed copies are on one side."""
    bucket = int(program_hash[:12], 16) % 100
    return "train" if bucket < 60 else "validation" if bucket < 80 else "test"


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"rows-{shard:05d}.jsonl.gz"


def write_shard(path: Path, rows: Sequence[Row]) -> None:
    """Put the rows there, whole or not at all; the last line says how many there are."""
    lines = [json.dumps(attrs.asdict(row)) for row in rows]
    text = "\n".join([*lines, json.dumps({"rows": len(rows)})]) + "\n"
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def read_shard(path: Path) -> list[Row]:
    """The rows of a file. Raises DatasetError naming it if it is cut off or damaged."""
    try:
        *lines, end = gzip.decompress(path.read_bytes()).decode().splitlines()
        rows = [Row(**json.loads(line)) for line in lines]
        if json.loads(end) != {"rows": len(rows)}:
            raise ValueError(f"its end says {end}, and it has {len(rows)} rows")
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as problem:
        if isinstance(problem, FileNotFoundError):
            raise
        raise DatasetError(
            f"{path.name} is damaged: {problem}; generate again with resume=True to replace it"
        ) from None
    return rows


def set_aside_if_bad(path: Path) -> Path | None:
    """Move a damaged file to *.bad and say where; None for a sound one."""
    try:
        read_shard(path)
    except DatasetError:
        return path.replace(path.with_name(path.name + ".bad"))
    return None


def shards(folder: Path) -> list[Path]:
    """Finished files, in order."""
    return sorted(Path(folder).glob("rows-*.jsonl.gz"))


def read_rows(folder: Path | str) -> Iterator[Row]:
    """All rows of a set. Raises DatasetError if there is none, or a file is damaged."""
    paths = shards(Path(folder))
    if not paths:
        raise DatasetError(
            f"{Path(folder).name} has no rows: write some with costmodel.dataset.generate"
        )
    for path in paths:
        yield from read_shard(path)


def labels(rows: Iterable[Row]) -> list[Row]:
    """Rows that a model may learn from, one program and schedule once."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.is_label:
            found.setdefault((row.program_hash, row.schedule_text), row)
    return list(found.values())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
