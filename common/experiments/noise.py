"""How often a comparison cries wolf, and how often it finds what is there.

Every method judges the same pair of kernels in about the same time, on an idle machine and on one
that this experiment makes busy. The pair's true ratio is known by design: a chain of dependent
multiply-adds against one of 1, 1.05 or 1.09 times its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, min_len

if TYPE_CHECKING:
    import pandas as pd

    from common.bench import Comparison
    from common.claims import Claim
    from common.experiment import Context
    from common.report.charts import Chart

METHODS = ("ours", "separated", "torch_benchmark", "pytest_benchmark")
CLAIM_OF = {
    1.0: "common.ours.noise_false_alarms",
    1.05: "common.ours.noise_power_105",
    1.09: "common.ours.noise_power_109",
}
THRESHOLD = 0.02  # a ratio this far off 1 is a difference
LEAST_PEER_S = 0.1


def _some_truth(settings: Settings, _: object, busy_truths: list[float]) -> None:
    if not (busy_truths or settings.idle_truths):
        raise ValueError("idle_truths or busy_truths must hold a ratio, both are empty")


@attrs.frozen
class Settings:
    """How often each method judges the pair, and where.

    idle_truths, busy_truths: true ratios of the pair on the machine as it is, and with
        `spinners_per_core` processes a core that compute without end
    steps: of the shorter kernel;  max_seconds: longest time for one of our comparisons
    """

    repeats: int = attrs.field(validator=ge(1))
    methods: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(METHODS))])
    idle_truths: list[float] = attrs.field(validator=deep_iterable(in_(tuple(CLAIM_OF))))
    busy_truths: list[float] = attrs.field(
        validator=[deep_iterable(in_(tuple(CLAIM_OF))), _some_truth]
    )
    steps: int = attrs.field(validator=ge(1000))
    spinners_per_core: int = attrs.field(validator=ge(1))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Share of false alarms and of differences found, by method, load and true ratio."""
    places = [("idle", truth) for truth in settings.idle_truths]
    places += [("busy", truth) for truth in settings.busy_truths]
    errors: dict[str, list[float]] = {method: [] for method in settings.methods}
    seconds: dict[str, list[float]] = {load: [] for load, _ in places}
    settled = dict.fromkeys(seconds, 0)
    overheads: list[float] = []

    def measure(load: str, truth: float) -> dict[str, Any]:
        return _trials(settings, ctx, load, truth)

    for load, truth in ctx.progress(places, "load and ratio"):
        trials = ctx.cell(measure, load=load, truth=truth)
        for method, ratios in trials["ratios"].items():
            errors[method] += [math.log(ratio / truth) for ratio in ratios]
        seconds[load] += trials["seconds"]
        settled[load] += trials["settled"]
        overheads += trials["overheads"]
    for load, values in seconds.items():
        if values:
            # Those that never settled are among them, with all the time they were given.
            claim = "common.ours.noise_seconds"
            _record_median(ctx, claim, "comparison_seconds", values, "s", load)
            _record_share(
                ctx, None, "settled", settled[load], len(values), system="ours", load=load
            )
    if overheads:
        percent = [100 * value for value in overheads]
        _record_median(ctx, "common.ours.noise_overhead", "overhead", percent, "%", "all")
    ours = errors.get("ours", [])
    for method, values in errors.items():
        if method != "ours" and ours:
            ctx.record(
                "common.ours.noise_separated" if method == "separated" else None,
                f"{method}_over_ours",
                _spread(values) / _spread(ours),
                "x",
                timed=True,
            )


def _trials(settings: Settings, ctx: Context, load: str, truth: float) -> dict[str, Any]:
    """Ratios by method, and what our comparisons cost; records the shares found."""
    import os

    from common.busy import spinning

    cores = len(os.sched_getaffinity(0))
    slow, fast = _pair(settings.steps, truth)
    rng = ctx.rng(f"{load} {truth}")
    ratios: dict[str, list[float]] = {method: [] for method in settings.methods}
    found = dict.fromkeys(settings.methods, 0)
    ours: list[Comparison] = []
    with spinning(settings.spinners_per_core * cores if load == "busy" else 0):
        for _ in range(settings.repeats):
            spent = settings.max_seconds
            for method in settings.methods:
                if method == "ours":
                    ours.append(_ours(slow, fast, settings, rng))
                    ratio, spent = ours[-1].estimate, ours[-1].elapsed_s
                    is_sure = ours[-1].low > 1.0
                else:
                    # Peers report no interval: what they say is all there is to go by.
                    ratio, is_sure = _peer(method, slow, fast, max(spent, LEAST_PEER_S)), True
                ratios[method].append(ratio)
                found[method] += _is_reported(ratio, is_sure, truth)
    for method in settings.methods:
        _record_share(
            ctx,
            CLAIM_OF[truth] if method == "ours" else None,
            "false_alarms" if truth == 1.0 else "power",
            found[method],
            settings.repeats,
            system=method,
            load=load,
            truth=truth,
        )
        error = [math.log(ratio / truth) for ratio in ratios[method]]
        percent = 100 * math.expm1(_spread(error))
        ctx.record(None, "error", percent, "%", timed=True, system=method, load=load, truth=truth)
    return {
        "ratios": ratios,
        "seconds": [comparison.elapsed_s for comparison in ours],
        "settled": sum(comparison.status == "ok" for comparison in ours),
        "overheads": [comparison.overhead for comparison in ours],
    }


def _is_reported(ratio: float, is_sure: bool, truth: float) -> bool:
    """Whether a reader is told of a difference: falsely where truth is 1, else rightly.

    A ratio of equals that is too far off 1 misleads however wide its interval, so that excuses
    nothing; a true difference is found only where its interval excludes 1 as well (is_sure).
    """
    if truth == 1.0:
        return abs(math.log(ratio)) > math.log1p(THRESHOLD)
    return is_sure and math.log(ratio) > math.log1p(THRESHOLD)


def _pair(steps: int, truth: float) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two kernels whose times are as `truth` to 1."""
    from functools import partial

    import numpy as np

    from common import native, roofline

    library = native.build("stream", [roofline.KERNELS / "stream.c"])
    chain = library.function("void chain(int64_t *out, int64_t n)")
    out = np.zeros(1, np.int64)
    return partial(chain, out, round(steps * truth)), partial(chain, out, steps)


def _ours(
    slow: Callable[[], object], fast: Callable[[], object], settings: Settings, rng: Any
) -> Comparison:
    from common import bench

    # The two do different work, so there is no result to agree on.
    return bench.compare(
        {"slow": slow, "fast": fast},
        baseline="slow",
        verify=None,
        max_seconds=settings.max_seconds,
        rng=rng,
    )


def _peer(
    method: str, slow: Callable[[], object], fast: Callable[[], object], seconds: float
) -> float:
    from common import timing_peers

    return timing_peers.METHODS[method](slow, fast, seconds)


def _record_share(
    ctx: Context, claim: str | None, metric: str, found: int, trials: int, **axes: Any
) -> None:
    from common.paired import share_interval

    low, high = share_interval(found, trials)
    share = 100 * found / trials
    ctx.record(claim, metric, share, "%", low=100 * low, high=100 * high, timed=True, **axes)


def _record_median(
    ctx: Context, claim: str, metric: str, values: list[float], unit: str, load: str
) -> None:
    import numpy as np

    from common.paired import median_interval

    low, high = median_interval(np.array(values))
    middle = float(np.median(values))
    ctx.record(
        claim, metric, middle, unit, low=low, high=high, timed=True, system="ours", load=load
    )


def _spread(errors: list[float]) -> float:
    """95th percentile of the size of log errors; never 0, so that ratios of it are numbers."""
    import numpy as np

    return max(float(np.quantile(np.abs(errors), 0.95)), 1e-6)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The power curve, and how far off each method's ratios are."""
    from common.report import charts as draw

    shares = frame[frame["metric"].isin(["false_alarms", "power"])]
    errors = frame[frame["metric"] == "error"]
    return [
        draw.lines(
            shares.assign(metric="reported"),
            "axis.truth",
            "How often a difference is reported",
            "Share of comparisons that report a difference of more than 2%, over the true ratio. "
            "At 1 every report is a false alarm; above, every silence, or an interval of ours that "
            "holds 1, is a miss. Busy: spinning processes on every core.",
            x_title="true ratio",
            y_title="reported (%)",
            column="axis.load",
        ),
        draw.lines(
            errors,
            "axis.truth",
            "How far off the reported ratio is",
            "95th percentile of the distance between reported and true ratio, in the same time.",
            x_title="true ratio",
            y_title="error (%)",
            log_y=True,
            column="axis.load",
        ),
    ]
