"""Sequences: ours against torch.nn.LSTM and GRU (sequence figure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """models: lstm, gru;  hiddens, batches, lengths: of the grid

    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    models: list[str] = attrs.field(validator=shared.one_of(("lstm", "gru")))
    hiddens: list[int] = attrs.field(validator=deep_iterable(ge(16)))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    lengths: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Tokens to last states. torch projects its inputs in the call; ours has them in its table.

    Beside it a loop over torch's operators, which reads the same table as ours.
    """
    from cortex import peers

    cells = [
        (model, hidden, batch, length)
        for model in settings.models
        for hidden in settings.hiddens
        for batch in settings.batches
        for length in settings.lengths
    ]
    for model, hidden, batch, length in ctx.progress(cells, "cell"):
        case = shared.Case(model, f"chain{length}", batch, hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(f"{model}/{hidden}/{batch}/{length}"))
        ours = shared.roots_of(shared.compiled(problem, threads=ctx.threads), problem)
        for name in ("nn", "eager"):
            claim = ["cortex.fig.sequence_speedup"] if name == "nn" else []
            if (batch, length) == (1, 100) and hidden in (256, 512) and name == "nn":
                claim.append(f"cortex.ours.sequence_{hidden}")
            shared.against(
                ctx, batches, ours, peers.make(name, problem), name, claim=claim,
                halfwidth=settings.halfwidth, max_seconds=settings.max_seconds,
                length=length, **case.axes,
            )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratio over torch's layer by length."""
    from common.report.charts import lines

    rows = frame[(frame["metric"] == "speedup") & (frame["axis.system"] == "ours")]
    rows = rows.assign(
        setting=[
            f"{m}, H={h:g}, B={b:g}, over {p}"
            for m, h, b, p in zip(
                rows["axis.model"], rows["axis.hidden"], rows["axis.batch"],
                rows["axis.baseline"], strict=True,
            )
        ]
    )  # fmt: skip
    return [
        lines(
            rows,
            "axis.length",
            "Sequences: torch's time over ours",
            "Fresh Python objects to last states. torch.nn projects its inputs within the call, "
            "ours and the eager loop read projected rows.",
            color="setting",
            x_title="length",
            y_title="peer time / our time",
            log_x=True,
        )
    ]
