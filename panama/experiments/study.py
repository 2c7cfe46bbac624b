"""One cluster under one scheme: the runs that short flows and jobs are both read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panama.experiments import shared

if TYPE_CHECKING:
    from common.experiment import Context

#: Iterations a job is given: it never runs out of them before the horizon.
ENDLESS = 400


def run_once(
    site: shared.Site,
    scheme: str,
    load: float,
    share: float,
    seed: int,
    iterations: int,
    horizon_s: float,
    mtu: int,
) -> shared.Seen:
    """Jobs go on until the horizon, so that every scheme's short flows meet the same jobs.

    A job's time is that of its first `iterations`; flows count from a twentieth to nine tenths of
    the horizon.
    """
    import warnings

    import panama

    traffic = panama.Traffic.websearch(load=load) if load else panama.Traffic.none()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ jobs are not done")  # on purpose
        result = panama.simulate(
            site.cluster(),
            site.make_jobs(share, ENDLESS),
            traffic,
            scheme=scheme,
            horizon_s=horizon_s,
            seed=seed,
            mtu=mtu,
        )
    return shared.look(result, iterations, 0.05 * horizon_s, 0.9 * horizon_s)


def run_all(
    ctx: Context,
    site: shared.Site,
    schemes: list[str],
    load: float,
    share: float,
    n_seeds: int,
    iterations: int,
    horizon_s: float,
    mtu: int,
) -> dict[str, list[shared.Seen]]:
    """Every scheme on the same placements and traffic: for each, what was seen by seed."""
    seeds = shared.seeds_of(ctx.rng("seeds"), n_seeds)
    return {
        scheme: [
            ctx.cell(
                run_once,
                site=site,
                scheme=scheme,
                load=load,
                share=share,
                seed=seed,
                iterations=iterations,
                horizon_s=horizon_s,
                mtu=mtu,
            )
            for seed in seeds
        ]
        for scheme in schemes
    }
