"""Evenness of load by the number of aggregation trees of a job (the load-balancing text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from panama.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """trees: of a job;  placements: of its workers;  load: of ordinary traffic

    Several jobs exchange `megabytes` `iterations` times; seeds: placements and traffics.
    """

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    jobs: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=gt(0))
    trees: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    placements: list[str] = attrs.field(validator=deep_iterable(in_(("random", "spread"))))
    load: float = attrs.field(validator=ge(0))
    iterations: int = attrs.field(validator=ge(1))
    seeds: int = attrs.field(validator=ge(1))
    horizon_ms: float = attrs.field(validator=gt(0))


def run_once(
    site: shared.Site,
    trees: int,
    placement: str,
    load: float,
    seed: int,
    iterations: int,
    horizon_s: float,
) -> tuple[float, float]:
    """Mean seconds of an exchange, and the busiest link between switches' share of time."""
    import panama
    from panama import core

    result = panama.simulate(
        site.cluster(),
        site.make_jobs(0.0, iterations),
        panama.Traffic.websearch(load=load) if load else panama.Traffic.none(),
        scheme=panama.scheme("panama", trees="k_least_loaded", n_trees=trees),
        placement=placement,
        horizon_s=horizon_s,
        seed=seed,
    )
    jobs = result.jobs
    if not jobs["done"].all():
        raise RuntimeError("jobs were not done by the horizon: use a longer horizon_ms")
    # Again, up to the end of the last job: an idle network after it says nothing.
    end_ps = int(result.outcome.end_ps.max())
    sent = core.run(result.plan, until_ps=end_ps).link["n_bytes"]
    net = result.plan.network
    inner = (net.is_host[net.src] == 0) & (net.is_host[net.dst] == 0)
    busy = sent[inner] * net.ps_per_byte[inner] / end_ps
    return float(jobs["comm_s"].mean()), float(busy.max())


def run(settings: Settings, ctx: Context) -> None:
    """Load of the busiest link and time of the exchange, for each number of trees."""
    site = shared.Site(
        settings.leaves, settings.hosts_per_leaf, settings.spines, settings.jobs,
        settings.workers, settings.megabytes,
    )  # fmt: skip
    seeds = shared.seeds_of(ctx.rng("seeds"), settings.seeds)
    for placement in settings.placements:
        found = {}
        for trees in ctx.progress(settings.trees, f"trees, {placement}"):
            found[trees] = np.array([
                ctx.cell(
                    run_once, site=site, trees=trees, placement=placement, load=settings.load,
                    seed=seed, iterations=settings.iterations,
                    horizon_s=settings.horizon_ms / 1e3,
                )
                for seed in seeds
            ])  # fmt: skip
            axes: dict[str, Any] = {"trees": trees, "placement": placement, "load": settings.load}
            rng = ctx.rng(f"{trees} {placement}")
            for column, metric, scale, unit, claim in (
                (1, "max_link_utilisation", 100, "%", "panama.sec.tree_balance"),
                (0, "exchange", 1e3, "ms", None),
            ):
                values = found[trees][:, column] * scale
                low, high = _interval(values, rng)
                ctx.record(
                    claim, metric, float(values.mean()), unit, low=low, high=high,
                    system="panama", **axes,
                )  # fmt: skip
        one = min(found)
        for trees, values in found.items():
            if trees == one:
                continue
            ratio = shared.paired_ratio(
                found[one][:, 0], values[:, 0], shared.mean, ctx.rng(f"ratio {trees} {placement}")
            )
            ctx.record(
                "panama.ours.trees_no_slower", "exchange_ratio", ratio.value, "x",
                low=ratio.low, high=ratio.high, system="panama", baseline=f"{one} tree",
                trees=trees, placement=placement, load=settings.load,
            )  # fmt: skip


def _interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    means = [rng.choice(values, len(values)).mean() for _ in range(500)]
    low, high = np.quantile(means, [0.025, 0.975])
    return min(float(low), float(values.mean())), max(float(high), float(values.mean()))


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Busiest link and exchange over the number of trees."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"] == metric],
            "axis.trees",
            title,
            caption,
            color="axis.placement",
            x_title="trees of a job",
            y_title=unit,
        )
        for metric, title, caption, unit in (
            (
                "max_link_utilisation",
                "Busiest link between switches",
                "Share of the jobs' time that the busiest link is in use, by trees of each job.",
                "busy (%)",
            ),
            ("exchange", "Exchange by trees", "Mean time of an exchange.", "ms"),
        )
    ]
