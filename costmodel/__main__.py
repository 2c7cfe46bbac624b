"""Command line: python -m costmodel optimize kernel.c -D N=1024 -o out.c

generate makes a data set, train a model of it, evaluate says how good a model is, explain shows
one schedule of one loop nest.
"""

from __future__ import annotations

import argparse
import sys

from common.extras import MissingExtra
from costmodel.commands import evaluate, explain, generate, optimize, train
from costmodel.errors import CostModelError

COMMANDS = {
    "optimize": (optimize, "search a faster form of a C loop nest"),
    "generate": (generate, "measure schedules of random programs"),
    "train": (train, "train a model on measured schedules"),
    "evaluate": (evaluate, "compare a model's predictions with measured schedules"),
    "explain": (explain, "show a schedule's C, and how fast it is said to be"),
}


def main(arguments: list[str] | None = None) -> int:
    """0 done; 2 the input is not what is asked for, said in one sentence; 130 interrupted."""
    options = _parser().parse_args(arguments)
    command, _ = COMMANDS[options.command]
    try:
        command.run(options)
    except (CostModelError, MissingExtra, OSError, ValueError) as problem:
        print(f"costmodel: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "finished files stay, and the same command goes on behind them"
        said = kept if options.command == "generate" else "nothing written"
        print(f"costmodel: interrupted, {said}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m costmodel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (command, what) in COMMANDS.items():
        command.add(commands.add_parser(name, help=what))
    return parser


if __name__ == "__main__":
    sys.exit(main())
