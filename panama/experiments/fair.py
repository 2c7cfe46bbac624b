"""Share of a bottleneck between an aggregation flow and DCTCP flows (congestion-control text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart


@attrs.frozen
class Settings:
    """flows: DCTCP flows over the bottleneck, beside one aggregation flow of `workers` workers

    schemes: of the aggregation;  gbps: of every link;  seconds simulated, the first fifth unseen
    """

    flows: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    workers: list[int] = attrs.field(validator=deep_iterable(ge(2)))
    schemes: list[str]
    gbps: float = attrs.field(validator=gt(0))
    horizon_ms: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Jain's index over the aggregation flow and the DCTCP flows, and the longest queue."""
    from panama.experiments.dumbbell import shares

    points = [(s, w, n) for s in settings.schemes for w in settings.workers for n in settings.flows]
    for scheme, workers, flows in ctx.progress(points, "scheme, workers and flows"):
        found = ctx.cell(
            shares, scheme=scheme, workers=workers, flows=flows, gbps=settings.gbps,
            horizon_s=settings.horizon_ms / 1e3,
        )  # fmt: skip
        axes: dict[str, Any] = {"flows": flows, "workers": workers, "system": scheme}
        claims = scheme == "panama"
        ctx.record(
            "panama.sec.fair_share" if claims else None, "jain_index", found.jain, "", **axes
        )
        ctx.record(
            "panama.ours.low_queue" if claims else None, "queue_over_bound",
            found.mean_queue_packets / found.bound_packets, "", **axes,
        )  # fmt: skip
        ctx.record(None, "aggregation_rate", found.aggregation_gbps, "Gb/s", **axes)
        ctx.record(None, "flow_rate", found.flow_gbps, "Gb/s", **axes)
        ctx.record(None, "mean_queue", found.mean_queue_packets, "packets", **axes)
        ctx.record(None, "max_queue", found.max_queue_packets, "packets", **axes)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Rates and fairness over the number of flows."""
    import pandas as pd

    from common.report.charts import lines

    jain = frame[frame["metric"] == "jain_index"]
    rates = frame[frame["metric"].isin(["aggregation_rate", "flow_rate"])]
    words = {"aggregation_rate": "aggregation", "flow_rate": "mean DCTCP flow"}
    rates = rates.assign(
        who=[
            f"{words[m]}, {s}, {w:g} workers"
            for m, s, w in zip(
                rates["metric"], rates["axis.system"], rates["axis.workers"], strict=True
            )
        ]
    )
    return [
        lines(
            jain.assign(
                who=[
                    f"{s}, {w:g} workers"
                    for s, w in zip(jain["axis.system"], jain["axis.workers"], strict=True)
                ]
            ),
            "axis.flows",
            "Fairness at one bottleneck",
            "Jain's index over one aggregation flow and the DCTCP flows; 1 is equal shares.",
            color="who",
            x_title="DCTCP flows",
            y_title="Jain's index",
        ),
        lines(
            pd.DataFrame(rates),
            "axis.flows",
            "Rates at one bottleneck",
            "Goodput of the aggregation flow and of a DCTCP flow.",
            color="who",
            x_title="DCTCP flows",
            y_title="Gb/s",
        ),
    ]
