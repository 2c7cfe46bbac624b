"""Beats a cycle of the simulated accelerator with all inputs saturated (abstracts: line rate)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, in_, le

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """ports: of the switches, one run each;  lanes: 32-bit words of a beat that are added

    packets: of each of two jobs, which take turns packet by packet
    beats:   payload beats of the longest packet, the shortest has one
    stages:  registers of one addition
    tool:    simulator, icarus or verilator
    """

    ports: list[int] = attrs.field(validator=deep_iterable([ge(2), le(64)]))
    lanes: int = attrs.field(validator=[ge(1), le(16)])
    packets: int = attrs.field(validator=ge(6))
    beats: int = attrs.field(validator=ge(1))
    stages: int = attrs.field(validator=ge(1))
    tool: str = attrs.field(validator=in_(("icarus", "verilator")))


def run(settings: Settings, ctx: Context) -> None:
    """Count beats and cycles of the output; a bit that differs from panama.wire ends the run."""
    from panama.rtl.tools import ToolMissing
    from panama.rtl.verify import line_rate

    for ports in ctx.progress(settings.ports, "ports"):
        try:
            # A cell each: at many ports a simulator takes minutes to build and to run.
            seen = ctx.cell(
                line_rate, ports=ports, lanes=settings.lanes, packets=settings.packets,
                tool=settings.tool, beats=settings.beats, stages=settings.stages, seed=ctx.seed,
            )  # fmt: skip
        except ToolMissing as error:
            ctx.log.warning("skipped: %s", error)
            return
        axes: dict[str, Any] = {"ports": ports, "lanes": settings.lanes, "simulator": settings.tool}
        ctx.record(
            "panama.abstract.line_rate", "beats_per_cycle", seen.beats_per_cycle, "beat/cycle",
            **axes, system="ours",
        )  # fmt: skip
        ctx.record(None, "beats", seen.beats, "beats", **axes, system="ours")


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Beats a cycle by number of ports."""
    from common.report.charts import lines

    return [
        lines(
            frame[frame["metric"] == "beats_per_cycle"],
            "axis.ports",
            "Line rate",
            "Header and payload beats a cycle at the output, packets of random lengths, two jobs "
            "in turns, every input saturated. 1 is all that the clock gives.",
            x_title="ports",
            y_title="beats a cycle",
        )
    ]
