"""Schemes on the same traffic and placements, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .cluster import Cluster
from .jobs import Job
from .plan import Float64
from .result import Result
from .schemes import Scheme, scheme_of
from .simulate import simulate
from .traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd

#: Flows below that are short, in the sense of the paper's latency-sensitive ones.
SHORT_BYTES = 100_000
RESAMPLES = 2000


def _short(result: Result) -> Any:
    flows = result.flows
    return flows[flows["done"] & (flows["bytes"] < SHORT_BYTES)]["fct_s"]


#: What is compared, all the less the better; NaN where a run has nothing of it.
METRICS: dict[str, Callable[[Result], float]] = {
    "short_fct_mean_s": lambda r: float(_short(r).mean()),
    "short_fct_p99_s": lambda r: float(_short(r).quantile(0.99)),
    "comm_mean_s": lambda r: float(r.jobs["comm_s"].mean()),
    "jct_mean_s": lambda r: float(r.jobs["jct_s"].mean()),
}


def compare(
    cluster: Cluster,
    jobs: Sequence[Job],
    background: Traffic | None = None,
    *,
    schemes: Sequence[str | Scheme],
    seeds: Iterable[int] = range(5),
    **options: Any,
) -> pd.DataFrame:
    """A row for each scheme and metric, against the first scheme.

    scheme, metric, mean (over seeds), ratio (first scheme over this one: above 1 this one is
    better), low, high (95% of the ratio, by drawing seeds again), seeds
    options: of simulate

    Pairs are the same seed under both schemes, so that what makes a seed easy or hard cancels.
    """
    import pandas as pd

    chosen = [scheme_of(scheme) for scheme in schemes]
    if not chosen:
        raise ValueError(f"compare needs at least one scheme, got {list(schemes)}")
    of_seeds = list(seeds)
    if not of_seeds:
        raise ValueError("compare needs at least one seed, got none")
    values = np.empty((len(chosen), len(METRICS), len(of_seeds)))
    for i, scheme in enumerate(chosen):
        for k, seed in enumerate(of_seeds):
            run = simulate(cluster, jobs, background, scheme=scheme, seed=seed, **options)
            values[i, :, k] = [metric(run) for metric in METRICS.values()]
    rows = []
    for i, scheme in enumerate(chosen):
        for j, name in enumerate(METRICS):
            ratio, low, high = ratio_interval(values[0, j], values[i, j])
            rows.append((scheme.name, name, values[i, j].mean(), ratio, low, high, len(of_seeds)))
    columns = ["scheme", "metric", "mean", "ratio", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def ratio_interval(base: Float64, other: Float64) -> tuple[float, float, float]:
    """Ratio of the means of pairs, and its 95% interval by the percentile bootstrap.

    base, other: (pairs,)
    """
    pick = np.random.default_rng(0).integers(len(base), size=(RESAMPLES, len(base)))
    ratios = base[pick].mean(1) / other[pick].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(base.mean() / other.mean()), float(low), float(high)
