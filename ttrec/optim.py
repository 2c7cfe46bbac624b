"""Specifications of the optimizers that backward can apply to the cores itself."""

import math
from typing import Any

import attrs


def _not_negative(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{attribute.name} must be finite and at least 0, got {value}")


def _rate() -> Any:
    return attrs.field(converter=float, validator=_not_negative)


@attrs.frozen
class SGD:
    """Plain stochastic gradient descent: core -= lr * gradient.

    Equals torch.optim.SGD without momentum or weight decay. ValueError unless lr is finite and
    not negative.
    """

    lr: float = _rate()


@attrs.frozen
class Adagrad:
    """Adagrad: state += gradient**2; core -= lr * gradient / (sqrt(state) + eps).

    Equals torch.optim.Adagrad on the dense gradient: untouched slices have gradient 0 and stay.
    """

    lr: float = _rate()
    eps: float = attrs.field(default=1e-10, converter=float, validator=_not_negative)


@attrs.frozen
class RowwiseAdagrad:
    """Adagrad with one state a core slice: state[i] += mean(gradient[i]**2), the rest alike.

    A slice, not a table row, is what a digit owns; so states are as few as the digits.
    """

    lr: float = _rate()
    eps: float = attrs.field(default=1e-10, converter=float, validator=_not_negative)


Optimizer = SGD | Adagrad | RowwiseAdagrad
