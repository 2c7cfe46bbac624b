"""Compression and kernels at tiny settings in a real run folder, verdicts and charts."""

import attrs
import pytest

from common import claims, roofline
from common.experiment import Options, all_experiments
from common.results import Store
from common.runner import Job, run_one
from ttrec import problems
from ttrec.experiments import EXPERIMENTS, compression, kernels
from ttrec.shapes import TTShape, suggest_shape

COMPRESSION = compression.Settings(
    datasets=["kaggle", "terabyte", "mlperf"],
    built=["kaggle"],
    tables=[3, 5, 7],
    ranks=[8, 16, 32, 64],
)
KERNELS = kernels.Settings(
    dims=[16],
    ranks=[8],
    batches=["8x2"],
    exponents=[1.05],
    peers=["published", "nothing_shared", "torch_bmm"],
    dense=["fbgemm"],
    expanded=[142572],
    halfwidth=0.5,
    t3nsor_halfwidth=0.5,
    max_seconds=0.05,
    t3nsor_max_seconds=0.05,
)

#: In place of the 11 million rows measurements use.
SMALL = TTShape(8000, 16, (20, 20, 20), (2, 2, 4), (8, 8))
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


def test_kernels_records_every_peer_and_claims_t3nsor_for_the_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "cached", lambda threads: PEAKS)
    monkeypatch.setattr(problems, "benchmark_shape", lambda dim, rank: SMALL)
    frame = run_into(tmp_path, "ttrec_kernels", KERNELS).frame()
    ours = frame[(frame["metric"] == "speedup") & (frame["axis.system"] == "ours")]
    assert set(ours["axis.baseline"]) == {"t3nsor", "published", "nothing_shared", "torch_bmm"}
    by_claim = {
        row["claim"]: (row["axis.baseline"], row["axis.part"])
        for row in ours.to_dict("records")
        if isinstance(row["claim"], str)
    }
    assert by_claim == {
        "ttrec.abstract.kernel_speedup": ("t3nsor", "step"),
        "ttrec.ours.torch_speedup": ("torch_bmm", "step"),
        "ttrec.ours.published_forward": ("published", "forward"),
    }
    assert set(frame["metric"]) >= {
        "peak_share", "speedup_mean", "time_ratio", "tt_over_dense_time",
    }  # fmt: skip
    charts = kernels.charts(frame, claims.load("ttrec"))
    assert len(charts) == 5
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


@pytest.mark.parametrize(
    ("positions", "exponent", "claim"),
    [
        (512, 0.0, "published_uniform"),
        (512, 1.05, None),
        (4096, 1.05, "published_zipf_4096"),
        (10240, 1.05, "published_zipf_10k"),
    ],
)
def test_published_targets_stand_where_they_are_meant(positions, exponent, claim):
    wanted = None if claim is None else f"ttrec.ours.{claim}"
    assert kernels._claim("published", positions, exponent) == wanted


def test_experiments_are_found_and_their_modules_need_no_torch_to_validate():
    assert {e.name for e in EXPERIMENTS} <= set(all_experiments(("ttrec",)))
    with pytest.raises(ValueError, match="peers"):
        attrs.evolve(KERNELS, peers=["movielens"])
    with pytest.raises(ValueError, match="batches"):
        attrs.evolve(KERNELS, batches=["0x1"])
    with pytest.raises(ValueError, match="tables"):
        attrs.evolve(COMPRESSION, tables=[27])
