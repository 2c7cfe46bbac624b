"""Training through the emulated switches against a stock all-reduce (abstract: as accurate)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from common.extras import require

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

Floats = npt.NDArray[np.float64]


@attrs.frozen
class Settings:
    """ranks, model, pictures: who learns what;  steps, batch, rate: how long, per rank, how fast

    timed_ranks, timed_width, timed_batch: of the model whose steps are timed, of about
                 5/2 timed_width**2 parameters
    timed_ways:  formats of the hook whose steps are timed; none: nothing is
    seconds:     at most, for timing
    """

    ranks: int = attrs.field(validator=ge(2))
    model: str = attrs.field(validator=in_(("mlp", "cnn")))
    pictures: list[str] = attrs.field(validator=deep_iterable(in_(("patterns", "digits"))))
    steps: int = attrs.field(validator=ge(1))
    batch: int = attrs.field(validator=ge(1))
    rate: float = attrs.field(validator=gt(0))
    timed_ranks: int = attrs.field(validator=ge(2))
    timed_width: int = attrs.field(validator=ge(8))
    timed_batch: int = attrs.field(validator=ge(1))
    timed_ways: list[str] = attrs.field(validator=deep_iterable(in_(("fp32", "bf16", "int32"))))
    seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Losses of every format beside those of the all-reduce, then the time of a step of each."""
    require("torch", "panama", "training through the emulated switches")
    _losses(settings, ctx)
    if settings.timed_ways:
        _step_times(settings, ctx)


def _losses(settings: Settings, ctx: Context) -> None:
    from panama.training import WAYS, make_lessons
    from panama.workers import Workers

    with Workers(settings.ranks, make_lessons) as workers:

        def mean_losses(way: str, pictures: str) -> Floats:
            of_ranks = workers.call(
                "losses", way, settings.model, pictures, settings.steps, settings.batch,
                settings.rate, ctx.seed,
            )  # fmt: skip
            mean: Floats = np.mean(np.array(of_ranks, np.float64), axis=0)
            return mean

        for pictures in ctx.progress(settings.pictures, "pictures"):
            axes: dict[str, Any] = {
                "pictures": pictures, "model": settings.model, "ranks": settings.ranks
            }  # fmt: skip
            stock = mean_losses("stock", pictures)
            for way in WAYS:
                seen = stock if way == "stock" else mean_losses(way, pictures)
                for step in range(0, settings.steps, max(1, settings.steps // 30)):
                    ctx.record(None, "loss", float(seen[step]), "", **axes, step=step, system=way)
                if way != "stock":
                    gap = float(np.max(np.abs(seen - stock) / stock))
                    claim = "panama.abstract.accuracy" if way == "fp32" else None
                    ctx.record(claim, "loss_gap", gap, "", **axes, system=way)


def _step_times(settings: Settings, ctx: Context) -> None:
    from panama.training import make_steps, parameters
    from panama.workers import Workers

    ways = ["stock", *settings.timed_ways]
    with Workers(
        settings.timed_ranks, make_steps, settings.timed_width, settings.timed_batch, ways
    ) as workers:

        def step(way: str) -> Callable[[], list[Any]]:
            return lambda: workers.call(way)

        ctx.compare(
            "step_speed",
            {way: step(way) for way in ways},
            baseline="stock",
            verify=alike,
            claim="panama.ours.hook_step" if "fp32" in ways else None,
            subject="fp32",
            halfwidth=0.1,
            max_seconds=settings.seconds,
            ranks=settings.timed_ranks,
            parameters=parameters(settings.timed_width),
        )


def alike(ours: list[Any], stock: list[Any]) -> bool:
    """Gradients of all ranks, equal but for the roundings of bf16: of terms, and of their sum."""
    scale = max(float(np.abs(of_rank).max()) for of_rank in stock)
    tolerance = 2 * 2**-8 * len(stock) * scale
    return all(np.abs(a - b).max() <= tolerance for a, b in zip(ours, stock, strict=True))


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Losses by step, and how much faster or slower than stock a step is."""
    from common.report.charts import bars, lines

    drawn = [
        lines(
            rows,
            "axis.step",
            f"Losses on {pictures}",
            "Mean over the ranks of the loss before each step: gradients averaged by an all-reduce "
            "of gloo (stock), or by emulated switches in three formats.",
            x_title="step",
            y_title="cross entropy",
        )
        for pictures, rows in frame[frame["metric"] == "loss"].groupby("axis.pictures")
    ]
    timed = frame[frame["metric"] == "step_speed"]
    if len(timed):
        drawn.append(
            bars(
                timed,
                "axis.system",
                "Time of a training step",
                "Time of a step with gloo's all-reduce over time through the emulated switches: "
                "below 1 the switches are slower.",
                y_title="times stock",
            )
        )
    return drawn
