"""Speed floors of this package; see common.gates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.floors import Floor
from common.gates import Gate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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


@functools.cache
def _shared_cluster(scheme: str) -> tuple[npt.NDArray[np.float64], float]:
    """Seconds of short flows beside four jobs on 64 hosts, and of the jobs' first iteration."""
    import warnings

    from panama.cluster import Cluster
    from panama.jobs import Job
    from panama.simulate import simulate
    from panama.traffic import Traffic

    horizon_s = 6e-3
    jobs = [Job(bytes=4_000_000, workers=16, iterations=400, compute_share=0.5)] * 4
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ jobs are not done")  # on purpose
        found = simulate(
            Cluster.clos(leaves=8, hosts_per_leaf=8, spines=4),
            jobs,
            Traffic.websearch(load=0.1),
            scheme=scheme,
            horizon_s=horizon_s,
        )
    flows = found.flows
    begun = flows["start_s"].between(0.1 * horizon_s, 0.9 * horizon_s)
    short = flows[(flows["bytes"] < 100_000) & begun]
    first = found.jobs[found.jobs["iter"] == 0]
    if not (short["done"].all() and first["done"].all() and len(first) == len(jobs)):
        raise AssertionError(f"scheme {scheme} left short flows or first iterations undone")
    return short["fct_s"].to_numpy(), float(first["jct_s"].mean())


def _over_best_host(statistic: Callable[[str], float]) -> float:
    return min(statistic(s) for s in ("ring_sorted", "hier_pipelined")) / statistic("panama")


def short_mean() -> float:
    """Mean completion time of short flows, the better host scheme's over ours."""
    return _over_best_host(lambda scheme: float(_shared_cluster(scheme)[0].mean()))


def short_tail() -> float:
    """The same of the 95th percentile."""
    import numpy as np

    return _over_best_host(lambda scheme: float(np.quantile(_shared_cluster(scheme)[0], 0.95)))


def job_time() -> float:
    """Time of an iteration, the better host scheme's over ours."""
    return _over_best_host(lambda scheme: _shared_cluster(scheme)[1])


GATES = (
    # 117 to 157 on a busy machine.
    Gate("panama_core_flows", make_flows, floor=85.0),
    # 88 to 157 on a busy machine.
    Gate("panama_core_sums", make_sums, floor=65.0),
)
# 1.43, 1.83 and 0.89, with room for a change of the arrivals but for none of the law of windows.
FLOORS = (
    Floor(
        "panama_short_mean",
        short_mean,
        floor=1.3,
        claims=("panama.abstract.short_flow_fct_mean",),
    ),
    Floor(
        "panama_short_tail",
        short_tail,
        floor=1.6,
        claims=(
            "panama.abstract.short_flow_fct_p99_preliminary",
            "panama.abstract.short_flow_fct_p99",
        ),
    ),
    Floor(
        "panama_job_time",
        job_time,
        floor=0.8,
        claims=(
            "panama.abstract.training_time_preliminary",
            "panama.abstract.training_time",
        ),
    ),
)
