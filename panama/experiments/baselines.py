"""Schemes on an idle network beside their analytic bounds; the traffic of the introduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from common.experiment import Context
from panama.experiments import shared, variants

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """schemes: compared;  one job of `workers` exchanges `megabytes` at packets of `mtu` bytes"""

    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=gt(0))
    schemes: list[str]
    mtu: int = attrs.field(validator=ge(256))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Time of one exchange over the bound of the scheme, where one exists."""
    site = shared.Site(
        settings.leaves, settings.hosts_per_leaf, settings.spines, 1, settings.workers,
        settings.megabytes,
    )  # fmt: skip
    seed = shared.seeds_of(ctx.rng("seeds"), 1)[0]
    n_bytes = settings.megabytes * 1e6
    for scheme in ctx.progress(settings.schemes, "scheme"):
        found = ctx.cell(
            variants.exchanges, site=site, scheme=scheme, changes={}, load=0.0, seed=seed,
            iterations=1, horizon_s=settings.horizon_ms / 1e3, mtu=settings.mtu,
        )  # fmt: skip
        seconds = float(found.seconds.max())
        ctx.record(None, "exchange", seconds * 1e3, "ms", system=scheme)
        bound = bound_seconds(scheme, n_bytes, settings.workers, settings.mtu)
        if bound is not None:
            ctx.record("panama.ours.idle_bound", "over_bound", seconds / bound, "x", system=scheme)
    # 1000 workers, 1 GB, 1000 iterations: what the hosts send in a ring.
    sent = 1000 * 2 * (1000 - 1) / 1000 * 1e9 * 1000
    ctx.record("panama.sec.traffic", "traffic_pb", sent / 1e15, "PB", workers=1000)


def bound_seconds(scheme: str, n_bytes: float, workers: int, mtu: int) -> float | None:
    """Least seconds at 100 Gb/s, headers counted; None where the network may be the limit."""
    from panama.windows import wire_of

    wire = wire_of(mtu)
    if scheme == "ring_sorted":
        return shared.ring_seconds(n_bytes, workers) * (1 + wire.header / wire.payload)
    if scheme in ("ina_single", "panama", "panama_plus"):
        return n_bytes * 8 / 100e9 * (1 + wire.sum_header / wire.sum_payload)
    return None


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Time of an exchange by scheme."""
    from common.report.charts import bars

    return [
        bars(
            frame[frame["metric"] == "exchange"],
            "axis.system",
            "Idle network: one exchange by scheme",
            "Time until the slowest worker has the whole sum.",
            y_title="ms",
            log_y=True,
        )
    ]
