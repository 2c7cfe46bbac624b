"""The floors of ratios that need no clock, and that every ratio a paper opens with has one."""

import pytest

from common import PAPERS, claims
from common.experiment import all_experiments
from common.floors import Floor, all_floors
from common.gates import all_gates

FLOORS = all_floors()
GATES = all_gates()
#: Headline ratios without a floor, and why; one that gets a floor must leave.
WAITING = {
    "costmodel.abstract.search_speedup": "is of a search by a model whose training is not done",
}


@pytest.mark.parametrize("name", FLOORS)
def test_ratio_holds_its_floor(name: str) -> None:
    FLOORS[name].check()


@pytest.mark.parametrize("value", [0.99, float("nan"), float("-inf")])
def test_ratio_below_its_floor_is_named(value: float) -> None:
    with pytest.raises(AssertionError, match="toy must be at least 1, got"):
        Floor("toy", lambda: value, floor=1.0).check()


def test_floors_guard_claims_that_exist() -> None:
    for guard in (*FLOORS.values(), *GATES.values()):
        for claim_id in guard.claims:
            claim = claims.find(claim_id)  # names the nearest ids if there is none
            assert guard.name.startswith(f"{claim.package}_")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_headline_ratio_has_a_floor(paper: str) -> None:
    recorded = {claim for found in all_experiments().values() for claim in found.claims}
    guarded = {claim for guard in (*FLOORS.values(), *GATES.values()) for claim in guard.claims}
    assert not guarded & set(WAITING), "has a floor: no longer waiting"
    guarded |= set(WAITING)
    # Line rate, accuracy and errors are no ratios that a slow kernel or a worse law would lower.
    ratios = [
        claim
        for claim in claims.load(paper).values()
        if claim.is_headline and claim.unit in ("x", "%") and claim.better != "lower"
    ]
    bare = [c.id for c in ratios if c.id in recorded and c.id not in guarded]
    assert bare == [], "list them in claims of a Gate or a Floor in <paper>/gates.py"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_has_a_gate(paper: str) -> None:
    assert any(name.startswith(f"{paper}_") for name in GATES)
