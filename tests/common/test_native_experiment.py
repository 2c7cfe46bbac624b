"""The experiment on the native layer: its charts follow its rows, its builders really build."""

from pathlib import Path

import pandas as pd
import pytest

from common import claims
from common.experiment import all_experiments
from common.experiments import native as experiment


def rows() -> pd.DataFrame:
    """What a run leaves, with round numbers."""
    ratio = {"unit": "x", "low": 2.9, "high": 3.1, "noisy": False}
    calls = [
        {**ratio, "metric": "checked_over_raw", "value": 3.0, "axis.system": system}
        for system in ("raw_ctypes", "raw_cffi")
    ]
    operators = [
        {
            **ratio,
            "metric": "registered_over_plain",
            "value": 3.0,
            "axis.system": "plain",
            "axis.grad": grad,
        }
        for grad in (False, True)
    ]
    builds = [
        {
            "metric": metric,
            "value": value * scale,
            "unit": "ms",
            "low": None,
            "high": None,
            "noisy": False,
            "axis.system": system,
            "axis.counted": "build",
        }
        for metric, scale in (("first_build", 100.0), ("cache_hit", 1.0))
        for system, value in (("ours", 2.0), ("load_inline", 8.0))
    ]
    return pd.DataFrame([*calls, *operators, *builds])


def test_a_chart_for_calls_operators_and_builds() -> None:
    found = experiment.charts(rows(), claims.load("common"))
    assert [chart.title for chart in found] == [
        "A checked call over other calls",
        "A registered operator over other wrappings",
        "From source to callable",
    ]


def test_builders_are_shown_relative_to_ours() -> None:
    shown = experiment._over_ours(rows())
    assert sorted(shown["stage"]) == ["cache hit, build", "first build, build"]
    assert set(shown["axis.system"]) == {"load_inline"}
    assert set(shown["value"]) == {4.0}


@pytest.mark.parametrize("metric", ["checked_over_raw", "registered_over_plain", "first_build"])
def test_a_part_that_did_not_run_has_no_chart(metric: str) -> None:
    kept = rows()
    kept = kept[kept["metric"] == metric]
    if metric == "first_build":
        kept = kept[kept["axis.system"] == "ours"]
    assert len(experiment.charts(kept, {})) == (0 if metric == "first_build" else 1)


def test_a_second_process_is_given_what_the_first_built(tmp_path: Path) -> None:
    first = experiment._in_new_process("ours", tmp_path)
    entries = sorted(tmp_path.glob("*.so"))
    second = experiment._in_new_process("ours", tmp_path)
    assert len(entries) == 1
    assert sorted(tmp_path.glob("*.so")) == entries
    for times in (first, second):
        assert 0 < times["build"] < times["import and build"]


def test_it_is_listed_with_the_claims_it_records() -> None:
    listed = all_experiments()["common_native"]
    text = Path(experiment.__file__).read_text()
    assert [claim for claim in listed.claims if f'"{claim}"' not in text] == []
