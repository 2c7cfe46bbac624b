"""The flop experiment: its claims are matched, and its chart shows every operator."""

import json

import pytest

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from transformer_dm.experiments import EXPERIMENTS, flops

SETTINGS = flops.Settings(sizes=["S1", "S2"])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one run."""
    (experiment,) = (e for e in EXPERIMENTS if e.name == "transformer_dm_flops")
    folder = tmp_path_factory.mktemp("results")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    return Store(folder)


@pytest.mark.parametrize(
    ("claim_id", "points"),
    [
        ("transformer_dm.tab.flop_share", 3),
        ("transformer_dm.tab.flop_total", 3),
        ("transformer_dm.fig.flop_per_word", 2),
        ("transformer_dm.ours.torch_flop", 2),
    ],
)
def test_claims_are_matched_at_every_point(store, claim_id, points):
    records = [record for run in store.run_list() for record in run.records]
    judgement = claims.judge(claims.find(claim_id), records)
    assert judgement.verdict == claims.Verdict.MATCHED, judgement.reason
    assert (judgement.n_met, judgement.n_records) == (points, points)


def test_only_the_paper_s_size_is_claimed_for_the_paper(store):
    frame = store.frame()
    theirs = frame[frame["claim"].astype(str).str.contains(r"\.(?:tab|fig)\.")]
    assert set(theirs["axis.size"]) == {"S1"}
    assert set(frame["axis.size"]) == {"S1", "S2"}


def test_the_chart_has_a_mark_for_every_row_and_an_arc_for_every_tensor(store):
    charts = flops.charts(store.frame(), claims.load("transformer_dm"))
    assert [chart.title[-2:] for chart in charts] == ["S1", "S2"]
    chart = charts[0]
    assert len(chart.rows) == 46
    shown = chart.rows.set_index("operator")["flop per word"]
    assert shown["projection"] == pytest.approx(910, abs=0.5)
    data = [chart.spec["datasets"][layer["data"]["name"]] for layer in chart.spec["layer"]]
    arcs, marks, *_ = data
    assert len(marks) == 46
    # Each arc runs forward, from one row to a later one.
    ends = {}
    for point in arcs:
        ends.setdefault(point["arc"], []).append(point["number"])
    assert all(places == sorted(places) and places[0] < places[-1] for places in ends.values())
    assert len(ends) > 60
    assert "http" not in json.dumps(chart.spec)
    assert chart.to_svg().startswith("<svg")


def test_sizes_are_those_of_the_paper():
    with pytest.raises(ValueError, match="sizes"):
        flops.Settings(sizes=["S3"])
