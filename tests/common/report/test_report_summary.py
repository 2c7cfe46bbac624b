"""What the report says about a store: which runs count, what is a headline, what failed."""

import warnings
from typing import Any

import attrs
import pytest

from common.claims import Claim, Point
from common.record import Record
from common.report.summary import NOT_MEASURED, ClaimRow, build, judge_all
from common.results import ResultsWarning

KERNEL = "ttrec.abstract.kernel_speedup"


def speedup(value: float, **fields: Any) -> Record:
    low, high = value * 0.99, value * 1.01
    return Record(
        "speedup", value, "x", claim=KERNEL, low=low, high=high, rounds=30, noise=0.01, **fields
    )


def row_of(summary: Any, claim: str = KERNEL) -> ClaimRow:
    (row,) = [row for row in summary.claims if row.claim.id == claim]
    assert isinstance(row, ClaimRow)
    return row


def test_empty_store_measures_nothing(sample: Any) -> None:
    summary = build(sample.store, **sample.known)
    assert summary.answer == "Nothing has been measured yet."
    assert set(summary.counts) == {NOT_MEASURED}
    assert summary.counts[NOT_MEASURED] == len(sample.claims)


def test_newest_finished_run_decides(sample: Any) -> None:
    sample.run("ttrec_kernels", [speedup(1.0)], started="2026-03-01T00:00:00+00:00")
    sample.run(
        "ttrec_kernels",
        [speedup(4.2)],
        started="2026-03-02T00:00:00+00:00",
        settings={"batch": 64},
    )
    sample.run(
        "ttrec_kernels",
        [speedup(2.0)],
        started="2026-03-03T00:00:00+00:00",
        settings={"batch": 8},
        status="failed",
    )
    summary = build(sample.store, **sample.known)
    row = row_of(summary)
    assert (row.word, row.ours) == ("beaten", "4.20×")  # noqa: RUF001  the sign a reader sees
    assert [run.info.status for run in summary.failures] == ["failed"]
    assert [run.info.settings for run in row.runs] == [{"batch": 64}]


def test_a_claim_gathers_records_of_several_experiments(sample: Any) -> None:
    sample.run("ttrec_kernels", [speedup(4.0)])
    sample.run("ttrec_pooling", [speedup(0.5)])
    row = row_of(build(sample.store, **sample.known))
    assert row.word == "missed"
    assert {run.info.experiment for run in row.runs} == {"ttrec_kernels", "ttrec_pooling"}


def test_answer_counts_only_decided_claims(five_papers: Any) -> None:
    summary = build(five_papers.store, **five_papers.known)
    assert summary.counts["beaten"] == 3
    assert summary.counts["noisy"] == 1
    assert summary.answer == "5 of 8 decided claims reproduce here."


def test_counts_cover_every_claim_once(five_papers: Any) -> None:
    summary = build(five_papers.store, **five_papers.known)
    assert sum(summary.counts.values()) == len(five_papers.claims)
    for paper in summary.papers:
        assert len(paper.attempted) + len(paper.not_attempted) == len(paper.claims)
        assert sum(len(rows) for rows in paper.reasons.values()) == len(paper.not_attempted)


def test_headlines_are_of_the_abstract_and_measured_first(five_papers: Any) -> None:
    summary = build(five_papers.store, **five_papers.known)
    for paper in summary.papers:
        measured = [row.is_measured for row in paper.headlines]
        assert 1 <= len(paper.headlines) <= 5
        assert all(row.claim.is_headline for row in paper.headlines)
        assert measured == sorted(measured, reverse=True)


def test_a_claim_marked_as_headline_is_not_cut(sample: Any) -> None:
    kernel = sample.claims[KERNEL]
    claims = [attrs.evolve(kernel, id=f"ttrec.abstract.a{n}") for n in range(6)]
    claims.append(attrs.evolve(kernel, id="ttrec.ours.marked", headline=True))
    claims.append(attrs.evolve(kernel, id="ttrec.ours.unmarked"))
    papers = build(sample.store, claims={claim.id: claim for claim in claims}).papers
    (ttrec,) = [paper for paper in papers if paper.name == "ttrec"]
    assert [row.label for row in ttrec.headlines] == ["a0", "a1", "a2", "a3", "marked"]
    assert len(ttrec.claims) == 8


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        (None, ""),
        ("Our own target; half of it", "half of it"),
        ("our own target", ""),
        ("the middle row", "the middle row"),
    ],
)
def test_note_does_not_say_again_where_the_claim_stands(
    sample: Any, note: str | None, shown: str
) -> None:
    claim = attrs.evolve(sample.claims[KERNEL], where="our own target", note=note)
    papers = build(sample.store, claims={claim.id: claim}).papers
    (row,) = [row for paper in papers for row in paper.claims]
    assert row.note == shown


@pytest.mark.parametrize("change", [{"profile": "full"}, {"seed": 1}])
def test_a_failed_newer_run_stands_beside_the_one_that_is_judged(
    sample: Any, change: dict[str, Any]
) -> None:
    sample.run("ttrec_kernels", [speedup(4.0)], started="2026-03-01T00:00:00+00:00")
    sample.run("ttrec_kernels", [], status="timeout", started="2026-03-02T00:00:00+00:00", **change)
    summary = build(sample.store, **sample.known)
    assert row_of(summary).word == "beaten"
    assert [run.info.status for run in summary.failures] == ["timeout"]


def test_remembered_values_are_shown_and_not_judged(five_papers: Any) -> None:
    row = row_of(build(five_papers.store, **five_papers.known), "costmodel.sec.pearson")
    assert (row.word, row.is_remembered, row.paper) == ("informative", True, "0.9")


def test_paper_without_experiments_keeps_its_reasons(five_papers: Any) -> None:
    summary = build(five_papers.store, **five_papers.known)
    (panama,) = [paper for paper in summary.papers if paper.name == "panama"]
    assert panama.experiments == ()
    assert {row.reason for row in panama.claims} == set(panama.reasons)


def test_warns_of_openblas_coretype(sample: Any) -> None:
    machine = {"id": "m", "environment": {"OPENBLAS_CORETYPE": "Haswell"}}
    sample.run("ttrec_kernels", [], machine=machine)
    (card,) = build(sample.store, **sample.known).machines
    assert len(card.warnings) == 1
    assert card.warnings[0].startswith("OPENBLAS_CORETYPE was set")


def test_notes_contended_runs(sample: Any) -> None:
    sample.run("ttrec_kernels", [], contended=True)
    (card,) = build(sample.store, **sample.known).machines
    assert card.warnings == ("1 run shared the machine with other runs: times are not judged.",)


def test_noise_counts_timed_records_only(sample: Any) -> None:
    records = [speedup(2.0), speedup(3.0, noisy=True, contended=True), Record("ratio", 4.1, "x")]
    sample.run("ttrec_kernels", records)
    (row,) = build(sample.store, **sample.known).noise
    assert (row.n_timed, row.n_unsettled, row.n_contended) == (2, 1, 1)
    assert row.halfwidth_max == 0.01


def test_unreadable_run_is_named_and_the_others_show(sample: Any) -> None:
    sample.run("ttrec_kernels", [speedup(4.0)])
    broken = sample.run("ttrec_pooling", [speedup(4.0)])
    path = sample.root / "ttrec_pooling" / broken.key / "run.json"
    path.write_text("{")
    with pytest.warns(ResultsWarning, match=r"run\.json"):
        summary = build(sample.store, **sample.known)
    assert len(summary.notes) == 1
    assert str(path) in summary.notes[0]
    assert row_of(summary).is_measured


def test_nothing_is_warned_of_a_sound_store(five_papers: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(five_papers.store, **five_papers.known).notes == ()


def test_run_of_an_experiment_no_longer_listed_is_kept(sample: Any) -> None:
    sample.run("ttrec_gone", [speedup(4.0)])
    summary = build(sample.store, **sample.known)
    (paper,) = [paper for paper in summary.papers if paper.name == "ttrec"]
    assert [(row.name, row.declared) for row in paper.experiments] == [("ttrec_gone", None)]


# --- the ratio bar -------------------------------------------------------------------------------


def judged(claim: Claim, *records: Record) -> ClaimRow:
    """The row of a claim for records that were never stored."""
    row = judge_all([claim], [])[0]
    from common.claims import judge

    return attrs.evolve(row, judgement=judge(claim, list(records)))


@pytest.mark.parametrize(
    ("value", "place"), [(3.0, 0.5), (6.0, 1.0), (1.5, 0.0), (30.0, 1.0), (0.3, 0.0)]
)
def test_ratio_bar_runs_from_half_to_twice_the_paper(
    sample: Any, value: float, place: float
) -> None:
    bar = judged(sample.claims[KERNEL], speedup(value)).ratio_bar
    assert bar is not None
    assert bar.value == pytest.approx(place)
    assert bar.low <= bar.value <= bar.high
    assert bar.ratio == pytest.approx(value / 3)


def test_ratio_bar_shows_a_range_of_the_paper_s(sample: Any) -> None:
    claim = sample.claims["panama.abstract.short_flow_fct_mean"]
    record = Record(claim.metric, 3.0, claim.unit, claim=claim.id, low=2.9, high=3.1)
    bar = judged(claim, record).ratio_bar
    assert bar is not None
    assert bar.paper[0] < bar.value < bar.paper[1]


@pytest.mark.parametrize("claim_id", ["panama.abstract.accuracy", "cortex.tab.speedup_over_cavs"])
def test_no_ratio_bar_without_a_positive_paper_value(sample: Any, claim_id: str) -> None:
    claim = sample.claims[claim_id]
    row = judged(claim, Record(claim.metric, 0.5, claim.unit, claim=claim.id))
    assert row.is_measured
    assert row.ratio_bar is None


def test_of_several_points_the_weakest_stands_beside_its_own_paper_value(sample: Any) -> None:
    claim = sample.claims["ttrec.fig.kaggle_ratio"]
    records = [
        Record(claim.metric, value, claim.unit, claim=claim.id, axes={"tables": 7, "rank": rank})
        for rank, value in ((8, 221.9), (16, 150.0))
    ]
    row = judged(claim, *records)
    assert row.word == "missed"
    assert row.paper == "187×"  # noqa: RUF001  the sign a reader sees
    assert row.among == "weakest of 2"


def test_a_value_of_zero_keeps_the_paper_value_of_its_point(sample: Any) -> None:
    claim = sample.claims["ttrec.fig.kaggle_ratio"]
    axes = {"tables": 7, "rank": 16}
    row = judged(claim, Record(claim.metric, 0.0, claim.unit, claim=claim.id, axes=axes))
    assert row.paper == "187×"  # noqa: RUF001  the sign a reader sees
    assert row.ratio_bar is None


def test_ratio_bar_shows_the_range_of_a_point(sample: Any) -> None:
    claim = attrs.evolve(sample.claims[KERNEL], paper=None, points=(Point({"rank": 8}, (2, 4)),))
    bar = judged(claim, speedup(3.0, axes={"rank": 8})).ratio_bar
    assert bar is not None
    assert bar.paper[0] < bar.value < bar.paper[1]
