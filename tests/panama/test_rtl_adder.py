"""The adder and the adder tree in simulation, bit for bit against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from panama.rtl import soak

pytestmark = pytest.mark.rtl


def assert_exact(seen: soak.Soak) -> None:
    assert (seen.wrong, seen.misplaced) == (0, 0), seen


@pytest.mark.parametrize("stages", [1, 2, 4, 10, 11])
def test_adder_gives_the_bits_of_the_hand_list(stages: int) -> None:
    assert_exact(soak.soak_tree(soak.hand_pairs(16), stages=stages))


def test_adder_over_a_sample_of_exponent_pairs() -> None:
    assert_exact(soak.soak_tree(soak.exponent_pairs(8, step=29), stages=10))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1])
def test_adder_over_all_exponent_pairs(seed: int) -> None:
    assert_exact(soak.soak_tree(soak.exponent_pairs(16, seed=seed), stages=10))


@pytest.mark.parametrize("ports", [2, 3, 4, 5, 7, 8])
def test_tree_of_any_port_count_at_line_rate(ports: int) -> None:
    seen = soak.soak_tree(soak.random_bits(200, ports, 2, seed=ports), stages=3)
    assert_exact(seen)
    assert seen.beats_per_cycle == 1.0
    assert seen.latency_cycles == 3 * math.ceil(math.log2(ports))


@pytest.mark.parametrize("fmt", ["fp32", "bf16", "int32"])
def test_stalls_and_gaps_lose_nothing(fmt: str) -> None:
    bits = soak.random_bits(300, 5, 2, seed=5)
    assert_exact(soak.soak_tree(bits, fmt=fmt, stages=4, stalls=True))


@pytest.mark.soak
@pytest.mark.parametrize("ports", [16, 33, 64])
def test_wide_tree(ports: int) -> None:
    assert_exact(soak.soak_tree(soak.random_bits(100, ports, 1, seed=ports), stages=6, stalls=True))


@pytest.mark.slow
@pytest.mark.parametrize("beats", [1000, pytest.param(4000, marks=pytest.mark.soak)])
def test_random_beats_of_sixteen_words(beats: int) -> None:
    bits = soak.random_bits(beats, 4, 16, seed=9)
    assert_exact(soak.soak_tree(bits, stages=10))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_100000_random_beats_on_verilator() -> None:
    bits = soak.random_bits(100_000, 4, 16, seed=4)
    seen = soak.soak_tree(bits, stages=10, tool="verilator")
    assert_exact(seen)
    assert seen.beats_per_cycle == 1.0


def test_bench_reports_a_wrong_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*arguments: object) -> np.ndarray:
        total = true_sum(*arguments)  # type: ignore[arg-type]
        total[7, 1] ^= 1
        return total

    true_sum = soak.tree_sums
    monkeypatch.setattr(soak, "tree_sums", off_by_one)
    assert soak.soak_tree(soak.random_bits(20, 2, 2), stages=1).wrong == 1
