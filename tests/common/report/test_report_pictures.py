"""The picture of a paper shows its measured ratios, each where its value is."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common import PAPERS
from common.claims import Claim, load
from common.criteria import Band, Ratio
from common.record import Record
from common.report import pictures, readme
from common.report.summary import ClaimRow, judge_all
from common.results import Run

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


def claim(name: str, **more: object) -> Claim:
    fields = {
        "id": f"ttrec.ours.{name}", "where": "here", "metric": "speedup", "unit": "x",
        "paper": None, "source": "read", "setting": "a test", "better": "higher",
        "criterion": Band(low=2.0), "comparable": True,
    }  # fmt: skip
    return Claim(**{**fields, **more})  # type: ignore[arg-type]


def judged(*pairs: tuple[Claim, float]) -> list[ClaimRow]:
    """The claims judged by one record each, whose interval is a tenth either way."""
    info = readme._run_info("ttrec_x", "quick", "m", "2026-03-06T10:15:00+00:00")
    records = tuple(
        Record(c.metric, value, c.unit, claim=c.id, low=value / 1.1, high=value * 1.1, rounds=30)
        for c, value in pairs
    )
    return list(judge_all([c for c, _ in pairs], [Run(info, records, Path("x"))]))


def drawn(rows: list[ClaimRow]) -> ElementTree.Element:
    return ElementTree.fromstring(pictures.speedups("ttrec", rows))


def marks(svg: ElementTree.Element) -> list[float]:
    return [float(circle.attrib["cx"]) for circle in svg.iter(f"{SVG}circle")]


def labels(svg: ElementTree.Element) -> list[str]:
    return [e.text or "" for e in svg.iter(f"{SVG}text") if e.get("text-anchor") == "end"]


@pytest.mark.parametrize("paper", PAPERS)
def test_committed_picture_agrees_with_the_committed_rows(paper: str) -> None:
    runs = readme.read_reported(ROOT / paper / "reported.jsonl")
    wanted = pictures.speedups(paper, judge_all(load(paper).values(), runs))
    agrees = (ROOT / paper / readme.PICTURE).read_text() == wanted
    assert agrees, f"run python -m scripts.report --readme to draw {paper}/{readme.PICTURE} anew"


def test_distances_on_the_axis_are_ratios() -> None:
    rows = judged((claim("one"), 1.0), (claim("three"), 3.0), (claim("nine"), 9.0))
    one, three, nine = marks(drawn(rows))
    assert three - one == pytest.approx(nine - three, abs=0.2)
    assert three > one
    equal = [e for e in drawn(rows).iter(f"{SVG}text") if e.text == "equal"]
    assert float(equal[0].attrib["x"]) == one


def test_an_interval_reaches_as_far_as_its_ends() -> None:
    svg = drawn(judged((claim("a"), 1.0), (claim("b"), 10.0)))
    one, ten = marks(svg)
    per_decade = ten - one
    bars = [e for e in svg.iter(f"{SVG}line") if e.get("stroke-width") == "2"]
    for bar, mark in zip(bars, (one, ten), strict=True):
        reach = per_decade * math.log10(1.1)
        assert float(bar.attrib["x1"]) == pytest.approx(mark - reach, abs=0.2)
        assert float(bar.attrib["x2"]) == pytest.approx(mark + reach, abs=0.2)


def test_only_measured_ratios_of_which_more_is_better_are_shown() -> None:
    rows = judged(
        (claim("ratio"), 2.0),
        (claim("time", unit="ms"), 2.0),
        (claim("bytes", better="lower"), 2.0),
    )
    rows += judge_all([claim("absent")], [])
    assert labels(drawn(rows)) == ["ratio"]


def test_the_paper_s_value_is_a_hollow_mark_unless_recalled() -> None:
    ratio = {"criterion": Ratio(0.9), "paper": 3.0}
    read, recalled = claim("read", **ratio), claim("recalled", **ratio, source="remembered")
    for shown, n in ((read, 1), (recalled, 0)):
        svg = drawn(judged((shown, 3.0)))
        diamonds = list(svg.iter(f"{SVG}path"))
        assert len(diamonds) == n
        for diamond in diamonds:
            assert diamond.attrib["fill"] == "none"
            found = re.match(r"M([\d.]+) ", diamond.attrib["d"])
            assert found is not None
            assert float(found[1]) == marks(svg)[0]


def test_nothing_measured_is_said() -> None:
    assert any("nothing measured yet" in (e.text or "") for e in drawn([]).iter())
