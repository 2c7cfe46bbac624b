"""Runs of one job mix under changed parameters of a scheme: what the ablations have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panama.experiments import shared


class Exchanges(NamedTuple):
    """Seconds of each exchange (jobs x iterations), and what the network saw."""

    seconds: npt.NDArray[np.float64]
    mean_queue_bytes: float
    max_queue_bytes: int
    drops: int
    resent: int
    done: bool


def exchanges(
    site: shared.Site,
    scheme: str,
    changes: dict[str, Any],
    load: float,
    seed: int,
    iterations: int,
    horizon_s: float,
    drop: float = 0.0,
    mtu: int = 1500,
) -> Exchanges:
    """A run without computation; changes: of the scheme's parameters."""
    import panama

    result = panama.simulate(
        site.cluster(),
        site.make_jobs(0.0, iterations),
        panama.Traffic.websearch(load=load) if load else panama.Traffic.none(),
        scheme=panama.scheme(scheme, **changes),
        horizon_s=horizon_s,
        seed=seed,
        drop=drop,
        mtu=mtu,
    )
    links, jobs = result.links, result.jobs
    switches = links[links["from_switch"]]
    packets = switches["packets"].sum()
    mean_queue = (switches["mean_q_bytes"] * switches["packets"]).sum() / max(1, packets)
    return Exchanges(
        seconds=jobs.sort_values(["job", "iter"])["comm_s"].to_numpy(np.float64),
        mean_queue_bytes=float(mean_queue),
        max_queue_bytes=int(switches["max_q_bytes"].max()),
        drops=int(links["drops"].sum()),
        resent=int(result.resent),
        done=bool(jobs["done"].all()),
    )


def packet_seconds(gbps: float) -> float:
    """A full aggregation packet's time on a link, as it is on the wire."""
    from panama.windows import wire_of

    wire = wire_of(1500)
    return (wire.sum_payload + wire.sum_header) * 8e-9 / gbps


def window_of(site: shared.Site, seed: int) -> int:
    """Packets that the longest way to a root and back holds, idle, for the first job of a site."""
    import panama
    from panama.planning import Placed, make_plan
    from panama.traffic import Traffic
    from panama.windows import wire_of

    cluster = site.cluster()
    hosts = np.random.default_rng(seed).choice(cluster.hosts, site.workers, replace=False)
    placed = Placed(0, site.make_jobs(0.0, 1)[0], hosts.astype(np.int32), 0)
    scheme = panama.scheme("ina_single", slots=2**20, window_bdp=1.0)
    drawn = Traffic.none().draw(cluster, 1.0, seed)
    plan = make_plan(cluster, [placed], drawn, scheme, seed, wire_of(1500))
    return int(plan.jobs.max_window[0])
