"""Code of several makers on one program: checked, and timed in turns in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.experiment import Context

if TYPE_CHECKING:
    from costmodel.ir import Program
    from costmodel.schedule import ScheduledProgram

#: isl's schedule in tiles or whole, statements fused or apart: the best of a kernel is the peer.
ISL = ("isl", "isl_whole", "isl_apart", "isl_apart_whole")
COMPILERS = ("gcc", "clang", "polly", *ISL)
HALIDE = ("mullapudi2016", "li2018", "adams2019")

Logs = Mapping[str, list[float]]


def contest(
    program: Program,
    ours: Mapping[str, ScheduledProgram],
    passes: int,
    threads: int = 1,
    peers: Sequence[str] = (*COMPILERS, *HALIDE),
) -> dict[str, Any]:
    """What each made of the program, against its plain C by gcc -O3.

    speedups: logs of plain time over own time, pass by pass, of those that finished all passes
    absent:   why a peer has no code;  status: of each measurement
    """
    import numpy as np

    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.errors import CostModelError
    from costmodel.execution import FAST_FLAGS
    from costmodel.measure import Options, time_batch
    from costmodel.peers import registry
    from costmodel.translation_unit import Failed, compile_batch

    texts = [plain_c.function(program, "f"), *(c_function(s, "f") for s in ours.values())]
    plain, *compiled = compile_batch(program, texts, flags=FAST_FLAGS).entries
    assert not isinstance(plain, Failed)
    entries, absent = dict(zip(ours, compiled, strict=True)), {}
    for peer in peers:
        try:
            entries[peer] = registry.build(peer, program, threads)
        except (CostModelError, ImportError) as problem:
            absent[peer] = str(problem)
    timing = Options(passes=(passes, passes), sessions=1, threads=threads)
    measured = time_batch(program, plain, list(entries.values()), options=timing)
    slots = len(measured.baseline.samples) // passes
    base = measured.baseline.samples.reshape(passes, slots, 2).min(axis=1)
    return {
        "speedups": {
            name: np.log(base[: len(v.samples), 0] / v.samples[:, 0]).tolist()
            for name, v in zip(entries, measured.variants, strict=True)
            if v.status == "ok" and len(v.samples) == passes
        },
        "absent": absent,
        "status": {n: v.status for n, v in zip(entries, measured.variants, strict=True)},
    }


def over(speedups: Logs, peer: str, own: str = "ours") -> list[float]:
    """Logs of what was found over a peer, pass by pass."""
    return [a - b for a, b in zip(speedups[own], speedups[peer], strict=True)]


def best(speedups: Logs, systems: Sequence[str]) -> str | None:
    """The fastest of these systems on a kernel; None if none ran."""
    import numpy as np

    there = [system for system in systems if system in speedups]
    return max(there, key=lambda s: float(np.median(speedups[s])), default=None)


def record_ratio(
    ctx: Context, claim: str | None, logs: list[float], metric: str = "speedup", **axes: Any
) -> None:
    """The ratio whose logs, pass by pass, are given."""
    import numpy as np

    from common import paired

    value, low, high = np.exp(paired.interval(np.array(logs))).tolist()
    ctx.record(claim, metric, value, "x", low=low, high=high, timed=True, **axes)


def record_mean(
    ctx: Context,
    claims: Sequence[str],
    ratios: Sequence[list[float]],
    metric: str = "speedup",
    **axes: Any,
) -> None:
    """Geometric mean over kernels, of each of which the logs are given; nothing for no kernel."""
    import numpy as np

    from common import paired

    if not ratios:
        return
    middle, low, high = np.array([paired.interval(np.array(logs)) for logs in ratios]).T
    # Intervals of independent kernels: their half-widths add in squares.
    below = float(np.sqrt(((middle - low) ** 2).sum())) / len(ratios)
    above = float(np.sqrt(((high - middle) ** 2).sum())) / len(ratios)
    mean = float(middle.mean())
    judges: list[str | None] = [*claims]
    for claim in judges or [None]:
        ctx.record(
            claim,
            metric,
            float(np.exp(mean)),
            "x",
            low=float(np.exp(mean - below)),
            high=float(np.exp(mean + above)),
            timed=True,
            kernel="geometric mean",
            kernels=len(ratios),
            **axes,
        )
