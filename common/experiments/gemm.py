"""Our matrix product beside the libraries', with the right operand packed beforehand and not.

Two tables, because a weight is multiplied many times and an activation once: in "packed" each
library gets b in the form it likes best, made before; in "plain" b is row-major and whatever is
done to it is timed. Libraries are called as their users call them, ours through common.gemm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt, in_, max_len, min_len

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from common.claims import Claim
    from common.experiment import Context
    from common.report.charts import Chart

TABLES = ("packed", "plain")
PRECISIONS = ("fp32", "bf16")
#: From so many rows on a product is bound by arithmetic alone, and is held against the peak.
MANY_ROWS = 64
LIBRARIES = ("onednn", "aten")  # those a user of torch has; numpy is shown beside


@attrs.frozen
class Settings:
    rows: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    #: Depths and columns of the right operand.
    shapes: list[list[int]] = attrs.field(
        validator=deep_iterable(deep_iterable(ge(1), [min_len(2), max_len(2)]))
    )
    precisions: list[str] = attrs.field(validator=deep_iterable(in_(PRECISIONS)))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Every cell of both tables against the faster library, and against the peak."""
    cells = [
        (table, precision, rows, *shape)
        for precision in settings.precisions
        for rows in settings.rows
        for shape in settings.shapes
        for table in TABLES
    ]

    def measure(table: str, precision: str, rows: int, depth: int, columns: int) -> bool:
        cell = _Cell(table, precision, rows, depth, columns, settings)
        calls = cell.calls(ctx)
        cell.against_libraries(ctx, calls)
        if rows >= MANY_ROWS and table == "packed":
            cell.against_peak(ctx, calls["ours"])
        return True

    for table, precision, rows, depth, columns in ctx.progress(cells, "products"):
        ctx.cell(measure, table=table, precision=precision, rows=rows, depth=depth, columns=columns)


@attrs.frozen
class _Cell:
    table: str
    precision: str
    rows: int
    depth: int
    columns: int
    settings: Settings

    @property
    def axes(self) -> dict[str, Any]:
        chosen = attrs.filters.exclude("settings")
        return attrs.asdict(self, recurse=False, filter=chosen)

    @property
    def flops(self) -> float:
        return 2.0 * self.rows * self.depth * self.columns

    def calls(self, ctx: Context) -> dict[str, Callable[[], Tensor]]:
        """The same product by everyone: system -> call."""
        import numpy as np
        import torch

        from common.gemm import gemm, onednn_takes, pack

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        source = ctx.torch_rng("operands")
        a = torch.randn(self.rows, self.depth, generator=source).to(dtype)
        b = torch.randn(self.depth, self.columns, generator=source).to(dtype)
        out, aten_out = (torch.empty(self.rows, self.columns, dtype=dtype) for _ in range(2))
        ours = pack(b, backend="native") if self.table == "packed" else b
        calls: dict[str, Callable[[], Tensor]] = {
            "ours": lambda: gemm(a, ours, out=out),
            "aten": lambda: torch.mm(a, b, out=aten_out),
        }
        if onednn_takes(dtype):
            right = b.t()
            if self.table == "packed":
                right = torch.ops.mkldnn._reorder_linear_weight(b.t().contiguous(), self.rows)
            linear = torch.ops.mkldnn._linear_pointwise
            calls["onednn"] = lambda: linear(a, right, None, "none", [], "")
        if self.precision == "fp32":
            x, y, z = a.numpy(), b.numpy(), np.empty((self.rows, self.columns), np.float32)
            kept = torch.from_numpy(z)

            def numpy() -> Tensor:
                np.matmul(x, y, out=z)
                return kept

            calls["numpy"] = numpy
        return calls

    def against_libraries(self, ctx: Context, calls: Mapping[str, Callable[[], Tensor]]) -> None:
        """The ratio to the better of torch's libraries, and everybody's rate."""
        best = self._faster(ctx, calls)
        claim = f"common.ours.gemm_{self.table}_{self.precision}"
        comparison = ctx.compare(
            f"{self.table}_over_best",
            calls,
            baseline=best,
            verify=self._agree,
            claim=claim,
            halfwidth=self.settings.halfwidth,
            max_seconds=self._seconds(calls),
            **self.axes,
        )
        seconds = {name: comparison[name].seconds for name in comparison}
        seconds[best] = comparison.baseline_seconds
        for system, each in seconds.items():
            rate = self.flops / each / 1e9
            ctx.record(
                None,
                "rate",
                rate,
                "GFLOP/s",
                fraction_of_roofline=rate / self._limit(ctx),
                system=system,
                **self.axes,
            )
            ctx.record(
                None, "roofline_share", rate / self._limit(ctx), "", system=system, **self.axes
            )

    def against_peak(self, ctx: Context, ours: Callable[[], Tensor]) -> None:
        """The share of the peak, which runs beside it: clocks drift.

        The probe does as many operations as the product, so the ratio of times is the share.
        """
        probe = _peak_call(self.precision, self.flops, ctx.threads)
        if probe is None:
            return  # this processor multiplies no bf16
        ctx.compare(
            "peak_share",
            {"peak": probe, "ours": ours},
            baseline="peak",
            verify=None,
            claim=f"common.ours.gemm_peak_{self.precision}",
            halfwidth=self.settings.halfwidth,
            max_seconds=self._seconds({"ours": ours, "peak": probe}),
            **self.axes,
        )

    def _faster(self, ctx: Context, calls: Mapping[str, Callable[[], Tensor]]) -> str:
        from common import bench

        pair = {name: calls[name] for name in LIBRARIES if name in calls}
        if len(pair) == 1:
            return next(iter(pair))
        found = bench.compare(
            pair,
            baseline="aten",
            verify=None,
            halfwidth=0.05,
            max_seconds=self._seconds(pair) / 2,
            threads=ctx.threads,
        )
        return "onednn" if found["onednn"].estimate > 1 else "aten"

    def _seconds(self, calls: Mapping[str, Callable[[], object]]) -> float:
        """Long enough for the fewest rounds a comparison counts, whatever the size."""
        # A round of all calls, each once untimed before; at 50 GFLOP/s, as the slowest may be.
        round_s = 2 * len(calls) * self.flops / 50e9
        return max(self.settings.max_seconds, 16 * round_s)

    def _agree(self, found: Tensor, expected: Tensor) -> bool:
        # A partial sum of k products of normal numbers is about sqrt(k), and k roundings of 2^-25
        # of it add up like a random walk to k 2^-25, on either side: sqrt(k) 2^-24 of the result.
        # bf16 rounds the result by 2^-9 as well. One wrong element among millions exceeds it.
        error = 2.0**-24 * self.depth**0.5
        if self.precision == "bf16":
            error += 2.0**-8
        difference = found.double() - expected.double()
        return bool(difference.norm() <= error * expected.double().norm())

    def _limit(self, ctx: Context) -> float:
        """GFLOP/s: the peak, or what memory feeds when the operands do not fit the last cache."""
        from common import machine

        width = {"fp32": 4, "bf16": 2}[self.precision]
        elements = self.rows * self.depth + self.depth * self.columns + self.rows * self.columns
        n_bytes = width * elements
        if n_bytes <= machine.last_level_cache_bytes():
            n_bytes = 0
        limits = ctx.roofline
        is_bf16 = self.precision == "bf16" and limits.bf16_gflops is not None
        seconds = limits.least_seconds(self.flops, n_bytes, "bf16" if is_bf16 else "fp32")
        return self.flops / seconds / 1e9


def _peak_call(precision: str, flops: float, threads: int) -> Callable[[], object] | None:
    """A call of multiply-adds in registers of about `flops` operations; None without the means."""
    from functools import partial

    import numpy as np

    from common import native
    from common.roofline import KERNELS

    library = native.build("peak", [KERNELS / "peak.c"], openmp=threads > 1)
    kernel = library.function(
        f"int64_t peak_{precision}(float *out, int64_t steps, int64_t threads)"
    )
    out = np.zeros(1, np.float32)
    each = kernel(out, 1, threads)
    return partial(kernel, out, max(1, round(flops / each)), threads) if each else None


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Shares of the roofline by rows, ratios to the better library, shares of the peak."""
    from common.report import charts as draw

    frame = frame.copy()
    frame["axis.shape"] = (
        frame["axis.depth"].astype(int).astype(str)
        + " x "
        + frame["axis.columns"].astype(int).astype(str)
    )
    names = {"packed": "b packed beforehand", "plain": "nothing packed"}
    found = []
    for precision in PRECISIONS:
        rows = frame[frame["axis.precision"] == precision]
        for table, name in names.items():
            shown = rows[(rows["axis.table"] == table) & (rows["metric"] == "roofline_share")]
            if len(shown):
                found.append(
                    draw.points(
                        shown,
                        "axis.rows",
                        f"Matrix products, {precision}, {name}",
                        "Share of what this machine allows: its peak, or its memory where the "
                        "operands do not fit the last cache. A point is a shape of b.",
                        y_title="share of the roofline",
                        log_x=True,
                    )
                )
            ratios = rows[
                (rows["metric"] == f"{table}_over_best") & (rows["axis.system"] == "ours")
            ]
            if len(ratios):
                found.append(
                    draw.points(
                        ratios.assign(**{"axis.library": ratios["axis.baseline"]}),
                        "axis.rows",
                        f"Ours over the faster library, {precision}, {name}",
                        "Time of the faster of oneDNN and aten over ours, coloured by which of "
                        "the two was faster.",
                        color="axis.library",
                        y_title="speedup",
                        log_x=True,
                    )
                )
    peak = frame[frame["metric"] == "peak_share"]
    if len(peak):
        found.append(
            draw.points(
                peak.assign(**{"axis.system": peak["axis.precision"]}),
                "axis.rows",
                "Share of the arithmetic peak, b packed beforehand",
                "Beside a loop of multiply-adds in registers with as many operations.",
                y_title="share of the peak",
                log_x=True,
            )
        )
    return found
