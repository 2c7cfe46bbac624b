"""The dataflow graph as a chart: operators on a line, tensors as arcs between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from common.report.chart_marks import base, finish
from common.report.charts import Chart
from transformer_dm.volume import convention, rows, traffic

if TYPE_CHECKING:
    from transformer_dm.graph import DataflowGraph

#: Half a circle as seven points (along, out): a curve through them looks round.
ARC = [((1 - math.cos(math.pi * n / 6)) / 2, math.sin(math.pi * n / 6)) for n in range(7)]
LINE_PX = 17
#: Below this, as for an operator that does no arithmetic at all, colours do not differ.
LEAST = 0.1


def dataflow(
    drawn: pd.DataFrame, graph: DataflowGraph, name: str, title: str, caption: str
) -> Chart:
    """Draw rows of a convention by colour of flop per word, class by shape.

    drawn: a record a row, value in flop per word, with axis.operator, axis.class, axis.stage and
    axis.number, the place of the row in the convention's order
    """
    nodes = pd.DataFrame(
        {
            "operator": drawn["axis.operator"].to_numpy(),
            "class": drawn["axis.class"].to_numpy(),
            "stage": drawn["axis.stage"].to_numpy(),
            "number": drawn["axis.number"].astype(int).to_numpy(),
            "value": drawn["value"].astype(float).to_numpy(),
        }
    ).sort_values("number")
    nodes["colour"] = nodes["value"].clip(lower=LEAST)
    nodes["text"] = [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in nodes["value"]]
    place = alt.Y(
        "number:Q",
        title=None,
        scale=alt.Scale(domain=[-0.6, len(nodes) - 0.4], reverse=True, nice=False, zero=False),
        axis=alt.Axis(
            values=nodes["number"].tolist(),
            labelExpr=f"{nodes['operator'].tolist()!r}[datum.value]",
            labelLimit=190,
            labelOverlap=False,
            ticks=False,
            domain=False,
            grid=False,
        ),
    )
    depth = alt.X("depth:Q", axis=None, scale=alt.Scale(domain=[-0.03, 1.02], nice=False))
    arcs = (
        base(_arcs(graph, name, nodes))
        .mark_line(interpolate="cardinal", stroke="#9aa3ad", opacity=0.6, clip=True)
        .encode(
            x=depth,
            y=place,
            detail="arc:N",
            order="step:Q",
            size=alt.Size("mwords:Q", legend=None, scale=alt.Scale(range=[0.5, 5], zero=True)),
        )
    )
    whole = base(nodes)
    tips = [alt.Tooltip(f"{field}:N") for field in ("operator", "class", "stage")]
    tips.append(alt.Tooltip("value:Q", title="flop per word", format=".4~g"))
    marks = whole.mark_point(size=90, filled=True, opacity=1, stroke="#1c2530").encode(
        x=alt.datum(0, type="quantitative"),
        y=place,
        shape=alt.Shape("class:N", title=None, legend=alt.Legend(orient="bottom")),
        color=alt.Color(
            "colour:Q",
            title="flop per word",
            scale=alt.Scale(type="log", scheme="viridis"),
            legend=alt.Legend(format=".4~g", values=[0.1, 1, 10, 100, 1000], gradientLength=160),
        ),
        tooltip=tips,
    )
    # The same text in white below keeps it legible where arcs pass.
    values = [
        whole.mark_text(align="left", dx=9, fontSize=10, **look).encode(
            x=alt.datum(0, type="quantitative"), y=place, text="text:N"
        )
        for look in ({"stroke": "white", "strokeWidth": 3}, {"fill": "#1c2530"})
    ]
    chart = alt.layer(arcs, marks, *values).properties(height=LINE_PX * len(nodes))
    shown = nodes.drop(columns=["colour", "text"]).rename(columns={"value": "flop per word"})
    return Chart(title, caption, finish(chart), shown)


def _arcs(graph: DataflowGraph, name: str, nodes: pd.DataFrame) -> pd.DataFrame:
    """Points of an arc for each tensor that one row hands to another."""
    listed = rows(graph, convention(name))
    number = {op: place for place, row in enumerate(listed) for op in row.ops}
    points: list[dict[str, Any]] = []
    for end, row in enumerate(listed):
        for tensor in traffic(graph, row.ops).reads:
            source = graph.producer(tensor)
            if source is None:
                continue
            start = number[source.name]
            reach = (end - start) / len(nodes)
            words = graph.elements(graph.tensor(tensor)) / 1e6
            arc = len(points) // len(ARC)
            for step, (along, out) in enumerate(ARC):
                place = round(start + along * (end - start), 3)
                # Longer arcs reach further out, the longest to the edge.
                depth = round(out * reach**0.6, 3)
                points.append(
                    {"arc": arc, "step": step, "number": place, "depth": depth, "mwords": words}
                )
    return pd.DataFrame(points)
