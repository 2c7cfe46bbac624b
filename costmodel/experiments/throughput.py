"""How many schedules are compiled, checked and timed in a second, batched or one by one.

Batched is costmodel.measure: the program and its variants in one translation unit and one child.
One by one is what a search that executes candidates usually does: a compiler call and a process for
each, without a check of the results. Both take turns on the same texts, with a new comment each
time so that no compiler call is saved by the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge, gt

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.experiments.batches import Batch
    from costmodel.translation_unit import Compiled, Entry

PARTS = ("compile", "all")
CLOCKS = ("cpu", "wall")


@attrs.frozen
class Settings:
    """programs: random ones;  variants: schedules in a batch;  rounds: of both, for each program.

    passes: of the timing, a multiple of 3;  least_us: of a program's run
    """

    programs: int = attrs.field(validator=ge(1))
    variants: int = attrs.field(validator=ge(2))
    rounds: int = attrs.field(validator=ge(1))
    passes: int = attrs.field(validator=ge(3))
    least_us: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Time one by one over time batched, for compiling alone and for all of it."""
    import numpy as np

    from common import paired

    def measure(program: int) -> dict[str, Any]:
        return _measure(settings, ctx.seed, program)

    found = [
        ctx.cell(measure, program=number)
        for number in ctx.progress(range(settings.programs), "program")
    ]
    for part, clock in itertools.product(PARTS, CLOCKS):
        times = {
            way: np.array([t[part][clock] for cell in found for t in cell[way]])
            for way in ("batched", "one_by_one")
        }
        middle, low, high = np.exp(
            paired.interval(np.log(times["one_by_one"] / times["batched"]))
        ).tolist()
        ctx.record(
            "costmodel.ours.batched_throughput" if (part, clock) == ("all", "cpu") else None,
            "throughput_ratio",
            middle,
            "x",
            low=low,
            high=high,
            timed=True,
            part=part,
            clock=clock,
        )
        for way, seconds in times.items():
            rate, low, high = paired.interval(settings.variants / seconds)
            ctx.record(
                None,
                "schedules_per_second",
                rate,
                "1/s",
                low=low,
                high=high,
                timed=True,
                part=part,
                clock=clock,
                system=way,
            )


def _measure(settings: Settings, seed: int, number: int) -> dict[str, Any]:
    from costmodel.experiments.batches import draw

    batch = draw(number, settings.variants, seed, settings.least_us)
    found: dict[str, Any] = {"batched": [], "one_by_one": []}
    for round_number in range(settings.rounds):
        order = ["batched", "one_by_one"]
        if (round_number + number) % 2:
            order.reverse()  # what comes second may find a warmer machine
        for way in order:
            once = _batched if way == "batched" else one_by_one
            found[way].append(once(batch, settings.passes))
    return found


def _batched(batch: Batch, passes: int) -> dict[str, dict[str, float]]:
    """Seconds by part and clock: one translation unit, one child, results checked."""
    from costmodel.measure import Options, time_batch
    from costmodel.translation_unit import compile_batch

    start = now()
    texts = [_mark() + batch.baseline, *batch.variants]
    baseline, *variants = _entries(compile_batch(batch.program, texts, jobs=1))
    compiled = now()
    options = Options(passes=(passes, passes), sessions=1, wait_s=0.0)
    found = time_batch(batch.program, baseline, variants, options=options)
    wrong = [v.status for v in found.variants if not v.is_timed]
    if wrong:
        raise RuntimeError(f"a schedule proved legal came out as {wrong[0]}")
    return _parts(start, compiled)


def one_by_one(
    batch: Batch, passes: int, flags: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """The same with a compiler call and a child for each text, and nothing checked.

    The only function of a batch is timed three times a pass.

    flags: of the compiler, None for those of labels
    """
    from costmodel.measure import Options, time_batch
    from costmodel.translation_unit import FLAGS, compile_batch

    flags = FLAGS if flags is None else tuple(flags)
    start = now()
    texts = [batch.baseline, *batch.variants]
    entries = [
        entry
        for text in texts
        for entry in _entries(compile_batch(batch.program, [_mark() + text], jobs=1, flags=flags))
    ]
    compiled = now()
    options = Options(passes=(passes // 3, passes // 3), sessions=1, wait_s=0.0)
    for entry in entries:
        time_batch(batch.program, entry, [], options=options)
    return _parts(start, compiled)


def _mark() -> str:
    """A comment that no text had before."""
    import uuid

    return f"/* {uuid.uuid4().hex} */\n"


def _entries(compiled: Compiled) -> list[Entry]:
    from costmodel.translation_unit import Entry

    entries = [entry for entry in compiled.entries if isinstance(entry, Entry)]
    if len(entries) < len(compiled.entries):
        raise RuntimeError("generated C did not compile")
    return entries


def _parts(start: dict[str, float], compiled: dict[str, float]) -> dict[str, dict[str, float]]:
    end = now()
    return {
        "compile": {clock: compiled[clock] - start[clock] for clock in CLOCKS},
        "all": {clock: end[clock] - start[clock] for clock in CLOCKS},
    }


def now() -> dict[str, float]:
    """CPU seconds of this process and of all children that ended, and seconds elapsed."""
    import os
    import time

    return {"cpu": sum(os.times()[:4]), "wall": time.monotonic()}


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Schedules a second, batched and one by one."""
    from common.report.charts import bars

    rates = frame[(frame["metric"] == "schedules_per_second") & (frame["axis.clock"] == "cpu")]
    return [
        bars(
            rates,
            "axis.part",
            "Schedules measured in a second of processor time",
            "In batches that share one compiler call and one process, or one by one.",
            y_title="schedules / s",
            log_y=True,
        )
    ]
