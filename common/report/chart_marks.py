"""The marks, axes and legends that charts are put together from."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

from common.report.chart_data import (
    PANEL,
    Look,
    is_numeric,
    is_ratio,
    ordered,
    records,
    short,
)
from common.report.wording import unit_phrase

HEIGHT = 270
_HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"


def base(data: pd.DataFrame) -> Any:
    """An Altair chart over the rows, which stand inside the spec."""
    return alt.Chart(alt.InlineData(values=records(data)))


def xy_layers(
    data: pd.DataFrame,
    looks: dict[str, Look],
    *,
    x_title: str,
    y_title: str | None,
    log_x: bool,
    log_y: bool,
    joined: bool,
    rule: bool = True,
) -> list[Any]:
    """Markers with intervals over x, joined by lines on request; a ratio gets a rule at 1."""
    distinct = ordered(data["x"])
    if is_numeric(data["x"]):
        few = distinct if len(distinct) <= 8 else None
        x_axis = quantity(alt.X, "x", data[["x"]], x_title, log_x, ticks=few)
    else:
        axis = alt.Axis(labelAngle=0)
        x_axis = alt.X("x:O", title=x_title, sort=distinct, axis=axis)
    ruled = rule and is_ratio(data) and y_title is None
    shown = data[["value", "low", "high"]]
    title = axis_title(data, y_title)
    y_axis = quantity(alt.Y, "value", shown, title, log_y, include=1.0 if ruled else None)
    # A curve of many points keeps its shape by a marker here and there.
    longest = int(data.groupby("series").size().max()) if len(data) else 0
    every = longest // 8 if joined and longest > 24 else 1
    data = data.assign(marked=data.groupby("series").cumcount() % every == every // 2)
    rows = base(data)
    layers: list[Any] = []
    if ruled:
        layers.append(rule_at_one(rows, "y"))
    if joined:
        dash = alt.condition("datum.origin == 'paper'", alt.value([2, 3]), alt.value([1, 0]))
        layers.append(
            rows.mark_line().encode(
                x=x_axis, y=y_axis, stroke=channel("stroke", looks), strokeDash=dash
            )
        )
    layers += [
        layer.encode(x=x_axis, y="low:Q", y2="high:Q") for layer in intervals(rows, looks, data)
    ]
    marked = rows.transform_filter("datum.marked") if every > 1 else rows
    layers.append(markers(marked, looks, data).encode(x=x_axis, y=y_axis))
    return layers


def markers(rows: Any, looks: dict[str, Look], data: pd.DataFrame) -> Any:
    """Filled markers for what was measured here, hollow ones for the paper."""
    crowded = len(data) > 150 and data["x"].nunique() > 24
    tips = [alt.Tooltip("series:N", title="system"), alt.Tooltip("x:N", title="at")]
    tips += [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("value", "low", "high")]
    if PANEL in data.columns:
        tips.append(alt.Tooltip(f"{PANEL}:N", title="panel"))
    return rows.mark_point(
        size=26 if crowded else 64, strokeWidth=1 if crowded else 1.7, fillOpacity=1, opacity=1
    ).encode(
        fill=channel("fill", looks),
        stroke=channel("stroke", looks),
        shape=channel("shape", looks),
        opacity=paleness(),
        tooltip=tips,
    )


def intervals(rows: Any, looks: dict[str, Look], data: pd.DataFrame) -> list[Any]:
    """Rules from low to high where a row has an interval, no layer where none has.

    The caller sets the direction.
    """
    if data["low"].isna().all():
        return []
    rules = (
        rows.transform_filter(_HAS_INTERVAL)
        .mark_rule(strokeWidth=1.5)
        .encode(stroke=channel("stroke", looks), opacity=paleness())
    )
    return [rules]


def rule_at_one(rows: Any, direction: Literal["x", "y"]) -> Any:
    """The dashed line where both sides of a ratio are equal."""
    return rows.mark_rule(strokeDash=[4, 3], strokeWidth=1).encode(
        stroke=alt.value("#7d8791"), **{direction: alt.datum(1)}
    )


def channel(name: Literal["fill", "stroke", "shape"], looks: dict[str, Look]) -> Any:
    """Colour or shape by series; the three channels agree, so they share one legend."""
    values = {
        "fill": ["#ffffff" if look.hollow else look.style.colour for look in looks.values()],
        "stroke": [look.style.colour for look in looks.values()],
        "shape": [look.style.shape for look in looks.values()],
    }[name]
    scale = alt.Scale(domain=list(looks), range=values)
    # A legend of one entry says nothing the title does not.
    legend: Any = alt.Legend() if len(looks) > 1 else None
    kind = {"fill": alt.Fill, "stroke": alt.Stroke, "shape": alt.Shape}[name]
    return kind("series:N", scale=scale, legend=legend, title=None)


def paleness() -> Any:
    """Pale when the comparison did not settle."""
    return alt.condition("datum.noisy", alt.value(0.35), alt.value(1))


def quantity(
    kind: Any,
    field: str,
    values: pd.DataFrame,
    title: str,
    log: bool,
    *,
    ticks: Sequence[float] | None = None,
    include: float | None = None,
) -> Any:
    """A numeric x or y channel. A log axis ends just outside its values and says that it is log.

    Raises ValueError for a log axis over values that are not above 0.
    """
    axis: dict[str, Any] = {"format": ".4~g", "tickCount": 6, "labelOverlap": True, "grid": True}
    if not log:
        if ticks is not None:
            axis["values"] = list(ticks)
        scale = alt.Scale(zero=False) if kind is alt.X else alt.Scale(nice=True)
        return kind(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(**axis))
    low, high = log_domain(values, include)
    axis["values"] = list(ticks) if ticks is not None else log_ticks(low, high)
    return kind(
        f"{field}:Q",
        title=_say_log(title),
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(**axis),
    )


def log_domain(values: pd.DataFrame, include: float | None = None) -> tuple[float, float]:
    """The ends of a log axis: the values with a twentieth of their span on either side.

    Raises ValueError for values that are not above 0.
    """
    flat = values.to_numpy(dtype=float).ravel().tolist()
    known = [value for value in flat if not math.isnan(value)]
    if not known:
        return 0.1, 10.0
    known += [] if include is None else [include]
    low, high = min(known), max(known)
    if low <= 0:
        raise ValueError(f"a log axis needs values above 0, got {low:g}")
    room = max((high / low) ** 0.05, 1.12)
    return float(f"{low / room:.4g}"), float(f"{high * room:.4g}")


def log_ticks(low: float, high: float) -> list[float]:
    """Round values within a log axis: 1, 2, 5 of each decade, powers of ten above 40-fold."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    if math.log10(high / low) < 1.6:
        every = [factor * 10.0**power for power in range(first, last) for factor in (1, 2, 5)]
        every.append(10.0**last)
    else:
        every = [10.0**power for power in range(first, last + 1, 1 + decades // 8)]
    return [float(f"{tick:.6g}") for tick in every if low <= tick <= high]


def axis_title(data: pd.DataFrame, given: str | None) -> str:
    """The wished title, or the metric with its unit when the rows have just one."""
    if given is not None:
        return given
    metrics = list(dict.fromkeys(data["metric"])) if "metric" in data.columns else []
    name = short(str(metrics[0])) if len(metrics) == 1 else "value"
    units = list(dict.fromkeys(data["unit"])) if "unit" in data.columns else []
    unit = unit_phrase(str(units[0])) if len(units) == 1 else ""
    return f"{name} ({unit})" if unit else name


def _say_log(title: str) -> str:
    return f"{title[:-1]}, log scale)" if title.endswith(")") else f"{title} (log scale)"


def panels(layers: Sequence[Any], data: pd.DataFrame, column: str | None, height: Any) -> Any:
    """Layers on top of each other, repeated for each value of `column` when one is given."""
    if column is None:
        return alt.layer(*layers).properties(height=height)
    # Facets need their data at the top; the page sets the width of a panel to fit the screen.
    bare = [layer.properties(data=alt.Undefined) for layer in layers]
    panel = alt.layer(*bare).properties(height=height, width=260)
    return panel.facet(
        data=alt.InlineData(values=records(data)),
        facet=alt.Facet(f"{PANEL}:N", title=None, sort=list(dict.fromkeys(data[PANEL]))),
        columns=2,
    )


def finish(chart: Any) -> dict[str, Any]:
    """The spec as a dict, as wide as its place, with nothing in it a viewer could want to fetch."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("$schema", None)
    spec.pop("config", None)
    if not {"facet", "hconcat", "vconcat", "concat", "repeat"} & spec.keys():
        spec["width"] = "container"
    return spec
