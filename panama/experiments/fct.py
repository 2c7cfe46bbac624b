"""Completion time of short flows beside jobs, by scheme and load (abstracts: 2 to 4.5 times)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from common.experiment import Context
from panama.experiments import shared, study
from panama.experiments.study import OURS, Settings

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

__all__ = ["Settings", "charts", "run"]

#: Quantiles drawn for the distribution.
DRAWN = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
#: No jobs at all: what no scheme can be better than.
FLOOR = "none"


def run(settings: Settings, ctx: Context) -> None:
    """Ratios of each host scheme over ours, paired flow by flow."""
    tail = shared.p99 if settings.tail == 99 else shared.p95
    hosts = [s for s in settings.schemes if s not in OURS]
    for share, load in ctx.progress(settings.points, "share and load"):
        axes: dict[str, Any] = {"load": load, "share": share, "hosts": settings.site.hosts}
        seen = study.runs(ctx, settings, [*settings.schemes, FLOOR], load, share)
        study.record_costs(ctx, seen, **axes)
        flows = {s: shared.joined(run.fct for run in found) for s, found in seen.items()}
        for scheme, (fct, _) in flows.items():
            done = np.isfinite(fct)
            ctx.record(None, "short_flows", float(len(fct)), "", system=scheme, **axes)
            ctx.record(None, "unfinished", float((~done).sum()), "", system=scheme, **axes)
            for q in DRAWN:
                at = float(np.quantile(fct[done], q)) * 1e6
                ctx.record(None, "fct", at, "us", system=scheme, quantile=q, **axes)
        for metric, statistic in (("fct_mean_ratio", shared.mean), ("fct_tail_ratio", tail)):
            best = min(hosts, key=lambda s: statistic(flows[s][0]))
            ours_all = [s for s in settings.schemes if s in OURS]
            pairs = [(ours, theirs) for ours in ours_all for theirs in hosts]
            for ours, theirs in [*pairs, (FLOOR, best)]:
                # A flow that one of them did not end by the horizon has no time to compare.
                both = np.isfinite(flows[theirs][0]) & np.isfinite(flows[ours][0])
                base, other = flows[theirs][0][both], flows[ours][0][both]
                rng = ctx.rng(f"{metric} {ours} {theirs} {load} {share}")
                found = shared.paired_ratio(base, other, statistic, rng, flows[ours][1][both])
                for claim in claims_of(ours, metric, settings.tail, theirs == best):
                    is_p99 = claim is not None and "p99" in claim
                    ctx.record(
                        claim, "fct_p99_ratio" if is_p99 else metric, found.value, "x",
                        low=found.low, high=found.high, system=ours, baseline=theirs,
                        seeds=settings.seeds,
                        percentile=settings.tail if "tail" in metric else None, **axes,
                    )  # fmt: skip


def claims_of(ours: str, metric: str, percentile: int, is_best: bool) -> list[str | None]:
    """The paper's claims are held to the best host scheme at that load, our own to every one.

    The paper speaks of the 99th percentile; another one is not held to it.
    """
    if ours != "panama":
        return [None]
    if metric == "fct_mean_ratio":
        own, papers = "panama.ours.short_mean", ["panama.abstract.short_flow_fct_mean"]
    else:
        own = "panama.ours.short_tail"
        papers = [
            "panama.abstract.short_flow_fct_p99_preliminary",
            "panama.abstract.short_flow_fct_p99",
        ]
        if percentile != 99:
            papers = []
    return [own, *(papers if is_best else [])]


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Bars of the ratios, and the distributions."""
    from common.report.charts import bars, lines

    ratios = frame[frame["metric"].isin(["fct_mean_ratio", "fct_tail_ratio"])]
    ratios = ratios.drop_duplicates(["metric", "axis.load", "axis.system", "axis.baseline"])
    found = [
        bars(
            part.assign(
                setting=[
                    f"load {x:g}, over {b}"
                    for x, b in zip(part["axis.load"], part["axis.baseline"], strict=True)
                ]
            ),
            "setting",
            f"Short flows: {'mean' if 'mean' in str(metric) else 'tail'} completion time",
            "Flows under 100 kB of the websearch mix beside training jobs; host scheme over "
            "aggregation in the network, the same flows in both. The paper says 2 to 4.5 times.",
            y_title="times shorter",
        )
        for metric, part in ratios.groupby("metric", sort=False)
    ]
    drawn = frame[frame["metric"] == "fct"]
    found += [
        lines(
            part,
            "axis.quantile",
            f"Short flows at load {load:g}",
            "Completion time by quantile.",
            log_y=True,
            x_title="quantile",
            y_title="completion time (us)",
        )
        for load, part in drawn.groupby("axis.load")
    ]
    return found
