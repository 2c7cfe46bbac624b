"""Verdicts on gates from measured processes of two revisions."""

import random

import pytest

from common.gates import GateError, Reading
from common.regression import Batch, GateResult, Measure, Side, Verdict, judge_gate

SPREAD = 0.017  # of a process's estimate on a busy machine


def reading(estimate: float, status: str = "ok") -> Reading:
    return Reading("toy", 1.0, estimate, estimate, estimate, estimate, 15, status, "", "/tree")


def processes(slowdown: float, seed: int, spread: float = SPREAD) -> Measure:
    """Processes whose head is `slowdown` times slower than the base, with scatter between them."""
    rng = random.Random(seed)

    def measure(side: Side, name: str) -> Reading:
        mean = 3.0 if side == "base" else 3.0 / slowdown
        return reading(mean * rng.lognormvariate(0.0, spread))

    return measure


def judged(measure: Measure, n: int = 5, seed: int = 0) -> GateResult:
    return judge_gate("toy", measure, n, 1.05, random.Random(seed))


@pytest.mark.parametrize("seed", range(40))
def test_slowdown_of_a_fifth_is_caught(seed: int) -> None:
    result = judged(processes(1.2, seed))
    assert result.verdict is Verdict.REGRESSED
    assert len(result.batches) == 2
    assert all(batch.low > 1.05 and 1.1 < batch.slowdown < 1.3 for batch in result.batches)


@pytest.mark.parametrize("slowdown", [0.8, 1.0, 1.02])
def test_no_slowdown_past_the_tolerance_is_no_regression(slowdown: float) -> None:
    verdicts = [judged(processes(slowdown, seed)).verdict for seed in range(300)]
    assert Verdict.REGRESSED not in verdicts


def test_slowdown_of_exactly_the_tolerance_is_red_less_than_once_in_a_hundred() -> None:
    verdicts = [judged(processes(1.05, seed)).verdict for seed in range(1000)]
    assert verdicts.count(Verdict.REGRESSED) < 10  # twice in a row at under 2.5% each: about 0.4


def test_speedup_is_called_faster() -> None:
    assert judged(processes(0.8, 1)).verdict is Verdict.FASTER


def test_unchanged_speed_is_steady_after_one_batch() -> None:
    result = judged(processes(1.0, 1))
    assert (result.verdict, len(result.batches)) == (Verdict.STEADY, 1)


def test_interval_across_the_tolerance_is_undecided() -> None:
    assert judged(processes(1.05, 3)).verdict is Verdict.UNDECIDED


def test_slow_batch_that_does_not_repeat_is_no_regression() -> None:
    calls = 0

    def measure(side: Side, name: str) -> Reading:
        nonlocal calls
        calls += 1
        disturbed = calls <= 10 and side == "head"
        return reading((2.4 if disturbed else 3.0) * (1 + calls / 1000))

    result = judged(measure)
    assert result.batches[0].low > 1.05
    assert result.verdict is Verdict.STEADY
    assert len(result.batches) == 2


@pytest.mark.parametrize("batch", [0, 1])
def test_slow_start_of_one_base_process_does_not_hide_a_slowdown(batch: int) -> None:
    calls = {"base": 0, "head": 0}

    def measure(side: Side, name: str) -> Reading:
        calls[side] += 1
        stray = side == "base" and calls[side] == 5 * batch + 2
        return reading(2.5 if side == "head" or stray else 3.0)

    result = judged(measure)
    assert result.verdict is Verdict.REGRESSED
    assert [b.low > 1.05 for b in result.batches] == [n != batch for n in range(3)]


def test_two_undecided_batches_end_it() -> None:
    calls = {"base": 0, "head": 0}

    def measure(side: Side, name: str) -> Reading:
        calls[side] += 1
        return reading(3.0 if side == "base" and calls[side] % 5 < 3 else 2.4)

    result = judged(measure)
    assert (result.verdict, len(result.batches)) == (Verdict.UNDECIDED, 2)


def test_drift_of_the_machine_falls_on_both_sides() -> None:
    calls = 0

    def measure(side: Side, name: str) -> Reading:
        nonlocal calls
        calls += 1
        return reading(3.0 * 0.97**calls)  # loses a quarter over the batch

    for seed in range(100):
        calls = 0
        assert judged(measure, seed=seed).verdict is not Verdict.REGRESSED


def test_sides_alternate_in_random_order() -> None:
    orders = set()
    for seed in range(20):
        sides: list[Side] = []

        def measure(side: Side, name: str, sides: list[Side] = sides) -> Reading:
            sides.append(side)
            return reading(3.0)

        judged(measure, seed=seed)
        pairs = [tuple(sides[i : i + 2]) for i in range(0, 10, 2)]
        assert all(set(pair) == {"base", "head"} for pair in pairs)
        orders.add(tuple(sides))
    assert len(orders) > 10


@pytest.mark.parametrize(
    ("side", "verdict"), [("head", Verdict.BROKEN), ("base", Verdict.UNMEASURED)]
)
def test_gate_that_does_not_run_is_told_by_side(side: Side, verdict: Verdict) -> None:
    def measure(of: Side, name: str) -> Reading:
        if of == side:
            raise GateError("gate toy ended with exit code 1")
        return reading(3.0)

    result = judged(measure)
    assert result.verdict is verdict
    assert result.batches == ()
    assert result.reason == f"at the {side}, gate toy ended with exit code 1"


def test_gate_that_breaks_in_the_second_batch_keeps_the_first() -> None:
    calls = 0

    def measure(side: Side, name: str) -> Reading:
        nonlocal calls
        calls += 1
        if calls > 12 and side == "head":
            raise GateError("gone")
        return reading(3.0 if side == "base" else 2.0)

    result = judged(measure)
    assert (result.verdict, len(result.batches)) == (Verdict.BROKEN, 1)


def test_batch_counts_the_processes_that_did_not_settle() -> None:
    batch = Batch.of([reading(3.0)] * 5, [reading(3.0)] * 4 + [reading(3.0, "noisy")])
    assert batch.noisy == 1


def test_every_process_is_told_of() -> None:
    lines: list[str] = []
    judge_gate("toy", processes(1.0, 1), 5, 1.05, random.Random(0), lines.append)
    assert len(lines) == 10
    assert lines[-1].startswith("toy: ")
    assert "5/5" in lines[-1]
