"""How near to a normal distribution each rule of drawing cores brings the entries of the table."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from attrs.validators import deep_iterable, ge, in_, le

from common.experiment import Context
from ttrec.cardinalities import DATASETS
from ttrec.shapes import TTShape, suggest_shape

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from common.claims import Claim
    from common.report.charts import Chart

    Draw = Callable[[TTShape, torch.Generator], list[torch.Tensor]]

DATASET = DATASETS["kaggle"]
#: Rules of equal table variance; the published scale has the shape of sampled_gaussian.
INITS = ("gaussian", "uniform", "sampled_gaussian")
#: The rank at which the order of the rules is judged; at larger ones all come near to the normal.
JUDGED_RANK = 8
#: The KS distance is taken at this many equal steps of the normal distribution.
STEPS = 4096
#: Densities are drawn between -SPREAD and SPREAD standard deviations, in bins this wide.
SPREAD, BIN = 4.0, 0.25


@attrs.frozen
class Settings:
    """rows: of a table with published factors;  inits: rules compared;  ranks: of its cores.

    cores: how many the table has; factors are the published ones for 3 and suggested otherwise
    cuts: Gaussian cores with |z| below this redrawn, besides the rules
    draws: of all cores, independent;  rows_per_draw: rows looked up in each, uniformly
    """

    rows: int = attrs.field(validator=ge(1))
    inits: list[str] = attrs.field(validator=deep_iterable(in_(INITS)))
    ranks: list[int] = attrs.field(validator=deep_iterable(ge(1)))
    cores: list[int] = attrs.field(validator=deep_iterable([ge(2), le(5)]))
    cuts: list[float] = attrs.field(validator=deep_iterable([ge(0), le(8)]))
    draws: int = attrs.field(validator=ge(2))
    rows_per_draw: int = attrs.field(validator=ge(1))


def run(settings: Settings, ctx: Context) -> None:
    """Compare table entries with N(0, 1/(3n)), the normal nearest to the rows of dense DLRM."""
    cells = [(d, rank) for d in settings.cores for rank in settings.ranks]
    for d, rank in ctx.progress(cells, "shape"):
        shape = _shape(settings.rows, d, rank)
        for name, (draw, fourth) in _rules(settings).items():
            axes = {"rows": settings.rows, "cores": d, "rank": rank, "init": name}
            # The rules themselves at the paper's number of cores; a cut is not a rule of its own.
            is_claimed = d == 3 and name in INITS
            _run_cell(settings, ctx, shape, draw, fourth, is_claimed, axes)


def _shape(rows: int, d: int, rank: int) -> TTShape:
    """The published factors for 3 cores; with more, outer ranks no larger than is useful."""
    if d == 3:
        return suggest_shape(rows, DATASET.dim, rank, preset="paper")
    return suggest_shape(rows, DATASET.dim, rank, d, clamp_rank=True)


def _rules(settings: Settings) -> "dict[str, tuple[Draw, float]]":
    """How to draw the cores, and the fourth moment of their entries over the squared second."""
    from ttrec import init

    def by(rule: init.Init) -> "Draw":
        return lambda shape, generator: init.make_cores(shape, rule, generator=generator)

    fourth = {"gaussian": 3.0, "uniform": 1.8, "sampled_gaussian": cut_fourth(init.CUT)}
    rules = {name: (by(cast("init.Init", name)), fourth[name]) for name in settings.inits}
    cuts = {cut: by(init.CutGaussian(cut)) for cut in settings.cuts}
    return rules | {f"cut {cut:g}": (draw, cut_fourth(cut)) for cut, draw in cuts.items()}


def cut_fourth(cut: float) -> float:
    """E[z^4] / E[z^2]^2 of a standard normal z given |z| >= cut."""
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    hazard = density / (math.erfc(cut / math.sqrt(2)) / 2)
    return (3 + (cut**3 + 3 * cut) * hazard) / (1 + cut * hazard) ** 2


def excess_kurtosis(ranks: tuple[int, ...], fourth: float) -> float:
    """Exact excess kurtosis of a table entry whose core entries are independent, of mean 0.

    fourth: E[g^4] / E[g^2]^2 of a core entry. With v a row of the chain so far, of variance 1 an
    entry before the sum over ranks: E[w_b^4] = R fourth E[v_a^4] + 3 R (R-1) E[v_a^2 v_c^2] and
    E[w_b^2 w_c^2] = R E[v_a^4] + R (R-1) E[v_a^2 v_c^2].
    """
    power, product, variance = fourth, 1.0, 1.0
    for r in ranks:
        power, product = (
            r * fourth * power + 3 * r * (r - 1) * product,
            r * power + r * (r - 1) * product,
        )
        variance *= r
    return power / variance**2 - 3


def _run_cell(
    settings: Settings,
    ctx: Context,
    shape: TTShape,
    draw: "Draw",
    fourth: float,
    is_claimed: bool,
    axes: dict[str, Any],
) -> None:
    import numpy as np
    import torch

    from ttrec import reference
    from ttrec.init import table_variance

    deviation = math.sqrt(table_variance(shape, "gaussian"))
    steps, moments, density = [], [], []
    generator = ctx.torch_rng("/".join(map(str, axes.values())))
    for _ in range(settings.draws):
        index = torch.randint(0, shape.rows, (settings.rows_per_draw,), generator=generator)
        cores = draw(shape, generator)
        entries = reference.rows(cores, index).flatten().double() / deviation
        # Through the normal's distribution function a normal becomes uniform on (0, 1).
        steps.append(torch.histc(torch.special.ndtr(entries), STEPS, 0, 1).numpy())
        moments.append([float(entries.square().mean()), float(entries.pow(4).mean())])
        density.append(torch.histc(entries, round(2 * SPREAD / BIN), -SPREAD, SPREAD).numpy())
    n_entries = settings.rows_per_draw * shape.dim
    shares = np.stack(steps) / n_entries
    powers = np.array(moments)
    at = np.arange(1, STEPS + 1) / STEPS

    def ks(kept: Any) -> float:
        return float(np.abs(np.cumsum(shares[kept].mean(0)) - at).max())

    def kurtosis(kept: Any) -> float:
        second, fourth = powers[kept].mean(0)
        return float(fourth / second**2 - 3)

    def variance(kept: Any) -> float:
        return float(powers[kept, 0].mean())

    is_judged = is_claimed and axes["rank"] == JUDGED_RANK
    claim = "ttrec.ours.init_ks_order" if is_judged else None
    of_variance = "ttrec.ours.init_variance" if is_claimed else None
    for claim_id, metric, statistic, unit in (
        (claim, "ks_distance", ks, ""),
        (of_variance, "variance_ratio", variance, "x"),
        (None, "excess_kurtosis", kurtosis, ""),
    ):
        value, half = _jackknife(statistic, settings.draws)
        ctx.record(claim_id, metric, value, unit, low=value - half, high=value + half, **axes)
    exact = excess_kurtosis(shape.ranks, fourth)
    ctx.record(None, "excess_kurtosis_formula", exact, "", **axes)
    heights = np.stack(density).mean(0) / n_entries / BIN
    for bin_number, height in enumerate(heights):
        middle = (bin_number + 0.5) * BIN - SPREAD
        ctx.record(None, "density", float(height), "", **axes, deviations=middle)


def _jackknife(statistic: Callable[[Any], float], n: int) -> tuple[float, float]:
    """Value over all draws, and half its 95% interval, from leaving each draw out.

    Entries of one draw share its cores, so only whole draws are independent.
    """
    import numpy as np

    everything = np.arange(n)
    without = np.array([statistic(everything != left_out) for left_out in range(n)])
    half = 1.96 * math.sqrt((n - 1) * float(without.var()))
    return statistic(everything), half


def charts(frame: "pd.DataFrame", claims: "Mapping[str, Claim]") -> "list[Chart]":
    """Distance to the normal and kurtosis by rank, and the densities beside the normal's own."""
    import pandas as pd

    from common.report.charts import bars, lines

    frame = frame.assign(
        setting=[
            f"R={int(rank)}, {int(cores)} cores"
            for rank, cores in zip(frame["axis.rank"], frame["axis.cores"], strict=True)
        ]
    )
    entries = "Entries of the table against N(0, 1/(3n)), the normal nearest to dense DLRM's rows. "
    found = [
        bars(
            frame[frame["metric"] == metric],
            "setting",
            title,
            entries + text,
            color="axis.init",
            y_title=y_title,
        )
        for metric, title, y_title, text in (
            (
                "ks_distance",
                "Distance from the normal by rule",
                "Kolmogorov-Smirnov distance",
                "All rules have the same variance. Intervals are over draws of the cores.",
            ),
            (
                "excess_kurtosis",
                "Excess kurtosis by rule",
                "excess kurtosis",
                "0 for a normal; above it there is too much mass near zero and in the tails.",
            ),
        )
    ]
    density = frame[(frame["metric"] == "density") & (frame["axis.cores"] == 3)]
    density = density[density["axis.init"].isin(INITS)]
    if len(density):
        places = density[["setting", "axis.deviations"]].drop_duplicates()
        normal = places.assign(
            value=[
                math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in places["axis.deviations"]
            ],
            **{"axis.init": "normal", "metric": "density", "unit": ""},
        )
        found.append(
            lines(
                pd.concat([density, normal]),
                "axis.deviations",
                "Density of table entries",
                "Share of entries by distance from zero. Cores without values near zero undo the "
                "pile-up there that products of Gaussians have.",
                color="axis.init",
                column="setting",
                x_title="standard deviations",
                y_title="density",
            )
        )
    return found
