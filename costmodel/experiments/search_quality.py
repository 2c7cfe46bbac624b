"""How fast the code is that searches find, against compilers and schedulers (evaluation figure).

On each of the paper's ten kernels: beam search and tree search that ask the model and run only
their few best schedules, beam search that runs every candidate, Halide's three auto-schedulers,
isl's scheduler, clang with Polly and gcc. All are checked against the plain program and take turns
with it. Halide has seidel2d only as one update in place, whose loops none of its auto-schedulers
may touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, min_len

from common.experiment import Context
from costmodel.experiments.contest import COMPILERS, HALIDE, ISL

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.ensemble import Ensemble
    from costmodel.ir import Program
    from costmodel.optimizer import Optimized

PAPER = (
    *("blur", "conv_relu", "convolution", "cvtcolor", "doitgen"),
    *("heat2d", "heat3d", "jacobi2d", "mvt", "seidel2d"),
)
BY_MODEL, BY_EXECUTION = "beam by model", "beam by execution"
#: With the transformations that the paper has, and that the model saw in training.
PAPER_STEPS = {name: f"{name} on paper steps" for name in (BY_MODEL, BY_EXECUTION)}
#: The search of costmodel.optimize, and whether the model scores its candidates.
SEARCHES = {
    BY_MODEL: ("beam", True),
    BY_EXECUTION: ("beam", False),
    PAPER_STEPS[BY_MODEL]: ("beam", True),
    PAPER_STEPS[BY_EXECUTION]: ("beam", False),
    "tree search by model": ("mcts", True),
    "free search by model": ("free", True),
}
SIZES = ("mini", "small", "medium", "large", "paper")
#: Halide multiplies by the reciprocal where the source divides by a constant; here so do we.
HALIDE_RULES = ("blur", "seidel2d")


@attrs.frozen
class Settings:
    """model: "default" for the one that comes with the package, or a checkpoint's path.

    kernels, size, max_gb: of the paper's ten, with arrays of at most so many 10**9 bytes
    searches: of SEARCHES;  budget_s: of each;  topk: schedules run at the end of each
    space, beam, limit: of the beam searches, but for those with the paper's steps
    samples: of the tree search
    passes: of the last timing
    """

    model: str
    kernels: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(PAPER))])
    size: str = attrs.field(validator=in_(SIZES))
    max_gb: float = attrs.field(validator=gt(0))
    searches: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(SEARCHES))])
    budget_s: float = attrs.field(validator=gt(0))
    space: str = attrs.field(validator=in_(("paper", "extended")))
    beam: int = attrs.field(validator=ge(1))
    limit: int = attrs.field(validator=ge(1))
    samples: int = attrs.field(validator=ge(1))
    topk: int = attrs.field(validator=ge(1))
    passes: int = attrs.field(validator=ge(3))


def run(settings: Settings, ctx: Context) -> None:
    """Speedups over gcc -O3 by kernel and system, and means of what was found over the others."""
    from costmodel.experiments.contest import best, over, record_mean, record_ratio

    def measured(kernel: str) -> dict[str, Any]:
        return _measured(kernel, settings, ctx)

    cells = {
        kernel: ctx.cell(measured, kernel=kernel)
        for kernel in ctx.progress(settings.kernels, "kernel")
    }
    for kernel, cell in cells.items():
        for system, logs in cell["speedups"].items():
            claim = "costmodel.fig.search_speedup_by_kernel" if system in SEARCHES else None
            record_ratio(ctx, claim, logs, kernel=kernel, system=system)
        for system, schedule in cell["schedules"].items():
            ctx.log.info("%s, %s: %s", kernel, system, schedule or "as written")
        for system, count in cell["tried"].items():
            ctx.record(None, "tried", count, "", kernel=kernel, system=system)
    every = [cell["speedups"] for cell in cells.values()]
    for own in settings.searches:
        for name, forms in {
            "Halide": HALIDE,
            "isl": ISL,
            "polly": ("polly",),
            "gcc": ("gcc",),
            BY_EXECUTION: (BY_EXECUTION,),
            PAPER_STEPS[BY_EXECUTION]: (PAPER_STEPS[BY_EXECUTION],),
        }.items():
            ratios = [
                over(speedups, form, own)
                for speedups in every
                if own in speedups and (form := best(speedups, forms)) and form != own
            ]
            claims = {
                (BY_MODEL, "Halide"): ["costmodel.abstract.search_speedup"],
                (BY_EXECUTION, "Halide"): ["costmodel.ours.search_speedup_by_execution"],
                (BY_MODEL, BY_EXECUTION): ["costmodel.ours.model_over_execution"],
                (PAPER_STEPS[BY_MODEL], PAPER_STEPS[BY_EXECUTION]): [
                    "costmodel.ours.model_over_execution_paper_steps"
                ],
            }.get((own, name), [])
            record_mean(ctx, claims, ratios, system=f"{own} over {name}")


def _measured(kernel: str, settings: Settings, ctx: Context) -> dict[str, Any]:
    from costmodel import programs
    from costmodel.experiments.contest import contest
    from costmodel.experiments.models import trained_before

    program = programs.paper_benchmarks(settings.size, "float32", settings.max_gb, [kernel])[kernel]
    model = trained_before(settings.model)
    found = {
        how: _found(how, program, settings, model, kernel in HALIDE_RULES, ctx)
        for how in settings.searches
    }
    scheduled = {how: each.scheduled for how, each in found.items()}
    timed = contest(program, scheduled, settings.passes, ctx.threads)
    for peer, why in timed["absent"].items():
        ctx.log.info("%s, %s: %s", kernel, peer, why)
    return {
        **timed,
        "schedules": {how: each.schedule for how, each in found.items()},
        "tried": {how: len(each.found.tried) for how, each in found.items()},
    }


def _found(
    how: str, program: Program, settings: Settings, model: Ensemble, fast_math: bool, ctx: Context
) -> Optimized:
    """A search of the settings, its best candidates run at the end."""
    from costmodel.optimizer import optimize

    name, by_model = SEARCHES[how]
    return optimize(
        program,
        search=cast("Any", name),
        model=model if by_model else None,
        space="paper" if how in PAPER_STEPS.values() else cast("Any", settings.space),
        beam=settings.beam,
        level_limit=settings.limit,
        samples=settings.samples,
        budget_s=settings.budget_s,
        execute_top=settings.topk,
        threads=ctx.threads,
        fast_math=fast_math,
        seed=ctx.seed,
    )


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """The paper's figure: a group of bars a kernel."""
    from common.report.charts import bars

    systems = [*SEARCHES, *COMPILERS, *HALIDE]
    rows = frame[(frame["metric"] == "speedup") & frame["axis.system"].isin(systems)]
    return [
        bars(
            rows,
            "axis.kernel",
            "Code found by searches and by others on the paper's kernels",
            "One thread. Everything is checked against the plain program and takes turns with it. "
            "In Halide seidel2d is one update in place, which its auto-schedulers leave as it is.",
            y_title="times as fast as gcc -O3",
            log_y=True,
        )
    ]
