"""One cluster under one scheme: the runs that short flows and jobs are both read from.

panama_fct and panama_jct have these settings and these runs in common: what one of them has run the
other reads, and an interrupted study goes on with the run it was at.
"""

from __future__ import annotations

import hashlib
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, lt

from panama.experiments import shared

if TYPE_CHECKING:
    from common.experiment import Context

#: Schemes in the network; the first is the paper's.
OURS = ("panama", "panama_plus")
#: Iterations a job is given: it never runs out of them before the horizon.
ENDLESS = 400
SHARED = Path(shared.__file__)
#: Of what is kept of a run.
VERSION = 1


@attrs.frozen
class Settings:
    """pods, leaves, hosts_per_leaf, spines: the cluster, of 3 tiers where there are several pods

    jobs, workers, megabytes or models: on it
    loads:   of ordinary traffic, as a share of the hosts' links;  schemes: compared
    shares:  of computation in an iteration whose exchange is an idle ring
    seeds:   placements and traffics;  iterations: of each job that are timed
    exchange_ms: simulated after all jobs have had their first gradients ready
    tail:    percentile, 95 where flows are too few for the 99th
    """

    pods: int = attrs.field(validator=ge(1))
    leaves: int = attrs.field(validator=ge(2))
    hosts_per_leaf: int = attrs.field(validator=ge(2))
    spines: int = attrs.field(validator=ge(1))
    jobs: int = attrs.field(validator=ge(1))
    workers: int = attrs.field(validator=ge(2))
    megabytes: float = attrs.field(validator=ge(0))
    models: list[str]
    loads: list[float] = attrs.field(validator=deep_iterable(gt(0)))
    schemes: list[str] = attrs.field(validator=deep_iterable(in_((*shared.HOST_SCHEMES, *OURS))))
    shares: list[float] = attrs.field(validator=deep_iterable([ge(0), lt(1)]))
    seeds: int = attrs.field(validator=ge(1))
    iterations: int = attrs.field(validator=ge(1))
    exchange_ms: float = attrs.field(validator=gt(0))
    tail: int = attrs.field(validator=in_((95, 99)))
    mtu: int = attrs.field(validator=ge(256))

    @property
    def site(self) -> shared.Site:
        """The cluster and its jobs."""
        return shared.Site(
            self.leaves,
            self.hosts_per_leaf,
            self.spines,
            self.jobs,
            self.workers,
            self.megabytes,
            tuple(self.models),
            pods=self.pods,
        )

    @property
    def points(self) -> list[tuple[float, float]]:
        """Share and load of each point."""
        return [(share, load) for share in self.shares for load in self.loads]


def run_once(
    site: shared.Site,
    scheme: str,
    load: float,
    share: float,
    seed: int,
    iterations: int,
    exchange_s: float,
    mtu: int,
) -> shared.Seen:
    """Jobs go on until the horizon, so that every scheme's short flows meet the same jobs.

    Jobs start one after another within one computation. A job's time is that of its first
    `iterations`; flows count that start when all jobs have had gradients to exchange, but for the
    last tenth of exchange_s, of which many would not end.
    """
    import warnings

    import panama

    jobs = site.make_jobs(share, ENDLESS, one_by_one=True)
    ready_s = max(job.arrival_s + site.compute_seconds(job) for job in jobs)
    traffic = panama.Traffic.websearch(load=load)
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ jobs are not done")  # on purpose
        result = panama.simulate(
            site.cluster(),
            jobs,
            traffic,
            scheme=scheme,
            horizon_s=ready_s + exchange_s,
            seed=seed,
            mtu=mtu,
        )
    seen = shared.look(result, iterations, ready_s, ready_s + 0.9 * exchange_s)
    return seen._replace(
        seconds=time.process_time() - begin,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def runs(
    ctx: Context, settings: Settings, schemes: list[str], load: float, share: float
) -> dict[str, list[shared.Seen]]:
    """Every scheme on the same placements and traffic: for each, what was seen by seed."""
    # Not of the experiment's name: both experiments are of the same runs.
    seeds = shared.seeds_of(shared.generator(ctx.seed, "panama study"), settings.seeds)
    folder = ctx.data_folder("panama_study", VERSION)
    return {
        scheme: [
            kept(
                folder,
                site=settings.site,
                scheme=scheme,
                load=load,
                share=share,
                seed=seed,
                iterations=settings.iterations,
                exchange_s=settings.exchange_ms / 1e3,
                mtu=settings.mtu,
            )
            for seed in seeds
        ]
        for scheme in schemes
    }


def record_costs(ctx: Context, found: dict[str, list[shared.Seen]], **axes: Any) -> None:
    """What the runs of each scheme took, in the mean; the peak is of the process until then."""
    for scheme, seen in found.items():
        n = len(seen)
        for metric, total, unit in (
            ("run_seconds", sum(s.seconds for s in seen), "s"),
            ("run_packet_hops", sum(s.hops for s in seen) / 1e6, "M"),
        ):
            timed = metric == "run_seconds"
            ctx.record(None, metric, total / n, unit, timed=timed, system=scheme, **axes)
        ctx.record(None, "peak_memory", max(s.peak_mib for s in seen), "MiB", system=scheme, **axes)


def kept(folder: Path, **params: Any) -> shared.Seen:
    """run_once(**params), or what it gave before to either experiment by the same code.

    A run follows from its parameters to the last bit, but for what it cost: there is no reason to
    do it again.
    """
    import joblib

    from common import files

    key = hashlib.sha256(f"{_code()} {joblib.hash(params)}".encode()).hexdigest()[:16]
    path = folder / f"{params['scheme']}-{key}.joblib"
    if path.exists():
        found: shared.Seen = joblib.load(path)
        return found
    found = run_once(**params)
    with files.replacing(path) as beside:
        joblib.dump(found, beside)
    return found


def _code() -> str:
    """Digest of all that a run follows from."""
    package = Path(__file__).parents[1]
    sources = [*package.glob("*.py"), *package.glob("kernels/*.*"), Path(__file__), SHARED]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
