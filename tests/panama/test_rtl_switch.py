"""The whole switch in simulation: what comes out, what is counted, and that nothing wedges."""

from __future__ import annotations

import attrs
import pytest

from panama.rtl.verify import Size, line_rate, play, play_mixed

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


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_20000_beats_of_mixed_traffic_on_verilator() -> None:
    seen = play_mixed(
        Size(ports=4, lanes=16), packets=600, jobs=3, noise=0.1, tool="verilator", pauses=0.1
    )
    assert seen["beats"] > 20_000


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_line_rate_of_full_width_on_verilator() -> None:
    seen = line_rate(4, 16, 200, "verilator")
    assert seen.cycles == seen.beats > 4_500
