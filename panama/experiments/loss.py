"""Completion under packet loss: repairs through the result cache (our own study)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from panama.experiments import shared, variants

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """rates: probability of losing a packet at a switch's output, 0 first;  schemes: compared"""

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    jobs: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=gt(0))
    rates: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    schemes: list[str] = attrs.field(
        validator=deep_iterable(in_(("panama", "panama_plus", *shared.HOST_SCHEMES)))
    )
    seeds: int = attrs.field(validator=ge(1))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Time of an exchange by loss rate; every exchange must end, with every sum exactly once."""
    site = shared.Site(
        settings.leaves, settings.hosts_per_leaf, settings.spines, settings.jobs,
        settings.workers, settings.megabytes,
    )  # fmt: skip
    seeds = shared.seeds_of(ctx.rng("seeds"), settings.seeds)
    points = [(scheme, rate) for scheme in settings.schemes for rate in settings.rates]
    for scheme, rate in ctx.progress(points, "scheme and loss rate"):
        runs = [
            ctx.cell(
                variants.exchanges, site=site, scheme=scheme, changes={}, load=0.0, seed=seed,
                iterations=1, horizon_s=settings.horizon_ms / 1e3, drop=rate,
            )
            for seed in seeds
        ]  # fmt: skip
        axes: dict[str, Any] = {"loss": rate, "system": scheme}
        done = sum(r.done for r in runs) / len(runs)
        ours = scheme in ("panama", "panama_plus")
        ctx.record("panama.ours.loss_completes" if ours else None, "completed", done, "", **axes)
        if done == 1:
            seconds, _ = shared.joined(r.seconds for r in runs)
            ctx.record(None, "exchange", shared.mean(seconds) * 1e3, "ms", **axes)
        ctx.record(None, "resent", float(sum(r.resent for r in runs)), "packets", **axes)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Exchange time over the loss rate."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"] == "exchange"],
            "axis.loss",
            "Exchange under loss",
            "Mean time of an exchange when switches lose packets at random.",
            log_y=True,
            x_title="probability of losing a packet at a switch",
            y_title="ms",
        )
    ]
