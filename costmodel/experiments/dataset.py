"""What models learn from: pairs, their noise, how many draws are legal, how speedups spread.

The set measured here is small; what is known of the one behind the model that comes with the
package stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.shards import Row

MOST_ROWS = 1500


@attrs.frozen
class Settings:
    """data, programs, schedules: as of costmodel_accuracy;  draws: steps looked at for legality."""

    data: str
    programs: int = attrs.field(validator=ge(2))
    schedules: int = attrs.field(validator=ge(2))
    draws: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """The set's card as records, the share of legal draws, speedups and noise."""
    from costmodel import dataset, shards
    from costmodel.experiments import pairs

    folder = pairs.folder(ctx, settings.data, settings.programs, settings.schedules)
    card = dataset.describe(folder)
    every = list(shards.read_rows(folder))
    labels = shards.labels(every)
    for split in ("train", "validation", "test"):
        ctx.record(None, "pairs", card.rows.get(split, 0), "", split=split, system="here")
        ctx.record(None, "programs", card.programs.get(split, 0), "", split=split, system="here")
    for status, count in card.statuses.items():
        ctx.record(None, "rows", count, "", status=status)
    differ = sum(row.status in ("wrong", "crash") for row in every)
    ctx.record("costmodel.ours.wrong_results", "wrong", differ, "")
    ctx.record("costmodel.ours.identity_share", "identity", 100 * card.identity, "%")
    _record_spread(ctx, labels)
    _record_noise(ctx, labels)
    _record_legality(ctx, settings.draws)
    _record_shipped(ctx)


def _record_spread(ctx: Context, labels: Sequence[Row]) -> None:
    """Shares above 1 and 2, quantiles, and the speedups themselves, evenly thinned."""
    import numpy as np

    speedups = np.sort([row.speedup for row in labels if row.speedup is not None])
    for name, least in (("faster", 1.0), ("twice", 2.0)):
        share = 100 * float((speedups > least).mean())
        ctx.record(f"costmodel.sec.demo_{name}", name, share, "%", timed=True)
    middle = float(np.median(speedups))
    ctx.record("costmodel.sec.demo_median", "median_speedup", middle, "x", timed=True)
    places = np.linspace(0, len(speedups) - 1, min(len(speedups), MOST_ROWS)).astype(int)
    for value in speedups[places]:
        ctx.record(None, "speedup", float(value), "x", timed=True, system="here")


def _record_noise(ctx: Context, labels: Sequence[Row]) -> None:
    import numpy as np

    from common import paired

    # In the order they were taken: neighbours are of one program and much alike.
    noise = 100 * np.array([row.noise for row in labels if row.noise is not None])
    if not len(noise):
        return
    median, low, high = paired.interval(noise)
    claim = "costmodel.ours.label_noise_median"
    ctx.record(claim, "noise_median", median, "%", low=low, high=high, timed=True)
    half = 1.96 * float(noise.std()) / len(noise) ** 0.5
    mean = float(noise.mean())
    ctx.record(
        "costmodel.ours.label_noise_mean",
        "noise_mean",
        mean,
        "%",
        low=max(0.0, mean - half),
        high=mean + half,
        timed=True,
    )
    places = np.linspace(0, len(noise) - 1, min(len(noise), MOST_ROWS)).astype(int)
    for value in np.sort(noise)[places]:
        ctx.record(None, "noise", float(value), "%", timed=True, system="here")


def _record_legality(ctx: Context, n: int) -> None:
    """The share of random steps that fit the loops and are legal as well."""
    from common import paired
    from costmodel.errors import ScheduleError
    from costmodel.random_programs import random_program
    from costmodel.random_schedules import Sizes, random_steps
    from costmodel.schedule import Schedule, apply

    legal = looked_at = 0
    for number in range(n):
        program = random_program([ctx.seed, number], "small")
        steps = random_steps(program, [ctx.seed, number], sizes=Sizes())
        if not steps:
            continue
        looked_at += 1
        try:
            apply(program, Schedule(steps))
            legal += 1
        except ScheduleError:
            pass
    if looked_at:
        low, high = paired.share_interval(legal, looked_at)
        share = 100 * legal / looked_at
        ctx.record(None, "legal", share, "%", low=100 * low, high=100 * high)


def _record_shipped(ctx: Context) -> None:
    """Numbers of the card beside the model that comes with the package."""
    import json

    from costmodel.checkpoints import DEFAULT

    path = DEFAULT.with_suffix(".json")
    if not path.exists():
        ctx.log.warning("no model comes with this copy of the package: its set is not shown")
        return
    for name, value in _numbers(json.loads(path.read_text())):
        ctx.record(None, "card", value, "", field=name, system="shipped")


def _numbers(card: Any, name: str = "") -> list[tuple[str, float]]:
    """All numbers of a card, by the path to them."""
    if isinstance(card, bool) or card is None or isinstance(card, str):
        return []
    if isinstance(card, int | float):
        return [(name, float(card))]
    parts = card.items() if isinstance(card, dict) else enumerate(card)
    return [
        number
        for key, value in parts
        for number in _numbers(value, f"{name}.{key}" if name else str(key))
    ]


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """How speedups and their noise spread."""
    from common.report.charts import density

    found = [
        density(
            frame[frame["metric"] == "speedup"],
            "Speedups of random schedules",
            "Share of pairs; most rewritings drawn at random make a program slower.",
            kind="histogram",
            x_title="speedup",
            log_x=True,
        )
    ]
    noise = frame[frame["metric"] == "noise"]
    if len(noise):
        found.append(
            density(
                noise,
                "Noise of the labels",
                "Relative difference of the least times in two halves of the passes.",
                x_title="noise (%)",
            )
        )
    return found
