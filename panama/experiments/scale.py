"""Speed and memory of the simulator by the size of the network."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context
from panama.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """hosts: of a leaf-spine, 16 to a leaf;  load: of DCTCP flows of `megabytes` between them"""

    hosts: list[int] = attrs.field(validator=deep_iterable(ge(32)))
    load: float = attrs.field(validator=gt(0))
    megabytes: float = attrs.field(validator=gt(0))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Packet-hops a second of processor time for each size, and over the smallest's."""
    import panama
    from panama import core

    first = None
    for hosts in ctx.progress(settings.hosts, "hosts"):
        site = shared.Site(hosts // 16, 16, 4, 0, 2, 1.0)
        horizon_s = settings.horizon_ms / 1e3
        traffic = panama.Traffic.fixed(int(settings.megabytes * 1e6), load=settings.load)
        begin = time.process_time()
        seed = shared.seeds_of(ctx.rng("seeds"), 1)[0]
        result = panama.simulate(
            site.cluster(), [], traffic, scheme="none", horizon_s=horizon_s, seed=seed
        )
        whole = time.process_time() - begin
        begin = time.process_time()
        outcome = core.run(result.plan, until_ps=round(horizon_s * 1e12))
        rate = outcome.packet_hops / (time.process_time() - begin)
        first = first or rate
        ctx.record(None, "packet_hops", rate / 1e6, "M/s", timed=True, hosts=hosts, system="ours")
        ctx.record(None, "whole_run", whole, "s", timed=True, hosts=hosts, system="ours")
        ctx.record(
            "panama.ours.scale", "rate_over_smallest", rate / first, "x", timed=True,
            hosts=hosts, system="ours",
        )  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ctx.record(None, "peak_memory", peak, "MiB", hosts=hosts, system="ours")


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Packet-hops a second over hosts."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"] == "packet_hops"],
            "axis.hosts",
            "Speed of the simulator",
            "Packet-hops simulated a second of one core.",
            log_x=True,
            x_title="hosts",
            y_title="million packet-hops a second",
        )
    ]
