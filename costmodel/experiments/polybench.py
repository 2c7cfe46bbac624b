"""Code found by search against compilers and schedulers, on the kernels of PolyBench.

Every kernel: schedules are searched by running candidates, then what was found, plain C by gcc -O3,
clang with Polly, isl's own scheduler and, where the kernel is a pipeline, Halide's three
auto-schedulers take turns in one process, checked against the plain program first. The product of
two 512 x 512 matrices stands beside torch.mm as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.ir import Program

#: isl's schedule in tiles or whole, statements fused or apart: the best of a kernel is the peer.
ISL = ("isl", "isl_whole", "isl_apart", "isl_apart_whole")
COMPILERS = ("gcc", "clang", "polly", *ISL)
HALIDE = ("mullapudi2016", "li2018", "adams2019")
DTYPES = ("float32", "float64")
SIZES = ("mini", "small", "medium", "large")
MATMUL = 512
CHANNELS = 3
#: Halide multiplies by the reciprocal where the source divides by a constant; here so do we.
HALIDE_RULES = ("blur",)


@attrs.frozen
class Settings:
    """kernels, size, dtype: of PolyBench;  budget_s: of each search;  passes: of the last timing.

    limit: candidates a level of the search;  image: rows and columns of the three channels that
    blur works on, 0 to leave blur and the matrix product out
    """

    kernels: list[str] = attrs.field(validator=deep_iterable(attrs.validators.instance_of(str)))
    size: str = attrs.field(validator=in_(SIZES))
    dtype: str = attrs.field(validator=in_(DTYPES))
    budget_s: float = attrs.field(validator=gt(0))
    limit: int = attrs.field(validator=ge(1))
    passes: int = attrs.field(validator=ge(3))
    image: int = attrs.field(validator=ge(0))


def run(settings: Settings, ctx: Context) -> None:
    """Speedup over gcc -O3 of what was found and of every peer; their ratios as means."""

    def found(kernel: str) -> dict[str, Any]:
        return _measured(_program(settings, kernel), settings, ctx.threads)

    extra = ["blur", "matmul"] if settings.image else []
    cells = {
        kernel: ctx.cell(found, kernel=kernel)
        for kernel in ctx.progress([*settings.kernels, *extra], "kernel")
    }
    for kernel, cell in cells.items():
        for system, logs in cell["speedups"].items():
            _record_ratio(ctx, None, logs, kernel=kernel, system=system)
        ctx.log.info("%s: %s", kernel, cell["schedule"] or "as written")
        ctx.record(None, "tried", cell["tried"], "", kernel=kernel)
    _record_means(ctx, {kernel: cells[kernel] for kernel in settings.kernels})
    if extra:
        _record_best_halide(ctx, cells["blur"]["speedups"])
        product = cells["matmul"]
        if "adams2019" in product["speedups"]:
            logs = _over(product["speedups"], "adams2019")
            _record_ratio(ctx, "costmodel.ours.matmul_adams", logs, kernel="matmul", system="ratio")
        _compare_with_torch(ctx, _program(settings, "matmul"), product["schedule"])


def _program(settings: Settings, kernel: str) -> Program:
    from costmodel import programs
    from costmodel.c_frontend import from_c

    if kernel == "matmul":
        sizes = dict.fromkeys(("NI", "NJ", "NK"), MATMUL)
    elif kernel == "blur":
        sizes = {"C": CHANNELS, "H": settings.image, "W": settings.image}
    else:
        return programs.load(kernel, settings.size, cast("Any", settings.dtype))
    path = programs.source_path(kernel)
    return from_c(path, params=sizes, defines={"DATA_TYPE": "float"})


def _measured(program: Program, settings: Settings, threads: int) -> dict[str, Any]:
    """What was found, and logs of speedups over plain C, pass by pass."""
    import numpy as np

    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.errors import CostModelError
    from costmodel.execution import FAST_FLAGS
    from costmodel.measure import Options, time_batch
    from costmodel.optimizer import optimize
    from costmodel.peers import registry
    from costmodel.translation_unit import Failed, compile_batch

    best = optimize(
        program,
        budget_s=settings.budget_s,
        level_limit=settings.limit,
        threads=threads,
        fast_math=program.name in HALIDE_RULES,
    )
    texts = [plain_c.function(program, "f"), c_function(best.scheduled, "f")]
    plain, ours = compile_batch(program, texts, flags=FAST_FLAGS).entries
    assert not isinstance(plain, Failed)
    entries, absent = {"ours": ours}, {}
    for peer in (*COMPILERS, *HALIDE):
        try:
            entries[peer] = registry.build(peer, program, threads)
        except (CostModelError, ImportError) as problem:
            absent[peer] = str(problem)
    timing = Options(passes=(settings.passes, settings.passes), sessions=1, threads=threads)
    measured = time_batch(program, plain, list(entries.values()), options=timing)
    slots = len(measured.baseline.samples) // settings.passes
    base = measured.baseline.samples.reshape(settings.passes, slots, 2).min(axis=1)
    logs = {
        name: np.log(base[: len(v.samples), 0] / v.samples[:, 0]).tolist()
        for name, v in zip(entries, measured.variants, strict=True)
        if v.status == "ok" and len(v.samples) == settings.passes
    }
    return {
        "speedups": logs,
        "absent": absent,
        "schedule": best.schedule,
        "tried": len(best.found.tried),
        "status": {n: v.status for n, v in zip(entries, measured.variants, strict=True)},
    }


def _over(speedups: Mapping[str, list[float]], peer: str) -> list[float]:
    """Logs of what was found over a peer, pass by pass."""
    return [a - b for a, b in zip(speedups["ours"], speedups[peer], strict=True)]


def _record_ratio(ctx: Context, claim: str | None, logs: list[float], **axes: Any) -> None:
    import numpy as np

    from common import paired

    value, low, high = np.exp(paired.interval(np.array(logs))).tolist()
    ctx.record(claim, "speedup", value, "x", low=low, high=high, timed=True, **axes)


def _record_means(ctx: Context, cells: Mapping[str, dict[str, Any]]) -> None:
    """Geometric means over the kernels that both sides ran."""
    import numpy as np

    from common import paired

    for peer, forms in {
        "gcc": ("gcc",),
        "clang": ("clang",),
        "polly": ("polly",),
        "isl": ISL,
    }.items():
        ratios = [
            paired.interval(np.array(_over(speedups, best)))
            for speedups in (cell["speedups"] for cell in cells.values())
            if "ours" in speedups and (best := _best(speedups, forms))
        ]
        if not ratios:
            continue
        middle, low, high = np.array(ratios).T
        # Intervals of independent kernels: their half-widths add in squares.
        below = float(np.sqrt(((middle - low) ** 2).sum())) / len(ratios)
        above = float(np.sqrt(((high - middle) ** 2).sum())) / len(ratios)
        mean = float(middle.mean())
        ctx.record(
            None if peer == "clang" else f"costmodel.ours.polybench_{peer}",
            "speedup",
            float(np.exp(mean)),
            "x",
            low=float(np.exp(mean - below)),
            high=float(np.exp(mean + above)),
            timed=True,
            kernel="geometric mean",
            system=f"ours over {peer}",
            kernels=len(ratios),
        )


def _best(speedups: Mapping[str, list[float]], systems: Sequence[str]) -> str | None:
    """The fastest of these systems on a kernel; None if none ran."""
    import numpy as np

    there = [system for system in systems if system in speedups]
    return max(there, key=lambda s: float(np.median(speedups[s])), default=None)


def _record_best_halide(ctx: Context, speedups: Mapping[str, list[float]]) -> None:
    best = _best(speedups, HALIDE)
    if best and "ours" in speedups:
        logs = _over(speedups, best)
        _record_ratio(ctx, "costmodel.ours.blur_halide", logs, kernel="blur", system="ratio")


def _compare_with_torch(ctx: Context, program: Program, schedule: str) -> None:
    """What was found against torch.mm on the same matrices, and both against the FMA peak."""
    import numpy as np
    import torch

    from common.context import Work
    from costmodel.execution import FAST_FLAGS
    from costmodel.optimizer import Optimized
    from costmodel.schedule import apply
    from costmodel.search import Found

    ours = Optimized(program, apply(program, schedule), None, None, Found(), FAST_FLAGS)
    rng = ctx.rng("matmul")
    shape = (MATMUL, MATMUL)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for _ in range(2))
    c, d = np.zeros(shape, np.float32), torch.zeros(shape)
    inputs = {"A": a, "B": b, "C": c}
    arrays = [inputs[array.name] for array in program.arrays]

    def run_ours() -> Any:
        ours(*arrays)
        return torch.from_numpy(c)

    def run_torch() -> Any:
        return torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=d)

    ctx.compare(
        "speedup",
        {"ours": run_ours, "torch": run_torch},
        baseline="torch",
        verify=lambda x, y: torch.testing.assert_close(x, y, rtol=0, atol=0),
        claim="costmodel.ours.matmul_torch",
        work=Work(flops=2.0 * MATMUL**3, bytes=12.0 * MATMUL**2),
        kernel="matmul",
    )


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speedups over gcc -O3, a group of bars a kernel."""
    from common.report.charts import bars

    systems = ["ours", *COMPILERS, *HALIDE]
    rows = frame[
        (frame["metric"] == "speedup")
        & frame["axis.system"].isin(systems)
        & frame["axis.kernel"].notna()
    ]
    if "axis.baseline" in rows:
        rows = rows[rows["axis.baseline"].isna()]
    return [
        bars(
            rows,
            "axis.kernel",
            "Code found by search and by others",
            "One thread. Everything is checked against the plain program and takes turns with it.",
            color="axis.system",
            y_title="times as fast as gcc -O3",
            log_y=True,
        )
    ]
