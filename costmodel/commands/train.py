"""python -m costmodel train data/ -o model.pt --members 3"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="rows written by `generate`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--members", type=int, default=3, help="models from seeds seed, seed + 1..")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--loss", choices=("mape", "log", "ndcg"), default="mape")
    parser.add_argument(
        "--size",
        choices=("three-fit", "paper"),
        default="three-fit",
        help="three models below 6 MB, or the authors' widths",
    )
    parser.add_argument("--representation", choices=("compact", "paper"), default="compact")
    parser.add_argument("--storage", choices=("float16", "float32"), default="float16")
    parser.add_argument("--jobs", type=int, help="processes that make features; one for each core")


def run(options: argparse.Namespace) -> None:
    import attrs
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from costmodel import checkpoints
    from costmodel.ensemble_training import train_ensemble
    from costmodel.model import ModelConfig
    from costmodel.score_table import print_scores
    from costmodel.train import Epoch, TrainConfig

    sizes = checkpoints.THREE_FIT if options.size == "three-fit" else ModelConfig()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        bar = progress.add_task("making features", total=options.members * options.epochs)

        def report(member: int, epoch: Epoch) -> None:
            seen = epoch.validation
            line = (
                f"model {member + 1} of {options.members}, epoch {epoch.number + 1}: "
                f"{epoch.loss_name} {epoch.loss:.3g}"
                + ("" if seen is None else f", validation MAPE {seen.mape:.1f}%")
            )
            progress.update(bar, advance=1, description=line)
            if not console.is_terminal:
                console.print(line, highlight=False)

        ensemble, card = train_ensemble(
            options.folder,
            members=options.members,
            seed=options.seed,
            sizes=attrs.evolve(sizes, representation=options.representation),
            config=TrainConfig(loss=options.loss, epochs=options.epochs, batch=options.batch),
            jobs=options.jobs,
            report=report,
        )
    ensemble.save(options.output, options.storage)
    card.write(options.output.with_suffix(".json"), options.output)
    print_scores(card.scores, card.bins, "test")
    print(f"written to {options.output}, its card to {options.output.with_suffix('.json')}")
