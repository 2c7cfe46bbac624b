"""Area and clock of the adder tree on ECP5, by yosys and nextpnr."""

from __future__ import annotations

import pytest

from panama.rtl.synth import Area, area, check_switch, fmax, linear_fit


def test_fit_of_a_straight_line_and_of_a_crooked_one() -> None:
    straight = [Area(2, n, 10, 100 + 700 * n, 500 * n) for n in (1, 2, 4)]
    slope, intercept, r2 = linear_fit(straight)
    assert (round(slope), round(intercept), round(r2, 9)) == (700, 100, 1)
    crooked = [Area(2, n, 10, 100 * n**3, 0) for n in (1, 2, 4)]
    assert linear_fit(crooked)[2] < 0.98


@pytest.mark.parametrize(("ports", "fmt_code"), [(2, 0), (3, 1), (5, 2)])
def test_yosys_finds_no_loop_and_no_wire_undriven(ports: int, fmt_code: int) -> None:
    check_switch(ports, fmt_code)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_area_is_linear_in_the_number_of_adders() -> None:
    areas = [area(ports, lanes, 10) for ports, lanes in ((2, 1), (2, 2), (3, 2), (4, 2))]
    slope, _, r2 = linear_fit(areas)
    assert r2 > 0.98
    assert 500 < slope < 1200


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_one_adder_reaches_150_mhz() -> None:
    assert fmax(10, seeds=1).mhz >= 150
