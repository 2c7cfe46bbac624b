"""The sums that panama.wire defines, for many beats of which each may have other members."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from panama.wire import FORMATS, tree_add

Words = NDArray[np.uint32]


def tree_sums(data: Words, member: NDArray[np.bool_], fmt: str = "fp32") -> Words:
    """What the tree must give.

    data:    (beats, ports, words) the bits on each port; for bf16 a word is two numbers
    member:  (beats, ports), at least one of each beat
    returns: (beats, words)
    """
    beats, ports, words = data.shape
    total = np.empty((beats, words), np.uint32)
    patterns, which = np.unique(member, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        at = np.flatnonzero(which.ravel() == number)
        places = np.flatnonzero(pattern)
        rows = [
            np.ascontiguousarray(data[at, place]).view(FORMATS[fmt].dtype).ravel()
            for place in places
        ]
        some = tree_add(rows, ports=places.tolist(), P=ports)
        total[at] = some.view(np.uint32).reshape(len(at), words)
    return total
