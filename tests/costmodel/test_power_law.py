"""Power laws: exact points, noisy ones, and what has none."""

import numpy as np
import pytest

from costmodel.power_law import PowerLaw


def test_points_on_a_line_give_it_back() -> None:
    n = np.array([100, 400, 1600, 6400])
    law = PowerLaw.fit(n, 300 * n**-0.5)
    assert law.scale == pytest.approx(300)
    assert (law.low, law.exponent, law.high) == pytest.approx((0.5, 0.5, 0.5))
    assert law.at(900) == pytest.approx(10)
    assert law.needed(3) == pytest.approx(10000)


def test_the_interval_holds_the_exponent_as_often_as_it_says(rng: np.random.Generator) -> None:
    n = np.geomspace(100, 10000, 6)
    held = 0
    for _ in range(400):
        law = PowerLaw.fit(n, n**-0.3 * np.exp(rng.normal(scale=0.1, size=6)))
        held += law.low <= 0.3 <= law.high
    # 95% of 400, less and more four deviations of a binomial.
    assert 362 <= held <= 398


def test_an_error_that_does_not_fall_is_never_reached() -> None:
    assert PowerLaw.fit([1, 2, 4], [10, 11, 12]).needed(5) == float("inf")


@pytest.mark.parametrize(
    ("n", "error"), [([1, 2], [3, 2]), ([1, 2, 2], [3, 2, 1]), ([1, 2, 3], [3, 2, 0])]
)
def test_too_little_is_refused(n: list[int], error: list[int]) -> None:
    with pytest.raises(ValueError, match="three or more sizes"):
        PowerLaw.fit(n, error)
