"""The outermost loops of a scheduled program shared among threads, where that is legal."""

from __future__ import annotations

from costmodel import legality
from costmodel.poly import polyhedral
from costmodel.schedule import ScheduledProgram, apply
from costmodel.steps import Parallel


def outermost(
    scheduled: ScheduledProgram, reassociate: bool | None = None
) -> ScheduledProgram | None:
    """The same with the outermost parallel loop of each nest marked; None if there is none."""
    nest, poly = scheduled.nest, polyhedral(scheduled.program)
    steps: list[Parallel] = []
    done: set[tuple[int, ...]] = set()
    for placed in sorted(nest.placed, key=lambda p: p.order):
        for level, dim in enumerate(placed.dims):
            loop = placed.order[: level + 1]
            if dim.register or any(loop[: len(outer)] == outer for outer in done):
                break
            if legality.why_not_parallel(poly, nest, placed.name, level) is None:
                done.add(loop)
                steps.append(Parallel(placed.name, level))
                break
    if not steps:
        return None
    return apply(scheduled.source, scheduled.schedule.then(*steps), reassociate=reassociate)
