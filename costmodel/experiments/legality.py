"""How long it takes to prove a schedule legal and to write its C, on one core.

A search that asks a model spends its time here. Random programs with random schedules; the part of
isl's syntax tree, which is not ours to shorten, stands beside the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from common.experiment import Context

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

PARTS = {
    "legality": "costmodel.ours.legality_ms",
    "legality and code": "costmodel.ours.codegen_ms",
    "isl's syntax tree": None,
}


@attrs.frozen
class Settings:
    """programs: random ones;  schedules: of each"""

    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Median milliseconds over all pairs, with the interval of the median."""
    import numpy as np

    from common import paired

    found = times(settings.programs, settings.schedules, ctx.seed)
    for part, claim in PARTS.items():
        middle, low, high = paired.interval(1e3 * np.array(found[part]))
        ctx.record(claim, "milliseconds", middle, "ms", low=low, high=high, timed=True, part=part)


def times(n_programs: int, n_schedules: int, seed: int) -> dict[str, list[float]]:
    """Processor seconds by part, a pair of program and schedule each; the least of three."""
    import islpy as isl

    from costmodel import legality
    from costmodel.codegen import c_function
    from costmodel.poly import polyhedral
    from costmodel.random_programs import random_program
    from costmodel.random_schedules import random_schedule
    from costmodel.schedule import apply
    from costmodel.schedule_tree import Leaf, schedule_tree

    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(n_programs):
        program = random_program([seed, number], "small")
        poly = polyhedral(program)
        for draw in range(n_schedules):
            schedule = random_schedule(program, [seed, number, draw], reassociate=True)
            scheduled = apply(program, schedule, reassociate=True)
            leaves = [Leaf.of(placed) for placed in scheduled.nest.placed]
            tree = schedule_tree(leaves, poly.domains)
            build = isl.AstBuild.from_context(isl.Set("{ : }"))
            proof, code, own = (
                _seconds(call)
                for call in (
                    lambda: legality.is_legal(poly, scheduled.nest, True),  # noqa: B023
                    lambda: c_function(scheduled, "f"),  # noqa: B023
                    lambda: build.node_from_schedule(tree),  # noqa: B023
                )
            )
            for part, value in zip(PARTS, (proof, proof + code, own), strict=True):
                found[part].append(value)
    return found


def _seconds(call: Callable[[], Any]) -> float:
    """The least of three, in time of this process alone: others may share the core."""
    import time

    least = float("inf")
    for _ in range(3):
        start = time.process_time()
        call()
        least = min(least, time.process_time() - start)
    return least


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The three medians."""
    from common.report.charts import bars

    return [
        bars(
            frame[frame["metric"] == "milliseconds"],
            "axis.part",
            "From a schedule to its proof and its C",
            "Median over random programs and schedules, one core.",
            y_title="ms",
        )
    ]
