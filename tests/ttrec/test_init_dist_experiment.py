"""The experiment on distributions of table entries: its formulas, its verdicts, its charts."""

import math

import attrs
import pytest
import torch

from common import claims
from common.experiment import Options
from common.results import Store
from common.runner import Job, run_one
from ttrec.experiments import EXPERIMENTS, init_dist
from ttrec.init import sampled_gaussian

SETTINGS = init_dist.Settings(
    rows=10131227,
    inits=["gaussian", "uniform", "sampled_gaussian"],
    ranks=[8],
    cores=[2, 3],
    cuts=[0.0],
    draws=16,
    rows_per_draw=2048,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records and frame of one run."""
    folder = tmp_path_factory.mktemp("results")
    (experiment,) = (e for e in EXPERIMENTS if e.name == "ttrec_init_dist")
    outcome = run_one(Job(experiment, SETTINGS, Options(results=folder, isolate=False)))
    assert outcome.status == "ok", outcome.error
    (found,) = Store(folder).run_list()
    return found.records, Store(folder).frame()


def test_sampled_gaussian_is_nearest_to_the_normal_and_gaussian_farthest(run):
    judgement = claims.judge(claims.find("ttrec.ours.init_ks_order"), run[0])
    assert judgement.verdict == claims.Verdict.SHAPE, judgement.reason


def test_variance_of_every_rule_follows_its_formula(run):
    ratios = run[1].query("metric == 'variance_ratio'")
    assert len(ratios) == 2 * 4
    # Five standard errors, from the interval of 1.96 on each side.
    allowed = 5 / 1.96 * (ratios["high"] - ratios["value"])
    assert ((ratios["value"] - 1).abs() < allowed).all()
    assert (ratios["claim"].notna() == (ratios["axis.cores"] == 3) & ~_is_cut(ratios)).all()


def _is_cut(frame):
    return frame["axis.init"].str.startswith("cut")


def test_measured_kurtosis_follows_its_formula(run):
    by_place = run[1].set_index(["axis.init", "axis.cores", "metric"])
    for init in SETTINGS.inits:
        measured = by_place.loc[(init, 3, "excess_kurtosis")]
        exact = by_place.loc[(init, 3, "excess_kurtosis_formula"), "value"]
        assert abs(measured["value"] - exact) < 5 / 1.96 * (measured["high"] - measured["value"])


def test_a_cut_of_zero_is_the_gaussian_rule(run):
    frame = run[1].query("metric == 'excess_kurtosis_formula'")
    by_place = frame.set_index(["axis.init", "axis.cores"])["value"]
    assert by_place["cut 0", 3] == pytest.approx(by_place["gaussian", 3])


def test_excess_kurtosis_of_simple_chains():
    # One product of d normals has fourth moment 3^d; a sum of R of them has (3^d - 3) / R over it.
    assert init_dist.excess_kurtosis((1,), 3.0) == pytest.approx(9 - 3)
    assert init_dist.excess_kurtosis((4,), 3.0) == pytest.approx(6 / 4)
    assert init_dist.excess_kurtosis((1, 1), 3.0) == pytest.approx(27 - 3)
    # Signs have no kurtosis to begin with: sums of R signs, -2 / R.
    assert init_dist.excess_kurtosis((5,), 1.0) == pytest.approx(-2 / 5)


@pytest.mark.parametrize("cut", [0.0, 1.0, 2.0])
def test_fourth_moment_of_a_cut_normal(cut):
    z = sampled_gaussian((400_000,), torch.Generator().manual_seed(0), cut)
    ratio = float(z.pow(4).mean() / z.square().mean() ** 2)
    # Relative standard error of a mean of z^4 is at most sqrt(E z^8 / (E z^4)^2 / n) < 0.6%.
    assert ratio == pytest.approx(init_dist.cut_fourth(cut), rel=0.03)


def test_densities_are_shares_of_all_entries(run):
    frame = run[1].query("metric == 'density' and `axis.init` == 'sampled_gaussian'")
    mass = frame.groupby("axis.cores")["value"].sum() * init_dist.BIN
    inside = math.erf(init_dist.SPREAD / math.sqrt(2))
    assert mass[3] == pytest.approx(inside, abs=0.002)


def test_many_cores_have_no_more_rank_than_is_useful():
    assert init_dist._shape(10131227, 5, 32).ranks == (25, 32, 32, 32)
    assert init_dist._shape(10131227, 3, 32).p == (200, 220, 250)


def test_charts_draw(run):
    charts = init_dist.charts(run[1], claims.load("ttrec"))
    assert len(charts) == 3
    assert "normal" in set(charts[2].rows["system"])
    assert all(chart.to_svg().startswith("<svg") for chart in charts)


def test_settings_refuse_what_no_table_has():
    for change in ({"cores": [6]}, {"inits": ["published"]}, {"draws": 1}, {"cuts": [-1.0]}):
        with pytest.raises(ValueError, match=next(iter(change))):
            attrs.evolve(SETTINGS, **change)
