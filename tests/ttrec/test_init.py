"""Initial values: exact variances, the published rule, and the cut of the sampled Gaussian."""

import math

import pytest
import torch

from ttrec import init, reference
from ttrec.shapes import TTShape

SHAPE = TTShape(8000, 16, (20, 20, 20), (2, 2, 4), (8, 8))


def draw(rule, seed=0, **kw):
    generator = torch.Generator().manual_seed(seed)
    return init.make_cores(SHAPE, rule, generator=generator, dtype=torch.float64, **kw)


def test_cut_variance_is_the_published_one():
    assert init.cut_variance() == pytest.approx(5.7464, abs=5e-5)
    assert init.cut_variance(0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("rule", [*init.INITS, init.CutGaussian(1.0), init.CutGaussian(3.0)])
def test_core_entries_have_the_stated_variance(rule):
    entries = torch.cat([core.flatten() for core in draw(rule)])
    wanted = init.entry_variance(SHAPE, rule)
    # Kurtosis is at most 3, so a sample variance has standard deviation wanted * sqrt(2 / n).
    allowed = 3 * wanted * math.sqrt(2 / len(entries))
    assert abs(float(entries.square().mean()) - wanted) < allowed
    assert abs(float(entries.mean())) < 4 * math.sqrt(wanted / len(entries))


@pytest.mark.parametrize("rule", [*init.INITS, init.CutGaussian(1.0), init.CutGaussian(3.0)])
def test_table_entries_have_the_stated_variance(rule):
    found = [
        float(reference.full(draw(rule, seed), SHAPE.rows).square().mean()) for seed in range(20)
    ]
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((f - mean) ** 2 for f in found) / (len(found) - 1) / len(found))
    assert abs(mean - init.table_variance(SHAPE, rule)) < 3.5 * spread


def test_default_variance_is_that_of_dense_rows():
    for rule in ("sampled_gaussian", "gaussian", "uniform"):
        assert init.table_variance(SHAPE, rule) == pytest.approx(1 / (3 * 8000))
    assert init.table_variance(SHAPE, "gaussian", 0.25) == pytest.approx(0.25)


def test_published_rule_is_its_formula():
    # Redrawn while |z| < 2, times (1/sqrt(3 n))^(1/3); neither ranks nor Var(z) are corrected for.
    scale = (1 / math.sqrt(3 * 8000)) ** (1 / 3)
    assert init.entry_variance(SHAPE, "sampled_gaussian_published") == pytest.approx(
        init.cut_variance() * scale**2
    )
    entries = torch.cat([core.flatten() for core in draw("sampled_gaussian_published")]) / scale
    assert float(entries.abs().min()) >= 2 - 1e-12
    wanted = 5.7464**3 * 64 / (3 * 8000)
    assert init.table_variance(SHAPE, "sampled_gaussian_published") == pytest.approx(wanted, 1e-4)


@pytest.mark.parametrize("cut", [0.0, 1.0, 2.0, 3.0])
def test_sampled_gaussian_keeps_the_cut_and_the_tail(cut):
    z = init.sampled_gaussian((200_000,), torch.Generator().manual_seed(3), cut)
    assert float(z.abs().min()) >= cut
    # P(|z| > cut + 0.5) given |z| >= cut, by the error function; 4 sigma of a proportion.
    wanted = math.erfc((cut + 0.5) / math.sqrt(2)) / math.erfc(cut / math.sqrt(2))
    sigma = math.sqrt(wanted * (1 - wanted) / len(z))
    assert abs(float((z.abs() > cut + 0.5).double().mean()) - wanted) < 4 * sigma
    assert abs(float((z > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(len(z))


def test_same_seed_same_cores():
    for a, b in zip(draw("sampled_gaussian"), draw("sampled_gaussian"), strict=True):
        assert torch.equal(a, b)


def test_unknown_names_and_variances_are_refused():
    with pytest.raises(
        ValueError, match=r"init must be CutGaussian or one of sampled_gaussian, .*got 'zeros'"
    ):
        init.make_cores(SHAPE, "zeros")
    with pytest.raises(ValueError, match="target_var must be finite and above 0, got 0"):
        init.make_cores(SHAPE, target_var=0.0)
    with pytest.raises(ValueError, match=r"cut must lie in 0\.\.8, got -1"):
        init.CutGaussian(-1)


def test_cut_gaussian_has_the_named_rules_as_cases():
    for cut, rule in ((2.0, "sampled_gaussian"), (0.0, "gaussian")):
        assert init.table_variance(SHAPE, init.CutGaussian(cut)) == init.table_variance(SHAPE, rule)
    for a, b in zip(draw(init.CutGaussian(2.0)), draw("sampled_gaussian"), strict=True):
        assert torch.equal(a, b)
