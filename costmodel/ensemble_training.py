"""From a folder of measured schedules to an ensemble and its card."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import joblib
import numpy as np
import torch

from common import machine
from costmodel import dataset, shards
from costmodel.baselines import Constant
from costmodel.checkpoints import THREE_FIT
from costmodel.ensemble import Ensemble
from costmodel.features import FEATURE_VERSION, Representation
from costmodel.metrics import score
from costmodel.model import CostModel, ModelConfig
from costmodel.model_card import ModelCard
from costmodel.score_table import bins, scores_of
from costmodel.shards import Row
from costmodel.train import Epoch, Samples, TrainConfig, train

SPLITS = ("train", "validation", "test")
PROGRAMS_A_JOB = 16


def read_samples(
    folder: Path | str,
    representation: Representation = "compact",
    jobs: int | None = None,
    splits: Sequence[str] = SPLITS,
) -> dict[str, Samples]:
    """Features of a folder's labels, by split.

    jobs: processes; None for one on each core. Raises DatasetError for a folder without rows.
    """
    rows = shards.labels(shards.read_rows(folder))
    parts = [
        (split, part)
        for split in splits
        for part in _parts([row for row in rows if row.split == split])
    ]
    made: list[Samples] = joblib.Parallel(n_jobs=jobs or len(os.sched_getaffinity(0)))(
        joblib.delayed(Samples.of)(part, representation) for _, part in parts
    )
    found: dict[str, list[Samples]] = {split: [] for split in splits}
    for (split, _), samples in zip(parts, made, strict=True):
        found[split].append(samples)
    return {split: Samples.joined(each) for split, each in found.items()}


def _parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    by_program: dict[str, list[Row]] = {}
    for row in rows:
        by_program.setdefault(row.program_hash, []).append(row)
    programs = list(by_program.values())
    for at in range(0, len(programs), PROGRAMS_A_JOB):
        yield [row for each in programs[at : at + PROGRAMS_A_JOB] for row in each]


def train_ensemble(
    folder: Path | str,
    *,
    members: int = 3,
    seed: int = 0,
    sizes: ModelConfig = THREE_FIT,
    config: TrainConfig | None = None,
    jobs: int | None = None,
    report: Callable[[int, Epoch], None] = lambda member, epoch: None,
) -> tuple[Ensemble, ModelCard]:
    """Train recursive models from seeds seed, seed + 1, ... on the training programs of a folder.

    Of each, the epoch with the best scores on the validation programs stays. Test programs are
    looked at once, at the end, for the card.

    report: is told the number of the model and each of its epochs
    Raises DatasetError for a folder with too little in it.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    config = config or TrainConfig()
    samples = read_samples(folder, sizes.representation, jobs)
    validation = samples["validation"] if len(samples["validation"]) else None
    start = time.monotonic()
    models = []
    for member in range(members):
        own = attrs.evolve(config, seed=seed + member)
        torch.manual_seed(own.seed)
        model = CostModel(sizes)

        def told(epoch: Epoch, member: int = member) -> None:
            report(member, epoch)

        train(model, samples["train"], own, validation=validation, report=told)
        models.append(model)
    seconds = time.monotonic() - start
    ensemble = Ensemble(tuple(models))
    return ensemble, card_of(ensemble, samples, folder, attrs.evolve(config, seed=seed), seconds)


def card_of(
    ensemble: Ensemble,
    samples: dict[str, Samples],
    folder: Path | str,
    config: TrainConfig,
    seconds: float,
) -> ModelCard:
    """The card of an ensemble trained on the samples of a folder."""
    first, test = ensemble.members[0], samples["test"]
    predicted = ensemble.predict_trees(test.trees)[0]
    constant = None
    if len(test):
        best = np.full(len(test), Constant.best_of(test.speedups).value)
        constant = score(test.speedups, best, test.programs).mape
    here = machine.fingerprint()
    return ModelCard(
        kind=first.kind,
        config=attrs.asdict(first.config),
        members=len(ensemble.members),
        parameters=sum(p.numel() for p in first.parameters()),
        feature_version=FEATURE_VERSION,
        training={**attrs.asdict(config), "seconds": round(seconds, 1)},
        trained_on={"cpu": here.cpu, "torch": torch.__version__},
        data=attrs.asdict(dataset.describe(folder)),
        scores={name: scores_of(ensemble, s) for name, s in samples.items() if len(s)},
        bins=bins(test.speedups, predicted),
        best_constant_mape=constant,
    )
