"""Time of turning node objects into arrays, and its share of the latency (linearization table)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import deep_iterable, ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from cortex.forest import Structure

FORMATS = ("objects", "forest", "parents", "lists", "text", "networkx")


@attrs.frozen
class Settings:
    """cases: "model/data/batch" whose trees are linearized, at this hidden size for the share

    batches: numbers of SST-like trees that are linearized
    formats: what they are given as, node objects and others, see cortex.experiments.formats
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    cases: list[str] = attrs.field(validator=shared.is_cases)
    hidden: int = attrs.field(validator=ge(16))
    batches: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    formats: list[str] = attrs.field(validator=shared.one_of(FORMATS))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare the native walk with the flattening a user of torch writes, and with whole calls."""
    from cortex.linearize import linearize
    from cortex.peers.flatten import flatten

    options: dict[str, Any] = {
        "halfwidth": settings.halfwidth,
        "max_seconds": settings.max_seconds,
    }
    for batch in ctx.progress(settings.batches, "batch"):
        case = shared.Case("tree_lstm", "sst", batch, settings.hidden)
        batches = shared.Batches(case, ctx.rng(f"{batch}"))
        structure = case.problem().recursive.structure
        found = ctx.compare(
            "speedup",
            {
                "ours": batches.fresh(partial(linearize, structure=structure)),
                "python": batches.fresh(partial(flatten, arity=2, all_tokens=False)),
            },
            baseline="python",
            verify=lambda a, b: a.n_nodes == b.bounds[-1],
            batch=batch,
            data="sst",
            **options,
        )
        nodes = batches.nodes * batches.group
        for system, seconds in (
            ("ours", found["ours"].seconds_min), ("python", found.baseline_seconds_min)
        ):  # fmt: skip
            ctx.record(
                "cortex.ours.linearize_ns" if system == "ours" and nodes >= 1000 else None,
                "ns_per_node", 1e9 * seconds / nodes, "ns", timed=True, batch=batch, data="sst",
                nodes=round(batches.nodes), system=system,
            )  # fmt: skip
        _compare_formats(settings, ctx, batches, structure, batch, options)
    for text in ctx.progress(settings.cases, "case"):
        case = shared.Case.of(text, settings.hidden)
        problem = case.problem()
        net = shared.compiled(problem, threads=ctx.threads)
        batches = shared.Batches(case, ctx.rng(text))
        found = ctx.compare(
            "whole_over_linearize",
            {
                "linearize": batches.fresh(net.linearize),
                "whole": batches.fresh(net),
            },
            baseline="whole",
            verify=None,
            subject="linearize",
            **case.axes,
            **options,
        )
        estimate = found["linearize"]
        share = {"low": 100 / estimate.high, "high": 100 / estimate.low}
        for claim in ("cortex.tab.linearization_share", "cortex.ours.linearize_share"):
            if (
                claim.endswith("_share")
                and ".ours." in claim
                and (case.model != "tree_lstm" or batches.nodes < 100)
            ):
                continue
            ctx.record(
                claim, "linearization_share", 100 / estimate.estimate, "%", **share, timed=True,
                **case.axes, system="ours",
            )  # fmt: skip


def _compare_formats(
    settings: Settings,
    ctx: Context,
    batches: shared.Batches,
    structure: Structure,
    batch: int,
    options: dict[str, Any],
) -> None:
    """The same trees as node objects and in other forms, reading the form included."""
    from cortex.experiments.formats import FORMS, same_trees

    others = [name for name in settings.formats if name != "objects"]
    for name in others:
        found = ctx.compare(
            "format_speedup",
            {
                form: batches.fresh(
                    partial(FORMS[form].linearize, structure=structure), FORMS[form].make
                )
                for form in (name, "objects")
            },
            baseline="objects",
            verify=same_trees,
            subject=name,
            batch=batch,
            data="sst",
            **options,
        )
        times = {name: found[name].seconds_min}
        if name == others[0]:
            times["objects"] = found.baseline_seconds_min
        for form, seconds in times.items():
            ctx.record(
                None, "format_ns_per_node", 1e9 * seconds / (batches.nodes * batches.group), "ns",
                timed=True, batch=batch, data="sst", format=form,
            )  # fmt: skip


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Time a node by number of trees, and shares of the latency."""
    from common.report.charts import bars, lines

    shares = frame[frame["metric"] == "linearization_share"]
    shares = shares.drop_duplicates(["axis.model", "axis.data", "axis.batch"])
    return [
        lines(
            frame[frame["metric"] == "ns_per_node"],
            "axis.batch",
            "Linearization of Python objects",
            "Least time a node, SST-like trees; python is the same in plain Python.",
            x_title="trees",
            y_title="ns a node",
            log_x=True,
            log_y=True,
        ),
        lines(
            frame[frame["metric"] == "format_ns_per_node"],
            "axis.batch",
            "Linearization by input format",
            "Least time a node, SST-like trees, reading the format included. Objects and forests "
            "go to native code at once; other formats are read in Python first.",
            color="axis.format",
            x_title="trees",
            y_title="ns a node",
            log_x=True,
            log_y=True,
        ),
        bars(
            shares.assign(
                setting=[
                    f"{m}, {d}, B={b:g}"
                    for m, d, b in zip(
                        shares["axis.model"], shares["axis.data"], shares["axis.batch"], strict=True
                    )
                ]
            ),
            "setting",
            "Share of the latency spent linearizing",
            "From Python objects. The paper, recalled: 1.2% for MV-RNN at batch 10 to 24.4% for "
            "DAG-RNN at batch 1, on its own machines.",
            y_title="% of the latency",
        ),
    ]
