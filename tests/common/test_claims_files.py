"""The claims.toml files that ship: they load, and each claim is measured or says why it is not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from common import PAPERS, claims
from common.experiment import all_experiments

PACKAGES = [package for package in claims.PACKAGES if find_spec(package)]


@pytest.fixture(scope="module")
def claims_of_experiments() -> dict[str, list[str]]:
    """Claim id -> names of the experiments that record it."""
    found: dict[str, list[str]] = {}
    for name, experiment in all_experiments().items():
        for claim_id in experiment.claims:
            found.setdefault(claim_id, []).append(name)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_claims_load(package: str) -> None:
    found = claims.load(package)
    assert all(claim.package == package for claim in found.values())
    if package in PAPERS:
        assert found, f"{package} sets itself beside no number of its paper"


def test_ids_are_unique_over_all_packages() -> None:
    n_claims = sum(len(claims.load(package)) for package in PACKAGES)
    assert len(claims.load()) == n_claims


@pytest.mark.parametrize("package", PACKAGES)
def test_each_claim_is_recorded_or_says_why_not(
    package: str, claims_of_experiments: dict[str, list[str]]
) -> None:
    silent, outdated = [], []
    for claim in claims.load(package).values():
        if claim.id in claims_of_experiments and claim.not_attempted:
            outdated.append(claim.id)
        if claim.id not in claims_of_experiments and not claim.not_attempted:
            silent.append(claim.id)
    assert silent == [], "no experiment records these, and not_attempted gives no reason"
    assert outdated == [], "an experiment records these, but not_attempted still stands"


def test_experiments_name_only_claims_that_exist(
    claims_of_experiments: dict[str, list[str]],
) -> None:
    for claim_id, experiments in claims_of_experiments.items():
        claim = claims.find(claim_id)  # names the nearest ids if there is none
        for experiment in experiments:
            assert experiment.startswith(f"{claim.package}_")
