"""Streams of random numbers, one for each purpose, so that one never shifts another."""

import numpy as np

#: What is drawn, each from a stream of its own. Appending keeps the others as they are.
PURPOSES = ("traffic", "placement", "trees", "order", "paths")


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The stream of a purpose: it depends on the seed and on nothing drawn elsewhere."""
    root = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose),))
    return np.random.default_rng(root)
