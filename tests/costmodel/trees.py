"""Random trees, and trees of random programs."""

from __future__ import annotations

import numpy as np

from costmodel.features import COMP_SIZES, LOOP_SIZE, Representation, Tree, featurize
from costmodel.random_programs import random_program
from costmodel.random_schedules import random_schedules
from costmodel.schedule import Schedule, apply


def random_tree(rng: np.random.Generator, representation: Representation = "compact") -> Tree:
    """Up to 4 loops deep, up to 3 children each; some loops have no statement or no loop inside."""
    child_loops: list[tuple[int, ...]] = []
    child_comps: list[tuple[int, ...]] = []
    n_comps = 0

    def visit(depth: int) -> int:
        nonlocal n_comps
        inner = tuple(visit(depth + 1) for _ in range(rng.integers(0, 3) if depth < 4 else 0))
        own = int(rng.integers(0 if inner else 1, 4))
        child_loops.append(inner)
        child_comps.append(tuple(range(n_comps, n_comps + own)))
        n_comps += own
        return len(child_loops) - 1

    visit(0)
    return Tree(
        rng.normal(size=(len(child_loops), LOOP_SIZE)).astype(np.float32),
        rng.normal(size=(n_comps, COMP_SIZES[representation])).astype(np.float32),
        tuple(child_loops),
        tuple(child_comps),
    )


def random_trees(n: int, seed: int = 0, representation: Representation = "compact") -> list[Tree]:
    rng = np.random.default_rng(seed)
    return [random_tree(rng, representation) for _ in range(n)]


def program_trees(
    n_programs: int, n_schedules: int, representation: Representation = "compact"
) -> list[Tree]:
    """Trees of random programs with legal schedules, the plain program first."""
    found = []
    for seed in range(n_programs):
        program = random_program(seed, "small")
        for schedule in [Schedule(), *random_schedules(program, n_schedules - 1, seed)]:
            found.append(featurize(apply(program, schedule), representation))
    return found
