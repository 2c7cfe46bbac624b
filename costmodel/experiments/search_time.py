"""What beam search saves by asking a model instead of running candidates (evaluation table).

The candidates of a beam search by the model are handed, level by level as they were, to execution
in batches; a sample of them is compiled and run one by one, as the paper's search with execution
does. What the search itself takes - making candidates, proving them legal - counts on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
from attrs.validators import deep_iterable, ge, in_, min_len

from common.experiment import Context
from costmodel.experiments.search_quality import PAPER, SIZES

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.ir import Program
    from costmodel.schedule import ScheduledProgram
    from costmodel.search import Evaluator

T = TypeVar("T")

#: By what is set beside what.
CLAIMS = {
    "beam by execution, one by one": (
        "costmodel.tab.search_time_beam",
        "costmodel.ours.search_time_unbatched",
    ),
    "beam by execution, batched": ("costmodel.ours.search_time_batched",),
    "beam by execution over tree search": ("costmodel.tab.search_time_tree_search",),
}
CLOCKS = ("cpu", "wall")


@attrs.frozen
class Settings:
    """model: "default" for the one that comes with the package, or a checkpoint's path.

    kernels, size: of the paper's ten;  space, beam, limit: of the beam search
    samples, topk: of the tree search, which runs its best at the end
    one_by_one: candidates that are compiled and run singly, evenly taken from all
    """

    model: str
    kernels: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(PAPER))])
    size: str = attrs.field(validator=in_(SIZES))
    space: str = attrs.field(validator=in_(("paper", "extended")))
    beam: int = attrs.field(validator=ge(1))
    limit: int = attrs.field(validator=ge(1))
    samples: int = attrs.field(validator=ge(1))
    topk: int = attrs.field(validator=ge(1))
    one_by_one: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Seconds of each search, and ratios: by kernel, and their median with its interval."""
    import numpy as np

    from common import paired

    def measured(kernel: str) -> dict[str, Any]:
        return _measured(kernel, settings, ctx)

    cells = {
        kernel: ctx.cell(measured, kernel=kernel)
        for kernel in ctx.progress(settings.kernels, "kernel")
    }
    for kernel, cell in cells.items():
        ctx.record(None, "candidates", cell["candidates"], "", kernel=kernel)
        for system, seconds in cell["seconds"].items():
            for clock in CLOCKS:
                axes: dict[str, Any] = {"kernel": kernel, "system": system, "clock": clock}
                ctx.record(None, "seconds", seconds[clock], "s", timed=True, **axes)
    for name, claims in CLAIMS.items():
        for clock in CLOCKS:
            logs = [np.log(_ratio(cell["seconds"], name, clock)) for cell in cells.values()]
            for kernel, value in zip(cells, np.exp(logs).tolist(), strict=True):
                axes = {"kernel": kernel, "system": name, "clock": clock}
                ctx.record(None, "search_time_ratio", value, "x", timed=True, **axes)
            middle, low, high = np.exp(paired.interval(np.array(logs))).tolist()
            judges: list[str | None] = [*claims] if clock == "cpu" else [None]
            for claim in judges:
                axes = {"kernel": "median", "system": name, "clock": clock}
                ctx.record(
                    claim,
                    "search_time_ratio",
                    middle,
                    "x",
                    low=low,
                    high=high,
                    timed=True,
                    **axes,
                )


def _ratio(seconds: Mapping[str, Mapping[str, float]], name: str, clock: str) -> float:
    if name == "beam by execution over tree search":
        return seconds["beam by execution, one by one"][clock] / seconds["tree search"][clock]
    return seconds[name][clock] / seconds["beam by model"][clock]


class _Kept:
    """An evaluator that keeps what it was asked, and the time that took."""

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate = evaluate
        self.batches: list[Sequence[ScheduledProgram]] = []
        self.seconds = dict.fromkeys(CLOCKS, 0.0)

    def __call__(self, scheduled: Sequence[ScheduledProgram]) -> NDArray[Any]:
        self.batches.append(scheduled)
        found, seconds = _timed(lambda: self.evaluate(scheduled))
        self.seconds = {clock: self.seconds[clock] + seconds[clock] for clock in CLOCKS}
        return found


def _measured(kernel: str, settings: Settings, ctx: Context) -> dict[str, Any]:
    """Seconds by search and clock; those of executions stand on the model's own candidates."""
    from costmodel import programs
    from costmodel.execution import FAST_FLAGS, Execution
    from costmodel.experiments.models import trained_before
    from costmodel.optimizer import FINAL
    from costmodel.prediction import Prediction
    from costmodel.schedule import apply
    from costmodel.search import beam_search, by_nest, forget
    from costmodel.tree_search import mcts

    program = programs.paper_benchmarks(settings.size, names=[kernel])[kernel]
    model = Prediction(trained_before(settings.model))
    model([apply(program, "")])
    kept = _Kept(model)
    forget()
    space = cast("Any", settings.space)
    _, by_model = _timed(
        lambda: beam_search(
            program,
            kept,
            space=space,
            beam=settings.beam,
            limit=settings.limit,
            key=by_nest,
        )
    )
    candidates = [scheduled for batch in kept.batches for scheduled in batch]
    with _empty_cache(ctx.scratch / kernel):
        execution = Execution(program, flags=FAST_FLAGS)
        execution([apply(program, "")])
        _, batched = _timed(lambda: [execution(batch) for batch in kept.batches])
    single = _one_by_one(program, candidates, settings.one_by_one)
    final = Execution(program, options=FINAL, flags=FAST_FLAGS)
    forget()
    _, tree = _timed(
        lambda: mcts(
            program,
            model,
            final,
            samples=settings.samples,
            topk=settings.topk,
            space=space,
            limit=settings.limit,
            seed=ctx.seed,
        )
    )
    rest = {clock: by_model[clock] - kept.seconds[clock] for clock in CLOCKS}
    return {
        "candidates": len(candidates),
        "seconds": {
            "beam by model": by_model,
            "tree search": tree,
            "beam by execution, batched": {c: rest[c] + batched[c] for c in CLOCKS},
            "beam by execution, one by one": {
                c: rest[c] + len(candidates) * single[c] for c in CLOCKS
            },
        },
    }


def _one_by_one(
    program: Program, candidates: Sequence[ScheduledProgram], n: int
) -> dict[str, float]:
    """Mean seconds of a compiler call and a run for a candidate alone, as Execution has them."""
    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.execution import FAST_FLAGS, QUICK
    from costmodel.experiments.batches import Batch
    from costmodel.experiments.throughput import one_by_one
    from costmodel.search import evenly

    chosen = evenly(candidates, n)
    texts = tuple(c_function(scheduled, "f") for scheduled in chosen)
    batch = Batch(program, plain_c.function(program, "f"), texts)
    found = one_by_one(batch, max(3, QUICK.passes[0]), FAST_FLAGS)["all"]
    return {clock: found[clock] / (1 + len(texts)) for clock in CLOCKS}


@contextlib.contextmanager
def _empty_cache(folder: Path) -> Iterator[None]:
    """Have everything compiled, whatever an earlier run compiled."""
    import os

    name = "MLSYS21_CACHE"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _timed(call: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """The result, and CPU seconds of this process and its ended children, and seconds elapsed."""
    from costmodel.experiments.throughput import now

    start = now()
    found = call()
    end = now()
    return found, {clock: end[clock] - start[clock] for clock in CLOCKS}


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Ratios by kernel."""
    from common.report.charts import bars, paper_rows

    rows = frame[(frame["metric"] == "search_time_ratio") & (frame["axis.clock"] == "cpu")]
    rows = rows.drop_duplicates(subset=["axis.kernel", "axis.system"])
    paper = claims.get("costmodel.tab.search_time_beam")
    return [
        bars(
            rows,
            "axis.kernel",
            "Time saved by asking the model",
            "Processor time of a beam search that runs its candidates, one by one or in batches, "
            "over one by the model on the same candidates; and over tree search by the model.",
            y_title="times as long",
            log_y=True,
            paper=None
            if paper is None
            else paper_rows(paper).assign(
                **{
                    "axis.kernel": "median",
                    "axis.system": "beam by execution, one by one",
                }
            ),
        )
    ]
