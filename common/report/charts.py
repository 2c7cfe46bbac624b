"""Charts from the long frame of records: one call, one chart, the same look everywhere.

Every helper takes rows as `Store.frame` gives them (a row per record: metric, value, low, high,
unit, noisy and `axis.<name>` columns) and returns a `Chart`: a Vega-Lite dict as wide as its place,
plus the rows it shows. Systems keep their colour and shape through the whole report, intervals are
error bars, the paper's values are hollow markers, and a comparison that did not settle is pale.
"""

import math
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import altair as alt
import attrs
import numpy as np
import pandas as pd

from common.report.chart_data import SYSTEM, gather, is_ratio, ordered, public, records, short, thin
from common.report.chart_marks import (
    HEIGHT,
    axis_title,
    base,
    channel,
    finish,
    intervals,
    log_domain,
    log_ticks,
    markers,
    panels,
    quantity,
    rule_at_one,
    xy_layers,
)
from common.report.style import VEGA_CONFIG

if TYPE_CHECKING:
    from common.claims import Claim

#: More points than this are thinned: the eye sees no more, and the page stays small.
MAX_MARKS = 600


@attrs.frozen(eq=False)
class Chart:
    """A figure of the report: heading, one or two sentences, Vega-Lite spec, and the rows shown."""

    title: str
    caption: str
    spec: dict[str, Any] = attrs.field(repr=False)
    rows: pd.DataFrame = attrs.field(repr=False)

    def to_svg(self, width: int = 620) -> str:
        """Render without a browser, for a README picture."""
        import vl_convert  # an optional package, wanted for pictures only

        spec = {**self.spec, "config": VEGA_CONFIG, "background": "white"}
        if spec.get("width") == "container":
            spec["width"] = width
        return str(vl_convert.vegalite_to_svg(spec))


def paper_rows(claim: "Claim") -> pd.DataFrame:
    """Return the paper's values of a claim as rows for the `paper` argument of the helpers.

    One row per point with its axes as `axis.<name>`, or one row without axes for a single number;
    no row when the value is not known. Remembered values are named as such in the legend.
    """
    points = [(dict(point.axes), point.value) for point in claim.points]
    if not points and claim.paper is not None:
        points = [({}, claim.paper)]
    rows: list[dict[str, Any]] = []
    for axes, value in points:
        row: dict[str, Any] = {"metric": claim.metric, "unit": claim.unit, "source": claim.source}
        if isinstance(value, tuple):
            low, high = value
            row |= {"value": math.sqrt(low * high) if low > 0 else (low + high) / 2}
            row |= {"low": low, "high": high}
        else:
            row["value"] = value
        rows.append(row | {f"axis.{name}": axis for name, axis in axes.items()})
    return pd.DataFrame(rows)


def bars(
    rows: pd.DataFrame,
    x: str,
    title: str,
    caption: str,
    *,
    y: str = "value",
    color: str = "axis.system",
    y_title: str | None = None,
    log_y: bool = False,
    column: str | None = None,
    paper: pd.DataFrame | None = None,
) -> Chart:
    """Draw a bar per category `x` and system, lying flat so that names fit on a narrow screen.

    On a log axis bars of a ratio (unit "x") grow from 1, so that slower points the other way;
    others grow from the axis's lower end, since there is no 0.
    """
    data, looks = gather(rows, x, y, color, column, paper)
    ratio = is_ratio(data)
    shown = data[["value", "low", "high"]]
    value_title = axis_title(data, y_title)
    value = quantity(alt.X, "value", shown, value_title, log_y, include=1.0 if ratio else None)
    if not log_y:
        value = value.scale(zero=True)
    data["base"] = (1.0 if ratio else log_domain(shown)[0]) if log_y else 0.0
    systems = list(dict.fromkeys(data[SYSTEM]))
    place: dict[str, Any] = {
        "y": alt.Y(
            "x:N",
            sort=ordered(data["x"]),
            title=short(x),
            scale=alt.Scale(paddingInner=0.3 if len(systems) == 1 else 0.1),
            axis=alt.Axis(ticks=False, domain=False, labelPadding=8),
        )
    }
    if len(systems) > 1:
        offset = alt.Scale(paddingInner=0.25)
        place["yOffset"] = alt.YOffset(f"{SYSTEM}:N", sort=systems, scale=offset)
    # A height in steps would do the same, but Vega-Lite warns when the width is the container's.
    height = 12 + len(ordered(data["x"])) * max(26, 19 * len(systems) + 9)
    everything = base(data)
    layers = [
        everything.transform_filter("datum.origin == 'measured'")
        .mark_bar(opacity=0.28)
        .encode(x=value, x2="base:Q", fill=channel("fill", looks), **place),
        *(
            layer.encode(x="low:Q", x2="high:Q", **place)
            for layer in intervals(everything, looks, data)
        ),
        markers(everything, looks, data).encode(x=value, **place),
    ]
    if ratio:
        layers.insert(0, rule_at_one(everything, "x"))
    return Chart(title, caption, finish(panels(layers, data, column, height)), public(data))


class XYOptions(TypedDict, total=False):
    """What lines and points are told beyond their rows, x and words.

    y:                column of the values (value)
    color:            column that names the system (axis.system)
    x_title, y_title: in place of the column's and the metric's name
    log_x, log_y:     logarithmic axes
    column:           column with a panel for each of its values
    paper:            the paper's values, as paper_rows gives them
    """

    y: str
    color: str
    x_title: str | None
    y_title: str | None
    log_x: bool
    log_y: bool
    column: str | None
    paper: pd.DataFrame | None


def lines(
    rows: pd.DataFrame, x: str, title: str, caption: str, **options: Unpack[XYOptions]
) -> Chart:
    """Draw a line per system over `x` with a marker and an interval at every value."""
    return _xy(rows, x, title, caption, joined=True, **options)


def points(
    rows: pd.DataFrame,
    x: str,
    title: str,
    caption: str,
    *,
    diagonal: bool = False,
    **options: Unpack[XYOptions],
) -> Chart:
    """Draw a marker per row; `diagonal` adds the line y = x (predicted against measured).

    Above 600 rows an even sample is drawn and the caption says so.
    """
    kept, note = thin(rows, MAX_MARKS)
    return _xy(kept, x, title, caption + note, joined=False, diagonal=diagonal, **options)


def _xy(
    rows: pd.DataFrame,
    x: str,
    title: str,
    caption: str,
    *,
    joined: bool,
    diagonal: bool = False,
    y: str = "value",
    color: str = "axis.system",
    x_title: str | None = None,
    y_title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    column: str | None = None,
    paper: pd.DataFrame | None = None,
) -> Chart:
    data, looks = gather(rows, x, y, color, column, paper)
    layers = xy_layers(
        data,
        looks,
        x_title=x_title or short(x),
        y_title=y_title,
        log_x=log_x,
        log_y=log_y,
        joined=joined,
        rule=not diagonal,
    )
    if diagonal:
        ends = pd.concat([data["x"], data["value"]]).astype(float)
        corner = [{"x": float(end), "value": float(end)} for end in (ends.min(), ends.max())]
        line = alt.Chart(alt.InlineData(values=corner)).mark_line(strokeDash=[4, 4])
        encoded = line.encode(x="x:Q", y="value:Q", stroke=alt.value("#7d8791"))
        layers.insert(0, encoded)
    return Chart(title, caption, finish(panels(layers, data, column, HEIGHT)), public(data))


def density(
    rows: pd.DataFrame,
    title: str,
    caption: str,
    *,
    x: str = "value",
    kind: Literal["cdf", "histogram"] = "cdf",
    color: str = "axis.system",
    x_title: str | None = None,
    log_x: bool = False,
    bins: int = 30,
    column: str | None = None,
) -> Chart:
    """Draw how the values of each system spread: share at or below (cdf), or share per bin."""
    source = rows.assign(_at=rows[x].astype(float)).dropna(subset=["_at"])
    groups = [name for name in (color, column) if name is not None and name in source.columns]
    edges = _bin_edges(source["_at"].to_numpy(), bins, log_x)
    parts: list[pd.DataFrame] = []
    for key, group in source.groupby(groups, sort=False) if groups else [((), source)]:
        values = group["_at"].to_numpy()
        if kind == "cdf":
            # 61 quantiles draw a curve as smooth as the width allows, whatever the sample size.
            share = np.linspace(0, 1, min(61, max(2, len(values))))
            curve: dict[str, Any] = {"at": np.quantile(values, share), "value": share}
        else:
            count, _ = np.histogram(values, edges)
            middle = np.sqrt(edges[:-1] * edges[1:]) if log_x else (edges[:-1] + edges[1:]) / 2
            curve = {"at": middle, "value": count / len(values)}
        curve |= {name: [label] * len(curve["at"]) for name, label in zip(groups, key, strict=True)}
        parts.append(pd.DataFrame(curve))
    spread = pd.concat(parts) if parts else pd.DataFrame({"at": [], "value": []})
    chart = lines(
        spread,
        "at",
        title,
        caption,
        color=color,
        x_title=x_title or (axis_title(rows, None) if x == "value" else short(x)),
        y_title="share at or below" if kind == "cdf" else "share per bin",
        log_x=log_x,
        column=column,
    )
    return attrs.evolve(chart, rows=chart.rows.rename(columns={"x": short(x), "value": "share"}))


def roofline(
    rows: pd.DataFrame, title: str, caption: str, *, work: pd.DataFrame | None = None
) -> Chart:
    """Draw this machine's ceilings on log axes, and what ran below them.

    rows: records with metrics fp32_peak, bf16_peak (GFLOP/s), read_bandwidth, triad_bandwidth,
          l2_bandwidth (GB/s), and gemm_<system> (GFLOP/s) drawn at `axis.intensity` or, without
          that axis, near the right edge where a large GEMM belongs.
    work: further points with columns `axis.intensity` (flop/byte), value (GFLOP/s), `axis.system`.

    Raises ValueError when no peak comes with a bandwidth.
    """
    newest = rows.drop_duplicates("metric", keep="last").set_index("metric")["value"].astype(float)
    ceilings = [
        (f"{peak_name}, {speed_name}", float(newest[peak]), float(newest[speed]))
        for peak, peak_name, speed, speed_name in (
            ("fp32_peak", "fp32", "l2_bandwidth", "L2"),
            ("fp32_peak", "fp32", "read_bandwidth", "memory read"),
            ("fp32_peak", "fp32", "triad_bandwidth", "memory triad"),
            ("bf16_peak", "bf16", "read_bandwidth", "memory read"),
        )
        if peak in newest and speed in newest
    ]
    if not ceilings:
        got = ", ".join(sorted(map(str, newest.index))) or "no record"
        raise ValueError(f"a roofline needs fp32_peak or bf16_peak and a bandwidth, got {got}")
    left, right = 1 / 16, max(512.0, 4 * max(peak / speed for _, peak, speed in ceilings))
    roofs = pd.DataFrame(
        [
            {"ceiling": name, "x": intensity, "value": min(peak, intensity * speed)}
            for name, peak, speed in ceilings
            for intensity in (left, peak / speed, right)
        ]
    )
    reached = _gemm_points(rows, right / 2)
    if work is not None and len(work):
        reached = pd.concat([reached, work], ignore_index=True)
    all_values = pd.concat([roofs[["value"]], reached[["value"]].astype(float)])
    x_axis = alt.X(
        "x:Q",
        title="operational intensity (flop/byte, log scale)",
        scale=alt.Scale(type="log", domain=[left, right], nice=False),
        axis=alt.Axis(values=log_ticks(left, right), format=".4~g"),
    )
    y_axis = quantity(alt.Y, "value", all_values, "speed (GFLOP/s)", True)
    names = [name for name, _, _ in ceilings]
    dashes = [[1, 0], [8, 3], [2, 3], [8, 3, 2, 3]][: len(names)]
    legend = alt.Legend(
        symbolType="stroke", symbolStrokeColor="#56606c", symbolSize=320, columns=2, orient="bottom"
    )
    dash = alt.StrokeDash(
        "ceiling:N", scale=alt.Scale(domain=names, range=dashes), legend=legend, title=None
    )
    roof = alt.Chart(alt.InlineData(values=records(roofs)))
    layers = [roof.mark_line(stroke="#56606c").encode(x=x_axis, y=y_axis, strokeDash=dash)]
    shown = roofs
    if len(reached):
        data, looks = gather(reached, "axis.intensity", "value", "axis.system", None, None)
        layers.append(markers(base(data), looks, data).encode(x=x_axis, y=y_axis))
        shown = pd.concat([roofs, public(data)], ignore_index=True)
    chart = alt.layer(*layers).properties(height=HEIGHT + 40)
    shown = shown.rename(columns={"x": "flop/byte", "value": "GFLOP/s"})
    return Chart(title, caption, finish(chart), shown)


def _gemm_points(rows: pd.DataFrame, at: float) -> pd.DataFrame:
    gemm = rows[rows["metric"].astype(str).str.startswith("gemm_")].copy()
    gemm = gemm.drop_duplicates("metric", keep="last")
    systems = [short(str(metric).removeprefix("gemm_")) for metric in gemm["metric"]]
    where = gemm["axis.intensity"] if "axis.intensity" in gemm.columns else None
    gemm["axis.system"] = systems
    gemm["axis.intensity"] = at if where is None else where.astype(float).fillna(at)
    return gemm


def _bin_edges(values: "np.ndarray[Any, Any]", bins: int, log: bool) -> "np.ndarray[Any, Any]":
    if len(values) == 0:
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if log and low <= 0:
        raise ValueError(f"a log axis needs values above 0, got {low:g}")
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
