"""error = scale * n ** -exponent: how an error falls with the size of the training set."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import ArrayLike


@attrs.frozen
class PowerLaw:
    """A line in logarithms, by least squares.

    low, high: 95% interval of the exponent, from the distances of the points to the line
    """

    scale: float
    exponent: float
    low: float
    high: float

    @staticmethod
    def fit(n: ArrayLike, error: ArrayLike) -> PowerLaw:
        """Raises ValueError for fewer than three points or values that are not positive."""
        from scipy import stats

        x, y = np.asarray(n, dtype=np.float64), np.asarray(error, dtype=np.float64)
        if len(x) != len(y) or len(np.unique(x)) < 3 or (x <= 0).any() or (y <= 0).any():
            raise ValueError(
                "a power law needs positive errors at three or more sizes, got "
                f"{list(zip(x.tolist(), y.tolist(), strict=False))}"
            )
        line = stats.linregress(np.log(x), np.log(y))
        half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
        exponent = -float(line.slope)
        return PowerLaw(float(np.exp(line.intercept)), exponent, exponent - half, exponent + half)

    def at(self, n: float) -> float:
        """The error expected of a training set of this size."""
        return float(self.scale * n**-self.exponent)

    def needed(self, error: float) -> float:
        """The size that is expected to reach an error; inf where the error does not fall."""
        if self.exponent <= 0:
            return float("inf")
        return float((self.scale / error) ** (1 / self.exponent))
