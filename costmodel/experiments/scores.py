"""Records of how well speedups were predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.experiment import Context

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

#: Fields of costmodel.metrics.Scores that are recorded, with their units.
UNITS = {
    "mape": "%",
    "median_ape": "%",
    "pearson": "",
    "spearman": "",
    "spearman_per_program": "",
    "ndcg": "",
    "ndcg_at_1": "",
}


def record_scores(
    ctx: Context,
    measured: ArrayLike,
    predicted: ArrayLike,
    program: ArrayLike,
    claims: Mapping[str, Sequence[str]] | None = None,
    **axes: Any,
) -> dict[str, float]:
    """Every score with the interval that drawing programs again gives; undefined ones are left out.

    claims: of each metric, those its record is judged by
    """
    from costmodel.bootstrap import intervals
    from costmodel.metrics import score

    scores, spans = score(measured, predicted, program), intervals(measured, predicted, program)
    found = {name: float(getattr(scores, name)) for name in UNITS}
    for name, value in found.items():
        if not math.isfinite(value):
            continue
        span = sorted((value, *(end for end in spans[name] if math.isfinite(end))))
        judges: list[str | None] = [*(claims or {}).get(name, ())]
        for claim in judges or [None]:
            ctx.record(
                claim,
                name,
                value,
                UNITS[name],
                low=span[0],
                high=span[-1],
                timed=True,
                **axes,
            )
    return found
