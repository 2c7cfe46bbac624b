"""Small pictures of ten classes to train on, drawn here so that nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

#: Rows and columns of a picture.
SIDE = 12
CLASSES = 10
NAMES = ("patterns", "digits")

# The digits 0 to 9, seven rows of five points each.
_GLYPHS = """
.###. ..#.. .###. .###. ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# #...# ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ..##. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


def draw(name: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (count, 1, SIDE, SIDE) float32 and their classes (count,) int64.

    patterns: ten fixed pictures of noise, each seen through as much noise again
    digits:   glyphs somewhere in the picture, of varying strength, under weaker noise

    Raises ValueError for another name.
    """
    import torch

    if name not in NAMES:
        raise ValueError(f"pictures must be one of {', '.join(NAMES)}, got {name!r}")
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, count)
    noise = rng.standard_normal((count, SIDE, SIDE))
    if name == "patterns":
        kinds = np.random.default_rng(0).standard_normal((CLASSES, SIDE, SIDE))
        pictures = kinds[classes] + noise
    else:
        pictures = 0.3 * noise
        strength = rng.uniform(0.7, 1.3, count)
        places = rng.integers(0, (SIDE - 7, SIDE - 5), (count, 2), endpoint=True)
        glyphs = _glyphs()
        for picture, which, factor, (top, left) in zip(
            pictures, classes, strength, places, strict=True
        ):
            picture[top : top + 7, left : left + 5] += factor * glyphs[which]
    shaped = pictures.astype(np.float32)[:, None]
    return torch.from_numpy(shaped), torch.from_numpy(classes.astype(np.int64))


def _glyphs() -> npt.NDArray[np.float64]:
    """(10, 7, 5), one where a digit is."""
    rows = [line.split() for line in _GLYPHS.strip().splitlines()]
    points = [[[point == "#" for point in row[d]] for row in rows] for d in range(CLASSES)]
    return np.array(points, np.float64)
