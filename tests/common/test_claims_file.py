"""A claims.toml: what is read from it, and that every mistake is named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from common.claims_file import Claim, ClaimsError, Point, parse
from common.criteria import Band, Crossover, Near, Order, Ratio, Trend

FIELDS: dict[str, str] = {
    "id": '"toy.abstract.speedup"',
    "where": '"abstract"',
    "metric": '"speedup"',
    "unit": '"x"',
    "paper": "3",
    "source": '"read"',
    "setting": '"V100"',
    "better": '"higher"',
    "criterion": '{kind = "ratio", min = 1.0}',
    "comparable": "true",
}


def text(points: str = "", /, **changes: str | None) -> str:
    """A file with one claim; a field set to None is left out."""
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    lines = [f"{name} = {value}" for name, value in fields.items()]
    return "\n".join(["[[claim]]", *lines, points, ""])


def read(tmp_path: Path, content: str) -> dict[str, Claim]:
    path = tmp_path / "claims.toml"
    path.write_text(content)
    return parse(path, "toy")


def only(tmp_path: Path, content: str) -> Claim:
    (claim,) = read(tmp_path, content).values()
    return claim


def test_claim_is_read_whole(tmp_path: Path) -> None:
    points = "[[claim.points]]\naxes = {tables = 3, system = 'a'}\nvalue = [4, 5.5]"
    claim = only(tmp_path, text(points, note='"as printed"', not_attempted='"needs a GPU"'))
    assert claim == Claim(
        id="toy.abstract.speedup",
        where="abstract",
        metric="speedup",
        unit="x",
        paper=3.0,
        source="read",
        setting="V100",
        better="higher",
        criterion=Ratio(1.0),
        comparable=True,
        points=(Point({"tables": 3, "system": "a"}, (4.0, 5.5)),),
        not_attempted="needs a GPU",
        note="as printed",
    )
    assert claim.package == "toy"


def test_optional_fields_may_be_left_out(tmp_path: Path) -> None:
    claim = only(tmp_path, text(paper=None, criterion=None))
    assert (claim.paper, claim.criterion, claim.points) == (None, None, ())


@pytest.mark.parametrize(
    ("claim_id", "marked", "expected"),
    [
        ("toy.abstract.x", None, True),
        ("toy.ours.x", None, False),
        ("toy.abstract.x", "false", False),
        ("toy.ours.x", "true", True),
    ],
)
def test_headlines_are_of_the_abstract_unless_the_file_says_otherwise(
    tmp_path: Path, claim_id: str, marked: str | None, expected: bool
) -> None:
    assert only(tmp_path, text(id=f'"{claim_id}"', headline=marked)).is_headline is expected


def test_range_of_the_paper_is_a_pair(tmp_path: Path) -> None:
    assert only(tmp_path, text(paper="[4, 221]")).paper == (4.0, 221.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{kind = "ratio", min = 1}', Ratio(1.0)),
        ('{kind = "band", low = 0, high = 2}', Band(0.0, 2.0)),
        ('{kind = "band", high = 2}', Band(high=2.0)),
        ('{kind = "near", abs = 0}', Near(abs=0.0)),
        ('{kind = "near", rel = 0.1}', Near(rel=0.1)),
        ('{kind = "order", by = "system", values = ["a", "b"]}', Order("system", ("a", "b"))),
        ('{kind = "order", by = "axis.rank", values = [8, 16]}', Order("rank", (8, 16))),
        ('{kind = "trend", axis = "axis.batch", sign = +1}', Trend("batch", 1)),
        ('{kind = "trend", axis = "batch", sign = -1}', Trend("batch", -1)),
        ('{kind = "crossover", axis = "batch"}', Crossover("batch")),
        (
            '{kind = "crossover", axis = "n", level = 2, sign = -1, low = 8, high = 64}',
            Crossover("n", 2.0, -1, 8.0, 64.0),
        ),
    ],
)
def test_criteria_are_read(tmp_path: Path, written: str, expected: object) -> None:
    assert only(tmp_path, text(criterion=written)).criterion == expected


@pytest.mark.parametrize(
    "claim_id",
    ["toy.fig3.x", "toy.fig.x", "toy.tab12.x_1", "toy.sec4.x", "toy.ours.x", "toy.abstract.p99"],
)
def test_id_pattern_allows(tmp_path: Path, claim_id: str) -> None:
    assert claim_id in read(tmp_path, text(id=f'"{claim_id}"'))


@pytest.mark.parametrize(
    "claim_id",
    [
        "toy.x",
        "toy.figure3.x",
        "toy.abstract.X",
        "toy.abstract",
        "toy.abstract1.x",
        "other.ours.x",
        "toy.ours.x.y",
        "",
        "toy.ours.x ",
    ],
)
def test_id_pattern_refuses(tmp_path: Path, claim_id: str) -> None:
    with pytest.raises(ClaimsError, match=r"'id' must"):
        read(tmp_path, text(id=f'"{claim_id}"'))


POINT = "[[claim.points]]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text(beter='"x"'), "'beter' is unknown, did you mean 'better'"),
        (text(zzz="1"), "'zzz' is unknown; known are id, where"),
        (text(where=None), "'where' is missing"),
        (text(comparable=None), "'comparable' is missing"),
        (text(better='"more"'), "'better' must be one of higher, lower, equal, got 'more'"),
        (text(source='"guess"'), "'source' must be one of read, derived, remembered, unknown"),
        (text(comparable="1"), "'comparable' must be true or false, got 1"),
        (text(headline='"yes"'), "'headline' must be true or false, got 'yes'"),
        (text(setting='""'), "'setting' must be a string that says something"),
        (text(unit="1"), "'unit' must be a string, got 1"),
        (text(not_attempted="true"), "'not_attempted' must be a string"),
        (text(paper='"3x"'), "'paper' must be a finite number, got '3x'"),
        (text(paper="true"), "'paper' must be a finite number, got True"),
        (text(paper="inf"), "'paper' must be a finite number, got inf"),
        (text(paper="[1, 2, 3]"), r"'paper' must be a number or \[low, high\]"),
        (text(paper="[2, 1]"), r"'paper' must be \[low, high\] with low first"),
        (text(criterion='"ratio"'), "'criterion' must be a table with 'kind'"),
        (text(criterion="{min = 1}"), "'criterion' must be a table with 'kind'"),
        (text(criterion='{kind = "rato"}'), "'kind' must be one of ratio, band, near, order"),
        (text(criterion='{kind = "ratio"}'), "criterion 'ratio': 'min' is missing"),
        (text(criterion='{kind = "ratio", min = 0}'), "'min' must be above 0"),
        (text(criterion='{kind = "ratio", low = 1}'), "'low' is unknown"),
        (text(criterion='{kind = "band"}'), "criterion 'band' needs 'low' or 'high'"),
        (text(criterion='{kind = "band", min = 1}'), "'min' is unknown"),
        (text(criterion='{kind = "band", low = 2, high = 1}'), "'low' must not exceed 'high'"),
        (text(criterion='{kind = "near"}'), "criterion 'near' needs either 'abs' or 'rel'"),
        (text(criterion='{kind = "near", abs = 1, rel = 1}'), "needs either 'abs' or 'rel'"),
        (text(criterion='{kind = "near", abs = -1}'), "'abs' must not be negative"),
        (text(criterion='{kind = "order", by = "s"}'), "'values' must list at least two values"),
        (text(criterion='{kind = "order", by = "s", values = ["a"]}'), "at least two values"),
        (text(criterion='{kind = "order", by = "s", values = ["a", "a"]}'), "at least two values"),
        (text(criterion='{kind = "order", by = "s", values = [["a"], "b"]}'), "must hold strings"),
        (text(criterion='{kind = "order", values = ["a", "b"]}'), "'by' is missing"),
        (text(criterion='{kind = "trend", axis = "n"}'), "'sign' is missing"),
        (text(criterion='{kind = "trend", sign = 1}'), "'axis' is missing"),
        (text(criterion='{kind = "trend", axis = "n", sign = 2}'), "'sign' must be 1 or -1, got 2"),
        (text(criterion='{kind = "trend", axis = "n", sign = true}'), "'sign' must be 1 or -1"),
        (text(criterion='{kind = "crossover"}'), "'axis' is missing"),
        (text(criterion='{kind = "crossover", axis = "n", at = 3}'), "'at' is unknown"),
        (text(paper=None), "criterion 'ratio' needs a paper value or points"),
        (text(paper=None, criterion='{kind = "near", abs = 1}'), "'near' needs a paper value"),
        (text(paper="0"), "criterion 'ratio' needs paper values above 0"),
        (text(f"{POINT}axes = {{n = 1}}"), "point 1: 'value' is missing"),
        (text(f"{POINT}value = 1"), "point 1: 'axes' must be a table with at least one axis"),
        (text(f"{POINT}axes = {{}}\nvalue = 1"), "point 1: 'axes' must be a table with at least"),
        (text(f"{POINT}axes = {{n = [1]}}\nvalue = 1"), "axis 'n' must be a string, number"),
        (text(f"{POINT}axes = {{n = 1}}\nvalue = nan"), "point 1: 'value' must be a finite number"),
        (text(f"{POINT}axis = {{n = 1}}\nvalue = 1"), "'axis' is unknown, did you mean 'axes'"),
        (text(2 * f"{POINT}axes = {{n = 1}}\nvalue = 1\n"), "point 2: .* stands twice"),
        (text("points = 3"), r"points must be written as \[\[claim.points\]\] tables"),
        (text() + text(), "claim 'toy.abstract.speedup' stands twice"),
        ("claim = 3", r"claims must be written as \[\[claim\]\] tables"),
        ("[[claims]]", "'claims' is unknown, did you mean 'claim'"),
        ("[[claim]]", "claim 'number 1': 'id' is missing"),
        ("[[claim]", "is not valid TOML"),
    ],
)
def test_mistake_is_named_with_file_and_field(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ClaimsError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "claims.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["remembered", "unknown"])
def test_criterion_that_could_gate_is_allowed_beside_a_value_that_cannot(
    tmp_path: Path, source: str
) -> None:
    claim = only(tmp_path, text(source=f'"{source}"', paper=None))
    assert claim.criterion == Ratio(1.0)
    assert not claim.is_judged


def test_empty_file_has_no_claims(tmp_path: Path) -> None:
    assert read(tmp_path, "# none yet\n") == {}


def test_order_of_the_file_is_kept(tmp_path: Path) -> None:
    ids = ["toy.ours.b", "toy.ours.a", "toy.ours.c"]
    content = "".join(text(id=f'"{claim_id}"') for claim_id in ids)
    assert list(read(tmp_path, content)) == ids


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClaimsError, match=r"cannot read .*claims\.toml: No such file"):
        parse(tmp_path / "claims.toml", "toy")
    (tmp_path / "claims.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ClaimsError, match=r"claims\.toml is not valid TOML"):
        parse(tmp_path / "claims.toml", "toy")


def test_helper_writes_valid_toml() -> None:
    table: dict[str, Any] = tomllib.loads(text())["claim"][0]
    assert set(table) == set(FIELDS)


def test_claims_beside_a_claim_are_others_of_the_file(tmp_path: Path) -> None:
    fair = text(id='"toy.ours.fair"')
    beside = text(equal_footing='"toy.ours.fair"', limit='"toy.ours.fair"') + fair
    claim, _ = read(tmp_path, beside).values()
    assert claim.equal_footing == claim.limit == "toy.ours.fair"
    for field in ("equal_footing", "limit"):
        with pytest.raises(ClaimsError, match=f"'{field}' must name another claim, got 'toy.ours."):
            read(tmp_path, text(**{field: '"toy.ours.fare"'}) + fair)
        with pytest.raises(ClaimsError, match=f"'{field}' must name another claim"):
            read(tmp_path, text(**{field: FIELDS["id"]}))
    with pytest.raises(ClaimsError, match=r"did you mean 'toy\.ours\.fair'"):
        read(tmp_path, text(limit='"toy.ours.fare"') + fair)
