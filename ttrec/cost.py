"""The least a TT training step must do, to set a measured time against the machine's limit."""

import math

import numpy as np

from ttrec.shapes import TTShape


def step_work(
    shape: TTShape, indices: np.ndarray[tuple[int], np.dtype[np.int64]], batch: int
) -> tuple[float, float]:
    """Floating point operations and bytes of one forward + backward + SGD step at least.

    A product belongs to a digit prefix (i1, ..., ik), so each distinct prefix of the batch counts
    once, however often it is looked up: 2 * Q_{k-1} * r_{k-1} * q_k * r_k operations forward, and
    twice that backward. What is recomputed or repeated is no useful work. Bytes: touched slices
    read and written, pooled rows written and their gradient read, indices and bounds read.
    """
    r = shape.full_ranks
    flops, core_floats, width = 0, 0, 1
    for k in range(shape.d):
        below = math.prod(shape.p[k + 1 :])
        prefixes = np.unique(indices // below)
        if k > 0:
            flops += 3 * 2 * prefixes.size * width * r[k] * shape.q[k] * r[k + 1]
        width *= shape.q[k]
        core_floats += np.unique(prefixes % shape.p[k]).size * r[k] * shape.q[k] * r[k + 1]
    moved = 2 * 4 * core_floats + 2 * 4 * batch * shape.dim + 8 * (indices.size + batch + 1)
    return float(flops), float(moved)
