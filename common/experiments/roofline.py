"""The limits of this machine, and what share of them the libraries beside us reach.

A library above its limit would show that the probe, not the library, is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
from attrs.validators import gt

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.experiment import Context
    from common.report.charts import Chart
    from common.roofline import Probe, Roofline

PEER_FRACTION = "common.ours.roofline_peer_fraction"


@attrs.frozen
class Settings:
    seconds: float = attrs.field(validator=gt(0))
    peer_seconds: float = attrs.field(validator=gt(0))
    level_seconds: float = attrs.field(validator=gt(0))
    all_threads: bool


def run(settings: Settings, ctx: Context) -> None:
    """Peaks, bandwidths of every cache level, and the peers' share of each."""
    from common import machine, roofline

    most = machine.fingerprint().cores if settings.all_threads else 1
    counts = sorted({ctx.threads, *range(1, most + 1)})
    for threads in ctx.progress(counts, "threads"):
        limits = roofline.measure(threads, settings.seconds)
        _record_limits(ctx, limits)
        for level, size in machine.cache_sizes_or_typical().items():
            speed = roofline.cache_level_gbs(size, threads, settings.level_seconds)
            _record_level(ctx, level, speed, threads)
        _record_level(ctx, "memory", limits.read_gbs, threads)
        for system, fraction in _fractions(limits, settings.peer_seconds):
            ctx.record(
                PEER_FRACTION,
                "fraction_of_peak",
                fraction,
                "",
                timed=True,
                system=system,
                threads=threads,
            )
        if limits.contended:
            ctx.log.warning("other work runs on this machine: the limits may read low")


def _record_limits(ctx: Context, limits: Roofline) -> None:
    values = {
        "fp32_peak": (limits.fp32_gflops, "GFLOP/s"),
        "bf16_peak": (limits.bf16_gflops, "GFLOP/s"),
        "read_bandwidth": (limits.read_gbs, "GB/s"),
        "triad_bandwidth": (limits.triad_gbs, "GB/s"),
        "l2_bandwidth": (limits.l2_gbs, "GB/s"),
        **{f"gemm_{peer}": (rate, "GFLOP/s") for peer, rate in limits.gemm.items()},
    }
    for metric, (value, unit) in values.items():
        if value is not None:
            ctx.record(
                None,
                metric,
                value,
                unit,
                timed=True,
                threads=limits.threads,
                machine_busy=limits.contended,
            )


def _record_level(ctx: Context, level: str, gbs: float, threads: int) -> None:
    ctx.record(None, "level_bandwidth", gbs, "GB/s", timed=True, level=level, threads=threads)


def _fractions(limits: Roofline, seconds: float) -> Iterator[tuple[str, float]]:
    """(peer, its rate over the limit that holds for it)."""
    from common import roofline, steady

    for peer, rate in limits.gemm.items():
        peak = limits.bf16_gflops if peer.endswith("bf16") else limits.fp32_gflops
        if peak is not None:
            yield f"{peer.replace('_', ' ')} product", rate / peak
    # What memory gives changes with what others on this machine take: the probes run again beside.
    probes = roofline.memory_probes(limits.threads) | _memory_peers(limits.threads)
    with steady.threads(limits.threads):
        rates = roofline.best_rates(probes, seconds)
    yield "torch sum", rates["torch sum"] / max(rates["read"], limits.read_gbs)
    yield "torch triad", rates["torch triad"] / max(rates["triad"], limits.triad_gbs)


def _memory_peers(threads: int) -> dict[str, Probe]:
    """Library calls that stream memory as the probes do, over the same sizes."""
    import torch

    from common.roofline import Probe, memory_chunks

    chunks = memory_chunks(threads)
    a, b, c = (torch.from_numpy(array) for array in chunks.arrays)

    def torch_sum() -> None:
        b[chunks.next()].sum()

    def torch_triad() -> None:
        at = chunks.next()
        torch.add(b[at], c[at], alpha=0.5, out=a[at])

    return {
        "torch sum": Probe(torch_sum, 4 * chunks.size),
        "torch triad": Probe(torch_triad, 3 * 4 * chunks.size),
    }


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The roofline of one thread, cache levels, and the peers' fractions."""
    from common.report import charts as draw

    one = frame[frame["axis.threads"] == 1]
    levels = frame[frame["metric"] == "level_bandwidth"]
    fractions = frame[frame["metric"] == "fraction_of_peak"]
    return [
        draw.roofline(
            one,
            "What one core can do at most",
            "Measured ceilings, and the best square product of each library below them.",
        ),
        draw.bars(
            fractions,
            "axis.system",
            "What the libraries reach",
            "Best rate of each library call over the limit that holds for it; 1 is the limit.",
            color="axis.threads",
            y_title="fraction of the limit",
        ),
        draw.bars(
            levels.assign(**{"axis.threads": levels["axis.threads"].astype(str)}),
            "axis.level",
            "Reading from each level of the memory",
            "Sum of an array of half the level's size for each thread; four times the last cache "
            "for memory.",
            color="axis.threads",
            y_title="bandwidth (GB/s)",
        ),
    ]
