"""The same layer on many short sequences (README of the authors' code: 1.20x)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.experiment import Context
from transformer_dm.experiments import encoder
from transformer_dm.experiments.encoder import Settings

if TYPE_CHECKING:
    import pandas as pd

    from common.claims import Claim
    from common.report.charts import Chart

__all__ = ["Settings", "charts", "run"]

NAME = "transformer_dm_encoder_s2"


def run(settings: Settings, ctx: Context) -> None:
    """Compare at the paper's second size, or at a part of it."""
    encoder.measure(NAME, settings, ctx)


def charts(frame: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Chart]:
    """As for the first size."""
    return encoder.charts(frame, claims)
