"""Verdicts at the edges of intervals and criteria; finding claims by package and id."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import claims
from common.claims import Claim, Point, Verdict, judge
from common.criteria import Band, Crossover, Near, Order, Ratio, Trend
from common.record import Record, Scalar

BEATEN, MATCHED, SHAPE, MISSED, NOISY, INFORMATIVE = Verdict


def make_claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "ttrec.abstract.speedup",
        "where": "abstract",
        "metric": "speedup",
        "unit": "x",
        "paper": 3.0,
        "source": "read",
        "setting": "V100",
        "better": "higher",
        "criterion": Ratio(1.0),
        "comparable": True,
    }
    return Claim(**(fields | changes))


def make_record(
    value: float, low: float | None = None, high: float | None = None, **fields: Any
) -> Record:
    same: dict[str, Any] = {"metric": "speedup", "unit": "x", "claim": "ttrec.abstract.speedup"}
    return Record(**(same | {"value": value, "low": low, "high": high} | fields))


def verdict(claim: Claim, *records: Record) -> Verdict | None:
    return judge(claim, records).verdict


# --- one value

RATIO = {"criterion": Ratio(0.5)}  # of 3: at least 1.5
LOWER = {"better": "lower", "criterion": Ratio(0.5)}  # of 3: at most 6
NEAR = {"better": "equal", "criterion": Near(abs=0.5)}
BAND = {"paper": None, "criterion": Band(low=1.0, high=2.0), "source": "derived"}
RANGE = {"paper": (2.0, 4.0)}


@pytest.mark.parametrize(
    ("changes", "low", "high", "expected"),
    [
        # higher is better, paper 3, criterion from 1.5
        (RATIO, 3.0001, 3.5, BEATEN),
        (RATIO, 3.0, 3.5, MATCHED),  # touching the paper's value is not past it
        (RATIO, 1.5, 3.0, MATCHED),
        (RATIO, 1.5, 1.5, MATCHED),
        (RATIO, 1.4999, 1.6, NOISY),
        (RATIO, 1.4999, 9.0, NOISY),
        (RATIO, 1.0, 1.5, NOISY),
        (RATIO, 1.0, 1.4999, MISSED),
        # lower is better, paper 3, criterion up to 6
        (LOWER, 2.0, 2.9999, BEATEN),
        (LOWER, 2.0, 3.0, MATCHED),
        (LOWER, 3.0, 6.0, MATCHED),
        (LOWER, 5.0, 6.0001, NOISY),
        (LOWER, 6.0, 7.0, NOISY),
        (LOWER, 6.0001, 7.0, MISSED),
        # neither better: never beaten
        (NEAR, 2.5, 3.5, MATCHED),
        (NEAR, 2.4999, 3.0, NOISY),
        (NEAR, 3.0, 3.5001, NOISY),
        (NEAR, 3.5001, 9.0, MISSED),
        (NEAR, 1.0, 2.4999, MISSED),
        # the same distance where more is better: far above is beaten, not missed
        (NEAR | {"better": "higher"}, 3.4, 9.0, BEATEN),
        (NEAR | {"better": "higher"}, 2.5, 9.0, MATCHED),
        (NEAR | {"better": "higher"}, 2.4, 9.0, NOISY),
        (NEAR | {"better": "lower"}, 0.1, 3.5, MATCHED),
        # an exact criterion
        ({"better": "equal", "criterion": Near(abs=0.0)}, 3.0, 3.0, MATCHED),
        ({"better": "equal", "criterion": Near(abs=0.0)}, 3.0, 3.0000001, NOISY),
        ({"better": "equal", "criterion": Near(abs=0.0)}, 3.0000001, 3.0000001, MISSED),
        # a band of ours without a paper value is judged, and cannot be beaten
        (BAND, 1.0, 2.0, MATCHED),
        (BAND, 0.5, 1.0, NOISY),
        (BAND, 2.0, 2.5, NOISY),
        (BAND, 2.1, 2.5, MISSED),
        (BAND | {"criterion": Band(high=2.0)}, -9.0, 2.0, MATCHED),
        # the paper gives a range: past its better end is beaten, its modest end must be reached
        (RANGE, 4.1, 4.2, BEATEN),
        (RANGE, 4.0, 4.2, MATCHED),
        (RANGE, 2.0, 2.1, MATCHED),
        (RANGE, 1.9, 2.1, NOISY),
        (RANGE, 1.8, 1.9, MISSED),
        (RANGE | {"better": "lower"}, 1.8, 1.9, BEATEN),
        (RANGE | {"better": "lower"}, 3.9, 4.0, MATCHED),
        (RANGE | {"better": "lower"}, 4.1, 4.2, MISSED),
        (RANGE | {"better": "equal", "criterion": Near(abs=0.0)}, 2.5, 3.5, MATCHED),
        (RANGE | {"criterion": Near(rel=0.1)}, 1.8, 3.0, MATCHED),
    ],
)
def test_verdict_at_edges(
    changes: dict[str, Any], low: float, high: float, expected: Verdict
) -> None:
    claim = make_claim(**changes)
    assert verdict(claim, make_record((low + high) / 2, low, high)) is expected
    if low == high:  # no interval is one of no width
        assert verdict(claim, make_record(low)) is expected


@settings(deadline=None)  # a busy machine is no failure
@given(
    kind=st.sampled_from(["ratio", "near", "band"]),
    better=st.sampled_from(["higher", "lower", "equal"]),
    paper=st.lists(st.integers(1, 8), min_size=1, max_size=2).map(sorted),
    limits=st.lists(st.integers(0, 10), min_size=2, max_size=2).map(sorted),
    interval=st.lists(st.integers(0, 12), min_size=2, max_size=2).map(sorted),
)
def test_verdict_equals_looking_at_every_value_of_the_interval(
    kind: str, better: str, paper: list[int], limits: list[int], interval: list[int]
) -> None:
    least, most = Fraction(paper[0]), Fraction(paper[-1])
    criterion = {
        "ratio": Ratio(0.5),
        "near": Near(abs=float(limits[0])),
        "band": Band(float(limits[0]), float(limits[1])),
    }[kind]

    def past(v: Fraction) -> bool:
        return v > most if better == "higher" else v < least if better == "lower" else False

    def within(v: Fraction) -> bool:
        if kind == "band":
            return limits[0] <= v <= limits[1]
        if kind == "near":
            return max(least - v, v - most, Fraction(0)) <= limits[0]
        return v <= 2 * most if better == "lower" else 2 * v >= least

    # All limits are multiples of a half, so quarters meet every piece between them.
    grid = [Fraction(n, 4) for n in range(4 * interval[0], 4 * interval[1] + 1)]
    fine = [past(v) or within(v) for v in grid]
    if all(map(past, grid)):
        expected = BEATEN
    elif all(fine):
        expected = MATCHED
    else:
        expected = NOISY if any(fine) else MISSED
    claim = make_claim(
        better=better, criterion=criterion, paper=(float(paper[0]), float(paper[-1]))
    )
    low, high = map(float, interval)
    assert verdict(claim, make_record(low, low, high)) is expected


def test_limits_hold_in_decimal() -> None:
    # 0.7 + 0.1 is 0.7999... and 3 * 1.1 is 3.3000000000000003 in binary.
    near = make_claim(paper=0.7, better="equal", criterion=Near(abs=0.1))
    assert verdict(near, make_record(0.8)) is MATCHED
    share = make_claim(paper=3.0, better="equal", criterion=Ratio(1.1))
    assert verdict(share, make_record(3.3)) is MATCHED
    relative = make_claim(paper=3.0, better="equal", criterion=Near(rel=0.1))
    assert verdict(relative, make_record(3.3)) is MATCHED


# --- values that must not be judged


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"comparable": False}, "not judged: the two are not comparable"),
        ({"source": "remembered"}, "not judged: the paper's value is remembered"),
        ({"source": "unknown"}, "not judged: the paper's value is unknown"),
        ({"criterion": None}, "not judged: the claim has no criterion"),
        ({"paper": None}, "not judged: the paper gives no value here"),
    ],
)
@pytest.mark.parametrize("value", [0.01, 3.0, 100.0])
def test_value_that_must_not_be_judged_is_informative(
    changes: dict[str, Any], reason: str, value: float
) -> None:
    found = judge(make_claim(**changes), [make_record(value)])
    assert found.verdict is INFORMATIVE
    assert found.reason.endswith(reason)
    assert (found.value, found.n_met) == (value, 0)


@pytest.mark.parametrize("rounds", [20, None])
def test_value_taken_beside_other_work_is_informative(rounds: int | None) -> None:
    found = judge(make_claim(), [make_record(9.0, rounds=rounds, contended=True)])
    assert found.verdict is INFORMATIVE
    assert found.reason.endswith("not judged: taken while other work ran beside it")


@pytest.mark.parametrize("value", [0.1, 3.0, 100.0])
def test_noisy_record_is_noisy(value: float) -> None:
    assert verdict(make_claim(), make_record(value, noisy=True)) is NOISY


@settings(deadline=None)  # a busy machine is no failure
@given(
    source=st.sampled_from(["read", "derived", "remembered", "unknown"]),
    comparable=st.booleans(),
    better=st.sampled_from(["higher", "lower", "equal"]),
    criterion=st.sampled_from(
        [None, Ratio(0.5), Near(rel=0.5), Band(1.0, 9.0), Trend("rank", 1), Crossover("rank", 2.0)]
    ),
    values=st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
)
def test_what_is_not_comparable_or_not_read_never_wins(
    source: str, comparable: bool, better: str, criterion: Any, values: list[float]
) -> None:
    claim = make_claim(source=source, comparable=comparable, better=better, criterion=criterion)
    records = [make_record(v, axes={"rank": i}) for i, v in enumerate(values)]
    found = judge(claim, records)
    if not comparable or source in ("remembered", "unknown"):
        assert found.verdict not in (BEATEN, MATCHED)
    if better == "equal":
        assert found.verdict is not BEATEN
    assert found.n_met <= found.n_records


# --- several values


@pytest.mark.parametrize(
    ("values", "expected", "n_met"),
    [
        ([4.0, 5.0], BEATEN, 2),
        ([4.0, 3.0], MATCHED, 2),
        ([4.0, 3.0, None], NOISY, 2),
        ([4.0, 1.0, None], MISSED, 1),
    ],
)
def test_verdict_is_the_worst_of_several(
    values: Sequence[float | None], expected: Verdict, n_met: int
) -> None:
    records = [
        make_record(3.0, noisy=True) if value is None else make_record(value) for value in values
    ]
    found = judge(make_claim(), records)
    assert (found.verdict, found.n_met, found.n_records) == (expected, n_met, len(values))
    assert f"{n_met} of {len(values)} points" in found.reason


def test_deciding_record_is_the_worst() -> None:
    records = [make_record(v, v - 0.1, v + 0.1, axes={"rank": v}) for v in (2.0, 1.0, 4.0)]
    found = judge(make_claim(), records)
    assert (found.value, found.low, found.high) == (1.0, 0.9, 1.1)
    assert found.ratio == pytest.approx(1 / 3)
    assert "the weakest at rank 1.0: 1 x (0.9 to 1.1), paper 3 x" in found.reason
    lower = judge(make_claim(better="lower"), [make_record(4.0), make_record(5.0)])
    assert lower.value == 5.0
    equal = make_claim(better="equal", criterion=Near(abs=0.0))
    assert judge(equal, [make_record(3.5), make_record(2.0), make_record(4.0)]).value == 2.0


POINTS = (
    Point({"tables": 3}, 4.0),
    Point({"tables": 7}, 200.0),
    Point({"tables": 7, "rank": 32}, 117.0),
)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"tables": 3, "rank": 8}, 4.0),
        ({"tables": 7, "rank": 8}, 200.0),
        ({"tables": 7, "rank": 32}, 117.0),  # the point that agrees in most axes
        ({"tables": 7.0, "rank": 32.0}, 117.0),
        ({"tables": 5}, 3.0),
        ({}, 3.0),
    ],
)
def test_paper_value_is_that_of_the_fitting_point(axes: dict[str, Scalar], expected: float) -> None:
    assert make_claim(points=POINTS).paper_value(axes) == expected


def test_points_are_judged_one_by_one() -> None:
    claim = make_claim(
        paper=None, points=POINTS, better="equal", criterion=Near(abs=0.5), source="derived"
    )
    right = [
        make_record(4.1, axes={"tables": 3}),
        make_record(200.0, axes={"tables": 7, "rank": 8}),
        make_record(117.4, axes={"tables": 7, "rank": 32}),
    ]
    assert verdict(claim, *right) is MATCHED
    assert verdict(claim, *right[:2], make_record(117.6, axes={"tables": 7, "rank": 32})) is MISSED
    # A cell the paper does not have is shown, and changes nothing.
    beside = make_record(55.0, axes={"tables": 5})
    found = judge(claim, [*right, beside])
    assert (found.verdict, found.n_records) == (MATCHED, 3)
    assert verdict(claim, beside) is INFORMATIVE


def test_points_not_measured_are_said() -> None:
    claim = make_claim(paper=None, points=POINTS[:2], better="equal", criterion=Near(abs=0.5))
    found = judge(claim, [make_record(4.0, axes={"tables": 3})])
    assert found.verdict is MATCHED
    assert found.reason == "4 x, paper 4 x; 1 of the paper's 2 points measured"


# --- nothing to judge


def test_claim_without_records_is_not_measured() -> None:
    found = judge(
        make_claim(), [make_record(9.0, claim="ttrec.ours.other"), make_record(9.0, claim=None)]
    )
    assert found.verdict is None
    assert found.reason == "nothing has been recorded for it yet"
    waiting = make_claim(not_attempted="needs a GPU")
    assert judge(waiting, []).reason == "needs a GPU"


@pytest.mark.parametrize("change", [{"metric": "seconds"}, {"unit": "ms"}])
def test_record_of_another_metric_or_unit_is_not_judged(change: dict[str, Any]) -> None:
    found = judge(make_claim(), [make_record(9.0, **change)])
    assert found.verdict is None
    assert "the claim is on speedup in x" in found.reason


# --- shapes


def series(*values: float | tuple[float, float, float], **axes: Scalar) -> list[Record]:
    """Records along rank 0, 1, ...; a value or (value, low, high) each."""
    return [
        make_record(*(v if isinstance(v, tuple) else (v,)), axes={"rank": i, **axes})
        for i, v in enumerate(values)
    ]


WIDE = (2.0, 0.0, 9.0)


@pytest.mark.parametrize(
    ("criterion", "records", "expected"),
    [
        (Trend("rank", 1), series(1.0, 2.0, 3.0), SHAPE),
        (Trend("rank", 1), series(1.0, 1.0, 3.0), SHAPE),
        (Trend("rank", 1), series(1.0, WIDE, 3.0), SHAPE),  # unclear steps, clear ends
        (Trend("rank", 1), series(1.0, 2.0, 1.5), MISSED),  # a clear step back
        (Trend("rank", 1), series(1.0, 1.0), MISSED),
        (Trend("rank", 1), series(3.0, 2.0), MISSED),
        (Trend("rank", -1), series(3.0, 2.0), SHAPE),
        (Trend("rank", 1), series(1.0, WIDE), NOISY),
        (Trend("rank", 1), series((1.0, 0.9, 1.1), (1.2, 1.1, 1.3)), NOISY),  # touching
        (Trend("rank", 1), series((1.0, 0.9, 1.1), (1.2, 1.11, 1.3)), SHAPE),
        (Trend("rank", 1), series(1.0), None),
        (Trend("batch", 1), series(1.0, 2.0), None),
        (Trend("rank", 1), series(1.0, 2.0, of="a") + series(1.0, 3.0, of="b"), SHAPE),
        (Trend("rank", 1), series(1.0, 2.0, of="a") + series(2.0, 1.0, of="b"), MISSED),
        (Crossover("rank"), series(0.5, 2.0), SHAPE),
        (Crossover("rank"), series(0.5, WIDE, 2.0), SHAPE),
        (Crossover("rank"), series(2.0, 0.5), MISSED),
        (Crossover("rank"), series(0.5, 0.9), MISSED),
        (Crossover("rank"), series(1.5, 2.0), MISSED),
        (Crossover("rank"), series(0.5, 2.0, 0.5, 2.0), MISSED),  # more than once
        (Crossover("rank"), series(0.5, WIDE), NOISY),
        (Crossover("rank"), series(0.5, 1.0), NOISY),  # on the level itself is on neither side
        (Crossover("rank", sign=-1), series(2.0, 0.5), SHAPE),
        (Crossover("rank", level=3.0), series(2.0, 4.0), SHAPE),
        (Crossover("rank", low=1.0, high=2.0), series(0.5, 0.5, 2.0), SHAPE),
        (Crossover("rank", low=2.5), series(0.5, 0.5, 2.0), MISSED),
        (Crossover("rank", high=0.5), series(0.5, 0.5, 2.0), MISSED),
        (Order("rank", (0, 1, 2)), series(1.0, 2.0, 3.0), SHAPE),
        (Order("rank", (2, 1, 0)), series(1.0, 2.0, 3.0), MISSED),
        (Order("rank", (0, 2)), series(1.0, 9.0, 3.0), SHAPE),  # a value not named is passed over
        (Order("rank", (0, 1)), series(1.0, 1.0), MISSED),  # a tie is no order
        (Order("rank", (0, 1)), series(1.0, WIDE), NOISY),
        (Order("rank", (0, 1, 2)), series(2.0, WIDE, 1.0), NOISY),
        (Order("rank", (0, 1, 2)), series(2.0, 1.0, WIDE), MISSED),
        (Order("rank", (0, 7)), series(1.0, 2.0), None),
    ],
)
def test_shape_at_edges(criterion: Any, records: list[Record], expected: Verdict | None) -> None:
    assert verdict(make_claim(criterion=criterion), *records) is expected
    assert verdict(make_claim(criterion=criterion), *reversed(records)) is expected


def test_order_ranks_downwards_where_lower_is_better() -> None:
    claim = make_claim(criterion=Order("rank", (0, 1)), better="lower")
    assert verdict(claim, *series(2.0, 1.0)) is SHAPE
    assert verdict(claim, *series(1.0, 2.0)) is MISSED


def test_order_says_what_was_not_measured() -> None:
    claim = make_claim(criterion=Order("system", ("none", "fused", "ours")))
    records = [make_record(1.0, axes={"system": "none"}), make_record(2.0, axes={"system": "ours"})]
    assert judge(claim, records).reason == "none < ours, without fused"


@pytest.mark.parametrize(
    "change", [{"comparable": False}, {"source": "remembered"}, {"source": "unknown"}]
)
def test_shape_may_hold_where_values_are_not_judged(change: dict[str, Any]) -> None:
    claim = make_claim(criterion=Trend("rank", 1), paper=None, **change)
    assert verdict(claim, *series(1.0, 2.0)) is SHAPE


def test_absent_shape_is_missed_only_if_the_paper_was_read() -> None:
    falling = series(2.0, 1.0)
    claim = make_claim(criterion=Trend("rank", 1), paper=None)
    assert verdict(claim, *falling) is MISSED
    assert verdict(attrs.evolve(claim, comparable=False), *falling) is MISSED
    found = judge(attrs.evolve(claim, source="remembered"), falling)
    assert found.verdict is INFORMATIVE
    assert found.reason == (
        "values do not rise from rank 0 to 1; not judged: the paper's result is remembered"
    )


def test_shape_over_noisy_or_contended_records_is_not_there() -> None:
    claim = make_claim(criterion=Trend("rank", 1))
    first, last = series(1.0, 2.0)
    assert verdict(claim, first, attrs.evolve(last, noisy=True)) is NOISY
    middle = make_record(1.5, noisy=True, axes={"rank": 0.5})
    assert verdict(claim, first, middle, last) is NOISY
    contended = attrs.evolve(last, contended=True)
    assert verdict(claim, first, contended) is INFORMATIVE


def test_groups_of_a_shape_are_counted() -> None:
    claim = make_claim(criterion=Trend("rank", 1))
    found = judge(claim, series(1.0, 2.0, of="a") + series(2.0, 1.0, of="b"))
    assert (found.n_records, found.n_met, found.value) == (2, 1, 1.0)
    assert found.reason == (
        "1 of 2 groups have the shape; the weakest: values do not rise from rank 0 to 1"
    )


def test_judgement_holds_the_paper_value_of_the_deciding_point() -> None:
    points = (Point({"rank": 8}, 4.0), Point({"rank": 16}, (2.0, 2.5)))
    records = [make_record(3.0, axes={"rank": 8}), make_record(1.0, axes={"rank": 16})]
    claim = make_claim(points=points, criterion=Ratio(0.5))
    assert judge(claim, records).paper == (2.0, 2.5)
    assert judge(claim, records[:1]).paper == 4.0
    assert judge(attrs.evolve(claim, criterion=Trend("rank", -1)), records).paper == (2.0, 2.5)
    assert judge(make_claim(paper=None, criterion=Band(0.0, 9.0)), records[:1]).paper is None


# --- load and find

FILE = """
[[claim]]
id = "toypaper.ours.time"
where = "ours"
metric = "seconds"
unit = "s"
source = "derived"
setting = "here"
better = "lower"
criterion = {kind = "band", high = 5}
comparable = true
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "toypaper"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "claims.toml").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    return package / "claims.toml"


def test_claims_are_loaded_without_importing_the_package(toy: Path) -> None:
    assert list(claims.load("toypaper")) == ["toypaper.ours.time"]
    assert claims.find("toypaper.ours.time").package == "toypaper"


def test_edited_claims_are_read_again(toy: Path) -> None:
    assert claims.find("toypaper.ours.time").unit == "s"
    toy.write_text(FILE.replace('unit = "s"', 'unit = "ms"'))
    assert claims.find("toypaper.ours.time").unit == "ms"


def test_caller_cannot_change_what_others_load(toy: Path) -> None:
    claims.load("toypaper").clear()
    assert claims.load("toypaper")


def test_all_claims_are_those_of_every_package() -> None:
    everything = claims.load()
    by_package = [claims.load(package) for package in claims.PACKAGES]
    assert list(everything) == [key for found in by_package for key in found]
    assert all(key.startswith(f"{claim.package}.") for key, claim in everything.items())


def test_package_without_claims_has_none(toy: Path) -> None:
    toy.unlink()
    assert claims.load("toypaper") == {}


def test_unknown_package_is_refused() -> None:
    with pytest.raises(ValueError, match="no package 'ttrek' with claims, did you mean 'ttrec'"):
        claims.load("ttrek")
    with pytest.raises(ValueError, match="there are costmodel, cortex, "):
        claims.load("zzz")


@pytest.mark.parametrize(
    "claim_id", ["toypaper.ours.tim", "toypaper.our.time", "toypape.ours.time"]
)
def test_unknown_id_names_the_nearest(
    toy: Path, monkeypatch: pytest.MonkeyPatch, claim_id: str
) -> None:
    monkeypatch.setattr(claims, "PACKAGES", ("toypaper",))
    with pytest.raises(
        ValueError, match=r"is in no claims\.toml, did you mean 'toypaper.ours.time'"
    ):
        claims.find(claim_id)


def test_id_like_nothing_gets_no_guess(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PACKAGES", ("toypaper",))
    with pytest.raises(ValueError, match=r"claim '' is in no claims\.toml$"):
        claims.find("")
    with pytest.raises(ValueError, match=r"claim 'os\.path' is in no claims\.toml$"):
        claims.find("os.path")
