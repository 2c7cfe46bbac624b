"""python -m costmodel evaluate data/ --model model.pt"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="rows written by `generate`")
    parser.add_argument("--model", default="default", help="checkpoint")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        default="all",
        help="the bins of speedups are of the test programs, or of this split",
    )
    parser.add_argument("--jobs", type=int, help="processes that make features; one for each core")


def run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from costmodel.checkpoints import load_model
    from costmodel.ensemble_training import SPLITS, read_samples
    from costmodel.errors import DatasetError
    from costmodel.score_table import bins, print_scores, scores_of

    ensemble = load_model(options.model)
    splits = SPLITS if options.split == "all" else (options.split,)
    with Console(stderr=True).status("making features and predictions"):
        samples = read_samples(options.folder, ensemble.representation, options.jobs, splits)
        found = {name: scores_of(ensemble, part) for name, part in samples.items() if len(part)}
        if not found:
            raise DatasetError(f"{options.folder.name} has no label in {' or '.join(splits)}")
        shown = "test" if "test" in found else next(reversed(found))
        part = samples[shown]
        by_bin = bins(part.speedups, ensemble.predict_trees(part.trees)[0])
    print_scores(found, by_bin, shown)
