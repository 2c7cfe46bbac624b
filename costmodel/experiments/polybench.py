"""Code found by search against compilers and schedulers, on the kernels of PolyBench.

Every kernel: schedules are searched by running candidates, then what was found, plain C by gcc -O3,
clang with Polly, isl's own scheduler and, where the kernel is a pipeline, Halide's three
auto-schedulers take turns in one process, checked against the plain program first. The product of
two 512 x 512 matrices stands beside torch.mm as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, gt, in_

from common.experiment import Context
from costmodel.experiments.contest import COMPILERS, HALIDE, ISL

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.ir import Program

DTYPES = ("float32", "float64")
SIZES = ("mini", "small", "medium", "large")
MATMUL = 512
CHANNELS = 3
MODEL = "ours by model"
#: Halide multiplies by the reciprocal where the source divides by a constant; here so do we.
HALIDE_RULES = ("blur",)


@attrs.frozen
class Settings:
    """kernels, size, dtype: of PolyBench;  budget_s: of each search;  passes: of the last timing.

    limit: candidates a level of the search
    model: what scores the candidates of a second search, of which only the best are run: "default",
        a checkpoint's path, or "" for no such search
    image: rows and columns of the three channels that blur works on, 0 to leave blur and the matrix
        product out
    """

    kernels: list[str] = attrs.field(validator=deep_iterable(attrs.validators.instance_of(str)))
    size: str = attrs.field(validator=in_(SIZES))
    dtype: str = attrs.field(validator=in_(DTYPES))
    budget_s: float = attrs.field(validator=gt(0))
    limit: int = attrs.field(validator=ge(1))
    model: str
    passes: int = attrs.field(validator=ge(3))
    image: int = attrs.field(validator=ge(0))


def run(settings: Settings, ctx: Context) -> None:
    """Speedup over gcc -O3 of what was found and of every peer; their ratios as means."""
    from costmodel.experiments.contest import over, record_ratio

    def found(kernel: str) -> dict[str, Any]:
        return _measured(_program(settings, kernel), settings, ctx.threads)

    extra = ["blur", "matmul"] if settings.image else []
    cells = {
        kernel: ctx.cell(found, kernel=kernel)
        for kernel in ctx.progress([*settings.kernels, *extra], "kernel")
    }
    for kernel, cell in cells.items():
        for system, logs in cell["speedups"].items():
            record_ratio(ctx, None, logs, kernel=kernel, system=system)
        ctx.log.info("%s: %s", kernel, cell["schedule"] or "as written")
        ctx.record(None, "tried", cell["tried"], "", kernel=kernel)
    _record_means(ctx, {kernel: cells[kernel] for kernel in settings.kernels})
    if extra:
        _record_best_halide(ctx, cells["blur"]["speedups"])
        product = cells["matmul"]
        if "adams2019" in product["speedups"]:
            logs = over(product["speedups"], "adams2019")
            record_ratio(ctx, "costmodel.ours.matmul_adams", logs, kernel="matmul", system="ratio")
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
    from costmodel.experiments.contest import contest
    from costmodel.optimizer import optimize

    found = {
        name: optimize(
            program,
            budget_s=settings.budget_s,
            level_limit=settings.limit,
            model=model or None,
            threads=threads,
            fast_math=program.name in HALIDE_RULES,
        )
        for name, model in (("ours", ""), (MODEL, settings.model))
        if name == "ours" or model
    }
    best = found["ours"]
    scheduled = {name: each.scheduled for name, each in found.items()}
    timed = contest(program, scheduled, settings.passes, threads)
    return {**timed, "schedule": best.schedule, "tried": len(best.found.tried)}


def _record_means(ctx: Context, cells: Mapping[str, dict[str, Any]]) -> None:
    """Geometric means over the kernels that both sides ran."""
    from costmodel.experiments.contest import best, over, record_mean

    peers = {"gcc": ("gcc",), "clang": ("clang",), "polly": ("polly",), "isl": ISL}
    for own in ("ours", MODEL):
        for peer, forms in (peers | ({"ours": ("ours",)} if own == MODEL else {})).items():
            ratios = [
                over(speedups, form, own)
                for speedups in (cell["speedups"] for cell in cells.values())
                if own in speedups and (form := best(speedups, forms))
            ]
            is_judged = own == "ours" and peer != "clang"
            claims = [f"costmodel.ours.polybench_{peer}"] if is_judged else []
            record_mean(ctx, claims, ratios, system=f"{own} over {peer}")


def _record_best_halide(ctx: Context, speedups: Mapping[str, list[float]]) -> None:
    from costmodel.experiments.contest import best, over, record_ratio

    form = best(speedups, HALIDE)
    if form and "ours" in speedups:
        logs = over(speedups, form)
        record_ratio(ctx, "costmodel.ours.blur_halide", logs, kernel="blur", system="ratio")


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

    systems = ["ours", MODEL, *COMPILERS, *HALIDE]
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
