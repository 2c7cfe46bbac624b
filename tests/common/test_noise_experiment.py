"""What the noise experiment counts as a false alarm, as found, and as missed."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest

from common.bench import Comparison, Estimate
from common.experiment import all_experiments
from common.experiments import noise
from common.experiments.noise import Settings

Row = dict[str, Any]


class Notebook:
    """A context that keeps its records in a list."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.log = logging.getLogger("test")

    def record(self, claim: str | None, metric: str, value: float, unit: str, **more: Any) -> None:
        self.rows.append({"claim": claim, "metric": metric, "value": value, "unit": unit, **more})

    def cell(self, fn: Callable[..., Any], /, **params: Any) -> Any:
        return fn(**params)

    def progress(self, items: Iterable[Any], label: str) -> Iterable[Any]:
        return items

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(0)

    def one(self, metric: str, **axes: Any) -> Row:
        (row,) = (
            row
            for row in self.rows
            if row["metric"] == metric and all(row.get(n) == v for n, v in axes.items())
        )
        return row


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "repeats": 4,
        "methods": ["ours", "separated"],
        "idle_truths": [1.0, 1.05],
        "busy_truths": [],
        "steps": 1000,
        "spinners_per_core": 1,
        "max_seconds": 0.5,
    }
    return Settings(**(values | changes))


def comparison(ratio: float, is_sure: bool, settled: bool = True) -> Comparison:
    """One of ours of a quarter of a second, 3 s unsettled; is_sure: its interval excludes 1."""
    interval = (ratio - 1e-6, ratio + 1e-6) if is_sure else (min(ratio, 0.9), max(ratio, 1.2))
    fields = {field.name: ratio for field in attrs.fields(Estimate)}
    status = "ok" if settled else "noisy"
    fields |= {"low": interval[0], "high": interval[1], "status": status}
    estimate = Estimate(**fields)
    took = 0.25 if settled else 3.0
    return Comparison(
        estimates={"fast": estimate},
        baseline="slow",
        baseline_seconds=1.0,
        baseline_low=1.0,
        baseline_high=1.0,
        baseline_seconds_min=1.0,
        rounds=15,
        status=estimate.status,
        reason="",
        elapsed_s=took,
        overhead=0.01,
    )


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Notebook]:
    """Run the experiment with scripted ratios of our comparison and of the peer."""

    def run(ours: list[tuple[Any, ...]], peer: list[float], **changes: Any) -> Notebook:
        script, peers = iter(ours * 2), iter(peer * 2)
        asked: list[float] = []
        monkeypatch.setattr(noise, "_pair", lambda steps, truth: (None, None))

        def compared(*_: object) -> Comparison:
            return comparison(*next(script))

        def timed(method: str, slow: object, fast: object, seconds: float) -> float:
            asked.append(seconds)
            return next(peers)

        monkeypatch.setattr(noise, "_ours", compared)
        monkeypatch.setattr(noise, "_peer", timed)
        notebook = Notebook()
        noise.run(settings(**changes), notebook)
        assert set(asked) <= {0.25}  # a peer gets the seconds ours took
        return notebook

    return run


def test_more_than_2_percent_off_1_is_a_false_alarm_whatever_the_interval(
    judged: Callable[..., Notebook],
) -> None:
    ours = [(1.03, True), (0.96, False), (1.021, False), (1.019, True)]
    book = judged(ours, [1.0, 1.03, 0.97, 0.99], idle_truths=[1.0])
    row = book.one("false_alarms", system="ours")
    assert row["value"] == 75.0
    assert row["low"] < 75.0 < row["high"]
    assert row["claim"] == "common.ours.noise_false_alarms"
    assert book.one("false_alarms", system="separated")["value"] == 50.0
    assert book.one("false_alarms", system="separated")["claim"] is None


@pytest.mark.parametrize(("truth", "name"), [(1.05, "105"), (1.09, "109")])
def test_found_is_2_percent_off_in_the_right_direction_and_for_ours_excludes_1(
    judged: Callable[..., Notebook], truth: float, name: str
) -> None:
    ours = [(1.05, True), (0.95, True), (1.05, False), (1.01, True)]
    book = judged(ours, [1.2, 1.0, 0.8, 1.04], idle_truths=[truth])
    row = book.one("power", system="ours", truth=truth)
    assert row["value"] == 25.0
    assert row["claim"] == f"common.ours.noise_power_{name}"
    assert book.one("power", system="separated")["value"] == 50.0


def test_errors_are_held_against_the_true_ratio(judged: Callable[..., Notebook]) -> None:
    book = judged([(1.05 * 1.01, True)] * 4, [1.05 * 1.1] * 4, idle_truths=[1.05])
    assert book.one("error", system="ours")["value"] == pytest.approx(1.0)
    assert book.one("error", system="separated")["value"] == pytest.approx(10.0)
    ratio = book.one("separated_over_ours")
    assert ratio["value"] == pytest.approx(np.log(1.1) / np.log(1.01))
    assert ratio["claim"] == "common.ours.noise_separated"


def test_time_and_overhead_of_ours_are_kept(judged: Callable[..., Notebook]) -> None:
    book = judged([(1.0, False)] * 4, [1.0] * 4)
    assert book.one("comparison_seconds", load="idle")["value"] == 0.25
    assert book.one("overhead")["value"] == pytest.approx(1.0)
    assert {row["metric"] for row in book.rows if not row["timed"]} == set()


def test_a_comparison_that_did_not_settle_counts_with_the_time_it_took(
    judged: Callable[..., Notebook],
) -> None:
    ours = [(1.0, False, True), (1.0, False, False), (1.0, False, True), (1.0, False, True)]
    book = judged(ours, [], methods=["ours"], idle_truths=[1.0])
    assert book.one("settled", load="idle")["value"] == 75.0
    row = book.one("comparison_seconds", load="idle")
    assert (row["value"], row["low"], row["high"]) == (0.25, 0.25, 3.0)
    assert book.one("false_alarms", system="ours")["value"] == 0.0


def test_a_load_without_ratios_is_not_made(
    judged: Callable[..., Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    @contextlib.contextmanager
    def spinning(n: int) -> Iterator[None]:
        begun.append(n)
        yield

    monkeypatch.setattr("common.busy.spinning", spinning)
    book = judged([(1.0, True)] * 4, [1.0] * 4, idle_truths=[1.0])
    assert begun == [0]
    assert {row["load"] for row in book.rows if row["metric"] == "comparison_seconds"} == {"idle"}
    book = judged([(1.0, True)] * 4, [1.0] * 4, idle_truths=[], busy_truths=[1.0])
    assert begun[1:] == [len(os.sched_getaffinity(0))]
    assert {row["load"] for row in book.rows if row["metric"] == "comparison_seconds"} == {"busy"}


def test_every_ratio_that_can_be_asked_for_has_a_declared_claim() -> None:
    assert set(noise.CLAIM_OF.values()) <= set(all_experiments()["common_noise"].claims)


def test_peers_alone_make_no_claim(judged: Callable[..., Notebook]) -> None:
    book = judged([], [1.0] * 4, methods=["separated"], max_seconds=0.25)
    assert {row["claim"] for row in book.rows} == {None}


def test_the_pair_does_exactly_known_work() -> None:
    slow, fast = noise._pair(1000, 1.09)
    assert slow.args[1] == 1090
    assert fast.args[1] == 1000
    slow()


@pytest.mark.parametrize(
    "bad",
    [
        {"methods": ["asv"]},
        {"methods": []},
        {"idle_truths": [0.9]},
        {"busy_truths": [1.0, 1.06]},
        {"busy_truths": [], "idle_truths": []},
        {"repeats": 0},
        {"max_seconds": 0.0},
        {"spinners_per_core": 0},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        settings(**bad)


@pytest.mark.bench
@pytest.mark.slow
def test_the_experiment_runs_whole() -> None:
    notebook = Notebook()
    small = settings(repeats=1, busy_truths=[1.0, 1.05], steps=20_000)
    noise.run(small, notebook)
    assert len([row for row in notebook.rows if row["metric"] == "power"]) == 4
    assert len([row for row in notebook.rows if row["metric"] == "settled"]) == 2
