"""Goodput by the aggregation buffers of a switch, the delay of links, and the skew of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context
from panama.experiments import shared, variants

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """slots: packets an aggregator holds;  prop_ns: of a link, so that paths hold more or less

    skew_us: what every second host sends comes so much later, so that the others wait for it; the
    numbers of slots grow with what a path then holds

    One job exchanges `megabytes` over one tree on an idle leaf-spine.
    """

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=gt(0))
    slots: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    prop_ns: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    skew_us: list[float] = attrs.field(validator=deep_iterable(ge(0)))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Goodput for each number of slots; the least that reach 95% of the best is the knee."""
    site = shared.Site(
        settings.leaves, settings.hosts_per_leaf, settings.spines, 1, settings.workers,
        settings.megabytes,
    )  # fmt: skip
    seed = shared.seeds_of(ctx.rng("seeds"), 1)[0]
    points = [(prop, skew) for prop in settings.prop_ns for skew in settings.skew_us]
    for prop, skew in ctx.progress(points, "delay and skew"):
        held = variants.window_of(attrs.evolve(site, prop_ns=prop), seed)
        # What the others send meanwhile waits for the late half.
        expected = held + skew * 1e-6 / variants.packet_seconds(shared.RATE_GBPS)
        here = attrs.evolve(site, prop_ns=prop, skew_ns=skew * 1e3)
        axes: dict[str, Any] = {"prop_ns": prop, "skew_us": skew, "system": "panama"}
        goodput = {}
        for slots in dict.fromkeys(round(s * expected / held) for s in settings.slots):
            found = ctx.cell(
                variants.exchanges, site=here, scheme="ina_fixed",
                changes={"slots": slots, "window_bdp": 100.0}, load=0.0, seed=seed,
                iterations=1, horizon_s=settings.horizon_ms / 1e3,
            )  # fmt: skip
            # The first sum is late in any case.
            seconds = float(found.seconds.max()) - skew * 1e-6
            goodput[slots] = settings.megabytes * 8e-3 / seconds
            ctx.record(
                "panama.fig.buffer_size", "goodput_gbps", goodput[slots], "Gb/s", slots=slots,
                **axes,
            )  # fmt: skip
        best = max(goodput.values())
        knee = min(s for s, rate in goodput.items() if rate >= 0.95 * best)
        ctx.record(None, "knee", float(knee), "slots", **axes)
        ctx.record("panama.ours.buffer_knee", "knee_over_bdp", knee / expected, "", **axes)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Goodput over slots, a line a delay."""
    from common.report.charts import lines

    rows = frame[frame["metric"] == "goodput_gbps"]
    return [
        lines(
            rows.assign(
                link=[
                    f"{prop:g} ns a link, half {skew:g} us late"
                    for prop, skew in zip(rows["axis.prop_ns"], rows["axis.skew_us"], strict=True)
                ]
            ),
            "axis.slots",
            "Aggregation buffers",
            "Goodput of one job over one tree, its window as large as the buffers.",
            color="link",
            log_x=True,
            x_title="packets a switch holds for a tree",
            y_title="goodput (Gb/s)",
        )
    ]
