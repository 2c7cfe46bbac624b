"""The reuse experiment: its counts, its switches, what it claims, and its charts."""

import attrs
import numpy as np
import pytest
import torch

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from ttrec import peers, problems
from ttrec.experiments import EXPERIMENTS, reuse
from ttrec.shapes import TTShape

SETTINGS = reuse.Settings(
    dim=16,
    rank=8,
    batch=16,
    poolings=[5],
    exponents=[0.0, 1.2],
    orders=["frequency", "random"],
    halfwidth=0.5,
    max_seconds=0.05,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records and frame of one run."""
    folder = tmp_path_factory.mktemp("results")
    (experiment,) = (e for e in EXPERIMENTS if e.name == "ttrec_reuse")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def problem_of(indices):
    """A problem with these indices, each a bag of its own."""
    shape = TTShape(480, 16, (8, 8, 8), (2, 2, 4), (8, 8))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    problem = problems.make_problem(shape, len(indices), 1, 0.0, rng, generator)
    return attrs.evolve(problem, indices=torch.tensor(indices))


def test_rows_and_pairs_are_counted_once():
    # 8 rows to a pair: 0, 3 and 7 share one, 8 begins the next, 64 differs in the first digit.
    assert reuse.count_distinct(problem_of([0, 3, 3, 7, 8, 64, 0])) == (5, 3)


def test_renumbering_keeps_what_is_equal_and_spreads_the_rest():
    indices = torch.tensor([0, 1, 1, 2, 0, 3])
    found = reuse.renumber(indices, 10**6, np.random.default_rng(0))
    assert torch.equal(found[:, None] == found, indices[:, None] == indices)
    assert found.max() > 1000


def test_every_variant_differs_from_ours_in_speed_only(monkeypatch):
    problem = problem_of([5, 5, 6, 300, 301, 5])
    reuse._assert_same_step(problem)
    right = reuse._variant

    def forgets(problem, name):
        return right(attrs.evolve(problem, lr=0.0), name)

    monkeypatch.setattr(reuse, "_variant", forgets)
    with pytest.raises(AssertionError):
        reuse._assert_same_step(problem)


def test_variants_reach_the_switches(monkeypatch):
    asked = {}
    monkeypatch.setattr(peers, "ours", lambda problem, **options: options)
    for name in reuse.VARIANTS:
        asked[name] = reuse._variant(problem_of([1]), name)
    assert asked == {
        "rows_apart": {"sharing": 2},
        "pairs_apart": {"sharing": 1},
        "all_apart": {"sharing": 0},
        "always_keep": {"store": "keep"},
        "always_recompute": {"store": "recompute"},
    }


def test_skewed_batches_have_fewer_distinct_rows_and_pairs(run):
    frame = run[1].set_index(["metric", "axis.order", "axis.exponent"])["value"]
    for order in SETTINGS.orders:
        assert frame["rows_share", order, 1.2] < frame["rows_share", order, 0.0]
        assert frame["pairs_share", order, 1.2] <= frame["rows_share", order, 1.2]
    # Numbered by frequency, hot rows share their first digits; at random they do not.
    assert frame["pairs_share", "frequency", 1.2] < frame["pairs_share", "random", 1.2]


def test_every_place_has_every_variant_and_the_published_algorithm(run):
    frame = run[1]
    speeds = frame[frame["metric"].isin(("mechanism_speedup", "sharing_speedup"))]
    assert set(speeds["axis.system"]) == {"ours"}
    counts = speeds.groupby("axis.baseline")["value"].count()
    assert dict(counts) == dict.fromkeys((*reuse.VARIANTS, "published"), 4)
    by_claim = speeds.groupby("claim")["axis.baseline"].unique()
    assert set(by_claim["ttrec.ours.reuse_mechanism"]) == set(reuse.VARIANTS)
    assert list(by_claim["ttrec.ours.reuse_skew"]) == ["published"]


def test_skew_is_judged_by_order_of_ids(run):
    judgement = claims.judge(claims.find("ttrec.ours.reuse_skew"), run[0])
    assert judgement.n_records == len(SETTINGS.orders)


def test_charts_draw(run):
    charts = reuse.charts(run[1], claims.load("ttrec"))
    assert len(charts) == 2
    assert set(charts[0].rows["system"]) == {"distinct rows", "distinct pairs"}
    assert set(charts[1].rows["system"]) == {*reuse.VARIANTS, "published"}
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


def test_settings_refuse_what_cannot_be_measured():
    for change in ({"dim": 24}, {"orders": ["hash"]}, {"exponents": [-1.0]}, {"halfwidth": 0.0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            attrs.evolve(SETTINGS, **change)
