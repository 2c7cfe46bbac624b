"""python -m costmodel optimize kernel.c -D N=1024 -o out.c"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from costmodel.commands import source
from costmodel.optimizer import SEARCHES, Optimized, optimize
from costmodel.search import Found


def add(parser: argparse.ArgumentParser) -> None:
    source.add(parser)
    parser.add_argument("-o", "--output", type=Path, help="where to write the C found")
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--search", choices=SEARCHES, default="free")
    parser.add_argument("--space", choices=("paper", "extended"), default="extended")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--samples", type=int, default=100, help="of mcts and random search")
    parser.add_argument(
        "--model",
        metavar="PATH",
        help='score candidates by this checkpoint instead of running them; "default" is the '
        "package's own",
    )
    parser.add_argument(
        "--execute-top",
        type=int,
        default=5,
        metavar="N",
        help="how many of the best to time at the end; 0, with a model: compile nothing",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fast-math", action="store_true", help="let float sums be re-associated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=10, help="schedules to list")


def run(options: argparse.Namespace) -> None:
    _check_output(options.output)
    result = _optimized(options)
    _print_table(result, options.rows)
    if options.output:
        options.output.write_text(result.c_source)
        print(f"written to {options.output}")


def _check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written before the search, not after it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"-o takes a file in a folder that is there, got {path}")


def _optimized(options: argparse.Namespace) -> Optimized:
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
            params=source.sizes(options),
            function=options.function,
            budget_s=options.budget,
            search=options.search,
            space=options.space,
            beam=options.beam,
            samples=options.samples,
            model=options.model,
            execute_top=options.execute_top,
            threads=options.threads,
            fast_math=options.fast_math,
            seed=options.seed,
            report=report,
        )


def _print_table(result: Optimized, n_rows: int) -> None:
    from rich.console import Console
    from rich.table import Table

    by_model = result.predicted is not None
    final = {str(t.scheduled.schedule): t.speedup for t in result.found.measured}
    table = Table(title=f"{len(result.found.tried)} schedules tried")
    table.add_column("predicted" if by_model else "speedup", justify="right")
    if by_model and final:
        table.add_column("measured", justify="right")
    table.add_column("schedule")
    for tried in result.found.top(n_rows):
        text = str(tried.scheduled.schedule)
        cells = [f"{tried.speedup:.2f}"]
        if by_model and final:
            cells.append(f"{final[text]:.2f}" if text in final else "")
        table.add_row(*cells, text or "as written")
    console = Console()
    console.print(table)
    console.print(_summary(result))


def _summary(result: Optimized) -> str:
    if not result.schedule:
        said = "tried" if result.measured is not None else "predicted"
        return f"nothing {said} is faster by more than 3%: the program stays as it is"
    lines = [f"taken: {result.schedule}"]
    if result.predicted is not None:
        doubt = result.doubt or math.nan
        lines.append(f"predicted: {result.predicted:.2f} times as fast{_give_or_take(doubt)}")
    if result.measured is not None:
        lines.append(
            f"{result.measured:.2f} times as fast, give or take {100 * (result.noise or 0):.0f}%"
        )
    else:
        lines.append("nothing was compiled or run")
    return "\n".join(lines)


def _give_or_take(doubt: float) -> str:
    return "" if math.isnan(doubt) else f", give or take {100 * math.expm1(doubt):.0f}%"
