"""Charts hold what the rows hold: checked on the spec and on the drawing, without a browser."""

from typing import Any

import pandas as pd
import pytest

from common.report import charts
from common.report.chart_marks import log_ticks
from common.report.style import PALETTE, styles


def speedups(**changes: Any) -> pd.DataFrame:
    """Two systems at three ranks, as the store's frame gives them."""
    rows = [
        {
            "metric": "speedup",
            "value": value * rank**-0.2,
            "low": value * rank**-0.2 * 0.97,
            "high": value * rank**-0.2 * 1.03,
            "unit": "x",
            "noisy": False,
            "axis.rank": rank,
            "axis.system": system,
            "axis.tables": 3 if rank == 8 else 7,
        }
        for rank in (8, 16, 32)
        for system, value in (("ours", 4.0), ("fbgemm", 2.0))
    ]
    return pd.DataFrame(rows).assign(**changes)


def marks(chart: charts.Chart) -> int:
    """How many symbols the drawing has, the legend's left out."""
    svg = chart.to_svg()
    return svg.count('aria-roledescription="point"')


def values(chart: charts.Chart) -> list[dict[str, Any]]:
    """The data inside the spec."""
    (data,) = chart.spec["datasets"].values()
    assert isinstance(data, list)
    return data


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows: charts.bars(rows, "axis.rank", "t", "c"),
        lambda rows: charts.bars(rows, "axis.rank", "t", "c", log_y=True),
        lambda rows: charts.lines(rows, "axis.rank", "t", "c", log_x=True, log_y=True),
        lambda rows: charts.points(rows, "axis.rank", "t", "c"),
        lambda rows: charts.lines(rows, "axis.rank", "t", "c", column="axis.tables"),
        lambda rows: charts.bars(rows, "axis.rank", "t", "c", column="axis.tables"),
    ],
    ids=["bars", "log bars", "log lines", "points", "panels of lines", "panels of bars"],
)
def test_every_row_gets_one_marker(draw: Any) -> None:
    assert marks(draw(speedups())) == 6


def test_rows_hold_value_interval_and_axes() -> None:
    chart = charts.bars(speedups(), "axis.rank", "t", "c")
    assert len(chart.rows) == 6
    assert {"x", "value", "low", "high", "system", "unit"} <= set(chart.rows.columns)


def test_spec_names_no_address() -> None:
    chart = charts.lines(speedups(), "axis.rank", "t", "c", column="axis.tables")
    assert "http" not in str(chart.spec)


def test_single_views_take_the_width_of_their_place() -> None:
    assert charts.lines(speedups(), "axis.rank", "t", "c").spec["width"] == "container"


def test_systems_differ_in_shape_and_colour() -> None:
    chart = charts.lines(speedups(), "axis.rank", "t", "c")
    point = next(layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "point")
    for channel in ("shape", "stroke"):
        scale = point["encoding"][channel]["scale"]
        assert scale["domain"] == ["ours", "fbgemm"]
        assert len(set(scale["range"])) == 2


def test_a_system_looks_the_same_whoever_stands_beside_it() -> None:
    alone = styles(["ours", "dgl"])
    crowd = styles(["halide", "ours", "torch", "unheard of", "dgl"])
    assert alone["ours"] == crowd["ours"] == PALETTE[0]
    assert alone["dgl"] == crowd["dgl"]


def test_no_two_systems_of_a_chart_look_alike() -> None:
    names = ["ours", "torch", "t3nsor", "ring", *(f"system {n}" for n in range(8))]
    assert len(set(styles(names).values())) == len(PALETTE) == len(names)
    assert len(styles([*names, "one more"])) == 13


@pytest.mark.parametrize(
    "names",
    [
        ["ours", *(f"system {n}" for n in range(7))],
        ["torch", "t3nsor", "gcc", "numpy", "dgl"],
        ["ours", "torch_bmm", "embedding_bag", "fbgemm", "someone's"],
        [f"system {n}" for n in range(7)],
    ],
)
def test_up_to_eight_systems_differ_in_shape_alone(names: list[str]) -> None:
    assert len({style.shape for style in styles(names).values()}) == len(names)


def test_paper_values_are_hollow_and_stand_at_every_x(sample: Any) -> None:
    claim = sample.claims["ttrec.abstract.kernel_speedup"]
    chart = charts.bars(speedups(), "axis.rank", "t", "c", paper=charts.paper_rows(claim))
    paper = [row for row in values(chart) if row["origin"] == "paper"]
    assert [(row["x"], row["value"]) for row in paper] == [(8, 3), (16, 3), (32, 3)]
    point = chart.spec["layer"][-1]["encoding"]
    hollow = point["fill"]["scale"]["domain"].index("paper")
    assert point["fill"]["scale"]["range"][hollow] == "#ffffff"
    assert point["stroke"]["scale"]["range"][hollow] != "#ffffff"


def test_paper_points_keep_their_axes(sample: Any) -> None:
    claim = sample.claims["ttrec.fig.kaggle_ratio"]
    rows = charts.paper_rows(claim)
    seven = rows[(rows["axis.tables"] == 7) & (rows["axis.rank"] == 8)]
    assert seven["value"].tolist() == [221.9]


def test_remembered_paper_values_say_so(sample: Any) -> None:
    claim = sample.claims["costmodel.sec.pearson"]
    chart = charts.lines(speedups(), "axis.rank", "t", "c", paper=charts.paper_rows(claim))
    assert {row["series"] for row in values(chart)} == {"ours", "fbgemm", "paper (remembered)"}


def test_unknown_paper_values_draw_nothing(sample: Any) -> None:
    claim = sample.claims["cortex.tab.speedup_over_cavs"]
    assert charts.paper_rows(claim).empty
    chart = charts.bars(speedups(), "axis.rank", "t", "c", paper=charts.paper_rows(claim))
    assert marks(chart) == 6


def test_unsettled_rows_are_pale() -> None:
    chart = charts.lines(speedups(noisy=[True] + [False] * 5), "axis.rank", "t", "c")
    assert [row.get("noisy", False) for row in values(chart)].count(True) == 1
    assert chart.spec["layer"][-1]["encoding"]["opacity"]["condition"]["test"] == "datum.noisy"


def test_missing_axes_and_systems_are_borne() -> None:
    rows = speedups()
    rows["axis.rank"] = rows["axis.rank"].astype("Int64")
    rows.loc[0, "axis.rank"] = pd.NA
    rows.loc[1, "axis.system"] = None
    chart = charts.lines(rows, "axis.rank", "t", "c")
    assert len(chart.rows) == 5
    assert set(chart.rows["system"]) == {"ours", "fbgemm"}


def test_numbers_in_a_legend_say_what_they_count() -> None:
    chart = charts.lines(speedups(), "axis.rank", "t", "c", color="axis.tables")
    assert set(chart.rows["system"]) == {"tables 3", "tables 7"}


def test_counts_take_the_looks_in_order() -> None:
    rows = speedups(**{"axis.threads": [1, 2] * 3})
    chart = charts.lines(rows, "axis.rank", "t", "c", color="axis.threads")
    point = chart.spec["layer"][-1]["encoding"]
    assert point["shape"]["scale"]["domain"] == ["threads 1", "threads 2"]
    assert point["shape"]["scale"]["range"] == [PALETTE[0].shape, PALETTE[1].shape]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.9, 5.2, [1, 2, 5]), (2, 600, [10, 100]), (0.03, 8e4, [0.1, 1, 10, 100, 1e3, 1e4])],
)
def test_log_ticks_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == ticks


def test_no_rows_still_make_a_chart() -> None:
    for log in (False, True):
        assert marks(charts.lines(speedups().head(0), "axis.rank", "t", "c", log_y=log)) == 0


def test_unknown_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"'axis.batch'.*axis.rank"):
        charts.lines(speedups(), "axis.batch", "t", "c")


def test_log_axis_refuses_zero() -> None:
    with pytest.raises(ValueError, match="log axis needs values above 0, got 0"):
        charts.bars(speedups(value=0.0, low=0.0), "axis.rank", "t", "c", log_y=True)


def test_log_axes_say_so_with_their_unit() -> None:
    chart = charts.bars(speedups(), "axis.rank", "t", "c", log_y=True)
    assert "log scale" in chart.to_svg()
    assert any(
        layer["encoding"].get("x", {}).get("title") == "speedup (×, log scale)"  # noqa: RUF001
        for layer in chart.spec["layer"]
    )


def test_log_bars_of_a_quantity_grow_from_the_end_of_their_axis() -> None:
    chart = charts.bars(speedups(unit="ms"), "axis.rank", "t", "c", log_y=True)
    assert marks(chart) == 6
    bar = next(layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "bar")
    start = bar["encoding"]["x"]["scale"]["domain"][0]
    assert 0 < start < min(row["low"] for row in values(chart))
    assert {row["base"] for row in values(chart)} == {start}


def test_log_bars_of_a_ratio_grow_from_1() -> None:
    chart = charts.bars(speedups(), "axis.rank", "t", "c", log_y=True)
    assert {row["base"] for row in values(chart)} == {1}


def test_many_points_are_thinned_and_the_caption_says_so() -> None:
    rows = pd.DataFrame({"axis.n": range(5000), "value": range(5000), "metric": "m", "unit": "s"})
    chart = charts.points(rows, "axis.n", "t", "All of them.")
    assert len(chart.rows) == charts.MAX_MARKS
    assert chart.caption == "All of them. 600 of 5,000 points are drawn."


def test_cdf_rises_from_0_to_1_for_each_system() -> None:
    rows = pd.DataFrame({
        "metric": "error", "unit": "%", "value": [float(n) for n in range(200)],
        "axis.system": ["ours", "GBM"] * 100,
    })  # fmt: skip
    chart = charts.density(rows, "t", "c")
    for _, curve in chart.rows.groupby("system"):
        assert curve["share"].is_monotonic_increasing
        assert (curve["share"].iloc[0], curve["share"].iloc[-1]) == (0, 1)
    assert chart.rows["value"].max() == 199


def test_histogram_shares_add_up_to_1() -> None:
    rows = pd.DataFrame({"metric": "m", "unit": "x", "value": [1.0, 2.0, 4.0, 8.0]})
    chart = charts.density(rows, "t", "c", kind="histogram", bins=3, log_x=True)
    assert chart.rows["share"].tolist() == [0.25, 0.25, 0.5]


PEAKS = [
    ("fp32_peak", 256.0, "GFLOP/s"),
    ("read_bandwidth", 16.0, "GB/s"),
    ("gemm_torch_fp32", 100.0, "GFLOP/s"),
]


def test_roofline_bends_where_bandwidth_meets_the_peak() -> None:
    rows = pd.DataFrame(PEAKS, columns=["metric", "value", "unit"])
    chart = charts.roofline(rows, "t", "c")
    roof = chart.rows[chart.rows["ceiling"].notna()]
    assert (16.0, 256.0) in set(zip(roof["flop/byte"], roof["GFLOP/s"], strict=True))
    assert roof["GFLOP/s"].max() == 256
    assert chart.rows["system"].dropna().tolist() == ["torch fp32"]
    assert marks(chart) == 1


def test_roofline_without_ceilings_names_what_it_got() -> None:
    rows = pd.DataFrame(PEAKS[2:], columns=["metric", "value", "unit"])
    with pytest.raises(ValueError, match=r"a roofline needs fp32_peak.*got gemm_torch_fp32"):
        charts.roofline(rows, "t", "c")
