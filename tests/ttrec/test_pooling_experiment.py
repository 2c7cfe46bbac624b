"""The pooling experiment: which side of its ratios is which, what it claims, and its charts."""

import attrs
import pytest

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from ttrec.experiments import EXPERIMENTS, pooling

SETTINGS = pooling.Settings(
    dataset="kaggle",
    rows=142572,
    ranks=[8],
    batch=8,
    poolings=[1, 4],
    exponents=[0.0, 1.05],
    halfwidth=0.5,
    max_seconds=0.05,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records and frame of one run."""
    folder = tmp_path_factory.mktemp("results")
    (experiment,) = (e for e in EXPERIMENTS if e.name == "ttrec_pooling")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_every_place_is_compared_with_both_dense_tables(run):
    ratios = run[1].query("metric == 'tt_over_dense_time'")
    places = ratios.groupby("axis.system")[["axis.pooling", "axis.exponent"]].value_counts()
    assert set(ratios["axis.system"]) == {"embedding_bag", "fbgemm"}
    assert set(ratios["axis.baseline"]) == {"ours"}
    assert list(places) == [1] * 8
    claimed = ratios[ratios["claim"].notna()]
    assert set(claimed["axis.system"]) == {"embedding_bag"}
    assert set(claimed["claim"]) == {"ttrec.fig.pooling_gap"}


def test_gain_is_the_first_ratio_over_the_last(run):
    records = [r for r in run[0] if r.metric == "tt_over_dense_time"]
    gains = [r for r in run[0] if r.metric == "pooling_gain"]
    assert {r.axes["system"] for r in gains} == {"embedding_bag", "fbgemm"}
    for gain in gains:
        at = {
            (r.axes["pooling"], r.axes["exponent"]): r
            for r in records
            if r.axes["system"] == gain.axes["system"]
        }
        first, last = at[1, 0.0], at[4, 1.05]
        assert gain.value == pytest.approx(first.value / last.value)
        assert gain.low == pytest.approx(first.low / last.high)
        assert gain.high == pytest.approx(first.high / last.low)


def test_lookup_time_and_rate_follow_from_the_same_seconds(run):
    frame = run[1].set_index(["metric", "axis.system"])
    speedup = run[1].query("metric == 'speedup'").iloc[0]
    n = pooling.README_BATCH * pooling.README_POOLING
    lookup = frame.loc[("lookup_us", "ours")]
    assert lookup["value"] == pytest.approx(speedup["seconds"] / n * 1e6)
    assert lookup["claim"] == "ttrec.sec.lookup_time"
    # Rate times time is the work of a step, the same for both systems.
    work = [
        frame.loc[("useful_rate", system), "value"] * frame.loc[("lookup_us", system), "value"]
        for system in ("ours", "published")
    ]
    assert work[0] == pytest.approx(work[1])
    claim = claims.find("ttrec.sec.lookup_time")
    assert claims.judge(claim, run[0]).verdict == claims.Verdict.INFORMATIVE


def test_charts_draw(run):
    charts = pooling.charts(run[1], claims.load("ttrec"))
    assert len(charts) == 3
    assert set(charts[0].rows["system"]) == {"R=8, uniform", "R=8, Zipf 1.05"}
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


def test_settings_refuse_empty_bags_and_unknown_data():
    with pytest.raises(ValueError, match="poolings"):
        attrs.evolve(SETTINGS, poolings=[0])
    with pytest.raises(ValueError, match="dataset"):
        attrs.evolve(SETTINGS, dataset="mlperf")
