"""The experiment on matrix products: every cell is measured as declared, its charts follow."""

from collections.abc import Callable
from typing import Any, cast

import pandas as pd
import pytest
import torch

from common import claims
from common.experiment import Context
from common.experiments import gemm as experiment


class Seeds:
    """The part of a context that makes operands."""

    def torch_rng(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(len(name))


def settings(**changes: Any) -> experiment.Settings:
    values: dict[str, Any] = {
        "rows": [1],
        "shapes": [[8, 16]],
        "precisions": ["fp32"],
        "halfwidth": 0.02,
        "max_seconds": 1.0,
    }
    return experiment.Settings(**(values | changes))


@pytest.mark.parametrize("precision", experiment.PRECISIONS)
@pytest.mark.parametrize("table", experiment.TABLES)
def test_all_systems_of_a_cell_give_the_same_product(table: str, precision: str) -> None:
    cell = experiment._Cell(table, precision, 5, 40, 24, settings())
    calls = cell.calls(cast(Context, Seeds()))
    assert ("numpy" in calls) == (precision == "fp32")
    expected = calls["aten"]().clone()
    for name, call in calls.items():
        assert cell._agree(call(), expected), name


def test_a_wrong_product_is_told_from_a_rounded_one() -> None:
    cell = experiment._Cell("plain", "fp32", 64, 256, 64, settings())
    expected = torch.randn(64, 256).double() @ torch.randn(256, 64).double()
    assert cell._agree(expected.float(), expected)
    wrong = expected.clone()
    wrong[3, 5] += 1e-3  # a hundred times the rounding, a ten-thousandth of the size
    assert not cell._agree(wrong, expected)


def test_peak_probe_does_the_operations_of_the_product() -> None:
    call = experiment._peak_call("fp32", 1e8, 1)
    assert call is not None
    assert cast(Callable[[], int], call)() == pytest.approx(1e8, rel=1e-4)


@pytest.mark.parametrize("shapes", [[[8]], [[8, 16, 32]], [[0, 4]]])
def test_a_shape_is_a_depth_and_a_number_of_columns(shapes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="shapes"):
        settings(shapes=shapes)


def test_charts_for_each_table_and_precision_measured() -> None:
    def row(metric: str, system: str, **axes: Any) -> dict[str, Any]:
        every = {"table": "packed", "precision": "fp32", "rows": 64, "depth": 8, "columns": 16}
        return {
            "metric": metric,
            "value": 0.9,
            "low": 0.8,
            "high": 1.0,
            "unit": "x",
            "noisy": False,
            "axis.system": system,
            "axis.baseline": "onednn",
            **{f"axis.{name}": value for name, value in (every | axes).items()},
        }

    frame = pd.DataFrame(
        [
            row("roofline_share", "ours"),
            row("roofline_share", "onednn"),
            row("packed_over_best", "ours"),
            row("peak_share", "ours"),
            row("roofline_share", "ours", table="plain", precision="bf16"),
        ]
    )
    assert [chart.title for chart in experiment.charts(frame, claims.load("common"))] == [
        "Matrix products, fp32, b packed beforehand",
        "Ours over the faster library, fp32, b packed beforehand",
        "Matrix products, bf16, nothing packed",
        "Share of the arithmetic peak, b packed beforehand",
    ]
