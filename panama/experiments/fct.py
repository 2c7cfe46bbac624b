"""Completion time of short flows beside jobs, by scheme and load (abstracts: 2 to 4.5 times)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from panama.experiments import shared, study

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: Schemes in the network; the first is the paper's.
OURS = ("panama", "panama_plus")
#: Quantiles drawn for the distribution.
DRAWN = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


@attrs.frozen
class Settings:
    """leaves, hosts_per_leaf, spines: the cluster;  jobs, workers, megabytes or models: on it

    loads:   of ordinary traffic, as a share of the hosts' links;  schemes: compared
    share:   of computation in an iteration whose exchange is an idle ring
    seeds:   placements and traffics;  iterations: of each job that are timed
    horizon_ms: simulated;  tail: percentile, 95 where flows are too few for the 99th
    """

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    jobs: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=ge(0))
    models: list[str]
    loads: list[float] = attrs.field(validator=deep_iterable(gt(0)))
    schemes: list[str] = attrs.field(validator=deep_iterable(in_((*shared.HOST_SCHEMES, *OURS))))
    share: float = attrs.field(validator=ge(0))
    seeds: int = attrs.field(validator=ge(1))
    iterations: int = attrs.field(validator=ge(1))
    horizon_ms: float = attrs.field(validator=gt(0))
    tail: int = attrs.field(validator=in_((95, 99)))
    mtu: int = attrs.field(validator=ge(256))

    @property
    def site(self) -> shared.Site:
        """The cluster and its jobs."""
        return shared.Site(
            self.leaves,
            self.hosts_per_leaf,
            self.spines,
            self.jobs,
            self.workers,
            self.megabytes,
            tuple(self.models),
        )


def run(settings: Settings, ctx: Context) -> None:
    """Ratios of each host scheme over ours, paired flow by flow."""
    tail = shared.p99 if settings.tail == 99 else shared.p95
    hosts = [s for s in settings.schemes if s not in OURS]
    for load in ctx.progress(settings.loads, "load"):
        seen = study.run_all(
            ctx, settings.site, settings.schemes, load, settings.share, settings.seeds,
            settings.iterations, settings.horizon_ms / 1e3, settings.mtu,
        )  # fmt: skip
        flows = {s: shared.joined(run.fct for run in runs) for s, runs in seen.items()}
        for scheme, (fct, _) in flows.items():
            done = np.isfinite(fct)
            ctx.record(None, "short_flows", float(len(fct)), "", load=load, system=scheme)
            ctx.record(None, "unfinished", float((~done).sum()), "", load=load, system=scheme)
            for q in DRAWN:
                at = float(np.quantile(fct[done], q)) * 1e6
                ctx.record(None, "fct", at, "us", load=load, system=scheme, quantile=q)
        best_tail = min(hosts, key=lambda s: tail(flows[s][0]))
        best_mean = min(hosts, key=lambda s: shared.mean(flows[s][0]))
        for ours in (s for s in settings.schemes if s in OURS):
            for theirs in hosts:
                # A flow that one of them did not end by the horizon has no time to compare.
                both = np.isfinite(flows[theirs][0]) & np.isfinite(flows[ours][0])
                base, other = flows[theirs][0][both], flows[ours][0][both]
                groups = flows[ours][1][both]
                for metric, statistic, best in (
                    ("fct_mean_ratio", shared.mean, best_mean),
                    ("fct_tail_ratio", tail, best_tail),
                ):
                    rng = ctx.rng(f"{metric} {ours} {theirs} {load}")
                    found = shared.paired_ratio(base, other, statistic, rng, groups)
                    for claim in claims_of(ours, metric, settings.tail, theirs == best):
                        is_p99 = claim is not None and "p99" in claim
                        ctx.record(
                            claim, "fct_p99_ratio" if is_p99 else metric, found.value, "x",
                            low=found.low, high=found.high, load=load, system=ours,
                            baseline=theirs, hosts=settings.site.hosts, seeds=settings.seeds,
                            percentile=settings.tail if "tail" in metric else None,
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
