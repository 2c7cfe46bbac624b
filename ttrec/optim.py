"""Specifications of the optimizers that backward can apply to the cores itself."""

import math

import attrs


@attrs.frozen
class SGD:
    """Plain stochastic gradient descent: core -= lr * gradient.

    Equals torch.optim.SGD without momentum or weight decay. ValueError unless lr is finite and
    not negative.
    """

    lr: float = attrs.field(converter=float)

    @lr.validator
    def _check(self, _: object, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"lr must be finite and at least 0, got {value}")
