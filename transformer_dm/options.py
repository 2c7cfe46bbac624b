"""How a fused encoder layer computes: everything but its tensors."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from transformer_dm import philox

__all__ = ["ACTIVATIONS", "PLANS", "SITES", "Activation", "Options", "Plan", "Rates", "rates_of"]

#: Least data moved first. "flash": fused kernels, no scores in memory. "ours": fused kernels around
#: stored scores. "paper": the kernels of the paper. "unfused": plain torch.
Plan = Literal["flash", "ours", "paper", "unfused"]
PLANS: tuple[Plan, ...] = get_args(Plan)
Activation = Literal["relu", "gelu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
#: Where a layer drops elements, in the order of philox's streams.
SITES = ("attention", "after attention", "activation", "after linear 2")
Rates = tuple[float, float, float, float]


# A tuple rather than attrs.frozen: torch.compile traces through its construction.
class Options(NamedTuple):
    """What one call of a layer does.

    rates:      dropout at each of SITES
    eps:        of the two layer normalisations
    is_causal:  no query attends to a later key
    recompute_activation: backward computes the dropped activation again instead of keeping it
    is_deterministic: only products whose bits repeat for any number of threads
    """

    plan: Plan
    heads: int
    activation: Activation
    rates: Rates
    eps: tuple[float, float]
    norm_first: bool
    is_causal: bool
    recompute_activation: bool
    is_deterministic: bool


def rates_of(dropout: float | tuple[float, float, float, float]) -> Rates:
    """One rate for all sites, or one for each: always four.

    Raises ValueError naming the site of a rate outside 0..1, or for a tuple of another length.
    """
    rates = tuple(dropout) if isinstance(dropout, tuple | list) else (dropout,) * len(SITES)
    if len(rates) != len(SITES):
        raise ValueError(
            f"dropout must be one rate or {len(SITES)} ({', '.join(SITES)}), got {len(rates)}"
        )
    for site, rate in zip(SITES, rates, strict=True):
        if not 0 <= rate <= 1:  # false for NaN
            raise ValueError(f"dropout {site} must be a probability from 0 to 1, got {rate}")
    first, second, third, fourth = (float(rate) for rate in rates)
    return first, second, third, fourth


def drops(rates: Rates) -> bool:
    """True if any site drops at all once its rate is rounded to 16 bits."""
    return any(rate and philox.threshold(rate) for rate in rates)
