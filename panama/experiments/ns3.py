"""DCTCP here and in ns-3: completion times of the same flows, and packets simulated a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs.validators import ge, gt

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from panama.peers.ns3 import Run

#: A factor in the hundreds need not be known more closely.
HALFWIDTH = 0.1


@attrs.frozen
class Settings:
    """flows: of 2 MB whose times are compared, on 64 hosts at `load`

    timed_flows: of the race;  sample_s: how long ours runs in a round of it, again and again
    """

    flows: int = attrs.field(validator=ge(10))
    timed_flows: int = attrs.field(validator=ge(5))
    load: float = attrs.field(validator=gt(0))
    sample_s: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Ours over ns-3: mean and 99th percentile of completion times; then the two by turns."""
    from common.extras import MissingExtra
    from panama import core
    from panama.peers import ns3

    try:
        ns3.build()
    except MissingExtra as error:
        ctx.log.warning("skipped: %s", error)
        return
    seeds = ctx.rng("seeds").integers(2**31, size=2).tolist()
    scenario = ns3.Scenario.draw(settings.flows, settings.load, seeds[0])
    outcome = core.run(scenario.plan())
    ours = (outcome.flow_end_ps - scenario.start_ps) * 1e-12
    with ns3.Program(scenario) as program:
        theirs = program.run()
    ctx.record(
        "panama.ours.ns3_fct_mean", "fct_mean_over_ns3", ours.mean() / theirs.fct_s.mean(), "",
        system="ours", flows=settings.flows,
    )  # fmt: skip
    ctx.record(
        "panama.ours.ns3_fct_p99", "fct_p99_over_ns3",
        float(np.quantile(ours, 0.99) / np.quantile(theirs.fct_s, 0.99)), "",
        system="ours", flows=settings.flows,
    )  # fmt: skip
    for system, times in (("ours", ours), ("ns3", theirs.fct_s)):
        for quantile in np.linspace(0.05, 0.95, 19).round(2).tolist():
            at = float(np.quantile(times, quantile)) * 1e6
            ctx.record(None, "fct", at, "us", system=system, quantile=quantile)

    race = ns3.Scenario.draw(settings.timed_flows, settings.load, seeds[1])
    plan = race.plan()
    with ns3.Program(race) as program:

        def same_packets(packets: int, found: Run) -> None:
            if packets != found.packets:
                raise AssertionError(f"ours delivered {packets} packets, ns-3 {found.packets}")

        ctx.compare(
            "speedup", {"ours": lambda: core.run(plan).data_packets, "ns3": program.run},
            baseline="ns3", verify=same_packets, claim="panama.ours.ns3_speed",
            # ns-3 runs for seconds, through good moments and bad ones: so must ours.
            sample_s=settings.sample_s, halfwidth=HALFWIDTH, max_seconds=settings.max_seconds,
            clock=program.clock, flows=settings.timed_flows,
        )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Completion times by quantile in both."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"] == "fct"],
            "axis.quantile",
            "DCTCP flows of 2 MB, here and in ns-3",
            "The same flows over the same paths on 64 hosts.",
            x_title="quantile",
            y_title="completion time (us)",
        )
    ]
