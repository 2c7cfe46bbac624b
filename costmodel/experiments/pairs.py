"""Measured pairs of programs and schedules that experiments share: a folder of them, made once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.experiment import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from costmodel.shards import Row

#: Goes up when the generator makes other pairs.
VERSION = 1
#: Of the programs drawn here. Sets to train on have small seeds, so none of these is in them.
SEED = 715_827_883


def folder(ctx: Context, data: str, n_programs: int, n_schedules: int) -> Path:
    """A folder with rows: `data` if it has some, else what is missing of it is measured.

    data: a path, or "" for a folder beside the results, which a later run finds again
    """
    import filelock

    from costmodel import dataset, shards

    own = ctx.data_folder(f"costmodel_{n_programs}x{n_schedules}", VERSION)
    where = Path(data) if data else own
    if data and shards.shards(where):
        return where
    with filelock.FileLock(f"{where}.lock"):
        dataset.generate(where, n_programs, n_schedules, seed=SEED, report=ctx.log.info)
    return where


def labels(ctx: Context, data: str, n_programs: int, n_schedules: int) -> list[Row]:
    """Rows of `folder` that a model may learn from."""
    from costmodel import shards

    return shards.labels(shards.read_rows(folder(ctx, data, n_programs, n_schedules)))


def measured_again(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(n,) speedups of a second measurement, as labels are measured; NaN where it failed."""
    import numpy as np

    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.dataset import LABEL_OPTIONS
    from costmodel.ir import Program
    from costmodel.measure import measure
    from costmodel.schedule import apply

    found = np.full(len(rows), np.nan)
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.program_text, []).append(place)
    for text, places in groups.items():
        program = Program.parse(text)
        texts = [c_function(apply(program, rows[place].schedule_text), "f") for place in places]
        plain = plain_c.function(program, "f")
        found[places] = measure(program, plain, texts, options=LABEL_OPTIONS).speedups
    return found


def by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of the programs of each split."""
    found: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        found[row.split].append(row)
    return found


def first_programs(rows: Sequence[Row], n: int) -> list[Row]:
    """Rows of the first n programs."""
    kept = set(list(dict.fromkeys(row.program_hash for row in rows))[:n])
    return [row for row in rows if row.program_hash in kept]


def n_programs_of(rows: Sequence[Any]) -> int:
    return len({row.program_hash for row in rows})
