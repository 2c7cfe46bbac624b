"""Where the time of a call goes, and how many native calls it takes (breakdown table)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from attrs.validators import ge

from common.experiment import Context
from cortex.experiments import shared

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

#: A part of a call: its name, and what to time. Each takes what the part before gave.
Parts = Sequence[tuple[str, Callable[[Any], Any]]]


@attrs.frozen
class Settings:
    """cases: "model/data/batch" at this hidden size;  repeats: calls of which the median counts"""

    cases: list[str] = attrs.field(validator=shared.is_cases)
    hidden: int = attrs.field(validator=ge(16))
    repeats: int = attrs.field(validator=ge(6))  # fewer give no 95% interval of a median


def run(settings: Settings, ctx: Context) -> None:
    """Time the parts of ours, of level-batched PyTorch and of DyNet; count their calls."""
    from cortex import peers
    from cortex.peers.flatten import flatten
    from cortex.peers.level_batched import LevelBatched

    for text in ctx.progress(settings.cases, "case"):
        case = shared.Case.of(text, settings.hidden)
        problem = case.problem()
        batches = shared.Batches(case, ctx.rng(text))
        net = shared.compiled(problem, threads=ctx.threads)
        batched = LevelBatched(problem)
        systems: dict[str, Parts] = {
            "ours": (("scheduling", net.linearize), ("kernels", net.run)),
            "level_batched": (
                (
                    "scheduling",
                    partial(flatten, arity=batched.arity, all_tokens=batched.cell.has_input),
                ),
                ("kernels", batched.run),
            ),
        }
        if shared.here(["dynet"], ctx):
            dynet: Any = peers.make("dynet", problem)
            # DyNet batches within its forward call: graph construction is all that can be told.
            systems["dynet"] = (("scheduling", dynet.build), ("kernels", lambda x: x.npvalue()))
        for system, parts in systems.items():
            _time(settings, ctx, case, batches, system, parts)
        ctx.record(
            "cortex.tab.kernel_calls", "kernel_calls", float(native_calls(net, batches)), "calls",
            **case.axes, system="ours",
        )  # fmt: skip
        calls = batches.fresh(batched)
        ctx.record(
            None, "kernel_calls", float(operator_calls(calls)), "calls", **case.axes,
            system="level_batched",
        )  # fmt: skip


def _time(
    settings: Settings,
    ctx: Context,
    case: shared.Case,
    batches: shared.Batches,
    system: str,
    parts: Parts,
) -> None:
    import numpy as np

    from common import paired
    from cortex.structures import to_objects

    found: dict[str, list[float]] = {name: [] for name, _ in parts}
    for k in range(settings.repeats + 2):
        value: Any = to_objects(batches.forests[k % len(batches.forests)])
        for name, part in parts:
            start = time.perf_counter()
            value = part(value)
            if k >= 2:  # the first calls are cold
                found[name].append(time.perf_counter() - start)
    total = sum(np.array(times) for times in found.values())
    for name, times in found.items():
        middle, low, high = (1e6 * x for x in paired.interval(np.array(times)))
        ctx.record(
            None, "time_us", middle, "us", low=low, high=high, timed=True, **case.axes,
            system=system, part=name,
        )  # fmt: skip
        if name == "scheduling":
            share, low, high = paired.interval(100 * np.array(times) / total)
            ctx.record(
                "cortex.tab.scheduling_time" if system == "ours" else None, "scheduling_share",
                share, "%", low=low, high=high, timed=True, **case.axes, system=system,
            )  # fmt: skip


def native_calls(net: Any, batches: shared.Batches) -> int:
    """Calls of the generated function in one call of a compiled model, its memory once grown."""
    from cortex.structures import to_objects

    roots = to_objects(batches.forests[0])
    net(roots)
    kernel = net._kernel
    native, calls = kernel._run, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return native(*arguments)

    kernel._run = counted
    try:
        net(roots)
    finally:
        kernel._run = native
    return calls


def operator_calls(call: Callable[[], Any]) -> int:
    """Operators of torch in one call, without those that others call."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profile:
        call()
    top = [e for e in profile.events() if e.cpu_parent is None and e.name.startswith("aten::")]
    return len(top)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """Time of each part by system."""
    from common.report.charts import bars

    rows = frame[frame["metric"] == "time_us"]
    names = {"scheduling": "linearizing or building the graph", "kernels": "computing"}
    return [
        bars(
            rows.assign(part=rows["axis.part"].map(names)),
            "axis.system",
            "Where the time goes",
            "Median time of one call. DyNet batches within its forward call, so its computing "
            "includes that; level-batched PyTorch flattens in plain Python."
            + shared.absent_note(frame),
            color="part",
            y_title="us",
            log_y=True,
        )
    ]
