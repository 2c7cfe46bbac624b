"""Random programs with random legal schedules, measured: what a model learns from.

A shard of 64 programs has three phases. Programs, schedules and their C are made on all cores; the
compilers run on all cores; then one core measures and nothing else runs, since a compiler on the
next core disturbs the caches. A shard is written whole when it is done, so a killed run loses one
shard's work and the next one makes the same rows again.

Labels are of serial code. Threads are the paper's constant (its outermost loop always has them),
so schedules have no `parallel` steps here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import attrs
import numpy as np

from common import machine
from common.files import write_whole
from costmodel import measure, random_programs, random_schedules, shards, workers
from costmodel.codegen import c_function
from costmodel.errors import DatasetError, MeasureError
from costmodel.ir import Program
from costmodel.measure import Measured, Measurement, Options
from costmodel.plain_c import function as plain_function
from costmodel.random_programs import random_program
from costmodel.random_schedules import Space, random_schedule
from costmodel.schedule import Schedule, apply
from costmodel.shards import SHARD_PROGRAMS, Row, read_shard, shard_path, write_shard
from costmodel.steps import Parallel
from costmodel.translation_unit import FLAGS, Compiled, Entry, compile_many
from costmodel.workers import Backend

ProfileName = Literal["paper", "small", "tiny"]
#: The plain program is a row of programs with at least so many others: at most a tenth of all rows.
ROWS_FOR_IDENTITY = 10
MIN_SCHEDULES = 2
#: For labels: five samples taken alone settle most; noisy ones get more, within the budget.
LABEL_OPTIONS = Options(
    passes=(5, 30), sessions=1, min_sample_s=50e-6, timeout_s=5.0, budget_s=0.4, wait_s=0.15
)


@attrs.frozen
class Drawn:
    """One program with what is to be measured of it.

    texts: C of the plain program, then of each schedule
    """

    seed: tuple[int, int]
    program: Program
    schedules: tuple[Schedule, ...]
    texts: tuple[str, ...]


def draw(
    seed: int, number: int, n_schedules: int, profile: ProfileName, space: Space = "paper"
) -> Drawn:
    """Program `number` of the set with this seed: the same whenever and wherever it is asked for.

    It has up to n_schedules legal schedules that all give different C, the empty one among them if
    there are at least ten others; fewer if 10 * n_schedules draws find no more.
    """
    program = random_program([seed, number], profile)
    identity = apply(program)
    plain = c_function(identity, "f")
    seen: dict[str, Schedule] = {plain: Schedule()}
    # Most draws that repeat C repeat the nest, and many the steps: both are cheaper to compare.
    nests, tried = {identity.nest}, {Schedule()}
    for attempt in range(10 * n_schedules):
        if len(seen) > n_schedules:
            break
        steps = random_schedule(program, [seed, number, attempt], space).steps
        schedule = Schedule(tuple(step for step in steps if not isinstance(step, Parallel)))
        if schedule in tried:
            continue
        tried.add(schedule)
        scheduled = apply(program, schedule)
        if scheduled.nest not in nests:
            nests.add(scheduled.nest)
            seen.setdefault(c_function(scheduled, "f"), schedule)
    chosen = list(seen.items())[1 : n_schedules + 1]
    if len(chosen) >= ROWS_FOR_IDENTITY:
        chosen = [(plain, Schedule()), *chosen[: n_schedules - 1]]
    return Drawn(
        (seed, number),
        program,
        tuple(schedule for _, schedule in chosen),
        (plain_function(program, "f"), *(text for text, _ in chosen)),
    )


def generate(
    out_dir: Path | str,
    n_programs: int,
    schedules_per_program: int = 16,
    seed: int = 0,
    profile: ProfileName = "small",
    jobs: int | None = None,
    resume: bool = True,
    *,
    space: Space = "paper",
    options: Options = LABEL_OPTIONS,
    shard_programs: int = SHARD_PROGRAMS,
    overlap: bool = False,
    backend: Backend = "joblib",
    report: Callable[[str], None] = lambda line: None,
) -> DatasetCard:
    """Write shards of measured schedules to a folder, and the card of what is in it.

    jobs:   processes that make C, and compilers at a time; None for one on each core
    resume: go on behind the finished shards of a run with the same arguments; a damaged shard is
            moved to *.bad and made again. Without it, the folder must have no shards
    overlap: compile the next shard while this one is measured. Faster, and no worse where the other
            cores have work of other people anyway
    backend: what makes programs, schedules and their C: processes here, or a Ray cluster. Compiling
            and measuring stay on this machine, whose times the labels are
    report: is told of each finished shard

    Content depends on the arguments alone; times do not, of course. Raises DatasetError for a
    folder with another set in it.
    """
    if n_programs < 1 or schedules_per_program < MIN_SCHEDULES:
        raise DatasetError(
            f"a set needs at least 1 program and {MIN_SCHEDULES} schedules of each, got "
            f"{n_programs} and {schedules_per_program}"
        )
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = jobs or len(os.sched_getaffinity(0))
    manifest = {
        "seed": seed,
        "schedules_per_program": schedules_per_program,
        "profile": profile,
        "space": space,
        "sampler": sampler_hash(),
        "shard_programs": shard_programs,
    }
    _start(folder, manifest, resume)
    todo = [
        (shard, numbers)
        for shard in range(-(-n_programs // shard_programs))
        if not _is_done(
            folder,
            shard,
            numbers := range(shard * shard_programs, min(n_programs, (shard + 1) * shard_programs)),
            report,
        )
    ]
    prepare = functools.partial(_prepare, seed, n_schedules=schedules_per_program, profile=profile)
    prepared = _ahead(
        functools.partial(prepare, space=space, jobs=jobs, backend=backend),
        [n for _, n in todo],
        overlap,
    )
    for (shard, numbers), ready in zip(todo, prepared, strict=True):
        rows, dropped = _measure_all(ready, options)
        dropped |= set(numbers) - {each.seed[1] for each in ready.drawn}
        path = shard_path(folder, shard)
        write_shard(path, rows)
        known = shards.read_manifest(folder) or {}
        shards.write_manifest(
            folder,
            {
                **manifest,
                "shards": {**known.get("shards", {}), path.name: len(rows)},
                "dropped": {**known.get("dropped", {}), str(shard): sorted(dropped)},
            },
        )
        report(f"{path.name}: {len(rows)} rows of {len(numbers) - len(dropped)} programs")
    card = describe(folder)
    card.write(folder)
    return card


def _start(folder: Path, manifest: Mapping[str, object], resume: bool) -> None:
    known = shards.read_manifest(folder)
    if shards.shards(folder) and not resume:
        raise DatasetError(
            f"{folder.name} has shards already: give another folder, or resume=True to go on"
        )
    if known is not None:
        for name, value in manifest.items():
            if known.get(name) != value:
                raise DatasetError(
                    f"{folder.name} holds a set with {name}={known.get(name)}, and {value} was "
                    f"asked for: give another folder"
                )
    else:
        shards.write_manifest(folder, {**manifest, "shards": {}, "dropped": {}})


def _dropped(folder: Path, shard: int) -> set[int]:
    known = shards.read_manifest(folder) or {}
    return set(known.get("dropped", {}).get(str(shard), []))


def _is_done(
    folder: Path, shard: int, numbers: Sequence[int], report: Callable[[str], None]
) -> bool:
    """Whether a shard is there; a damaged one is moved aside."""
    path = shard_path(folder, shard)
    if not path.exists():
        return False
    bad = shards.set_aside_if_bad(path)
    if bad is not None:
        report(f"{path.name} is damaged; kept as {bad.name} and made again")
        return False
    return {row.seed[1] for row in read_shard(path)} | _dropped(folder, shard) >= set(numbers)


@attrs.frozen
class _Ready:
    """Programs of a shard that have schedules, compiled."""

    drawn: tuple[Drawn, ...]
    compiled: tuple[Compiled, ...]


def _prepare(
    seed: int,
    numbers: Sequence[int],
    n_schedules: int,
    profile: ProfileName,
    space: Space,
    jobs: int,
    backend: Backend,
) -> _Ready:
    one = functools.partial(draw, seed, n_schedules=n_schedules, profile=profile, space=space)
    every = workers.each(one, numbers, jobs=jobs, backend=backend)
    drawn = tuple(each for each in every if len(each.schedules) >= MIN_SCHEDULES)
    # Everything is compiled before anything is measured.
    compiled = compile_many([(each.program, each.texts) for each in drawn], jobs=jobs)
    return _Ready(drawn, tuple(compiled))


def _ahead(
    prepare: Callable[[Sequence[int]], _Ready], parts: Sequence[Sequence[int]], overlap: bool
) -> Iterator[_Ready]:
    """prepare(part) for each of the parts; with overlap, one part ahead of what is asked for."""
    if not overlap:
        yield from map(prepare, parts)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(prepare, part) for part in parts[:1]]
        for following in [*parts[1:], None]:
            ready = coming.pop().result() if coming else None
            if following is not None:
                coming.append(pool.submit(prepare, following))
            if ready is not None:
                yield ready


def _measure_all(ready: _Ready, options: Options) -> tuple[list[Row], set[int]]:
    """Rows of a shard, and the numbers of the programs that could not be measured."""
    rows: list[Row] = []
    failed: set[int] = set()
    for each, built in zip(ready.drawn, ready.compiled, strict=True):
        found = _measure(each, built, options)
        if found is None:
            failed.add(each.seed[1])
        else:
            rows += _rows(each, found)
    _forget({e.library for c in ready.compiled for e in c.entries if isinstance(e, Entry)})
    return rows, failed


def _forget(libraries: Iterable[Path]) -> None:
    """Delete compiled variants and what the cache keeps with them: they would fill the disk."""
    for library in libraries:
        for file in library.parent.glob(f"{library.name.partition('.')[0]}.*"):
            if file.suffix != ".lock":
                file.unlink(missing_ok=True)


def _measure(drawn: Drawn, compiled: Compiled, options: Options) -> Measured | None:
    """None if the plain program itself cannot be timed."""
    baseline = compiled.entries[0]
    if not isinstance(baseline, Entry):
        return None
    try:
        return measure.time_batch(drawn.program, baseline, compiled.entries[1:], options=options)
    except MeasureError:
        return None


def _rows(drawn: Drawn, found: Measured) -> list[Row]:
    text, name = str(drawn.program), drawn.program.hash
    gcc, cpu = _machine()
    return [
        Row(
            program_hash=name,
            program_text=text,
            schedule_text=str(schedule),
            status=variant.status,
            base_time_s=_number(found.baseline.seconds),
            time_s=_number(variant.seconds),
            speedup=_number(speedup),
            median_s=_number(variant.median_s),
            noise=_number(noise),
            passes=variant.passes,
            clock=variant.clock,
            verified=_is_verified(variant, found),
            check=found.check,
            flags=" ".join(FLAGS),
            gcc=gcc,
            cpu=cpu,
            seed=drawn.seed,
        )
        for schedule, variant, speedup, noise in zip(
            drawn.schedules, found.variants, found.speedups, found.noise, strict=True
        )
    ]


def _is_verified(variant: Measurement, found: Measured) -> bool:
    return variant.is_timed and found.check != "none"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@functools.cache
def _machine() -> tuple[str, str]:
    """The compiler and the processor that labels come from."""
    found = machine.fingerprint()
    return found.compiler or "unknown", found.cpu or "unknown"


def sampler_hash() -> str:
    """sha256 of the code that draws programs and schedules: equal hashes, equal sets."""
    digest = hashlib.sha256()
    for module in (random_programs, random_schedules):
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    digest.update(repr((ROWS_FOR_IDENTITY, MIN_SCHEDULES)).encode())
    return digest.hexdigest()


@attrs.frozen
class DatasetCard:
    """What is in a set.

    rows, programs: by split, of labels;  statuses: of all rows
    identity:  share of labels whose schedule is empty
    noise:     median and mean of the relative noise
    speedups:  quantiles 0, 0.05, 0.25, 0.5, 0.75, 0.95, 1 of the labels
    faster, twice: share of labels above 1 and above 2
    """

    rows: dict[str, int]
    programs: dict[str, int]
    statuses: dict[str, int]
    identity: float
    noise: tuple[float, float]
    speedups: tuple[float, ...]
    faster: float
    twice: float
    sampler: str
    seed: int
    profile: str
    space: str
    machines: tuple[str, ...]
    compilers: tuple[str, ...]
    flags: tuple[str, ...]

    def write(self, folder: Path) -> None:
        write_whole(folder / "card.json", json.dumps(attrs.asdict(self), indent=1) + "\n")


def describe(folder: Path | str) -> DatasetCard:
    """The card of the rows in a folder. Raises DatasetError if there is no label among them."""
    folder = Path(folder)
    every = list(shards.read_rows(folder))
    found = shards.labels(every)
    if not found:
        raise DatasetError(f"{folder.name} has {len(every)} rows and none with a verified time")
    manifest = shards.read_manifest(folder) or {}
    speedups = np.array([row.speedup for row in found], dtype=np.float64)
    noise = np.array([row.noise for row in found if row.noise is not None])
    programs = {row.program_hash: row.split for row in found}
    return DatasetCard(
        rows=dict(Counter(row.split for row in found)),
        programs=dict(Counter(programs.values())),
        statuses=dict(Counter(row.status for row in every)),
        identity=float(np.mean([not row.schedule_text for row in found])),
        noise=(float(np.median(noise)), float(noise.mean())) if len(noise) else (0.0, 0.0),
        speedups=tuple(np.quantile(speedups, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist()),
        faster=float((speedups > 1).mean()),
        twice=float((speedups > 2).mean()),
        sampler=manifest.get("sampler", ""),
        seed=manifest.get("seed", 0),
        profile=manifest.get("profile", ""),
        space=manifest.get("space", ""),
        machines=tuple(sorted({row.cpu for row in found})),
        compilers=tuple(sorted({row.gcc for row in found})),
        flags=tuple(sorted({row.flags for row in found})),
    )
