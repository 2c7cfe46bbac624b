"""Laws for an aggregation flow's window and its marks, beside the paper's (our own study)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from panama.experiments import shared, variants

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: What is changed of the paper's scheme, by the name in the report.
VARIANTS: dict[str, dict[str, Any]] = {
    "or": {},
    "worst": {"ecn_mode": "worst"},
    "halve": {"law": "aimd_halve"},
    "fixed": {"law": "fixed", "window_bdp": 1.0},
    "per tree": {"per_tree": True},
    "adaptive": {"adaptive": True},
    "weight 2": {"weight": 2.0},
    "floor 0.5": {"window_floor": 0.5},
    "floor 1": {"window_floor": 1.0},
    "floor 1.5": {"window_floor": 1.5},
}


@attrs.frozen
class Settings:
    """variants: of the scheme, the paper's first;  loads: of ordinary traffic

    Jobs exchange `megabytes` `iterations` times without computing;  seeds: placements and traffics.
    """

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    jobs: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=gt(0))
    variants: list[str] = attrs.field(validator=deep_iterable(in_(VARIANTS)))
    loads: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    iterations: int = attrs.field(validator=ge(1))
    seeds: int = attrs.field(validator=ge(1))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Exchange time under each variant over the paper's, paired exchange by exchange."""
    site = shared.Site(
        settings.leaves, settings.hosts_per_leaf, settings.spines, settings.jobs,
        settings.workers, settings.megabytes,
    )  # fmt: skip
    seeds = shared.seeds_of(ctx.rng("seeds"), settings.seeds)
    points = [(load, name) for load in settings.loads for name in settings.variants]
    found: dict[tuple[float, str], list[variants.Exchanges]] = {}
    for load, name in ctx.progress(points, "load and variant"):
        found[load, name] = [
            ctx.cell(
                variants.exchanges, site=site, scheme="panama", changes=VARIANTS[name], load=load,
                seed=seed, iterations=settings.iterations, horizon_s=settings.horizon_ms / 1e3,
            )
            for seed in seeds
        ]  # fmt: skip
    for (load, name), runs in found.items():
        axes: dict[str, Any] = {"load": load, "system": name}
        mean = float(np.mean([r.seconds.mean() for r in runs]))
        ctx.record(None, "exchange", mean * 1e3, "ms", **axes)
        ctx.record(None, "drops", float(sum(r.drops for r in runs)), "packets", **axes)
        ctx.record(
            None, "mean_queue", float(np.mean([r.mean_queue_bytes for r in runs])) / 1e3, "kB",
            **axes,
        )  # fmt: skip
        first = settings.variants[0]
        if name == first:
            continue
        base, groups = shared.joined(r.seconds for r in found[load, first])
        other, _ = shared.joined(r.seconds for r in runs)
        ratio = shared.paired_ratio(base, other, shared.mean, ctx.rng(f"{load} {name}"), groups)
        judged = name == "worst" and 0.1 <= load <= 0.3
        ctx.record(
            "panama.ours.worst_over_or" if judged else None, "exchange_ratio", ratio.value, "x",
            low=ratio.low, high=ratio.high, baseline=first, **axes,
        )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratios and exchange times by variant and load."""
    from common.report.charts import bars

    ratios = frame[frame["metric"] == "exchange_ratio"]
    times = frame[frame["metric"] == "exchange"]
    return [
        bars(
            rows.assign(setting=[f"load {x:g}" for x in rows["axis.load"]]),
            "setting",
            title,
            caption,
            y_title=unit,
        )
        for rows, title, caption, unit in (
            (
                ratios,
                "Exchange under changed laws",
                "Time under the paper's law over time under the changed one.",
                "times shorter",
            ),
            (times, "Exchange by law", "Mean time of an exchange.", "ms"),
        )
    ]
