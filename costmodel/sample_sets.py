"""Features of many rows, made by all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import joblib

from costmodel.features import Representation
from costmodel.shards import Row
from costmodel.train import Samples

PROGRAMS_A_JOB = 16
#: Fewer take less time than processes take to start.
LEAST_ROWS = 2000


def samples_of(
    rows: Sequence[Row], representation: Representation = "compact", jobs: int | None = None
) -> Samples:
    """Samples.of(rows), with a program's rows together.

    jobs: processes; None for one on each core
    """
    parts = list(_parts(rows))
    if len(rows) < LEAST_ROWS:
        return Samples.joined([Samples.of(part, representation) for part in parts])
    run = joblib.Parallel(n_jobs=jobs or len(os.sched_getaffinity(0)))
    return Samples.joined(run(joblib.delayed(Samples.of)(part, representation) for part in parts))


def _parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of a few programs at a time, which a process reads once."""
    by_program: dict[str, list[Row]] = {}
    for row in rows:
        by_program.setdefault(row.program_hash, []).append(row)
    programs = list(by_program.values())
    for at in range(0, len(programs), PROGRAMS_A_JOB):
        yield [row for each in programs[at : at + PROGRAMS_A_JOB] for row in each]
