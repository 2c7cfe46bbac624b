"""Initial values of tensor-train cores, with the exact variance of the table they make.

Entries of all cores are independent with mean 0. A table entry is a sum of prod(ranks) products of
d entries, so Var(W) = prod(s_k^2) * prod(ranks) with s_k the standard deviation of core k. All
rules but the published one choose equal s_k that give the target variance, 1/(3n) by default:
that of the uniform distribution on +-1/sqrt(n) dense DLRM rows start from.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import attrs
import torch
from torch import Tensor

from ttrec.shapes import TTShape
from ttrec.versions import check_torch_pair

check_torch_pair()

Rule = Literal["sampled_gaussian", "gaussian", "uniform", "sampled_gaussian_published"]
INITS: tuple[str, ...] = get_args(Rule)

#: |z| below this is redrawn by the published sampler.
CUT = 2.0


@attrs.frozen
class CutGaussian:
    """The sampled Gaussian with another cut: z with |z| >= cut, scaled to the target variance.

    cut 0 is "gaussian", cut 2 is "sampled_gaussian". ValueError for a cut outside 0..8, beyond
    which no float32 entry differs from its sign.
    """

    cut: float = attrs.field(converter=float)

    @cut.validator
    def _check(self, _: object, value: float) -> None:
        if not 0 <= value <= 8:
            raise ValueError(f"cut must lie in 0..8, got {value}")


#: How to draw core entries: the name of a rule, or the sampled Gaussian with a cut of one's own.
Init = Rule | CutGaussian


def cut_variance(cut: float = CUT) -> float:
    """Variance of a standard normal z given |z| >= cut: 1 + cut * density(cut) / tail(cut)."""
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    tail = math.erfc(cut / math.sqrt(2)) / 2
    return float(1 + cut * density / tail)


def target_variance(n_rows: int) -> float:
    """Variance of dense DLRM rows, U(-1/sqrt(n), 1/sqrt(n)): 1/(3n)."""
    return 1 / (3 * n_rows)


def entry_variance(shape: TTShape, init: Init, target_var: float | None = None) -> float:
    """Variance of one core entry under a rule; see the module's head for the equation.

    The published rule scales z, |z| >= 2, by (1/(3n))^(1/(2d)) and corrects for neither the
    variance of z nor the ranks.
    """
    check_init(init)
    if init == "sampled_gaussian_published":
        return float(cut_variance() * target_variance(shape.rows) ** (1 / shape.d))
    wanted = target_variance(shape.rows) if target_var is None else target_var
    if not (math.isfinite(wanted) and wanted > 0):
        raise ValueError(f"target_var must be finite and above 0, got {wanted}")
    return float((wanted / math.prod(shape.ranks)) ** (1 / shape.d))


def table_variance(shape: TTShape, init: Init, target_var: float | None = None) -> float:
    """Exact variance of the table entries a rule gives."""
    return entry_variance(shape, init, target_var) ** shape.d * math.prod(shape.ranks)


def make_cores(
    shape: TTShape,
    init: Init = "sampled_gaussian",
    *,
    target_var: float | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Draw all cores, core k of shape (p_k, r_{k-1}, q_k, r_k).

    sampled_gaussian            normal with |z| < 2 cut out, scaled to the target variance
    gaussian, uniform           scaled to the target variance
    sampled_gaussian_published  the published scale, see `entry_variance`
    CutGaussian(cut)            as sampled_gaussian with another cut

    Raises ValueError for another name.
    """
    scale = math.sqrt(entry_variance(shape, init, target_var))
    if isinstance(init, CutGaussian):
        scale /= math.sqrt(cut_variance(init.cut))
        draw: _Draw = functools.partial(sampled_gaussian, cut=init.cut)
    else:
        scale /= math.sqrt(cut_variance()) if init.startswith("sampled") else 1.0
        draw = _DRAWS[init]
    return [(draw(s, generator) * scale).to(dtype) for s in shape.core_shapes]


def sampled_gaussian(
    size: Sequence[int], generator: torch.Generator | None = None, cut: float = CUT
) -> Tensor:
    """Standard normal values conditioned on |z| >= cut, float64, by inverse CDF.

    No rejection: |z| = -ndtri(u * tail(cut)) with u uniform in (0, 1], and a sign.
    """
    tail = math.erfc(cut / math.sqrt(2)) / 2
    u = torch.rand(*size, generator=generator, dtype=torch.float64)
    sign = torch.where(u < 0.5, -1.0, 1.0).to(torch.float64)
    # Each half of the uniform range, stretched to (0, 1], gives one magnitude.
    u = 1 - torch.where(u < 0.5, 2 * u, 2 * u - 1)
    # At u = 1 rounding may fall a hair below the cut.
    magnitude: Tensor = -torch.special.ndtri(u * tail)
    return sign * magnitude.clamp(min=cut)


def _normal(size: Sequence[int], generator: torch.Generator | None) -> Tensor:
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def _uniform(size: Sequence[int], generator: torch.Generator | None) -> Tensor:
    u = torch.rand(*size, generator=generator, dtype=torch.float64)
    return (2 * u - 1) * math.sqrt(3.0)  # variance 1


_Draw = Callable[[Sequence[int], torch.Generator | None], Tensor]
_DRAWS: dict[str, _Draw] = {
    "sampled_gaussian": sampled_gaussian,
    "sampled_gaussian_published": sampled_gaussian,
    "gaussian": _normal,
    "uniform": _uniform,
}


def check_init(init: Init) -> None:
    """Raise ValueError naming the rules for anything that is none."""
    if not isinstance(init, CutGaussian) and init not in INITS:
        raise ValueError(f"init must be CutGaussian or one of {', '.join(INITS)}, got {init!r}")
