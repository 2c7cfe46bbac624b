"""Speed beside every live peer that batches (tables against DyNet and Cavs).

Cavs cannot be had; DGL and level-batched PyTorch stand beside DyNet in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

LIMIT = "machine's limit without tables"
#: Our own targets, by (model, data, batch, peer, schedule).
TARGETS = {
    ("tree_lstm", "sst", 10, "level_batched", "auto"): "lstm_batch10",
    ("tree_lstm", "perfect", 10, "level_batched", "auto"): "lstm_batch10",
    ("tree_lstm", "sst", 10, "level_batched_onednn", "auto"): "lstm_batch10_onednn",
    ("tree_lstm", "perfect", 10, "level_batched_onednn", "auto"): "lstm_batch10_onednn",
    ("tree_lstm", "sst", 1, "level_batched", "auto"): "lstm_batch1",
    ("tree_lstm", "sst", 1, "level_batched_onednn", "auto"): "lstm_batch1",
    ("tree_lstm", "sst", 10, "level_batched", "paper"): "lstm_paper",
    ("tree_lstm", "perfect", 10, "level_batched", "paper"): "lstm_paper",
    ("tree_lstm", "sst", 10, "level_batched_onednn", "paper"): "lstm_paper_onednn",
    ("tree_lstm", "perfect", 10, "level_batched_onednn", "paper"): "lstm_paper_onednn",
    ("tree_lstm", "sst", 10, "eager", "auto"): "lstm_eager",
    ("tree_lstm", "sst", 10, "dgl", "auto"): "lstm_dgl",
    ("mv_rnn", "sst", 10, "level_batched", "auto"): "mv_dag_batched",
    ("dag_rnn", "grid", 10, "level_batched", "auto"): "mv_dag_batched",
}


@attrs.frozen
class Settings:
    """cases: "model/data/batch" at this hidden size;  schedules: of ours

    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    cases: list[str] = attrs.field(validator=shared.is_cases)
    hidden: int = attrs.field(validator=ge(16))
    peers: list[str] = attrs.field(validator=shared.one_of(p for p in shared.PEERS if p != "nn"))
    schedules: list[str] = attrs.field(validator=shared.one_of(shared.SCHEDULES))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare each peer with ours as it comes; level-batched ones with the paper's schedule too."""
    from cortex import peers

    names = shared.here(settings.peers, ctx)
    for text in ctx.progress(settings.cases, "case"):
        case = shared.Case.of(text, settings.hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(text))
        nets = {s: shared.compiled(problem, s, ctx.threads) for s in settings.schedules}
        for name in names:
            theirs = peers.make(name, problem)
            for schedule, net in nets.items():
                if schedule == "paper" and not name.startswith("level_batched"):
                    continue  # its targets are over these alone
                target = TARGETS.get((case.model, case.data, case.batch, name, schedule))
                found = shared.against(
                    ctx, batches, shared.roots_of(net, problem), theirs, name,
                    claim=f"cortex.ours.{target}" if target else None,
                    halfwidth=settings.halfwidth, max_seconds=settings.max_seconds,
                    schedule=schedule, **case.axes,
                )  # fmt: skip
                # All products at the peak, and nothing else: what no schedule without tables beats.
                least = batches.group * batches.flops / ctx.roofline.fp32_gflops / 1e9
                ctx.record(
                    None, "limit", found.baseline_seconds / least, "x", timed=True,
                    schedule=schedule, **case.axes, system=LIMIT, baseline=name,
                )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratios by peer, a chart a schedule."""
    import pandas as pd

    from common.report.charts import bars

    rows = frame[(frame["metric"] == "speedup") & (frame["axis.system"] == "ours")]
    limits = frame[(frame["metric"] == "limit") & (frame["axis.schedule"] == "paper")]
    rows = pd.concat([rows, limits])
    rows = rows.assign(
        setting=[
            f"{m}, {d}, B={b:g}"
            for m, d, b in zip(
                rows["axis.model"], rows["axis.data"], rows["axis.batch"], strict=True
            )
        ],
        shown=[
            f"products at the peak, over {peer}" if metric == "limit" else peer
            for peer, metric in zip(rows["axis.baseline"], rows["metric"], strict=True)
        ],
    )
    words = {
        "auto": "with tables of leaf states where they pay",
        "paper": "the paper's primitives alone",
    }
    return [
        bars(
            part,
            "setting",
            f"Peers over ours, {words[str(schedule)]}",
            "Time from fresh Python objects to root states, fp32. DyNet's build is AVX2 and "
            "single-threaded; Cavs is not available." + shared.absent_note(frame),
            color="shown",
            y_title="peer time / our time",
            log_y=True,
        )
        for schedule, part in rows.groupby("axis.schedule", sort=False)
    ]
