"""Where the arithmetic of an encoder layer is: flop by class, flop per word by operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, in_

from common.experiment import Context
from transformer_dm.sizes import SIZES, LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: The paper's tables and figures are of this size, counted this way.
PAPER_SIZE, PAPER_CONVENTION = "S1", "paper"
#: Rows that the paper's figures are known to print a value for, by what the claim calls them.
PRINTED = {"out": "projection", "qkt": "qkt"}


@attrs.frozen
class Settings:
    """sizes: of the layer, by the paper's names."""

    sizes: list[str] = attrs.field(validator=deep_iterable(in_(tuple(SIZES))))


def run(settings: Settings, ctx: Context) -> None:
    """Count every row of every size, and let torch count the same layer."""
    from transformer_dm.describe import encoder_graph
    from transformer_dm.volume import class_totals, table

    for name in ctx.progress(settings.sizes, "size"):
        size = SIZES[name]
        found = table(encoder_graph(*attrs.astuple(size)), PAPER_CONVENTION)
        totals = class_totals(found)
        is_paper = name == PAPER_SIZE
        for cls, work in totals.items():
            axes: dict[str, Any] = {"class": cls, "size": name}
            claim = "transformer_dm.tab.flop_total" if is_paper else None
            ctx.record(claim, "flop", work / 1e9, "Gflop", **axes)
            claim = "transformer_dm.tab.flop_share" if is_paper else None
            ctx.record(claim, "flop_share", 100 * work / sum(totals.values()), "%", **axes)
        _record_rows(ctx, name, found)
        counted = _torch_count(size)
        ratio = totals["contraction"] / counted
        ctx.record("transformer_dm.ours.torch_flop", "torch_flop", ratio, "x", size=name)


def _record_rows(ctx: Context, name: str, found: pd.DataFrame) -> None:
    for number, row in enumerate(found.to_dict("records")):
        axes: dict[str, Any] = {
            "operator": PRINTED.get(row["row"], row["row"]),
            "class": row["class"],
            "stage": row["stage"],
            "number": number,
            "size": name,
        }
        is_printed = name == PAPER_SIZE and row["row"] in PRINTED
        claim = "transformer_dm.fig.flop_per_word" if is_printed else None
        ctx.record(claim, "flop_per_word", row["flop_per_word"], "flop/word", **axes)
        ctx.record(None, "operator_flop", row["flop"] / 1e9, "Gflop", **axes)
        for side in ("words_in", "words_out"):
            ctx.record(None, side, row[side] / 1e6, "Mword", **axes)


def _torch_count(size: LayerSize) -> int:
    """What torch counts in nn.TransformerEncoderLayer, forward and backward; nothing is run."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode():
        layer = torch.nn.TransformerEncoderLayer(
            size.d_model, size.heads, size.width, batch_first=True
        )
        x = torch.empty(size.batch, size.length, size.d_model, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            layer(x).sum().backward()
    return int(counter.get_total_flops())


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The dataflow coloured by flop per word, one chart a size."""
    from transformer_dm.describe import encoder_graph
    from transformer_dm.experiments.dataflow_chart import dataflow

    found = []
    rows = frame[frame["metric"] == "flop_per_word"]
    for name, drawn in rows.groupby("axis.size", sort=False):
        # Edges and rows are the same for every size.
        graph = encoder_graph(*attrs.astuple(SIZES[str(name)]))
        found.append(
            dataflow(
                drawn.drop_duplicates("axis.number", keep="last"),
                graph,
                PAPER_CONVENTION,
                f"Dataflow of a training step, {name}",
                "An operator a line in running order, forward and then backward, with its flop per "
                "word moved; the paper's figures print 910 for a projection and 102 for a product "
                "of attention at S1. An arc is a tensor handed on, the wider the more words.",
            )
        )
    return found
