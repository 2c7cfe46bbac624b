"""python -m costmodel explain kernel.c -D N=512 --schedule "tile(S0, 0, 32, 32)" """

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from costmodel.commands import source

if TYPE_CHECKING:
    from costmodel.schedule import ScheduledProgram


def add(parser: argparse.ArgumentParser) -> None:
    source.add(parser)
    parser.add_argument("--schedule", default="", help='as `optimize` prints it; "" is none')
    parser.add_argument("--model", default="default", help='checkpoint, or "none"')
    parser.add_argument("--measure", action="store_true", help="run it as well")
    parser.add_argument("--fast-math", action="store_true", help="sums may be re-associated")


def run(options: argparse.Namespace) -> None:
    from costmodel.codegen import c_function
    from costmodel.optimizer import read
    from costmodel.schedule import apply

    program = read(options.source, params=source.sizes(options), function=options.function)
    reassociate = True if options.fast_math else None
    scheduled = apply(program, options.schedule, reassociate=reassociate)
    text = c_function(scheduled, program.name)
    lines = [f"schedule: {str(scheduled.schedule) or 'none, the program as written'}"]
    if options.model != "none":
        lines.append(_predicted(scheduled, options.model))
    if options.measure:
        lines.append(_measured(scheduled))
    print(f"{text}\n")
    print("\n".join(lines))


def _predicted(scheduled: ScheduledProgram, path: str) -> str:
    from costmodel.prediction import Prediction, loaded, percent

    (mean,), (spread,) = Prediction(loaded(path)).predicted([scheduled])
    return f"predicted: {mean:.2f} times as fast as written{percent(float(spread))}"


def _measured(scheduled: ScheduledProgram) -> str:
    from costmodel.execution import FAST_FLAGS, Execution
    from costmodel.optimizer import FINAL

    found = Execution(scheduled.source, options=FINAL, flags=FAST_FLAGS).measured([scheduled])
    (variant,), (speedup,), (noise,) = found.variants, found.speedups, found.noise
    if not variant.is_timed:
        return f"measured: not, its run ended with '{variant.status}'"
    return (
        f"measured: {speedup:.2f} times as fast as written, give or take {100 * noise:.0f}% "
        f"({1e3 * found.baseline.seconds:.3g} ms before, {1e3 * variant.seconds:.3g} ms after)"
    )
