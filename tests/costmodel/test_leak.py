"""Nothing but the schedule tells a model what a schedule is worth."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np
import pytest
import torch

from costmodel.features import COMP_SIZES, LOOP_SIZE, Tree
from costmodel.model import CostModel, ModelConfig
from costmodel.train import Samples, TrainConfig, evaluate, train

SMALL = ModelConfig(comp_widths=(32,), embedding=16, merge_width=16, head_widths=(16,), dropout=0.0)
N_PROGRAMS, N_TRAINED, N_SCHEDULES = 100, 60, 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair_of_loops(rng: np.random.Generator) -> Tree:
    """One loop in another, one or two statements inside; most numbers of these are 0."""
    n = int(rng.integers(1, 3))
    comps = np.zeros((n, COMP_SIZES["compact"]), np.float32)
    comps[:, :12] = rng.normal(size=(n, 12))
    loops = rng.normal(size=(2, LOOP_SIZE)).astype(np.float32)
    return Tree(loops, comps, ((), (0,)), (tuple(range(n)), ()))


def families() -> Samples:
    """Programs as trees, of which the schedules differ in numbers a speedup is made of.

    The program has a part in it as well, so that a model which knows programs has an advantage.
    """
    rng = np.random.default_rng(0)
    trees: list[Tree] = []
    logs: list[float] = []
    for _ in range(N_PROGRAMS):
        plain = pair_of_loops(rng)
        for _ in range(N_SCHEDULES):
            comps, loops = plain.comps.copy(), plain.loops.copy()
            comps[:, 7:12] = rng.normal(size=(len(comps), 5))
            loops[-1, 3] = rng.normal()
            trees.append(attrs.evolve(plain, comps=comps, loops=loops))
            logs.append(comps[:, 7].mean() + 0.5 * loops[-1, 3] + 0.3 * plain.comps[:, 0].mean())
    return Samples(
        tuple(trees),
        np.exp(np.array(logs, dtype=np.float64)),
        np.repeat(np.arange(N_PROGRAMS), N_SCHEDULES),
    )


def part(samples: Samples, first: int, end: int) -> Samples:
    inside = (samples.programs >= first) & (samples.programs < end)
    trees = tuple(tree for tree, chosen in zip(samples.trees, inside, strict=True) if chosen)
    return Samples(trees, samples.speedups[inside], samples.programs[inside])


def permuted(samples: Samples) -> Samples:
    """Labels of each program in another order, so that each schedule has one of its fellows'."""
    rng = np.random.default_rng(1)
    speedups = samples.speedups.copy()
    for number in np.unique(samples.programs):
        own = np.flatnonzero(samples.programs == number)
        speedups[own] = speedups[rng.permutation(own)]
    return attrs.evolve(samples, speedups=speedups)


def spearman_per_program(samples: Samples) -> float:
    """On programs that were not trained on, by a model trained on the others."""
    torch.manual_seed(0)
    model = CostModel(SMALL)
    config = TrainConfig(loss="log", epochs=20, batch=64, max_rate=8e-3)
    train(model, part(samples, 0, N_TRAINED), config)
    return evaluate(model, part(samples, N_TRAINED, N_PROGRAMS)).spearman_per_program


def test_labels_permuted_within_programs_leave_nothing_to_know() -> None:
    """40 test programs of 8 schedules: chance gives a mean of 0 +- 1/sqrt(7 * 40) = 0.06."""
    samples = families()
    assert spearman_per_program(samples) > 0.7
    assert abs(spearman_per_program(permuted(samples))) < 4 * 0.06
