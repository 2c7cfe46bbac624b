"""The whole switch in simulation: what comes out, what is counted, and that nothing wedges."""

from __future__ import annotations

import random

import attrs
import numpy as np
import pytest

from panama.rtl.bench import mixture, traffic
from panama.rtl.player import play_frames
from panama.rtl.registers import JobEntry
from panama.rtl.verify import Size, line_rate, play, play_mixed, soak_mixed

pytestmark = pytest.mark.rtl

SMALL = Size(ports=4, lanes=1, stages=4, log_jobs=2, log_slots=3, beats=6, log_buffer=6)


def small(ports: int) -> Size:
    return attrs.evolve(SMALL, ports=ports, log_jobs=1)


def test_mixed_traffic() -> None:
    seen = play_mixed(SMALL, packets=8)
    assert seen["beats"] > 50
    assert {"HEADER", "CUT", "BYPASSED"} <= seen["fates"].keys()


def test_two_jobs_in_opposite_orders_do_not_deadlock() -> None:
    assert play("opposite_orders", small(2))["totals"]["SUMS"] == 16


@pytest.mark.parametrize("ports", [2, 3])
def test_every_cycle_carries_a_beat(ports: int) -> None:
    seen = line_rate(ports, 1, 12, beats=6, stages=3)
    assert seen.cycles == seen.beats > 50


@pytest.mark.soak
@pytest.mark.parametrize("ports", [4, 5, 8, 16])
def test_every_cycle_carries_a_beat_at_more_ports(ports: int) -> None:
    seen = line_rate(ports, 1, 10, beats=6, stages=3)
    assert seen.cycles == seen.beats > 40


@pytest.mark.soak
@pytest.mark.parametrize(
    ("scenario", "ports"),
    [
        ("silent_member", 3),
        ("lost_result", 4),
        ("cut_frames", 3),
        ("disagreement", 2),
        ("full_buffers", 2),
        ("switched_off", 2),
    ],
)
def test_scenario(scenario: str, ports: int) -> None:
    play(scenario, small(ports))


@pytest.mark.soak
def test_changed_headers_meet_the_fate_that_the_wire_gives_them() -> None:
    fates = play("fuzzed_headers", small(2), turns=640, pauses=0.0)["fates"]
    assert len(fates) == 9


@pytest.mark.soak
@pytest.mark.parametrize("fmt", ["bf16", "int32"])
def test_mixed_traffic_in_other_formats(fmt: str) -> None:
    play_mixed(attrs.evolve(SMALL, fmt=fmt), packets=8, seed=5)


@pytest.mark.soak
def test_bits_do_not_depend_on_the_order_of_arrival() -> None:
    digests = {
        play_mixed(small(3), packets=8, jobs=2, order_seed=order, pauses=pauses)["digest"]
        for order, pauses in ((1, 0.1), (2, 0.5), (3, 0.0))
    }
    assert len(digests) == 1


@pytest.mark.parametrize(("ports", "fmt"), [(3, "fp32"), (4, "bf16"), (2, "int32")])
def test_mixed_traffic_played_from_memory(ports: int, fmt: str) -> None:
    size = attrs.evolve(SMALL, ports=ports, fmt=fmt)
    seen = soak_mixed(size, packets=20, seed=ports)
    assert seen["beats"] > 150
    assert {"HEADER", "CUT", "BYPASSED", "AGAIN"} <= seen["fates"].keys()


def test_a_player_gives_the_bits_that_cocotb_gives() -> None:
    """The same jobs in orders and pauses of their own, by both ways into the switch."""
    size = attrs.evolve(SMALL, ports=2, log_jobs=1)
    digests = {soak_mixed(size, packets=8, jobs=2, pauses=pauses)["digest"] for pauses in (0, 0.5)}
    assert len(digests) == 1


def test_a_wrong_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*arguments: object) -> np.ndarray:
        total = true_sums(*arguments)  # type: ignore[arg-type]
        total[-1, 0] ^= 1
        return total

    true_sums = traffic.tree_sums
    monkeypatch.setattr(traffic, "tree_sums", off_by_one)
    with pytest.raises(AssertionError, match=r"job \d index \d: byte"):
        soak_mixed(small(2), packets=4, jobs=2)
    with pytest.raises(RuntimeError, match=r"job \d index \d: byte"):
        line_rate(2, 1, 6, beats=6, stages=3)


@pytest.mark.parametrize("seed", range(5))
def test_orders_of_hosts_never_wait_for_each_other(seed: int) -> None:
    """Each port sends strictly in its order as windows allow, and all is sent."""
    rng = random.Random(seed)
    ports, slots = 4, 4
    entries = traffic.random_entries(ports, 3, rng)
    jobs = [traffic.Job(entry, ports, [1] * 40, "fp32", 1, n) for n, entry in enumerate(entries)]
    orders = mixture.orders_of_hosts(jobs, ports, slots, rng)
    for port, order in enumerate(orders):
        due = [(n, i) for n, e in enumerate(entries) if port in e.members for i in range(40)]
        assert sorted(order) == due
        assert order != due
    left = [list(reversed(order)) for order in orders]
    missing = {(n, i): len(e.members) for n, e in enumerate(entries) for i in range(40)}
    moved = True
    while moved:
        moved = False
        for queue in left:
            while queue:
                number, index = queue[-1]
                if index >= slots and missing[number, index - slots]:
                    break
                missing[queue.pop()] -= 1
                moved = True
    assert not any(left)


def test_jobs_that_a_player_could_not_tell_apart_are_refused() -> None:
    entry = JobEntry(job=3, tree=0, members=(0, 1), workers=(1, 1))
    with pytest.raises(ValueError, match="entry 0 must be job 0, tree 0 of 1, got job 3"):
        play_frames(SMALL.parameters(), [entry], [[], []], [])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_100000_beats_of_mixed_traffic_on_verilator() -> None:
    seen = soak_mixed(Size(ports=4, lanes=16), packets=2700, noise=0.1, tool="verilator")
    assert seen["beats"] > 100_000


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ports", [3, 4])
def test_line_rate_of_full_width_on_verilator(ports: int) -> None:
    seen = line_rate(ports, 16, 4000, "verilator")
    assert seen.cycles == seen.beats > 95_000
