"""Area and clock of the adder tree on one FPGA (the paper's resource table is not known to us)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

BUS_BITS = 512


@attrs.frozen
class Settings:
    """ports, lanes: of the trees whose area is taken, in all combinations, and its stages

    clock_stages: registers of one addition, for each of which one adder is placed and routed
    seeds:        runs of the placer, of which the best counts
    """

    ports: list[int] = attrs.field(validator=deep_iterable(ge(2)))
    lanes: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    stages: int = attrs.field(validator=ge(1))
    clock_stages: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    seeds: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Synthesise trees and fit a line; place and route one adder at each number of stages."""
    from concurrent.futures import ThreadPoolExecutor

    from panama.rtl.synth import PART, area, fmax, linear_fit
    from panama.rtl.tools import ToolMissing

    sizes = [(ports, lanes) for ports in settings.ports for lanes in settings.lanes]
    # Yosys and nextpnr are programs of one thread each: as many run as there are cores.
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        clocks = [pool.submit(fmax, n, seeds=settings.seeds) for n in settings.clock_stages]
        trees = [pool.submit(area, *size, settings.stages) for size in reversed(sizes)][::-1]
        areas = []
        for tree in ctx.progress(trees, "tree"):
            found = tree.result()
            areas.append(found)
            axes: dict[str, Any] = {
                "ports": found.ports,
                "lanes": found.lanes,
                "adders": found.adders,
                "part": PART,
            }
            ctx.record("panama.tab.fpga_area", "luts", found.luts, "LUT", **axes, system="ours")
            ctx.record(None, "flip_flops", found.ffs, "FF", **axes, system="ours")
        slope, _, r2 = linear_fit(areas)
        ctx.record("panama.ours.area_linear", "r2", r2, "", part=PART, system="ours")
        ctx.record(None, "luts_per_adder", slope, "LUT", part=PART, system="ours")
        best = 0.0
        for placed in ctx.progress(clocks, "stages"):
            clock = placed.result()
            best = max(best, clock.mhz)
            ctx.record(
                None, "mhz", clock.mhz, "MHz", low=min(clock.by_seed), high=clock.mhz,
                stages=clock.stages, part=PART, system="ours",
            )  # fmt: skip
        ctx.record("panama.ours.adder_mhz", "best_mhz", best, "MHz", part=PART, system="ours")
        ctx.record(None, "gbps", best * BUS_BITS / 1000, "Gb/s", part=PART, system="ours")
    except ToolMissing as error:
        ctx.log.warning("skipped: %s", error)
    finally:
        pool.shutdown(cancel_futures=True)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Area by adders, clock by stages."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"].isin(["luts", "flip_flops"])],
            "axis.adders",
            "Area of the adder tree",
            "4-input tables (two for each cell of a carry chain) and flip-flops on ECP5, by yosys.",
            color="metric",
            x_title="adders, (P-1) L",
            y_title="cells",
        ),
        lines(
            frame[frame["metric"] == "mhz"],
            "axis.stages",
            "Clock of one adder",
            "ECP5-85, speed grade 8, by nextpnr, best of the placer's starts. For this part alone.",
            x_title="registers of an addition",
            y_title="MHz",
        ),
    ]
