"""The floors of all papers: each kernel of ours beside its live peer, on one thread."""

import pytest

from common.gates import Outcome, all_gates, check

GATES = all_gates()


def test_there_is_a_gate_to_hold() -> None:
    assert GATES, "no <paper>/gates.py lists a gate: the floors below would all pass unmeasured"


@pytest.mark.bench
@pytest.mark.timeout(900)  # kernel builds, and a second measurement in a fresh process
@pytest.mark.parametrize("name", GATES)
def test_gate_holds_its_floor(name: str) -> None:
    outcome, readings = check(GATES[name])
    account = "\n".join(str(reading) for reading in readings)
    print(account)
    if outcome is Outcome.NOISY:
        pytest.xfail(f"the machine is too noisy to decide, twice:\n{account}")
    assert outcome is Outcome.PASSED, f"below its floor:\n{account}"
