"""Sets of pairs with made-up times, for what does not depend on how fast anything is."""

from pathlib import Path

import numpy as np

from costmodel.ir import Program
from costmodel.random_programs import random_program
from costmodel.random_schedules import random_schedules
from costmodel.schedule import Schedule
from costmodel.shards import Row, shard_path, write_shard


def write_pairs(folder: Path, n_programs: int, n_schedules: int) -> Path:
    """Programs with the plain schedule and others; a plain program takes 1 to 8 ms."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n_programs):
        program = random_program([5, number], "small")
        base = float(rng.uniform(1e-3, 8e-3))
        for schedule in [Schedule(), *random_schedules(program, n_schedules - 1, [5, number])]:
            speedup = float(np.exp(rng.normal()))
            rows.append(_row(program, str(schedule), base, speedup, number))
    folder.mkdir(parents=True)
    write_shard(shard_path(folder, 0), rows)
    return folder


def _row(program: Program, schedule: str, base: float, speedup: float, number: int) -> Row:
    return Row(
        program_hash=program.hash,
        program_text=str(program),
        schedule_text=schedule,
        status="ok",
        base_time_s=base,
        time_s=base / speedup,
        speedup=speedup,
        median_s=base / speedup,
        noise=0.01,
        passes=6,
        clock="cpu",
        verified=True,
        check="exact",
        flags="-O2",
        gcc="gcc",
        cpu="cpu",
        seed=(5, number),
    )
