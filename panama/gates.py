"""Speed floors of this package; see common.gates."""

from collections.abc import Callable
from typing import Any

from common.gates import Gate

Sides = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any, Any], object]]


def make_flows() -> Sides:
    """DCTCP flows of 200 kB between 16 hosts, in the event core and in plain Python."""
    from panama.traffic import Traffic

    return _sides(Traffic.fixed(200_000, 0.5), jobs=False)


def make_sums() -> Sides:
    """The same with an aggregation over two trees beside fewer flows."""
    from panama.traffic import Traffic

    return _sides(Traffic.fixed(200_000, 0.2), jobs=True)


def _sides(traffic: Any, jobs: bool) -> Sides:
    import numpy as np

    from panama import core, reference
    from panama.cluster import Cluster
    from panama.jobs import Job
    from panama.planning import Placed, make_plan
    from panama.schemes import scheme
    from panama.windows import wire_of

    cluster = Cluster.clos(leaves=4, hosts_per_leaf=4, spines=2)
    hosts = cluster.hosts[::2]
    placed = [Placed(0, Job(bytes=400_000, workers=len(hosts)), hosts, 0)] if jobs else []
    drawn = traffic.draw(cluster, 1e-4, 0)
    plan = make_plan(cluster, placed, drawn, scheme("panama"), 0, wire_of(1500))

    def same(ours: Any, theirs: Any) -> None:
        one, other = (np.asarray(found.flow_end_ps) for found in (ours, theirs))
        assert (one == other).all(), "the two simulators end flows at different picoseconds"
        assert list(ours.end_ps) == list(theirs.end_ps), "or iterations of jobs"

    return lambda: core.run(plan), lambda: reference.run(plan), same


GATES = (
    # 117 to 157 on a busy machine.
    Gate("panama_core_flows", make_flows, floor=85.0),
    # 88 to 157 on a busy machine.
    Gate("panama_core_sums", make_sums, floor=65.0),
)
