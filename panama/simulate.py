"""Run jobs and ordinary traffic on a cluster under a scheme."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from .cluster import Cluster
from .errors import StallError
from .jobs import Job
from .placement import check_policy, place
from .plan import Outcome, Plan
from .planning import Placed, make_plan
from .result import Result
from .schemes import Scheme, scheme_of
from .seeds import stream
from .traffic import Traffic
from .windows import wire_of

if TYPE_CHECKING:
    from .core import Progress


def simulate(
    cluster: Cluster,
    jobs: Sequence[Job],
    background: Traffic | None = None,
    *,
    scheme: str | Scheme = "panama",
    horizon_s: float = 1.0,
    seed: int = 0,
    mtu: int = 1500,
    placement: str = "random",
    drop: float = 0.0,
    duplicate: float = 0.0,
    max_events: int = 2**62,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Until all jobs and flows have ended, or until the horizon.

    The same seed gives the same traffic, and while no job has to wait the same hosts, for every
    scheme. A job for which too few hosts are free waits, and those behind it too; it starts when
    one before it ends. For that the run is repeated from the start, up to there unchanged.

    horizon_s: simulated seconds, in which ordinary traffic arrives
    mtu:       bytes of an Ethernet payload
    placement: random, packed, spread or trace
    drop, duplicate: share of packets lost, doubled at switches
    progress:  told how far it is, now and then (core.Progress)

    Warns where jobs are not done by the horizon, or max_events are used up. Raises ValueError for
    what cannot be run, NoTreeError for a job no switch is above, StallError where nothing moves.
    """
    found = scheme_of(scheme)
    check_policy(placement)
    if not (horizon_s > 0 and np.isfinite(horizon_s)):
        raise ValueError(f"horizon_s must be above 0 seconds, got {horizon_s}")
    for name, share in (("drop", drop), ("duplicate", duplicate)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
    wire = attrs.evolve(wire_of(mtu), drop=drop, duplicate=duplicate, seed=seed)
    # Before the jobs, and from a stream of its own: all schemes meet the same traffic.
    arrivals = (background or Traffic.none()).draw(cluster, horizon_s, seed)

    def once(placed: list[Placed]) -> tuple[Plan, Outcome]:
        plan = make_plan(cluster, placed, arrivals, found, seed, wire)
        until_ps = round(horizon_s * 1e12)
        options = {"until_ps": until_ps, "max_events": max_events, "progress": progress}
        return plan, _run(cluster, placed, plan, **options)

    if found.name == "none":
        placed: list[Placed] = []
        plan, outcome = once(placed)
    else:
        placed, plan, outcome = _in_turn(cluster, jobs, placement, seed, once)
    result = Result(cluster, jobs, placed, plan, outcome, found)
    _warn(result, horizon_s)
    return result


def _in_turn(
    cluster: Cluster,
    jobs: Sequence[Job],
    placement: str,
    seed: int,
    once: Callable[[list[Placed]], tuple[Plan, Outcome]],
) -> tuple[list[Placed], Plan, Outcome]:
    """Jobs on their hosts, first come first served, and the run with all of them."""
    placed: list[Placed] = []
    ends: list[int] = []  # of the jobs placed, as the last run had them
    seen: tuple[Plan, Outcome] | None = None
    now = 0
    for number in sorted(range(len(jobs)), key=lambda i: (jobs[i].arrival_s, i)):
        job = jobs[number]
        now = max(now, round(job.arrival_s * 1e12))
        while True:
            busy = [p.workers for p, end in zip(placed, ends, strict=True) if not 0 <= end <= now]
            free = np.setdiff1d(cluster.hosts, np.concatenate([np.zeros(0, np.int32), *busy]))
            # A stream for each job: how often others were asked does not matter.
            rng = np.random.default_rng([number, int(stream(seed, "placement").integers(2**62))])
            hosts = place(cluster, job, free.astype(np.int32), placement, rng)
            if hosts is not None:
                placed.append(Placed(number, job, hosts, now))
                # Ends up to now stay as they are; later ones may move.
                ends = [end if 0 <= end <= now else -1 for end in ends] + [-1]
                seen = None
                break
            if seen is None:
                seen = once(placed)
                ends = _ends(seen[1])
            later = [end for end in ends if end > now]
            if not later:
                # It, and all behind it, do not start by the horizon.
                return placed, *seen
            now = min(later)
    plan, outcome = seen or once(placed)
    return placed, plan, outcome


def _ends(outcome: Outcome) -> list[int]:
    """End of each job's last iteration, -1 for those not done."""
    return [int(outcome.end_ps[i - 1]) for i in outcome.iteration_ptr[1:]]


def _run(cluster: Cluster, placed: list[Placed], plan: Plan, **options: Any) -> Outcome:
    from .core import run

    try:
        return run(plan, **options)
    except StallError as stall:
        stall.args = (_stalled(cluster, placed, plan, stall),)
        raise


def _stalled(cluster: Cluster, placed: list[Placed], plan: Plan, stall: StallError) -> str:
    """What a job waits for, by the names of the cluster."""
    name = placed[stall.job].name
    if stall.node < 0:
        return f"job {name} waits for message {stall.psn}, which will never be sent"
    at = f"job {name} waits for packet {stall.psn} at {cluster.nodes[stall.switch]!r}"
    trees, lacking = plan.trees, []
    for child in stall.missing:
        below = (trees.parent == stall.node) & (trees.child_of_parent == child)
        lacking += [repr(cluster.nodes[node]) for node in trees.node_at[below]]
        joins = np.flatnonzero((trees.join_node == stall.node) & (trees.join_child == child))
        hosts = plan.network.src[trees.join[trees.join_ptr[joins]]]
        lacking += [repr(cluster.nodes[host]) for host in hosts]
    if not lacking:
        return f"{at}: its result was lost"
    return f"{at}: nothing came from {', '.join(lacking)}"


def _warn(result: Result, horizon_s: float) -> None:
    rows = result.jobs
    if result.truncated:
        warnings.warn(
            f"max_events were used up at {result.outcome.now_ps * 1e-12:g} of {horizon_s:g} s: "
            "results are of that part only",
            stacklevel=3,
        )
    elif len(rows) and not rows["done"].all():
        done = rows.groupby("job")["done"]
        unfinished = int((~done.all()).sum())
        share = float(done.mean().min())
        guess = (
            f"all need about {horizon_s / share:.2g} s"
            if share > 0
            else "one of them has done no iteration yet"
        )
        warnings.warn(
            f"{unfinished} of {len(done)} jobs are not done by the horizon of {horizon_s:g} s; "
            f"{guess}",
            stacklevel=3,
        )
