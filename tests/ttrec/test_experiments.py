"""Both experiments at tiny settings in a real run folder, their verdicts and their charts."""

import attrs
import pytest

from common import claims, roofline
from common.experiment import Options, all_experiments
from common.results import Store
from common.runner import Job, run_one
from ttrec.experiments import EXPERIMENTS, compression, kernels
from ttrec.shapes import suggest_shape

COMPRESSION = compression.Settings(
    datasets=["kaggle", "terabyte", "mlperf"],
    built=["kaggle"],
    tables=[3, 5, 7],
    ranks=[8, 16, 32, 64],
)
KERNELS = kernels.Settings(
    dataset="kaggle",
    rows=142572,
    ranks=[4],
    batches=[8],
    poolings=[2],
    exponents=[1.05],
    halfwidth=0.5,
    max_seconds=0.05,
    t3nsor_halfwidth=0.7,
    t3nsor_max_seconds=0.07,
)


#: Measuring the machine takes seconds and is tested elsewhere.
PEAKS = roofline.Roofline(
    fp32_gflops=100.0,
    bf16_gflops=None,
    read_gbs=10.0,
    triad_gbs=10.0,
    l2_gbs=50.0,
    gemm={},
    contended=False,
    threads=1,
)


def run_into(folder, name, settings):
    """Run an experiment in this process; returns the store it wrote to."""
    (experiment,) = (e for e in EXPERIMENTS if e.name == name)
    outcome = run_one(Job(experiment, settings, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    return Store(folder)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """A store with one run of the compression experiment."""
    return run_into(tmp_path_factory.mktemp("results"), "ttrec_compression", COMPRESSION)


def test_every_size_claim_is_matched(sizes):
    records = [record for run in sizes.run_list() for record in run.records]
    (experiment,) = (e for e in EXPERIMENTS if e.name == "ttrec_compression")
    for claim_id in experiment.claims:
        claim = claims.find(claim_id)
        judgement = claims.judge(claim, records)
        points = len(claim.points) or 1
        assert judgement.verdict == claims.Verdict.MATCHED, judgement.reason
        assert (judgement.n_met, judgement.n_records) == (points, points)


def test_built_modules_have_the_computed_parameters(sizes):
    frame = sizes.frame()
    counted = frame[(frame["metric"] == "table_params") & (frame["axis.origin"] == "counted")]
    assert len(counted) == 7 * 4
    for row in counted.to_dict("records"):
        shape = suggest_shape(int(row["axis.rows"]), 16, int(row["axis.rank"]), preset="paper")
        assert row["value"] == shape.params


def test_compression_charts_show_the_paper_beside_ours(sizes):
    charts = compression.charts(sizes.frame(), claims.load("ttrec"))
    assert [len(chart.rows[chart.rows["origin"] == "paper"]) for chart in charts] == [12, 12, 0]
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


def test_kernels_records_every_peer_and_claims_those_of_tensor_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "cached", lambda threads: PEAKS)
    frame = run_into(tmp_path, "ttrec_kernels", KERNELS).frame()
    ours = frame[(frame["metric"] == "speedup") & (frame["axis.system"] == "ours")]
    assert set(ours["axis.baseline"]) == {"t3nsor", "torch_bmm", "embedding_bag", "fbgemm"}
    claimed = ours[ours["claim"].notna()]
    assert dict(zip(claimed["axis.baseline"], claimed["claim"], strict=True)) == {
        "t3nsor": "ttrec.abstract.kernel_speedup",
        "torch_bmm": "ttrec.ours.step_over_torch_bmm",
    }
    has_share = ours.set_index("axis.baseline")["fraction_of_roofline"].notna()
    assert dict(has_share) == {
        "t3nsor": True, "torch_bmm": True, "embedding_bag": False, "fbgemm": False,
    }  # fmt: skip
    charts = kernels.charts(frame, claims.load("ttrec"))
    assert len(charts) == 3
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


def test_t3nsor_has_a_width_and_a_time_of_its_own(tmp_path, monkeypatch):
    asked = {}

    def compare(self, metric, candidates, *, baseline, halfwidth, max_seconds, **_):
        asked[baseline] = (halfwidth, max_seconds)

    monkeypatch.setattr("common.context.Context.compare", compare)
    run_into(tmp_path, "ttrec_kernels", KERNELS)
    assert asked.pop("t3nsor") == (0.7, 0.07)
    assert set(asked.values()) == {(0.5, 0.05)}


def test_experiments_are_found_and_their_modules_need_no_torch_to_validate():
    assert {e.name for e in EXPERIMENTS} <= set(all_experiments(("ttrec",)))
    with pytest.raises(ValueError, match="dataset"):
        attrs.evolve(KERNELS, dataset="movielens")
    with pytest.raises(ValueError, match="batches"):
        attrs.evolve(KERNELS, batches=[0])
    with pytest.raises(ValueError, match="tables"):
        attrs.evolve(COMPRESSION, tables=[27])
