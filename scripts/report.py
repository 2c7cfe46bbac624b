"""Write results/report.html from what has been measured, and what else is made from it.

    python -m scripts.report                      the page, and the verdicts in the terminal
    python -m scripts.report --export rows.csv    every record as .csv, .jsonl or .parquet
    python -m scripts.report --reported ttrec     ttrec/reported.jsonl, the rows its README shows
    python -m scripts.report --readme             tables and pictures of the READMEs, from the same
    python -m scripts.report --api                results/api, the reference from the docstrings

With one or more of the options only they are done. Exit codes: 0 done, 1 failed, 2 nothing to
report or a wrong argument.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common import extras
from common.experiment import PACKAGES
from common.results import ResultsError, Store

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for and return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except (extras.MissingExtra, ValueError) as problem:
        print(f"report: {problem}", file=sys.stderr)
        return 2
    except (ResultsError, OSError) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        print(f"report: {problem}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the runs (results)"
    )
    parser.add_argument(
        "--readme", action="store_true", help="fill the READMEs' tables, draw their pictures"
    )
    parser.add_argument(
        "--reported", choices=PACKAGES, help="take this package's rows from the runs"
    )
    parser.add_argument("--api", action="store_true", help="build the API reference")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write every record to a file")
    return parser


def _run(given: argparse.Namespace) -> int:
    if given.results.exists() and not given.results.is_dir():
        raise ValueError(f"{given.results} is a file, and --results takes the folder of the runs")
    store = Store(given.results)
    asked = given.readme or given.api or given.reported or given.export
    if (given.reported or given.export or not asked) and not _has_runs(store):
        print(
            f"report: {given.results} holds no run; first run bash scripts/reproduce.sh, "
            "or name another folder with --results",
            file=sys.stderr,
        )
        return 2
    if given.export:
        store.export(given.export)
        print(given.export)
    if given.reported:
        _write_reported(store, given.reported)
    if given.readme:
        _fill_readmes()
    if given.api:
        print(_build_api(given.results / "api"))
    if not asked:
        _write_page(store, given.results / "report.html")
    return 0


def _has_runs(store: Store) -> bool:
    return any(True for _ in store.root.glob("*/*/run.json"))


def _write_page(store: Store, path: Path) -> None:
    from rich.console import Console

    from common.report import page, terminal

    page.write(store, path)
    terminal.print_summary(store, Console())
    print(path)


def _write_reported(store: Store, package: str) -> None:
    from common.report import readme

    path = ROOT / package / "reported.jsonl"
    number = readme.write_reported(store, package, path)
    print(f"{path.relative_to(ROOT)}: {number} rows")


def _fill_readmes() -> None:
    from common.report import readme

    for path in readme.fill_readmes(ROOT):
        print(f"{path.relative_to(ROOT)}: written anew")


def _build_api(folder: Path) -> Path:
    """Build the reference of the public packages; imports all of them."""
    pdoc = extras.require("pdoc", "dev", "the API reference")
    folder.mkdir(parents=True, exist_ok=True)
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*PACKAGES, output_directory=folder)
    return folder / "index.html"


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away (head, less): no traceback, and none at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
