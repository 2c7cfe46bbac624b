"""Latency over eager PyTorch and DyNet, five models (overall figure)."""

from __future__ import annotations

import math
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

LARGEST = "cortex.abstract.latency_reduction"
ORDER = "cortex.fig.speedup_over_pytorch"


@attrs.frozen
class Settings:
    """cases: "model/data/batch";  hiddens: sizes, a quarter of it for MV-RNN

    peers: eager and dynet are the paper's
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    cases: list[str] = attrs.field(validator=shared.is_cases)
    hiddens: list[int] = attrs.field(validator=deep_iterable(ge(16)))
    peers: list[str] = attrs.field(validator=shared.one_of(("eager", "dynet", "level_batched")))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare every case; record the largest ratio, the paper's headline, and geometric means."""
    from cortex import peers

    names = shared.here(settings.peers, ctx)
    ratios: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    largest: tuple[float, float, float, str, str] = (0.0, 0.0, 0.0, "", "")
    cells = [(text, hidden) for hidden in settings.hiddens for text in settings.cases]
    for text, hidden in ctx.progress(cells, "case"):
        case = shared.Case.of(text, hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(f"{text}/{hidden}"))
        ours = shared.roots_of(shared.compiled(problem, threads=ctx.threads), problem)
        for name in names:
            claims = [ORDER] if name in ("eager", "dynet") else []
            if name == "dynet":
                claims += ["cortex.tab.speedup_over_dynet", "cortex.ours.dynet_every"]
            found = shared.against(
                ctx, batches, ours, peers.make(name, problem), name, claim=claims,
                halfwidth=settings.halfwidth, max_seconds=settings.max_seconds, **case.axes,
            )["ours"]  # fmt: skip
            ratios[name].setdefault(case.model, []).append(found.estimate)
            if found.estimate > largest[0]:
                largest = (found.estimate, found.low, found.high, text, name)
    for name, by_model in ratios.items():
        logs = [math.log(value) for values in by_model.values() for value in values]
        if logs:
            mean = math.exp(sum(logs) / len(logs))
            claim = {"dynet": "cortex.ours.dynet_mean", "eager": "cortex.ours.eager_mean"}.get(name)
            ctx.record(claim, "speedup_mean", mean, "x", timed=True, system="ours", baseline=name)
    if largest[0]:
        value, low, high, text, name = largest
        ctx.record(
            LARGEST, "speedup", value, "x", low=low, high=high, timed=True, case=text,
            system="ours", baseline=name,
        )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratios by case and peer, and the latencies behind them."""
    from common.report.charts import bars

    rows = frame[frame["axis.model"].notna()].assign(
        setting=[
            f"{m}, {d}, B={b:g}, H={h:g}"
            for m, d, b, h in zip(
                frame["axis.model"], frame["axis.data"], frame["axis.batch"],
                frame["axis.hidden"], strict=True,
            )
            if isinstance(m, str)
        ]
    )  # fmt: skip
    speedups = rows[(rows["metric"] == "speedup") & (rows["axis.system"] == "ours")]
    return [
        bars(
            speedups.drop_duplicates(["setting", "axis.baseline"]),
            "setting",
            "Latency of peers over ours",
            "Fresh Python objects to root states, fp32. The paper's best case is 14x, on any of "
            "its machines." + shared.absent_note(frame),
            color="axis.baseline",
            y_title="peer time / our time",
            log_y=True,
        ),
        bars(
            rows[rows["metric"] == "latency_us"].drop_duplicates(["setting", "axis.system"]),
            "setting",
            "Latency of a batch",
            "From Python objects to root states.",
            log_y=True,
        ),
    ]
