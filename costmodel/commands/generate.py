"""python -m costmodel generate data/ --programs 1000"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where rows go; a run that was ended goes on")
    parser.add_argument("--programs", type=int, required=True)
    parser.add_argument("--schedules", type=int, default=16, help="of each program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", choices=("paper", "small", "tiny"), default="small")
    parser.add_argument(
        "--space",
        choices=("paper", "extended", "mixed"),
        default="paper",
        help="steps of schedules; mixed: two in five schedules from the extended space",
    )
    parser.add_argument("--jobs", type=int, help="processes; one for each core")
    parser.add_argument("--backend", choices=("joblib", "ray"), default="joblib")
    parser.add_argument(
        "--overlap", action="store_true", help="compile the next file while one is measured"
    )


def run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from costmodel.dataset import generate
    from costmodel.shards import SHARD_PROGRAMS

    console = Console(stderr=True)
    n_shards = -(-options.programs // SHARD_PROGRAMS)
    with console.status(f"measuring {options.programs} programs in {n_shards} files"):
        card = generate(
            options.folder,
            options.programs,
            options.schedules,
            options.seed,
            options.profile,
            options.jobs,
            space=options.space,
            backend=options.backend,
            overlap=options.overlap,
            report=console.print,
        )
    rows, programs = sum(card.rows.values()), sum(card.programs.values())
    print(
        f"{rows} labels of {programs} programs in {options.folder}; {100 * card.faster:.0f}% are "
        f"faster than the program as written, {100 * card.twice:.0f}% twice as fast; median noise "
        f"{100 * card.noise[0]:.1f}%"
    )
