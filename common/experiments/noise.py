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

    from common.claims import Claim
    from common.experiment import Context
    from common.report.charts import Chart

METHODS = ("ours", "separated", "torch_benchmark", "pytest_benchmark")
LOADS = ("idle", "busy")
THRESHOLD = 0.02  # a ratio this far off 1 is reported as a difference
LEAST_PEER_S = 0.1


@attrs.frozen
class Settings:
    repeats: int = attrs.field(validator=ge(1))
    methods: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(METHODS))])
    loads: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(LOADS))])
    truths: list[float] = attrs.field(validator=[min_len(1), deep_iterable(ge(1.0))])
    steps: int = attrs.field(validator=ge(1000))
    spinners_per_core: int = attrs.field(validator=ge(1))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Share of false alarms and of differences found, by method, load and true ratio."""
    places = [(load, truth) for load in settings.loads for truth in settings.truths]
    errors: dict[str, list[float]] = {method: [] for method in settings.methods}
    seconds: dict[str, list[float]] = {load: [] for load in settings.loads}
    overheads: list[float] = []

    def measure(load: str, truth: float) -> dict[str, Any]:
        return _trials(settings, ctx, load, truth)

    for load, truth in ctx.progress(places, "load and ratio"):
        trials = ctx.cell(measure, load=load, truth=truth)
        for method, ratios in trials["ratios"].items():
            errors[method] += [math.log(ratio / truth) for ratio in ratios]
        seconds[load] += trials["seconds"]
        overheads += trials["overheads"]
    for load, values in seconds.items():
        if values:
            claim = "common.ours.noise_seconds"
            _record_median(ctx, claim, "comparison_seconds", values, "s", load)
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
    seconds: list[float] = []
    overheads: list[float] = []
    with spinning(settings.spinners_per_core * cores if load == "busy" else 0):
        for _ in range(settings.repeats):
            spent = settings.max_seconds
            for method in settings.methods:
                if method == "ours":
                    ratio, is_clear, spent, overhead = _ours(slow, fast, settings, rng)
                    seconds.append(spent)
                    overheads.append(overhead)
                else:
                    ratio, is_clear = _peer(method, slow, fast, max(spent, LEAST_PEER_S)), True
                ratios[method].append(ratio)
                # A false alarm in either direction; a true difference only in the right one.
                off = abs(math.log(ratio)) if truth == 1.0 else math.log(ratio)
                found[method] += is_clear and off > math.log1p(THRESHOLD)
    for method in settings.methods:
        _record_share(ctx, method, load, truth, found[method], settings.repeats)
        error = [math.log(ratio / truth) for ratio in ratios[method]]
        percent = 100 * math.expm1(_spread(error))
        ctx.record(None, "error", percent, "%", system=method, load=load, truth=truth)
    return {"ratios": ratios, "seconds": seconds, "overheads": overheads}


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
) -> tuple[float, bool, float, float]:
    """Ratio, whether its interval excludes 1, seconds it took, share of overhead."""
    from common import bench

    # The two do different work, so there is no result to agree on.
    comparison = bench.compare(
        {"slow": slow, "fast": fast},
        baseline="slow",
        verify=None,
        max_seconds=settings.max_seconds,
        rng=rng,
    )
    is_clear = comparison.low > 1.0 or comparison.high < 1.0
    return comparison.estimate, is_clear, comparison.elapsed_s, comparison.overhead


def _peer(
    method: str, slow: Callable[[], object], fast: Callable[[], object], seconds: float
) -> float:
    from common import timing_peers

    return timing_peers.METHODS[method](slow, fast, seconds)


def _record_share(
    ctx: Context, method: str, load: str, truth: float, found: int, trials: int
) -> None:
    from common.paired import share_interval

    low, high = share_interval(found, trials)
    claim = None
    if method == "ours":
        claim = {
            1.0: "common.ours.noise_false_alarms",
            1.05: "common.ours.noise_power_105",
            1.09: "common.ours.noise_power_109",
        }.get(truth)
    ctx.record(
        claim,
        "false_alarms" if truth == 1.0 else "power",
        100 * found / trials,
        "%",
        low=100 * low,
        high=100 * high,
        system=method,
        load=load,
        truth=truth,
    )


def _record_median(
    ctx: Context, claim: str, metric: str, values: list[float], unit: str, load: str
) -> None:
    import numpy as np

    from common.paired import median_interval

    low, high = median_interval(np.array(values))
    middle = float(np.median(values))
    ctx.record(claim, metric, middle, unit, low=low, high=high, system="ours", load=load)


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
            "At 1 every report is a false alarm; above, every silence is a miss. Busy: two "
            "spinning processes a core.",
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
