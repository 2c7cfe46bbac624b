"""What an experiment records, draws and keeps is exactly what it asked for."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from common.clock import HostClock
from common.context import Context, Work
from common.progress import LONG_S, ProgressBoard
from common.record import Record, RunInfo
from common.run_folder import RunFolder


@pytest.fixture
def context(tmp_path: Path, toy: Any) -> Callable[..., Context]:
    """Contexts on one run folder, which begins anew with each."""

    def make(**changes: Any) -> Context:
        folder = RunFolder(tmp_path / "results", "toy_passes", "0" * 16)
        info = RunInfo(
            experiment="toy_passes",
            key="0" * 16,
            settings={},
            profile="quick",
            seed=0,
            threads=1,
            machine_id="m",
            started="2026-01-01T00:00:00+00:00",
        )
        folder.begin(info)
        log = logging.getLogger("toy_passes")
        arguments: dict[str, Any] = {
            "threads": 1,
            "seed": 0,
            "profile": "quick",
            "scratch": tmp_path,
            "log": log,
            "board": ProgressBoard(io.StringIO(), log),
        }
        return Context("toy_passes", ("toy.ours.rows",), folder, **arguments | changes)

    return make


@pytest.fixture
def records(tmp_path: Path) -> Callable[[], list[Record]]:
    return RunFolder(tmp_path / "results", "toy_passes", "0" * 16).records


def test_record_keeps_value_interval_claim_and_axes(context: Any, records: Any) -> None:
    context().record("toy.ours.rows", "rows", 3, "x", low=2.5, high=3.5, rank=8, system="ours")
    assert records() == [
        Record(
            metric="rows",
            value=3.0,
            unit="x",
            claim="toy.ours.rows",
            low=2.5,
            high=3.5,
            axes={"rank": 8, "system": "ours"},
        )
    ]


@pytest.mark.parametrize("contended", [False, True])
def test_only_times_taken_beside_other_jobs_are_contended(
    context: Any, records: Any, contended: bool
) -> None:
    ctx = context(contended=contended)
    ctx.record("toy.ours.rows", "seconds", 1.0, "s", timed=True, rank=8)
    ctx.record("toy.ours.rows", "rows", 3, "x", rank=8)
    time, count = records()
    assert (time.contended, count.contended) == (contended, False)
    assert time.axes == count.axes == {"rank": 8}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_metric(
    context: Any, records: Any, value: float
) -> None:
    with pytest.raises(ValueError, match="'speed'"):
        context().record(None, "speed", value, "x")
    assert records() == []


def test_unknown_claim_is_refused_with_the_nearest_id(context: Any) -> None:
    with pytest.raises(ValueError, match=r"toy\.ours\.row.*toy\.ours\.rows"):
        context().record("toy.ours.row", "rows", 1.0, "x")


def test_claim_the_experiment_does_not_declare_is_refused(context: Any, toy: Any) -> None:
    claims = toy.root / "toy" / "claims.toml"
    claims.write_text(claims.read_text() + claims.read_text().replace(".rows", ".other"))
    with pytest.raises(ValueError, match=r"'toy\.ours\.other' must be listed .* toy_passes"):
        context().record("toy.ours.other", "rows", 1.0, "x")


@attrs.frozen
class _Timer:
    """Stands for common.bench.compare: fixed estimates, and what it was asked."""

    asked: list[dict[str, Any]] = attrs.field(factory=list)

    def compare(self, candidates: Any, **options: Any) -> Any:
        from common.bench import Comparison, Estimate

        self.asked.append({"candidates": candidates, **options})
        names = [name for name in candidates if name != options["baseline"]]
        estimates = {}
        for place, name in enumerate(names, start=2):
            estimates[name] = Estimate(
                estimate=float(place),
                low=place - 0.1,
                high=place + 0.1,
                rounds=30,
                status="noisy" if name == "shaky" else "ok",
                reason="wide" if name == "shaky" else "",
                clock="cpu",
                wall_ratio=float(place),
                cpu_ratio=float(place),
                ratio_of_minima=float(place),
                ratio_of_quartiles=float(place),
                mad=0.0,
                seconds=1.0 / place,
                seconds_min=1.0 / place,
            )
        noisy = "shaky" in names
        return Comparison(
            estimates=estimates,
            baseline=options["baseline"],
            baseline_seconds=1.0,
            baseline_low=0.9,
            baseline_high=1.1,
            baseline_seconds_min=1.0,
            rounds=30,
            status="noisy" if noisy else "ok",
            reason="shaky: wide" if noisy else "",
            elapsed_s=0.1,
            overhead=0.0,
        )


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> _Timer:
    timer = _Timer()
    monkeypatch.setattr("common.bench.compare", timer.compare)
    monkeypatch.setattr("common.bench.noise", lambda fn, **_: 0.01)
    return timer


def test_compare_records_every_candidate_and_the_claim_on_its_subject(
    context: Any, records: Any, timer: _Timer
) -> None:
    candidates = {"theirs": int, "ours": int, "shaky": int}
    context(contended=True).compare(
        "speedup",
        candidates,
        baseline="theirs",
        verify=None,
        claim="toy.ours.rows",
        max_seconds=7.0,
        rank=4,
    )
    ours, shaky = records()
    assert (ours.claim, ours.value, ours.low, ours.high) == ("toy.ours.rows", 2.0, 1.9, 2.1)
    assert ours.axes == {"rank": 4, "system": "ours", "baseline": "theirs"}
    assert (ours.unit, ours.rounds, ours.noise, ours.noisy) == ("x", 30, 0.01, False)
    assert (ours.seconds, ours.contended) == (0.5, True)
    assert (shaky.claim, shaky.noisy) == (None, True)
    assert timer.asked[0]["max_seconds"] == 7.0
    assert timer.asked[0]["threads"] == 1


def test_several_claims_take_the_same_value(
    context: Any, records: Any, timer: _Timer, toy: Any
) -> None:
    path = toy.root / "toy" / "claims.toml"
    path.write_text(path.read_text() + path.read_text().replace(".rows", ".other"))
    ctx = context()
    ctx._claims = ("toy.ours.rows", "toy.ours.other")
    ctx.compare(
        "speedup",
        {"theirs": int, "ours": int, "shaky": int},
        baseline="theirs",
        verify=None,
        claim=["toy.ours.rows", "toy.ours.other"],
    )
    one, other, shaky = records()
    assert (one.claim, other.claim, shaky.claim) == ("toy.ours.rows", "toy.ours.other", None)
    assert attrs.evolve(one, claim=None) == attrs.evolve(other, claim=None)


def test_adopted_records_stay_as_they_are(context: Any, records: Any) -> None:
    given = [
        Record("speedup", 2.0, "x", claim="toy.ours.rows", low=1.5, high=2.5, noisy=True, rounds=9),
        Record("words", 3.0, "u", axes={"system": "ours"}),
    ]
    ctx = context()
    ctx.adopt(given)
    assert records() == given
    with pytest.raises(ValueError, match=r"toy\.ours\.none"):
        ctx.adopt([attrs.evolve(given[1], claim="toy.ours.none")])


def test_work_gives_every_system_its_share_of_the_machine(
    context: Any, records: Any, timer: _Timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limits:
        @staticmethod
        def fraction(flops: float, n_bytes: float, seconds: float) -> float:
            return flops / n_bytes / seconds

    monkeypatch.setattr("common.roofline.cached", lambda threads: Limits)
    context().compare(
        "speedup",
        {"theirs": int, "ours": int},
        baseline="theirs",
        verify=None,
        work=Work(flops=1.0, bytes=4.0),
    )
    ours, theirs = records()
    assert ours.fraction_of_roofline == 0.5
    assert (theirs.metric, theirs.value) == ("fraction_of_roofline", 0.25)
    assert theirs.axes == {"system": "theirs", "baseline": "theirs"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidates": {"theirs": int, "mine": int}}, "'ours'.*have mine.*subject="),
        ({"subject": "theirs"}, "'theirs'.*have ours"),
        ({"system": "x"}, "'system' is set by compare"),
        ({"min_rounds": 3}, "'min_rounds' is set by compare"),
        ({"baseline_name": None, "claim": "toy.ours.none"}, r"toy\.ours\.none"),
    ],
)
def test_compare_refuses_before_anything_is_timed(
    context: Any, timer: _Timer, changes: dict[str, Any], words: str
) -> None:
    arguments: dict[str, Any] = {
        "candidates": {"theirs": int, "ours": int},
        "baseline": "theirs",
        "verify": None,
        "claim": "toy.ours.rows",
    }
    with pytest.raises(ValueError, match=words):
        context().compare("speedup", **arguments | changes)
    assert timer.asked == []


def test_how_a_sample_is_taken_reaches_the_timer_and_is_no_axis(
    context: Any, records: Any, timer: _Timer
) -> None:
    clock = HostClock()
    context().compare(
        "speedup", {"theirs": int, "ours": int}, baseline="theirs", verify=None, sample_s=0.5,
        clock=clock,
    )  # fmt: skip
    assert (timer.asked[0]["sample_s"], timer.asked[0]["clock"]) == (0.5, clock)
    (record,) = records()
    assert record.axes == {"system": "ours", "baseline": "theirs"}


def test_generators_depend_on_name_and_seed_alone(context: Any) -> None:
    def first(ctx: Context, name: str) -> float:
        return float(ctx.rng(name).random())

    plain = context()
    drawn = first(plain, "a")
    plain.rng("b").random(100)
    assert first(plain, "a") == drawn
    assert first(context(), "a") == drawn
    assert first(plain, "b") != drawn
    assert first(context(seed=1), "a") != drawn


def test_torch_generator_repeats(context: Any) -> None:
    import torch

    draws = [torch.rand(4, generator=context().torch_rng("a")) for _ in range(2)]
    assert torch.equal(*draws)


def test_cell_is_computed_once_and_gives_value_and_records_again(
    context: Any, records: Any
) -> None:
    calls: list[int] = []
    now: list[Context] = []

    def measure(i: int) -> dict[str, Any]:
        calls.append(i)
        now[-1].record(None, "inside", float(i), "")
        return {"array": np.arange(i)}

    for _ in range(2):
        now.append(context())
        values = [now[-1].cell(measure, i=i) for i in (1, 2)]
        assert [value["array"].tolist() for value in values] == [[0], [0, 1]]
        assert [record.value for record in records()] == [1.0, 2.0]
    assert calls == [1, 2]


def test_cell_is_computed_again_without_resume_or_when_code_changed(context: Any, toy: Any) -> None:
    source = toy.source("passes")
    calls: list[int] = []

    def digests() -> dict[str, str]:
        from common import provenance

        name = Path("toy/experiments/passes.py")
        return {name.as_posix(): provenance.digest(name) or ""}

    def measure() -> int:
        calls.append(1)
        return len(calls)

    assert context(sources=digests).cell(measure) == 1
    assert context(sources=digests).cell(measure) == 1
    assert context(sources=digests, resume=False).cell(measure) == 2
    source.write_text(source.read_text() + "\n# edited\n")
    assert context(sources=digests).cell(measure) == 3


def test_damaged_cell_is_computed_again(context: Any, tmp_path: Path) -> None:
    def measure() -> int:
        return 5

    assert context().cell(measure) == 5
    (path,) = (tmp_path / "results" / "toy_passes" / ("0" * 16) / "cells").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    assert context().cell(measure) == 5


def test_cell_that_raised_is_not_kept(context: Any) -> None:
    calls: list[int] = []

    def measure() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("first time")
        return 1

    with pytest.raises(RuntimeError):
        context().cell(measure)
    assert context().cell(measure) == 1


def test_cells_that_differ_only_in_what_they_captured_are_refused(context: Any) -> None:
    ctx = context()
    functions = [lambda i=i: i for i in range(2)]
    assert ctx.cell(functions[0]) == 0
    with pytest.raises(ValueError, match="same parameters"):
        ctx.cell(functions[1])


def test_data_sets_outlive_runs_under_their_version(context: Any, tmp_path: Path) -> None:
    folder = context().data_folder("schedules", 3)
    assert folder == tmp_path / "results" / "data" / "schedules-v3"
    assert folder.is_dir()


@pytest.mark.parametrize("n", [0, 1, 7, 10, 250])
def test_progress_yields_all_and_logs_at_most_a_line_per_tenth(
    caplog: pytest.LogCaptureFixture, n: int
) -> None:
    caplog.set_level(logging.INFO)
    board = ProgressBoard(io.StringIO(), logging.getLogger("p"))
    assert list(board.track(range(n), "rows")) == list(range(n))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == min(n, 10)
    assert not lines or lines[-1].startswith(f"rows: 100% ({n} of {n})")


def test_progress_without_a_length_logs_at_doubling_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    board = ProgressBoard(io.StringIO(), logging.getLogger("p"))
    assert len(list(board.track((i for i in range(9)), "rows"))) == 9
    counts = [int(record.getMessage().split()[1]) for record in caplog.records]
    assert counts == [1, 2, 4, 8]


def test_only_long_loops_reach_a_console_that_is_no_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    times = iter([0.0, LONG_S / 2, LONG_S * 2])
    board = ProgressBoard(io.StringIO(), logging.getLogger("p"), clock=lambda: next(times))
    list(board.track([1, 2], "rows"))
    assert [record.on_console for record in caplog.records] == [False, True]


def test_nested_loops_share_one_display_in_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    console = Terminal()
    board = ProgressBoard(console, logging.getLogger("p"))
    pairs = [(a, b) for a in board.track("ab", "outer") for b in board.track([1, 2], "inner")]
    assert pairs == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert "outer" in console.getvalue()
    assert "inner" in console.getvalue()
