"""The figures of an experiment, drawn by its own charts function; an error takes their place."""

import json
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from common import extras
from common.claims import Claim
from common.report.summary import ExperimentRow
from common.results import ResultsWarning, Store


@attrs.frozen
class Figure:
    """One figure ready for the page.

    spec:    Vega-Lite as JSON text, None when there is nothing to draw
    csv:     a link that holds the shown rows
    problem: what went wrong, in place of the figure
    """

    id: str
    title: str
    caption: str = ""
    spec: str | None = None
    csv: str | None = None
    n_rows: int = 0
    problem: str | None = None


def figures(store: Store, row: ExperimentRow, claims: Mapping[str, Claim]) -> list[Figure]:
    """Draw the charts of an experiment's newest finished run.

    The experiment's module is imported here and nowhere else. Whatever it raises becomes a figure
    that says so: a broken chart must not cost the reader the page.
    """
    if row.run is None or row.declared is None:
        return []
    try:
        extras.require("altair", "report", "drawing charts")
        with warnings.catch_warnings():
            # A run that cannot be read was reported when the summary was built.
            warnings.simplefilter("ignore", ResultsWarning)
            frame = store.frame(experiment=row.name, key=row.run.info.key)
        drawn = row.declared.load().charts(frame, dict(claims))
    except Exception as error:
        return [_failed(f"{row.name}-1", row.name, error)]
    found = []
    for place, chart in enumerate(drawn, start=1):
        figure_id = f"{row.name}-{place}"
        try:
            found.append(
                Figure(
                    id=figure_id,
                    title=chart.title,
                    caption=chart.caption,
                    spec=spec_json(chart.spec),
                    csv=csv_link(chart.rows.to_csv(index=False)),
                    n_rows=len(chart.rows),
                )
            )
        except Exception as error:
            found.append(_failed(figure_id, getattr(chart, "title", row.name), error))
    return found


def spec_json(spec: Mapping[str, Any]) -> str:
    """A spec as compact JSON that fetches nothing and cannot end the script element it stands in.

    Raises ValueError for a spec that loads data from an address.
    """
    plain = {name: value for name, value in spec.items() if name != "$schema"}
    _refuse_addresses(plain)
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    return script_safe(text)


def script_safe(json_text: str) -> str:
    r"""Escape every "<" of JSON as \u003c, so that "</script" and "<!--" cannot occur."""
    return (
        json_text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def csv_link(text: str) -> str:
    """CSV as an address a browser can save without a network."""
    return "data:text/csv;charset=utf-8," + quote(text, safe=",;:.-_()[]*")


def _failed(figure_id: str, title: str, error: Exception) -> Figure:
    return Figure(id=figure_id, title=title, problem=f"{type(error).__name__}: {error}")


def _refuse_addresses(value: Any) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "url":
                raise ValueError(f"a chart must hold its data, got an address to load: {inner!r}")
            _refuse_addresses(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_addresses(inner)
