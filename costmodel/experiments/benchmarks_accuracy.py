"""How well speedups of real kernels are predicted by a model of random programs.

The authors' notebook has 19 benchmarks at many sizes. Sixteen of those here are of their benchmark
set (the paper's ten, gemm, atax, bicg, gemver, matmul and jacobi-1d); 2mm, gesummv and syrk make up
the number. Schedules are drawn as those of the training set are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, in_, instance_of, min_len

from common.experiment import Context

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from costmodel.ensemble import Ensemble
    from costmodel.ir import Program

CLAIMS = {
    "mape": ("costmodel.sec.notebook_benchmarks_mape", "costmodel.ours.benchmarks_mape"),
    "spearman_per_program": ("costmodel.sec.notebook_benchmarks_spearman",),
    "ndcg": ("costmodel.sec.notebook_benchmarks_ndcg",),
    "ndcg_at_1": ("costmodel.sec.notebook_benchmarks_ndcg_at_1",),
}
SIZES = ("mini", "small", "medium", "large")
DTYPES = ("float32", "int32")


@attrs.frozen
class Settings:
    """model: "default" for the one that comes with the package, or a checkpoint's path.

    kernels, sizes, dtypes: each is measured in each;  schedules: random ones of each
    """

    model: str
    kernels: list[str] = attrs.field(validator=[min_len(1), deep_iterable(instance_of(str))])
    sizes: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(SIZES))])
    dtypes: list[str] = attrs.field(validator=[min_len(1), deep_iterable(in_(DTYPES))])
    schedules: int = attrs.field(validator=ge(2))


def run(settings: Settings, ctx: Context) -> None:
    """Scores over all kernels and of each."""
    import itertools

    import numpy as np

    from costmodel.experiments.models import trained_before
    from costmodel.experiments.scores import record_scores

    model = trained_before(settings.model)

    def pairs(kernel: str, size: str, dtype: str) -> dict[str, list[float]]:
        return _pairs(_program(kernel, size, dtype), model, settings.schedules, ctx.seed)

    cases = list(itertools.product(settings.kernels, settings.sizes, settings.dtypes))
    found: dict[str, dict[str, list[Any]]] = {}
    for kernel, size, dtype in ctx.progress(cases, "kernel"):
        cell = ctx.cell(pairs, kernel=kernel, size=size, dtype=dtype)
        own = found.setdefault(kernel, {"measured": [], "predicted": [], "program": []})
        own["measured"] += cell["measured"]
        own["predicted"] += cell["predicted"]
        own["program"] += [f"{kernel} {size} {dtype}"] * len(cell["measured"])
    for kernel, own in found.items():
        if own["measured"]:
            record_scores(ctx, own["measured"], own["predicted"], own["program"], kernel=kernel)
    every = {
        name: list(itertools.chain.from_iterable(own[name] for own in found.values()))
        for name in ("measured", "predicted", "program")
    }
    if not every["measured"]:
        raise RuntimeError("no schedule of any kernel could be measured")
    record_scores(
        ctx,
        np.array(every["measured"]),
        np.array(every["predicted"]),
        every["program"],
        CLAIMS,
        kernel="all",
    )


def _program(kernel: str, size: str, dtype: Any) -> Program:
    from costmodel import programs

    if kernel in programs.PAPER:
        return programs.paper_benchmarks(size, dtype, names=[kernel])[kernel]
    return programs.load(kernel, size, dtype)


def _pairs(program: Program, model: Ensemble, n: int, seed: int) -> dict[str, list[float]]:
    """Measured and predicted speedups of random schedules, those that could be timed."""
    import numpy as np

    from costmodel import plain_c
    from costmodel.codegen import c_function
    from costmodel.dataset import LABEL_OPTIONS
    from costmodel.measure import measure
    from costmodel.predictor import HIGHEST, LOWEST
    from costmodel.random_schedules import random_schedules
    from costmodel.schedule import Schedule, apply
    from costmodel.steps import Parallel

    drawn = random_schedules(program, n, [seed, 0])
    # Labels are of one thread.
    serial = [Schedule(tuple(s for s in d.steps if not isinstance(s, Parallel))) for d in drawn]
    scheduled = [apply(program, schedule) for schedule in dict.fromkeys(serial)]
    texts = [c_function(each, "f") for each in scheduled]
    plain = plain_c.function(program, "f")
    measured = measure(program, plain, texts, options=LABEL_OPTIONS).speedups
    known = np.isfinite(measured)
    predicted = model.predict(scheduled)[0]
    return {
        "measured": np.clip(measured[known], LOWEST, HIGHEST).tolist(),
        "predicted": [float(value) for value in predicted[known]],
    }


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Error and order by kernel."""
    from common.report.charts import bars

    rows = frame.drop_duplicates(subset=["metric", "axis.kernel"])
    return [
        bars(
            rows[rows["metric"] == metric].assign(**{"axis.system": "recursive"}),
            "axis.kernel",
            title,
            "Random schedules of kernels that are none of the random programs trained on.",
            y_title=y_title,
        )
        for metric, title, y_title in (
            ("mape", "Error on real kernels", "MAPE (%)"),
            ("spearman_per_program", "Order on real kernels", "rank correlation"),
        )
    ]
