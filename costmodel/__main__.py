"""Command line: python -m costmodel optimize kernel.c -D N=1024 -o out.c"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from costmodel.errors import CostModelError
from costmodel.optimizer import Optimized, optimize
from costmodel.search import Found


def main(arguments: list[str] | None = None) -> int:
    """0 done; 2 the input is not what is asked for, said in one sentence."""
    options = _parser().parse_args(arguments)
    try:
        result = _optimize(options)
    except (CostModelError, OSError, ValueError) as problem:
        print(f"costmodel: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("costmodel: interrupted, nothing written", file=sys.stderr)
        return 130
    _print_table(result, options.rows)
    if options.output:
        options.output.write_text(result.c_source)
        print(f"written to {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m costmodel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("optimize", help="search a faster form of a C loop nest")
    run.add_argument("source", type=Path, help="C file with a #pragma scop region or one function")
    run.add_argument("-D", action="append", default=[], metavar="NAME=VALUE", help="a size")
    run.add_argument("--function", help="which function of the file")
    run.add_argument("-o", "--output", type=Path, help="where to write the C found")
    run.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    run.add_argument("--method", choices=("free", "beam", "random"), default="free")
    run.add_argument("--space", choices=("paper", "extended"), default="extended")
    run.add_argument("--beam", type=int, default=3)
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--fast-math", action="store_true", help="let float sums be re-associated")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--rows", type=int, default=10, help="schedules to list")
    return parser


def _optimize(options: argparse.Namespace) -> Optimized:
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("reading") as status:

        def report(found: Found) -> None:
            best = found.best
            status.update(
                f"{len(found.tried)} schedules tried, the best {best.speedup:.2f} times as fast"
            )

        return optimize(
            options.source,
            params=dict(_size(text) for text in options.D),
            function=options.function,
            budget_s=options.budget,
            method=options.method,
            space=options.space,
            beam=options.beam,
            threads=options.threads,
            fast_math=options.fast_math,
            seed=options.seed,
            report=report,
        )


def _size(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name.isidentifier() or not value.lstrip("-").isdigit():
        raise ValueError(f"-D takes NAME=VALUE with a whole number, got {text!r}")
    return name, int(value)


def _print_table(result: Optimized, n_rows: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(result.found.tried)} schedules tried")
    table.add_column("speedup", justify="right")
    table.add_column("schedule")
    for tried in result.found.top(n_rows):
        table.add_row(f"{tried.speedup:.2f}", str(tried.scheduled.schedule) or "as written")
    console = Console()
    console.print(table)
    if result.schedule:
        console.print(
            f"taken: {result.schedule}\n{result.measured:.2f} times as fast, "
            f"give or take {100 * (result.noise or 0):.0f}%"
        )
    else:
        console.print("nothing tried is faster by more than 3%: the program stays as it is")


if __name__ == "__main__":
    sys.exit(main())
