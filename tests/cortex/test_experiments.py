"""Experiments at tiny settings in a real run folder: what they record, claims, charts."""

import math

import attrs
import pytest

from common import claims, roofline
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from cortex import linearize as linear
from cortex import peers, structures
from cortex.experiments import (
    EXPERIMENTS,
    ablation,
    autobatch,
    breakdown,
    formats,
    linearize,
    overall,
    realtrees,
    refactor,
    sequence,
    unroll,
)
from cortex.experiments import roofline as roof
from cortex.forest import Tree

BRIEF = {"halfwidth": 0.9, "max_seconds": 0.02}
SETTINGS = {
    "overall": overall.Settings(
        cases=["tree_fc/perfect/1", "dag_rnn/grid/1"], hiddens=[16],
        peers=["eager", "dynet", "level_batched"], **BRIEF,
    ),
    "autobatch": autobatch.Settings(
        cases=["tree_lstm/sst/10"], hidden=16,
        peers=["eager", "level_batched", "level_batched_onednn", "dynet", "dgl"],
        schedules=["auto", "paper"], **BRIEF,
    ),
    "breakdown": breakdown.Settings(cases=["tree_lstm/sst/2"], hidden=16, repeats=6),
    "sequence": sequence.Settings(
        models=["lstm", "gru"], hiddens=[16], batches=[2], lengths=[3, 9], **BRIEF
    ),
    "ablation": ablation.Settings(cases=["tree_fc/perfect/1"], hidden=16, **BRIEF),
    "unroll": unroll.Settings(
        models=["TreeRNN", "TreeLSTM"], depths=[1, 2], data=["perfect"], batch=1, hidden=16, **BRIEF
    ),
    "refactor": refactor.Settings(
        models=["TreeGRU", "SimpleTreeGRU"], batches=[1], hidden=16, **BRIEF
    ),
    "linearize": linearize.Settings(
        cases=["tree_lstm/sst/10"], hidden=16, batches=[1, 40], formats=list(linearize.FORMATS),
        **BRIEF,
    ),
    "roofline": roof.Settings(models=["tree_fc", "tree_lstm"], hidden=16, batches=[10], **BRIEF),
    "realtrees": realtrees.Settings(modules=1, hidden=16, batch=2, **BRIEF),
}  # fmt: skip
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        overall, autobatch, breakdown, sequence, ablation, unroll, refactor, linearize, roof,
        realtrees,
    )
}  # fmt: skip
#: Measuring the machine takes seconds and is tested elsewhere.
PEAKS = roofline.Roofline(
    fp32_gflops=100.0, bf16_gflops=200.0, read_gbs=10.0, triad_gbs=10.0, l2_gbs=50.0, gemm={},
    contended=False, threads=1,
)  # fmt: skip


def run_into(folder, name):
    (experiment,) = (e for e in EXPERIMENTS if e.name == f"cortex_{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roofline, "cached", lambda threads: PEAKS)
        job = Job(experiment, SETTINGS[name], Options(results=folder, isolate=False))
        outcome = run_one(job)
    assert outcome.status == "ok", outcome.error
    return Store(folder).frame()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs an experiment once in this process; gives its frame."""
    found = {}

    def run_once(name):
        if name not in found:
            found[name] = run_into(tmp_path_factory.mktemp(name), name)
        return found[name]

    return run_once


def test_every_experiment_is_tried_here():
    assert {f"cortex_{name}" for name in SETTINGS} == {e.name for e in EXPERIMENTS}


@pytest.mark.parametrize("name", SETTINGS)
def test_charts_draw_what_was_recorded(run, name):
    charts = MODULES[name].charts(run(name), claims.load("cortex"))
    assert charts
    assert all(len(chart.rows) for chart in charts)
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


@pytest.mark.parametrize("name", SETTINGS)
def test_records_fit_the_claims_they_carry(run, name):
    judged = run(name)
    judged = judged[judged["claim"].notna()]
    assert len(judged)
    for row in judged.to_dict("records"):
        claim = claims.find(row["claim"])
        assert (claim.metric, claim.unit) == (row["metric"], row["unit"])


def test_the_headline_is_the_largest_ratio(run):
    frame = run("overall")
    ratios = frame[frame["metric"].eq("speedup") & frame["axis.model"].notna()]["value"]
    (best,) = frame[frame["claim"] == overall.LARGEST]["value"]
    assert best == ratios.max()
    present = {"eager", "dynet", "level_batched"} - set(peers.absent(["dynet"]))
    assert set(frame[frame["metric"] == "speedup_mean"]["axis.baseline"]) == present


def test_an_absent_peer_is_left_out_and_named(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "absent", lambda names: {"dynet": "pip install it"})
    frame = run_into(tmp_path, "breakdown")
    assert "dynet" not in set(frame["axis.system"])
    (chart,) = breakdown.charts(frame, claims.load("cortex"))
    assert "left out: dynet." in chart.caption


def test_the_papers_schedule_stands_beside_ours(run):
    frame = run("autobatch")
    found = frame[frame["metric"] == "speedup"]
    by_schedule = found.groupby("axis.schedule")["axis.baseline"].unique()
    assert set(by_schedule["paper"]) == {"level_batched", "level_batched_onednn"}
    assert set(by_schedule["auto"]) > set(by_schedule["paper"])
    onednn = frame[frame["claim"] == "cortex.ours.lstm_paper_onednn"]
    assert set(onednn["axis.schedule"]) == {"paper"}


def test_ours_makes_one_native_call(run):
    frame = run("breakdown")
    calls = frame[frame["metric"] == "kernel_calls"].set_index("axis.system")["value"]
    assert calls["ours"] == 1
    assert calls["level_batched"] > 20


def test_refactoring_saves_a_barrier_where_columns_are_shared_out(run):
    frame = run("refactor")
    counts = frame[frame["metric"] == "barriers"]
    for model in ("TreeGRU", "SimpleTreeGRU"):
        rows = counts[counts["axis.model"] == model]
        found = rows.set_index(["axis.partition", "axis.system"])["value"].to_dict()
        assert found["row", "plain"] == found["row", "refactored"] == 1
        assert found["column", "plain"] == found["column", "refactored"] + 1


def test_every_format_is_linearized_at_every_batch_size(run):
    frame = run("linearize")
    rows = frame[frame["metric"] == "format_ns_per_node"]
    found = set(zip(rows["axis.format"], rows["axis.batch"], strict=True))
    assert found == {(name, batch) for name in linearize.FORMATS for batch in (1, 40)}
    assert len(rows) == len(found)


@pytest.mark.parametrize("name", formats.FORMS)
def test_a_format_holds_the_same_trees(name):
    forest = structures.sst_like(5, seed=3, vocab=50)
    form = formats.FORMS[name]
    wanted = linear.linearize(forest, Tree(2))
    found = form.linearize(form.make(forest), Tree(2))
    assert formats.same_trees(found, wanted)
    assert not formats.same_trees(
        found, linear.linearize(structures.sst_like(5, seed=4, vocab=50), Tree(2))
    )
    # What the recursion computes from the left and the right child tells their order apart.
    assert spelled(found) == spelled(wanted)


def spelled(numbered):
    """Every tree as brackets around its words."""
    texts = [str(t) for t in numbered.token.tolist()]
    for n, (left, right) in enumerate(numbered.child.T.tolist(), start=numbered.n_leaves):
        texts[n] = f"({texts[left]} {texts[right]})"
    return [texts[root] for root in numbered.roots.tolist()]


def test_intensities_follow_the_formula():
    moved = roof.bytes_moved(256, 10)
    assert roof.flops("tree_fc", 256, 10) == 10 * 127 * (4 * 256**2 + 2 * 256)
    assert moved["eager"] > moved["batched"] > moved["ours"]
    # One weight and three states a node, 4 bytes each.
    assert moved["ours"] == 4 * (2 * 256**2 + 3 * 1270 * 256)


def test_the_standard_library_is_read_in_order():
    paths = realtrees.standard_library(3)
    assert len(paths) == 3
    assert paths == sorted(paths)
    forest = realtrees.syntax_trees(paths)
    assert forest.n_roots == 3


def test_settings_refuse_what_cannot_be_measured():
    for name, change in (
        ("overall", {"cases": ["tree_fc/perfect"]}),
        ("overall", {"peers": ["cavs"]}),
        ("autobatch", {"cases": ["cnn/sst/1"]}),
        ("autobatch", {"hidden": 0}),
        ("sequence", {"models": ["tree_fc"]}),
        ("unroll", {"depths": [0]}),
        ("breakdown", {"repeats": 1}),
        ("roofline", {"max_seconds": math.nan}),
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            attrs.evolve(SETTINGS[name], **change)
