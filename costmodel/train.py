"""Training: AdamW with one cycle of the learning rate, as in the authors' code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import numpy as np
import torch
from attrs.validators import ge, gt, le
from numpy.typing import NDArray

from costmodel.errors import DatasetError, UnsupportedProgram
from costmodel.features import Representation, Tree, featurize
from costmodel.ir import Program
from costmodel.losses import LossName, loss
from costmodel.metrics import Scores, score
from costmodel.predictor import HIGHEST, LOWEST, Predictor, batches_of, predict_batches
from costmodel.schedule import apply
from costmodel.shards import Row
from costmodel.tree_batch import Forest, TreeBatch


@attrs.frozen
class TrainConfig:
    """How to train; epochs, batch, rate and warm-up are not those of the authors' code.

    batch: trees a step, of any shapes
    warm_up: share of the epochs that lower the error of logarithms before MAPE. MAPE is at most
           100% for whatever is predicted too low, and through an exponential it has next to no
           slope there: samples begun too low stay so, and at a high learning rate more and more
           become so. 0 is the paper
    """

    loss: LossName = "mape"
    epochs: int = attrs.field(default=60, validator=ge(1))
    batch: int = attrs.field(default=256, validator=ge(1))
    max_rate: float = attrs.field(default=1.5e-3, validator=gt(0))
    weight_decay: float = 0.00375
    warm_up: float = attrs.field(default=0.75, validator=[ge(0), le(1)])
    clip: float = 5.0
    seed: int = 0


@attrs.frozen(eq=False)
class Samples:
    """Trees with labels.

    speedups: (n,) float64, cut to 0.005 .. 128;  programs: (n,) int64, numbers of programs
    """

    trees: tuple[Tree, ...]
    speedups: NDArray[np.float64]
    programs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.trees)

    @staticmethod
    def of(rows: Sequence[Row], representation: Representation = "compact") -> Samples:
        """Features of rows that are labels. Rows the features have no room for are left out."""
        trees: list[Tree] = []
        speedups: list[float] = []
        programs: list[int] = []
        numbers: dict[str, int] = {}
        parsed: dict[str, Program] = {}
        for row in rows:
            if row.speedup is None:
                continue
            if row.program_hash not in parsed:
                parsed = {row.program_hash: Program.parse(row.program_text)}
            try:
                scheduled = apply(parsed[row.program_hash], row.schedule_text)
                trees.append(featurize(scheduled, representation))
            except UnsupportedProgram:
                continue
            speedups.append(row.speedup)
            programs.append(numbers.setdefault(row.program_hash, len(numbers)))
        labels = np.clip(np.array(speedups, dtype=np.float64), LOWEST, HIGHEST)
        return Samples(tuple(trees), labels, np.array(programs, dtype=np.int64))

    @staticmethod
    def joined(parts: Sequence[Samples]) -> Samples:
        """Samples of different programs together; programs are numbered anew."""
        starts = np.cumsum([0, *(len(np.unique(part.programs)) for part in parts)])
        numbers = [
            np.unique(part.programs, return_inverse=True)[1] + start
            for part, start in zip(parts, starts, strict=False)
        ]
        return Samples(
            tuple(tree for part in parts for tree in part.trees),
            np.concatenate([np.empty(0), *(part.speedups for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *numbers]),
        )


@attrs.frozen
class Epoch:
    """What one pass over the training set came to; validation is None without such samples.

    loss: the mean over the pass of the loss named loss_name
    """

    number: int
    loss_name: LossName
    loss: float
    seconds: float
    validation: Scores | None


def train(
    model: Predictor,
    samples: Samples,
    config: TrainConfig | None = None,
    *,
    validation: Samples | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Train in place; features are scaled by these samples. The model is left ready to predict.

    With validation samples the weights of the epoch with the least validation MAPE stay (the
    greatest nDCG for the ranking loss), without them those of the last.
    Raises DatasetError for fewer than two programs or labels that are all equal.
    """
    config = config or TrainConfig()
    check(samples)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    device = next(model.parameters()).device
    model.fit_scaling(samples.trees)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.max_rate, weight_decay=config.weight_decay, fused=True
    )
    forest = Forest.of(samples.trees)
    unseen = [] if validation is None else [*batches_of([model], validation.trees)]
    steps = sum(1 for _ in _batches(samples, config, np.random.default_rng(0)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.max_rate, total_steps=config.epochs * steps
    )
    epochs: list[Epoch] = []
    best, kept = np.inf, None
    for number in range(config.epochs):
        start, total = time.perf_counter(), 0.0
        is_warm_up = config.loss == "mape" and number < config.warm_up * config.epochs
        name: LossName = "log" if is_warm_up else config.loss
        model.train()
        for chosen in _batches(samples, config, rng):
            batch = forest.pick(chosen).batch()
            measured = torch.tensor(samples.speedups[chosen], dtype=torch.float32, device=device)
            _, groups = np.unique(samples.programs[chosen], return_inverse=True)
            value = loss(name, model(batch), measured, torch.from_numpy(groups).to(device))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            schedule.step()
            total += value.item() * len(chosen)
        seconds = time.perf_counter() - start
        scores = None if validation is None else evaluate(model, validation, unseen)
        epochs.append(Epoch(number, name, total / len(samples), seconds, scores))
        report(epochs[-1])
        if scores is not None:
            value_now = -scores.ndcg if config.loss == "ndcg" else scores.mape
            if value_now < best:
                best = value_now
                kept = {name: part.clone() for name, part in model.state_dict().items()}
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    return epochs


def evaluate(
    model: Predictor, samples: Samples, batches: Iterable[TreeBatch] | None = None
) -> Scores:
    """Scores of a model's predictions.

    batches: the samples' trees as the model reads them (batches_of), where they are at hand
    """
    if batches is None:
        batches = batches_of([model], samples.trees)
    return score(samples.speedups, predict_batches([model], batches)[0], samples.programs)


def check(samples: Samples) -> None:
    """Raise DatasetError for samples nothing can be learned from."""
    n_programs = len(np.unique(samples.programs))
    if n_programs < 2:
        raise DatasetError(
            f"training needs labels of at least 2 programs, got {len(samples)} of {n_programs}"
        )
    if len(np.unique(samples.speedups)) < 2:
        raise DatasetError(
            f"training needs at least 2 different speedups, and all {len(samples)} are "
            f"{samples.speedups[0]:g}"
        )


def _batches(
    samples: Samples, config: TrainConfig, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Places of the samples of each step, in random order.

    For the ranking loss programs stay together, since only schedules of one program are compared.
    """
    if config.loss != "ndcg":
        order = rng.permutation(len(samples))
        yield from np.array_split(order, -(-len(order) // config.batch))
        return
    n = int(samples.programs.max()) + 1
    rank = rng.permutation(n)[samples.programs]
    order = np.argsort(rank, kind="stable")
    first = 0
    while first < len(order):
        end = min(first + config.batch, len(order))
        # To the end of the program, so that none is cut in two.
        while end < len(order) and rank[order[end]] == rank[order[end - 1]]:
            end += 1
        yield order[first:end]
        first = end
