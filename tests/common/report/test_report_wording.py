"""Numbers and criteria as a reader sees them."""

import pytest

from common.criteria import Band, Crossover, Near, Order, Ratio, Trend
from common.report import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (39360, "39,360"),
        (1234567.8, "1,234,568"),
        (221.94, "222"),
        (99.96, "100"),
        (22.91, "22.9"),
        (3.1, "3.10"),
        (0.0147, "0.0147"),
        (-0.2, "-0.200"),
        (2.4e-7, "2.4e-07"),
        (5.25e11, "5.25e+11"),
    ],
)
def test_number_has_three_digits(value: float, text: str) -> None:
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.5, "x", "4.5×"),  # noqa: RUF001  the sign a reader sees
        (0.9, "1", "0.9"),
        (16.0, "%", "16%"),
        (8110.0, "us", "8,110 us"),
        ((2.0, 4.5), "x", "2–4.5×"),  # noqa: RUF001  the signs a reader sees
        (None, "x", "—"),
    ],
)
def test_paper_value_keeps_the_digits_it_was_read_with(
    value: float | tuple[float, float] | None, unit: str, text: str
) -> None:
    assert wording.paper_value(value, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(117.355, "x", "117.4×"), (39360.0, "parameters", "39,360 parameters"), (4.1, "%", "4.1%")],  # noqa: RUF001  the sign a reader sees
)
def test_exact_numbers_have_four_digits(value: float, unit: str, text: str) -> None:
    assert wording.exact(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(2.9, 3.1, "[2.90, 3.10]"), (3.0, 3.0, ""), (None, None, "")],
)
def test_interval_is_left_out_of_exact_numbers(
    low: float | None, high: float | None, text: str
) -> None:
    assert wording.interval(low, high) == text


@pytest.mark.parametrize(
    ("rule", "unit", "text"),
    [
        (Ratio(min=1.0), "x", "at least the paper's result"),
        (Ratio(min=0.95), "x", "at least 0.95 of the paper's result"),
        (Band(low=2.0, high=4.5), "%", "between 2 and 4.5%"),
        (Band(high=24.4), "%", "at most 24.4%"),
        (Near(abs=0), "1", "exactly the paper's value"),
        (Near(abs=0.1), "x", "within 0.1 of the paper's value"),
        (Near(abs=3.0), "points", "within 3 points of the paper's value"),
        (Near(rel=0.1), "%", "within 10% of the paper's value"),
        (Order(by="system", values=("flat_lstm", "ours")), "x", "system in the order flat lstm < "
                                                                "ours"),
        (Trend(axis="cache_fraction", sign=1), "%", "rises with cache fraction"),
        (Crossover(axis="batch", level=1.0, sign=-1), "x", "falls past 1 along batch"),
        (None, "x", ""),
    ],
)  # fmt: skip
def test_criterion_in_words(rule: object, unit: str, text: str) -> None:
    assert wording.criterion(rule, unit) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (0.42, "0.4 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_duration_uses_the_units_that_fit(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_claim_label_keeps_names_spelled_right() -> None:
    assert wording.claim_label("panama.abstract.short_flow_fct_p99") == "short flow FCT p99"


def test_experiment_label_drops_the_package() -> None:
    assert wording.experiment_label("transformer_dm_encoder_s2") == "Encoder s2"
