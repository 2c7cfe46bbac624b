"""What the noise experiment counts as a false alarm, as found, and as missed."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

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
        "loads": ["idle"],
        "truths": [1.0, 1.05],
        "steps": 1000,
        "spinners_per_core": 1,
        "max_seconds": 0.5,
    }
    return Settings(**(values | changes))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Notebook]:
    """Run the experiment with scripted ratios of our comparison and of the peer."""

    def run(ours: list[tuple[float, bool]], peer: list[float], **changes: Any) -> Notebook:
        script, peers = iter(ours * 2), iter(peer * 2)
        asked: list[float] = []
        monkeypatch.setattr(noise, "_pair", lambda steps, truth: (None, None))

        def compared(*_: object) -> tuple[float, bool, float, float]:
            return (*next(script), 0.25, 0.01)

        def timed(method: str, slow: object, fast: object, seconds: float) -> float:
            asked.append(seconds)
            return next(peers)

        monkeypatch.setattr(noise, "_ours", compared)
        monkeypatch.setattr(noise, "_peer", timed)
        notebook = Notebook()
        noise.run(settings(**changes), notebook)  # type: ignore[arg-type]  # as much of a context as it needs
        assert set(asked) <= {0.25}  # a peer gets the seconds ours took
        return notebook

    return run


def test_a_false_alarm_is_a_clear_ratio_more_than_2_percent_off(
    judged: Callable[..., Notebook],
) -> None:
    ours = [(1.03, True), (0.96, True), (1.03, False), (1.01, True)]
    book = judged(ours, [1.0] * 4, truths=[1.0])
    row = book.one("false_alarms", system="ours")
    assert row["value"] == 50.0
    assert row["low"] < 50.0 < row["high"]
    assert row["claim"] == "common.ours.noise_false_alarms"
    assert book.one("false_alarms", system="separated")["value"] == 0.0
    assert book.one("false_alarms", system="separated")["claim"] is None


def test_found_is_clear_and_in_the_right_direction(judged: Callable[..., Notebook]) -> None:
    ours = [(1.05, True), (0.95, True), (1.05, False), (1.01, True)]
    book = judged(ours, [1.2, 1.0, 0.8, 1.04], truths=[1.05])
    row = book.one("power", system="ours", truth=1.05)
    assert row["value"] == 25.0
    assert row["claim"] == "common.ours.noise_power_105"
    assert book.one("power", system="separated")["value"] == 50.0


def test_errors_are_held_against_the_true_ratio(judged: Callable[..., Notebook]) -> None:
    book = judged([(1.05 * 1.01, True)] * 4, [1.05 * 1.1] * 4, truths=[1.05])
    assert book.one("error", system="ours")["value"] == pytest.approx(1.0)
    assert book.one("error", system="separated")["value"] == pytest.approx(10.0)
    ratio = book.one("separated_over_ours")
    assert ratio["value"] == pytest.approx(np.log(1.1) / np.log(1.01))
    assert ratio["claim"] == "common.ours.noise_separated"


def test_time_and_overhead_of_ours_are_kept(judged: Callable[..., Notebook]) -> None:
    book = judged([(1.0, False)] * 4, [1.0] * 4)
    assert book.one("comparison_seconds", load="idle")["value"] == 0.25
    assert book.one("overhead")["value"] == pytest.approx(1.0)


def test_peers_alone_make_no_claim(judged: Callable[..., Notebook]) -> None:
    book = judged([], [1.0] * 4, methods=["separated"], max_seconds=0.25)
    assert {row["claim"] for row in book.rows} == {None}


def test_the_pair_does_exactly_known_work() -> None:
    slow, fast = noise._pair(1000, 1.09)
    assert slow.args[1] == 1090  # type: ignore[attr-defined]  # a partial
    assert fast.args[1] == 1000  # type: ignore[attr-defined]  # a partial
    slow()


@pytest.mark.parametrize(
    "bad",
    [
        {"methods": ["asv"]},
        {"methods": []},
        {"loads": ["tired"]},
        {"truths": [0.9]},
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
    small = settings(repeats=1, loads=["idle", "busy"], steps=20_000)
    noise.run(small, notebook)  # type: ignore[arg-type]  # as much of a context as it needs
    assert len([row for row in notebook.rows if row["metric"] == "power"]) == 4
