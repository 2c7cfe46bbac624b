"""What the event core holds, against a formula of packets, flows and slots."""

import subprocess
import sys

import numpy as np
import pytest

import panama
from panama.core import Core
from panama.planning import Placed, make_plan
from panama.traffic import Traffic
from panama.windows import wire_of

#: Bytes of a link and of a NIC.
LINK = 200


def plan_of(jobs, load, horizon_s, scheme="panama", slots=256, hosts_per_leaf=8):
    cluster = panama.Cluster.clos(leaves=8, hosts_per_leaf=hosts_per_leaf, spines=4)
    picks = np.random.default_rng(0).permutation(cluster.hosts).astype(np.int32)
    placed = [
        Placed(i, panama.Job(bytes=400_000, workers=16), picks[16 * i : 16 * i + 16], 0)
        for i in range(jobs)
    ]
    arrivals = Traffic.websearch(load).draw(cluster, horizon_s, 0)
    chosen = panama.scheme(scheme, slots=slots)
    return make_plan(cluster, placed, arrivals, chosen, 0, wire_of(1500))


def held(plan, until_ps):
    """What a run holds at its end, and its outcome."""
    with Core(plan) as core:
        outcome = core.read(core.run(until_ps))
    return outcome.counters["held_bytes"], outcome


def test_flows_and_packets_take_what_the_formula_says():
    plan = plan_of(0, 0.5, 5e-3)
    n_bytes, outcome = held(plan, 5_000_000_000)
    flows, packets = len(plan.flows.n_bytes), outcome.counters["packets_most"]
    assert flows > 500
    # Arrays that grow hold up to twice what they need; a free packet's place is 4 bytes more.
    assert n_bytes <= 2 * 68 * packets + 200 * flows + LINK * len(plan.network.src) + 20_000


def test_jobs_take_some_hundred_bytes_a_slot():
    """Two entries of 48 bytes a slot: a bit for each child alone, fan_in / 8 bytes, would not
    know which number it holds, which is done, nor what to repeat."""
    few, many = (held(plan_of(4, 0.0, 1e-3, slots=s), 10**12)[0] for s in (256, 1024))
    nodes = len(plan_of(4, 0.0, 1e-3).trees.node_tree)
    assert (many - few) / (768 * nodes) == pytest.approx(96)


_MILLION = """
import resource, numpy as np, panama
cluster = panama.Cluster.clos(3, pods=8, leaves=8, hosts_per_leaf=16, spines=16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
jobs = [panama.Job(bytes=200_000, workers=16) for _ in range(8)]
result = panama.simulate(cluster, jobs, panama.Traffic.fixed(1000, 0.5), horizon_s=1.6e-4)
assert len(result.outcome.flow_end_ps) > 1_000_000, len(result.outcome.flow_end_ps)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_a_million_flows_on_1024_hosts_stay_below_two_gigabytes():
    done = subprocess.run(
        [sys.executable, "-c", _MILLION], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 2000
