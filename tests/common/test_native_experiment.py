"""The experiment on the native layer: its charts follow its rows, its builders really build."""

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
            "low": 0.9 * value * scale,
            "high": 1.1 * value * scale,
            "noisy": False,
            "axis.system": system,
            "axis.counted": "alone",
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
    assert sorted(shown["stage"]) == ["cache hit, alone", "first build, alone"]
    assert set(shown["axis.system"]) == {"load_inline"}
    assert set(shown["value"]) == {4.0}
    assert shown[["low", "high"]].isna().all(axis=None)  # those of the times would mislead


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
        assert 0 < times["alone"] < times["with import"]


class Notebook:
    """A context that keeps its records, runs every candidate once and makes up their times."""

    def __init__(self, scratch: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self.scratch = scratch
        self.log = logging.getLogger("test")

    def record(self, claim: str | None, metric: str, value: float, unit: str, **more: Any) -> None:
        self.rows.append({"claim": claim, "metric": metric, "value": value, "unit": unit, **more})

    def compare(
        self,
        metric: str,
        candidates: Mapping[str, Callable[[], Any]],
        *,
        baseline: str,
        verify: Callable[[Any, Any], object],
        claim: str | None,
        subject: str,
        **axes: Any,
    ) -> SimpleNamespace:
        expected = candidates[baseline]()
        for call in candidates.values():
            verify(call(), expected)
        assert subject in set(candidates) - {baseline}
        self.rows.append({"claim": claim, "metric": metric, "system": subject, **axes})
        return SimpleNamespace(baseline_seconds=3e-6, baseline_low=2e-6, baseline_high=4e-6)

    def progress(self, items: Iterable[Any], label: str) -> Iterable[Any]:
        return items


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a run records when processes take 1, 2, ... seconds, and a hundred more to import."""
    taken = itertools.count(1)

    def in_new_process(system: str, cache: Path) -> dict[str, float]:
        seconds = float(next(taken))
        return {"alone": seconds, "with import": 100 + seconds}

    monkeypatch.setattr(experiment, "_in_new_process", in_new_process)
    settings = experiment.Settings(
        first_builds=1, hits=7, builders=["ours", "load_inline"], halfwidth=0.5, max_seconds=0.1
    )
    notebook = Notebook(tmp_path)
    experiment.run(settings, notebook)
    return notebook.rows


def test_every_listed_claim_is_recorded_once(recorded: list[dict[str, Any]]) -> None:
    found = [row["claim"] for row in recorded if row["claim"] is not None]
    assert sorted(found) == sorted(all_experiments()["common_native"].claims)
    for row in recorded:
        if row["claim"] is not None:
            assert claims.find(row["claim"]).metric == row["metric"]


def test_checked_call_is_recorded_with_its_interval(recorded: list[dict[str, Any]]) -> None:
    (row,) = [row for row in recorded if row["metric"] == "checked_call"]
    assert row["claim"] == "common.ours.checked_call_us"
    assert [row[name] for name in ("value", "low", "high")] == pytest.approx([3.0, 2.0, 4.0])
    assert (row["unit"], row["timed"]) == ("us", True)


def test_hit_is_judged_without_the_import_which_stands_beside(
    recorded: list[dict[str, Any]],
) -> None:
    hits = [row for row in recorded if row["metric"] == "cache_hit" and row["system"] == "ours"]
    alone, with_import = hits
    # Processes 2 to 8 after the one that built: the interval of 7 values is their range.
    assert [alone[name] for name in ("value", "low", "high")] == [5e3, 2e3, 8e3]
    assert [with_import[name] for name in ("value", "low", "high")] == [105e3, 102e3, 108e3]
    assert (alone["claim"], alone["counted"]) == ("common.ours.cache_hit_ms", "alone")
    assert (with_import["claim"], with_import["counted"]) == (None, "with import")
    assert alone["timed"] is True
    builds = [row for row in recorded if row["metric"] == "first_build"]
    assert {(row["low"], row["high"]) for row in builds} == {(None, None)}  # a single process
