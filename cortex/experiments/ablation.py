"""What each primitive is worth, one on top of the other (ablation figure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: Added one after another to the schedule that does nothing. The paper's figure has the middle, and
#: persistence, which changes nothing while threads take rows: weights are packed once anyway.
STEPS: dict[str, Callable[[Any], Any]] = {
    "none": lambda s: s,
    "batch": lambda s: s.batch(),
    "fusion": lambda s: s.fuse("model"),
    "specialization": lambda s: s.specialize("leaf"),
    "tabulate": lambda s: s.tabulate("leaf"),
    "dedup": lambda s: s.dedup(),
}
PAPER, IN_PAPER = "cortex.fig.ablation", ("none", "fusion", "specialization")


@attrs.frozen
class Settings:
    """cases: "model/data/batch" at this hidden size

    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    cases: list[str] = attrs.field(validator=shared.is_cases)
    hidden: int = attrs.field(validator=ge(16))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compile the model under each schedule and compare all with the one that does nothing."""
    import cortex
    from cortex.schedule import Schedule

    for text in ctx.progress(settings.cases, "case"):
        case = shared.Case.of(text, settings.hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(text))
        schedule = Schedule.none()
        base: Any = None
        before: Any = None
        for step, add in STEPS.items():
            try:
                schedule = add(schedule)
                net = shared.compiled(problem, schedule, ctx.threads)
            except cortex.ScheduleError as refused:
                ctx.log.warning("%s, %s is left out: %s", text, step, refused)
                continue
            ours = shared.roots_of(net, problem)
            base = base or ours
            before = before or ours
            found = ctx.compare(
                "speedup",
                {step: batches.fresh(ours), "nothing": batches.fresh(base)},
                baseline="nothing",
                verify=shared.assert_close,
                claim=PAPER if step in IN_PAPER else None,
                subject=step,
                halfwidth=settings.halfwidth,
                max_seconds=settings.max_seconds,
                **case.axes,
            )[step]  # fmt: skip
            if step in ("batch", "fusion"):
                gain = ctx.compare(
                    "step_speedup",
                    {step: batches.fresh(ours), "without": batches.fresh(before)},
                    baseline="without",
                    verify=shared.assert_close,
                    claim="cortex.ours.ablation_step",
                    subject=step,
                    halfwidth=settings.halfwidth,
                    max_seconds=settings.max_seconds,
                    **case.axes,
                )[step]
                ctx.log.info("%s, %s: %.2f over the step before", text, step, gain.estimate)
            ctx.log.info("%s, %s: %.2f", text, step, found.estimate)
            before = ours


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speed over the plainest schedule after each step."""
    from common.report.charts import bars

    rows = frame[frame["metric"] == "speedup"]
    rows = rows.assign(
        setting=[
            f"{m}, {d}, B={b:g}"
            for m, d, b in zip(
                rows["axis.model"], rows["axis.data"], rows["axis.batch"], strict=True
            )
        ]
    )
    return [
        bars(
            rows,
            "axis.system",
            "What each primitive is worth",
            "Speed over the schedule that does nothing, each step on top of those above it. "
            "Tables and dedup are not in the paper.",
            color="setting",
            y_title="time of the plainest / time",
            log_y=True,
        )
    ]
