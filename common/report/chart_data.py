"""The rows behind a chart: measured and paper values in one frame, each series with its look."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pandas as pd

from common.report.style import PALETTE, PAPER_STYLE, Style, styles

#: Column names of the plain frame; "x" and "value" are the two places of a mark.
PANEL = "panel"
SYSTEM = "system"


@attrs.frozen
class Look:
    """How one legend entry is drawn: filled for what ran here, hollow for the paper's values."""

    style: Style
    hollow: bool


def gather(
    rows: pd.DataFrame,
    x: str,
    y: str,
    color: str,
    column: str | None,
    paper: pd.DataFrame | None,
) -> tuple[pd.DataFrame, dict[str, Look]]:
    """Bring measured and paper rows into one plain frame and give each legend entry its look.

    Columns of the frame: x, value, low, high, system, panel (if column is given), noisy, metric,
    unit, origin ("measured" or "paper"), series (the legend entry).
    Raises ValueError naming a column the rows do not have.
    """
    require_columns(rows, (x, y, column))
    measured = _plain(rows, x, y, color, column)
    measured["origin"] = "measured"
    measured["series"] = measured[SYSTEM]
    named = rows[color].tolist() if color in rows.columns else []
    if named and not any(_is_name(value) for value in named):
        # Counts (threads, tables) have no look of their own; they take the places in order.
        counts = sorted(dict.fromkeys(measured[SYSTEM]), key=lambda name: (len(name), name))
        system_styles = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(counts)}
    else:
        system_styles = styles(measured[SYSTEM])
    looks = {name: Look(style, False) for name, style in system_styles.items()}
    parts = [measured]
    if paper is not None and len(paper):
        subject = "ours" if "ours" in system_styles else next(iter(system_styles), "ours")
        hollow = _paper(paper, x, color, column, subject, measured)
        for name, series in zip(hollow[SYSTEM], hollow["series"], strict=True):
            # The paper's own system has one look in all charts, whatever stands beside it.
            style = PAPER_STYLE if name == subject else system_styles.get(name, PAPER_STYLE)
            looks.setdefault(series, Look(style, True))
        parts.append(hollow)
    data = pd.concat(parts, ignore_index=True)
    for name in ("low", "high"):
        data[name] = data[name].astype(float)
    return data, looks


def require_columns(rows: pd.DataFrame, wanted: Sequence[str | None]) -> None:
    """Raise ValueError unless every named column is there; None asks for nothing."""
    for name in wanted:
        if name is not None and name not in rows.columns:
            have = ", ".join(map(str, rows.columns))
            raise ValueError(f"chart column {name!r} must be among the rows' columns, got {have}")


def thin(rows: pd.DataFrame, limit: int) -> tuple[pd.DataFrame, str]:
    """An even sample of at most `limit` rows in their order, and the sentence that says so."""
    if len(rows) <= limit:
        return rows, ""
    chosen = np.random.default_rng(0).choice(len(rows), limit, replace=False)
    return rows.iloc[np.sort(chosen)], f" {limit} of {len(rows):,} points are drawn."


def public(data: pd.DataFrame) -> pd.DataFrame:
    """The shown rows as a reader wants them in a file."""
    kept = data.drop(columns=["series", "base", "marked"], errors="ignore")
    return kept.dropna(axis=1, how="all")


def records(data: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for Vega-Lite: plain values, six digits, nothing for missing or false."""
    kept = [name for name in data.columns if name not in ("metric", "unit")]
    return [
        {name: scalar(value) for name, value in zip(kept, row, strict=True) if not _void(value)}
        for row in data[kept].itertuples(index=False)
    ]


def scalar(value: Any) -> Any:
    """A plain Python value; whole floats as int, others to six digits."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return int(value) if whole else float(f"{value:.6g}")
    return value


def ordered(values: "pd.Series[Any]") -> list[Any]:
    """Distinct values: numbers by size, others as they first appear."""
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) for value in distinct):
        return sorted(distinct)
    return distinct


def is_numeric(values: "pd.Series[Any]") -> bool:
    """Whether a column is a quantity; booleans are names."""
    types = pd.api.types
    return bool(types.is_numeric_dtype(values)) and not bool(types.is_bool_dtype(values))


def is_ratio(data: pd.DataFrame) -> bool:
    """Whether every value is a ratio, so that 1 is the line to be on the right side of."""
    return "unit" in data.columns and set(data["unit"]) == {"x"}


def short(name: str) -> str:
    """A column as words: axis.pooling_size -> pooling size."""
    return name.removeprefix("axis.").replace("_", " ")


def _plain(rows: pd.DataFrame, x: str, y: str, color: str, column: str | None) -> pd.DataFrame:
    rows = rows.dropna(subset=[name for name in (x, y, column) if name is not None])
    plain = pd.DataFrame({"x": [scalar(value) for value in rows[x]]})
    plain["value"] = rows[y].astype(float).to_numpy()
    for name in ("low", "high"):
        # The interval belongs to the record's value; another column has none.
        plain[name] = rows[name].to_numpy() if y == "value" and name in rows.columns else None
    # A record that names no system is one of ours.
    named = rows[color].tolist() if color in rows.columns else ["ours"] * len(rows)
    plain[SYSTEM] = ["ours" if missing(name) else _series_name(name, color) for name in named]
    if column is not None:
        plain[PANEL] = [f"{short(column)} {scalar(value)}" for value in rows[column]]
    noisy = rows["noisy"].tolist() if "noisy" in rows.columns else [False] * len(rows)
    plain["noisy"] = [value is True for value in noisy]
    for name in ("metric", "unit"):
        plain[name] = rows[name].to_numpy() if name in rows.columns else ""
    return plain


def _series_name(value: Any, color: str) -> str:
    """A name speaks for itself; a number in a legend needs what it counts: "threads 2"."""
    return str(value) if _is_name(value) else f"{short(color)} {scalar(value)}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not value.isdigit()


def _paper(
    paper: pd.DataFrame,
    x: str,
    color: str,
    column: str | None,
    subject: str,
    measured: pd.DataFrame,
) -> pd.DataFrame:
    """The paper's rows as hollow series; one that leaves out x or the panel goes to all of them."""
    rows = paper
    if x not in rows.columns:
        everywhere = pd.DataFrame({x: list(dict.fromkeys(measured["x"]))})
        rows = rows.merge(everywhere, how="cross")
    hollow = _plain(rows, x, "value", color, column if column in rows.columns else None)
    if column is not None and column not in rows.columns:
        panels = pd.DataFrame({PANEL: list(dict.fromkeys(measured[PANEL]))})
        hollow = hollow.merge(panels, how="cross")
    if color not in rows.columns:
        hollow[SYSTEM] = subject
    remembered = "source" in rows.columns and bool((rows["source"] == "remembered").any())
    word = "paper (remembered)" if remembered else "paper"
    hollow["origin"] = "paper"
    hollow["series"] = [word if name == subject else f"{name}, {word}" for name in hollow[SYSTEM]]
    return hollow


def missing(value: Any) -> bool:
    """Whether a cell of a frame holds nothing: None, NaN or NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _void(value: Any) -> bool:
    return value is False or missing(value)
