"""From a folder of measured schedules to an ensemble and its card."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import tempfile
import threading
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
from costmodel.sample_sets import samples_of
from costmodel.score_table import bins, scores_of
from costmodel.train import Epoch, Samples, TrainConfig, train

SPLITS = ("train", "validation", "test")
POLL_S = 0.5


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
    return {
        split: samples_of([row for row in rows if row.split == split], representation, jobs)
        for split in splits
    }


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

    jobs:   processes, for features and for members side by side; None for one on each core
    report: is told the number of the model and each of its epochs
    Raises DatasetError for a folder with too little in it.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    config = config or TrainConfig()
    samples = read_samples(folder, sizes.representation, jobs)
    start = time.monotonic()
    work = _Work(sizes, config, samples["train"], samples["validation"])
    seeds = range(seed, seed + members)
    at_a_time = min(members, jobs or len(os.sched_getaffinity(0)))
    models = (
        [work.train(each, functools.partial(report, each - seed)) for each in seeds]
        if at_a_time == 1
        else _on_processes(work, seeds, at_a_time, report)
    )
    seconds = time.monotonic() - start
    ensemble = Ensemble(tuple(models))
    return ensemble, card_of(ensemble, samples, folder, attrs.evolve(config, seed=seed), seconds)


@attrs.frozen(eq=False)
class _Work:
    """What members have in common."""

    sizes: ModelConfig
    config: TrainConfig
    samples: Samples
    validation: Samples

    def train(self, seed: int, report: Callable[[Epoch], None]) -> CostModel:
        torch.manual_seed(seed)
        model = CostModel(self.sizes)
        config = attrs.evolve(self.config, seed=seed)
        validation = self.validation if len(self.validation) else None
        train(model, self.samples, config, validation=validation, report=report)
        return model


def _on_processes(
    work: _Work, seeds: Sequence[int], at_a_time: int, report: Callable[[int, Epoch], None]
) -> list[CostModel]:
    """Members side by side, a thread each: their steps are too small for two."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(seed) for seed in seeds]
        with _followed(logs, report):
            models: list[CostModel] = joblib.Parallel(at_a_time)(
                joblib.delayed(_member)(work, *each) for each in zip(seeds, logs, strict=True)
            )
    return models


def _member(work: _Work, seed: int, log: Path) -> CostModel:
    torch.set_num_threads(1)
    with log.open("wb", buffering=0) as told:
        return work.train(seed, lambda epoch: pickle.dump(epoch, told))


@contextlib.contextmanager
def _followed(logs: Sequence[Path], report: Callable[[int, Epoch], None]) -> Iterator[None]:
    """Report what processes write to their logs meanwhile."""
    ended = threading.Event()
    told = [0] * len(logs)

    def follow() -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(POLL_S)
            for member, log in enumerate(logs):
                for epoch in _epochs(log)[told[member] :]:
                    report(member, epoch)
                    told[member] += 1

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _epochs(log: Path) -> list[Epoch]:
    """Those that are written whole."""
    found: list[Epoch] = []
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError):
        file = io.BytesIO(log.read_bytes())
        while True:
            found.append(pickle.load(file))
    return found


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
