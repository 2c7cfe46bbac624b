"""How well two independent measurements of the same schedules agree.

A label is a ratio of two times, and its error limits what a model can learn. The same samples are
read by both clocks and several estimators, among them the least of those that were taken alone on
the core (costmodel.measure.QUIET). Memory is the arena that measuring uses, or an allocation for
each array as programs usually have. Every measurement is a batch of child processes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, min_len

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.measure import Clock, Measured, Measurement, Memory

MEMORIES = ("arena", "apart")
CLOCKS = ("cpu", "wall")
ESTIMATORS = ("min", "q25", "median", "paired", "quiet")
#: What costmodel.measure does.
OURS = "cpu quiet"
#: The same samples by either clock, for the choice of the clock.
BY_CLOCK = ("wall min", "cpu min")
#: Cores that other processes may take, of each core, for the machine to count as quiet.
QUIET = 0.5
#: Two measurements may differ by so many times the noise recorded with them.
COVERAGE = 3.0


@attrs.frozen
class Settings:
    """programs: random ones;  variants: legal schedules of each;  least_us: of a program's run.

    pairs: of measurements of each batch;  passes: least and most of a measurement
    """

    programs: int = attrs.field(validator=ge(2))
    variants: int = attrs.field(validator=ge(1))
    pairs: int = attrs.field(validator=ge(1))
    memories: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(MEMORIES))])
    passes: list[int] = attrs.field(validator=[min_len(2), deep_iterable(ge(1))])
    least_us: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Errors between two measurements, and whether the noise recorded with them foresees these."""
    import numpy as np

    def measure(program: int) -> dict[str, Any]:
        return _measure(settings, ctx.seed, program)

    found = [
        ctx.cell(measure, program=number)
        for number in ctx.progress(range(settings.programs), "program")
    ]
    load = float(np.median([cell["load"] for cell in found]))
    ctx.record(None, "other_load", load, "cores/core", timed=True)
    is_quiet = load < QUIET
    if not is_quiet:
        ctx.log.warning(
            "other processes took %.2f of each core: the errors are shown and not judged", load
        )
    for memory in settings.memories:
        for clock in CLOCKS:
            for estimator in ESTIMATORS:
                system = f"{clock} {estimator}"
                cells = [np.array(cell["errors"][f"{memory} {system}"]) for cell in found]
                _record(ctx, cells, memory, system, is_quiet)
    _record_coverage(ctx, found)


def _measure(settings: Settings, seed: int, number: int) -> dict[str, Any]:
    """Relative errors by memory, clock and estimator; those foreseen; how busy the machine was."""
    import numpy as np

    from costmodel.errors import CompileError
    from costmodel.experiments.batches import draw
    from costmodel.measure import Options, time_batch
    from costmodel.translation_unit import Entry, compile_batch

    batch = draw(number, settings.variants, seed, settings.least_us)
    entries = compile_batch(batch.program, [batch.baseline, *batch.variants]).entries
    baseline = entries[0]
    if not isinstance(baseline, Entry):
        raise CompileError(f"the baseline of program {number} does not compile: {baseline.message}")
    low, high = settings.passes[:2]
    errors: dict[str, list[float]] = {
        f"{memory} {clock} {estimator}": []
        for memory in settings.memories
        for clock in CLOCKS
        for estimator in ESTIMATORS
    }
    noise: list[float] = []
    before = _busy()
    for _ in range(settings.pairs):
        # In turns, so that a change of the machine's load meets all alike.
        taken: dict[str, list[Measured]] = {memory: [] for memory in settings.memories}
        for _ in range(2):
            for memory in settings.memories:
                options = Options(passes=(low, high), memory=cast("Memory", memory))
                taken[memory].append(
                    time_batch(batch.program, baseline, entries[1:], options=options)
                )
        for memory, (first, second) in taken.items():
            is_timed = [
                a.status == b.status == "ok"
                for a, b in zip(first.variants, second.variants, strict=True)
            ]
            for clock in CLOCKS:
                for estimator in ESTIMATORS:
                    ratio = _speedups(second, clock, estimator) / _speedups(first, clock, estimator)
                    errors[f"{memory} {clock} {estimator}"] += (ratio[is_timed] - 1).tolist()
            if memory == settings.memories[0]:
                noise += np.mean([first.noise, second.noise], axis=0)[is_timed].tolist()
    return {"errors": errors, "noise": noise, "load": _load(before, _busy())}


def _speedups(found: Measured, clock: str, estimator: str) -> NDArray[Any]:
    """Of every variant; NaN for those not timed."""
    import numpy as np

    from costmodel.measure import paired_speedup

    column = CLOCKS.index(clock)

    def times(of: Measurement) -> NDArray[Any]:
        alone = of.is_quiet if estimator == "quiet" and of.is_quiet.any() else slice(None)
        return of.samples[alone, column]

    base = times(found.baseline)
    values = []
    for variant in found.variants:
        own = times(variant)
        if len(variant.samples) < 2:
            values.append(np.nan)
        elif estimator == "paired":
            values.append(paired_speedup(found.baseline, variant, cast("Clock", clock)))
        else:
            share = {"min": 0.0, "quiet": 0.0, "q25": 0.25, "median": 0.5}[estimator]
            values.append(np.quantile(base, share) / np.quantile(own, share))
    return np.array(values)


def _record(
    ctx: Context, cells: list[NDArray[Any]], memory: str, system: str, is_quiet: bool
) -> None:
    import numpy as np

    from common import paired

    percent = [100 * np.abs(cell) for cell in cells]
    everything = np.concatenate(percent)
    is_ours = system == OURS and memory == "arena" and is_quiet
    # Schedules of one program share its baseline's error, so programs are what is independent.
    means = np.array([cell.mean() for cell in percent if len(cell)])
    half = 1.96 * float(means.std(ddof=1)) / len(means) ** 0.5

    def record(
        claim: str | None, metric: str, value: float, low: float | None, high: float | None
    ) -> None:
        ctx.record(
            claim,
            metric,
            value,
            "%",
            low=low,
            high=high,
            timed=True,
            memory=memory,
            system=system,
        )

    mape = float(everything.mean())
    judged: list[str | None] = ["costmodel.ours.noise_mape"] if is_ours else []
    if memory == "arena" and system in BY_CLOCK:
        judged.append("costmodel.ours.noise_clock")
    for claim in judged or [None]:
        record(claim, "mape", mape, max(0.0, mape - half), mape + half)
    median, low, high = paired.interval(everything)
    record("costmodel.ours.noise_median" if is_ours else None, "median_ape", median, low, high)
    record(None, "p95_ape", float(np.quantile(everything, 0.95)), None, None)
    if system.endswith((" min", " quiet")):
        for value in np.sort(everything):
            record(None, "error", float(value), None, None)


def _record_coverage(ctx: Context, found: list[dict[str, Any]]) -> None:
    """The share of pairs whose difference the recorded noise allowed for."""
    import numpy as np

    from common import paired

    first = next(iter(found[0]["errors"])).partition(" ")[0]
    errors = np.abs(np.concatenate([cell["errors"][f"{first} {OURS}"] for cell in found]))
    noise = np.concatenate([cell["noise"] for cell in found])
    covered = int((errors <= COVERAGE * noise).sum())
    low, high = paired.share_interval(covered, len(errors))
    ctx.record(
        "costmodel.ours.noise_covered",
        "covered",
        100 * covered / len(errors),
        "%",
        low=100 * low,
        high=100 * high,
        timed=True,
    )
    ctx.record(None, "recorded_noise", 100 * float(np.median(noise)), "%", timed=True)


def _busy() -> tuple[float, float, float]:
    """Seconds: elapsed, busy over all cores, and busy by this process and its children."""
    import os
    import time

    import psutil

    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
    # A guest's time is counted as user time too.
    busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return time.monotonic(), busy, sum(os.times()[:4])


def _load(before: tuple[float, float, float], after: tuple[float, float, float]) -> float:
    """Share of each core that others took, between two readings of `_busy`."""
    import os

    elapsed, busy, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - own) / elapsed / (os.cpu_count() or 1)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Errors by estimator, and how the errors of the least value spread."""
    from common.report.charts import bars, density

    errors = frame[frame["metric"] == "error"].drop_duplicates(
        subset=["value", "axis.memory", "axis.system"]
    )
    errors = errors.assign(
        kind=errors["axis.system"].astype(str) + ", " + errors["axis.memory"].astype(str)
    )
    return [
        bars(
            frame[frame["metric"] == "median_ape"],
            "axis.system",
            "Error between two measurements by clock and estimator",
            "Median over schedules of |second / first - 1| of the measured speedup. min is the "
            "least over the passes, quiet of those taken alone on the core; paired the median of "
            "ratios within a pass.",
            color="axis.memory",
            y_title="median error (%)",
        ),
        density(
            errors,
            "Spread of the errors of the least values",
            "Share of schedules whose two measured speedups differ by at most so much.",
            color="kind",
            x_title="error (%)",
        ),
    ]
