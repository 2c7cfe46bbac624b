"""Tables of leaf states and shared subtrees on real trees: Python's own standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge, gt

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart
    from cortex.forest import Forest


@attrs.frozen
class Settings:
    """modules: files of the standard library, the first by name, one call for all

    hidden: of a child-sum TreeLSTM;  batch: SST-like and perfect trees in a batch
    halfwidth: wanted half-width of each ratio;  max_seconds: longest time for one comparison
    """

    modules: int = attrs.field(validator=ge(1))
    hidden: int = attrs.field(validator=ge(16))
    batch: int = attrs.field(validator=ge(1))
    halfwidth: float = attrs.field(validator=gt(0))
    max_seconds: float = attrs.field(validator=gt(0))


def run(settings: Settings, ctx: Context) -> None:
    """Compare with and without, on syntax trees (dedup) and binary trees (tables)."""
    from cortex.schedule import Schedule

    plain = Schedule.paper()
    _dedup(settings, ctx, plain)
    for data in ctx.progress(("sst", "perfect"), "trees"):
        case = shared.Case("tree_lstm", data, settings.batch, settings.hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(data))
        ctx.compare(
            "tabulate_speedup",
            {
                "tabulated": batches.fresh(
                    shared.roots_of(
                        shared.compiled(problem, tabulated(plain), ctx.threads), problem
                    )
                ),
                "plain": batches.fresh(
                    shared.roots_of(shared.compiled(problem, plain, ctx.threads), problem)
                ),
            },
            baseline="plain",
            verify=shared.assert_close,
            claim=f"cortex.ours.tabulate_{data}",
            subject="tabulated",
            halfwidth=settings.halfwidth,
            max_seconds=settings.max_seconds,
            **case.axes,
        )


def tabulated(plain: Any) -> Any:
    """A schedule with levels split by which children are leaves, and leaf images in tables."""
    return plain.specialize("children").tabulate("leaf")


def standard_library(n: int) -> list[Path]:
    """The first n files of Python's standard library that parse, by name."""
    import ast
    import sysconfig

    found: list[Path] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        found.append(path)
        if len(found) == n:
            break
    return found


def syntax_trees(paths: Sequence[Path]) -> Forest:
    """Their syntax trees, one root a file; a node's token is its class."""
    from cortex import structures

    return structures.from_ast([path.read_text(encoding="utf-8") for path in paths])


def _dedup(settings: Settings, ctx: Context, plain: Any) -> None:
    import numpy as np

    import cortex
    from cortex import models

    forest = syntax_trees(standard_library(settings.modules))
    vocab = int(forest.token.max()) + 1
    model = models.TreeLSTM(settings.hidden, vocab, arity=None, words="nodes")
    nets = {
        name: cortex.compile(
            model, weights=None, backend="c", schedule=schedule, threads=ctx.threads,
            outputs=("h",),
        )
        for name, schedule in (("plain", plain), ("dedup", plain.dedup()))
    }  # fmt: skip
    inner = int((np.diff(forest.child_ptr) > 0).sum())
    axes: dict[str, Any] = {
        "data": "standard library", "modules": settings.modules, "model": "tree_lstm",
        "hidden": settings.hidden,
    }  # fmt: skip
    numbered = nets["dedup"].linearize(forest)
    distinct = numbered.n_nodes - numbered.n_leaves
    ctx.record(None, "distinct_share", 100 * distinct / inner, "%", **axes)
    ctx.compare(
        "dedup_speedup",
        {
            "dedup": lambda: np.asarray(nets["dedup"](forest).root["h"]),
            "plain": lambda: np.asarray(nets["plain"](forest).root["h"]),
        },
        baseline="plain",
        verify=shared.assert_close,
        claim="cortex.ours.dedup",
        subject="dedup",
        halfwidth=settings.halfwidth,
        max_seconds=settings.max_seconds,
        **axes,
    )


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """What dedup and tables are worth."""
    from common.report.charts import bars

    return [
        bars(
            frame[frame["metric"].isin(("tabulate_speedup", "dedup_speedup"))],
            "axis.data",
            "What is not computed again",
            "TreeLSTM: time of the paper's schedule over that with tables of leaf states, or with "
            "equal subtrees computed once. The trees of SST are seeded look-alikes.",
            y_title="time without / time with",
        )
    ]
