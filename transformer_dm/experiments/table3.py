"""Every operator of the layer, torch's time beside ours, and the sums by class (operator table)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge, gt

from common.experiment import Context
from transformer_dm.experiments import shared
from transformer_dm.experiments.kernels import record_mue, same_shapes
from transformer_dm.sizes import LayerSize

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

NAME = "transformer_dm_table3"
PAPER = "transformer_dm.tab.kernel_speedup"
SUMS = "transformer_dm.ours.class_sums"
#: Rows of the stored scores, which plan "flash" has one kernel for.
SCORES = ("qkt", "sm", "gamma")


@attrs.frozen
class Settings:
    """One layer, with ReLU as in the paper, and its dropout.

    mkl:       "unlocked" runs everything once more where MKL takes its fast kernels
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one row
    """

    batch: int = attrs.field(validator=ge(1))
    length: int = attrs.field(validator=ge(1))
    heads: int = attrs.field(validator=ge(1))
    head_size: int = attrs.field(validator=ge(1))
    width: int = attrs.field(validator=ge(1))
    dropout: float = attrs.field(validator=shared.is_rate)
    precisions: list[str] = attrs.field(validator=shared.one_of(shared.PRECISIONS))
    mkl: list[str] = attrs.field(validator=shared.one_of(shared.MKL))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))

    @property
    def size(self) -> LayerSize:
        """Of the layer."""
        return LayerSize(self.batch, self.length, self.heads, self.head_size, self.width)


@attrs.frozen
class _Time:
    """Seconds of torch and of ours in one row, ours with its interval, times the row's count."""

    torch: float
    ours: float
    low: float
    high: float


def run(settings: Settings, ctx: Context) -> None:
    """Time every row, then add up."""
    from transformer_dm.experiments import EXPERIMENTS

    for mkl in shared.in_each_process(settings, ctx, NAME, EXPERIMENTS):
        for precision in shared.usable(settings.precisions, ctx):
            _measure(settings, ctx, precision, mkl)


def _measure(settings: Settings, ctx: Context, precision: str, mkl: str) -> None:
    from transformer_dm import operator_pairs
    from transformer_dm.peers import DTYPES

    dtype, names = DTYPES[precision], (*operator_pairs.ROWS, "attention")
    size = settings.size
    few = attrs.evolve(size, batch=1, length=min(size.length, 32))
    for pair in operator_pairs.make_pairs(few, dtype, 0.0, names, ctx.torch_rng("check")):
        operator_pairs.assert_same(pair)
    axes: dict[str, Any] = {
        "batch": settings.batch, "length": settings.length, "d_model": size.d_model,
        "precision": precision, "dropout": settings.dropout, "mkl": mkl,
    }  # fmt: skip
    found: dict[tuple[str, str], tuple[str, _Time]] = {}
    pairs = operator_pairs.make_pairs(size, dtype, settings.dropout, names, ctx.torch_rng("rows"))
    for pair in pairs:
        row: dict[str, Any] = {**axes, "kernel": pair.name, "class": pair.cls, "stage": pair.stage}
        compared = ctx.compare(
            "speedup",
            {"ours": pair.ours, "pytorch": pair.torch},
            baseline="pytorch",
            verify=same_shapes,  # values were compared without dropout, above
            claim=PAPER if pair.stage == "forward" and pair.name != "attention" else None,
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            **row,
        )
        if pair.flops:
            shared.record_limit(ctx, compared, pair.flops, **row)
        record_mue(ctx, pair, compared, **row)
        ours, base = compared["ours"], compared.baseline_seconds
        n = operator_pairs.ROWS.get(pair.name, 1)
        # Times of ours by the paired ratio: the medians of either side alone drift apart.
        seconds = [n * base / ratio for ratio in (ours.estimate, ours.high, ours.low)]
        found[pair.name, pair.stage] = pair.cls, _Time(n * base, *seconds)
    _record_sums(ctx, found, axes)


def _record_sums(
    ctx: Context, found: Mapping[tuple[str, str], tuple[str, _Time]], axes: Mapping[str, Any]
) -> None:
    """By class with stored scores, as the paper's table has them, and of the whole layer.

    The intervals take every row at its worst at once: wider than 95%.
    """
    groups: dict[str, list[_Time]] = {}
    for (name, _), (cls, time) in found.items():
        if name != "attention":
            groups.setdefault(cls, []).append(time)
            groups.setdefault("all", []).append(time)
        if name not in SCORES:
            groups.setdefault("all, flash", []).append(time)
    stored = [time for (name, _), (_, time) in found.items() if name in SCORES]
    for cls, times in groups.items():
        torch = sum(time.torch for time in times)
        if cls == "all, flash":  # torch stores the scores in either case
            flash = [time for (name, _), (_, time) in found.items() if name == "attention"]
            torch += sum(time.torch for time in stored) - sum(time.torch for time in flash)
        ours, low, high = (
            sum(getattr(time, field) for time in times) for field in ("ours", "low", "high")
        )
        is_class = not cls.startswith("all")
        where: dict[str, Any] = {**axes, "class": cls, "timed": True}
        ctx.record(
            SUMS if is_class else None,
            "class_speedup",
            torch / ours,
            "x",
            low=torch / high,
            high=torch / low,
            **where,
            system="ours",
            baseline="pytorch",
        )
        for system, seconds in (("pytorch", torch), ("ours", ours)):
            ctx.record(None, "class_time_us", seconds * 1e6, "us", **where, system=system)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Speedup by row beside the paper's, share of the peak, MUE, and the sums by class."""
    from common.report.charts import bars, paper_rows

    found = []
    rows = frame[frame["axis.precision"].notna()]
    rows = rows.assign(
        setting=[f"{k} {s}" for k, s in zip(rows["axis.kernel"], rows["axis.stage"], strict=True)]
    )
    for (precision, mkl), part in rows.groupby(["axis.precision", "axis.mkl"], sort=False):
        where = f"{precision}, MKL {mkl}"
        speed = part[(part["metric"] == "speedup") & (part["axis.system"] == "ours")]
        paper = paper_rows(claims[PAPER])
        paper["setting"] = paper["axis.kernel"] + " forward"
        found.append(
            bars(
                speed,
                "setting",
                f"Operators of the layer over torch's, {where}",
                "Time of torch's operators over ours, one thread. The paper's ratios, recalled, "
                "are of GPU programs.",
                log_y=True,
                y_title="torch time / our time",
                paper=paper[paper["setting"].isin(speed["setting"])],
            )
        )
        for metric, title, note in (
            ("peak_share", "Share of the peak", "Arithmetic of the products over the peak."),
            ("mue", "Memory usage efficiency", "Above 100% the tensors stayed in a cache."),
        ):
            values = part[part["metric"] == metric]
            if len(values):
                found.append(bars(values, "setting", f"{title}, {where}", note, y_title="%"))
        sums = part[part["metric"] == "class_time_us"]
        found.append(
            bars(
                sums,
                "axis.class",
                f"Time of the layer by class of operator, {where}",
                "Sums of the rows, forward and backward. Fused kernels count where their main "
                "operator does.",
                y_title="us",
            )
        )
    return found
