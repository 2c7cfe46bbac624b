"""results/report.html: one file that answers whether the papers reproduce, and shows the evidence.

Needs no network and no server. Without JavaScript it is the same page with tables and data links in
place of the drawings.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import jinja2
from markupsafe import Markup

from common import claims as claims_module
from common import extras, files
from common.claims import Claim
from common.experiment import Experiment, all_experiments
from common.report import wording
from common.report.bundle import bundle, harmless
from common.report.figures import Figure, figures, script_safe
from common.report.style import VEGA_CONFIG, VERDICTS
from common.report.summary import Summary, build
from common.results import Run, Store

_HERE = Path(__file__).parent

#: Records of one run shown in the page; the file beside it has them all.
MAX_RECORDS = 1000


def write(
    store: Store,
    path: Path,
    *,
    claims: Mapping[str, Claim] | None = None,
    experiments: Mapping[str, Experiment] | None = None,
) -> Path:
    """Write the page for everything in the store and return its path.

    The file appears whole or not at all. claims and experiments default to those installed.
    Without the report extra the page has all its tables and says how to get the drawings.
    """
    claims = claims_module.load() if claims is None else claims
    experiments = all_experiments() if experiments is None else experiments
    summary = build(store, claims=claims, experiments=experiments)
    drawn = {
        row.name: figures(store, row, _of_package(claims, package.name))
        for package in summary.packages
        for row in package.experiments
    }
    html = render(summary, drawn, folder=path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, html)
    return path


def render(summary: Summary, drawn: Mapping[str, Sequence[Figure]], folder: Path) -> str:
    """The page as text; links to run files are relative to folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "slug": lambda word: word.replace(" ", "-"),
        "words": wording.words,
        "sentence": wording.sentence,
        "experiment_label": wording.experiment_label,
        "number": wording.number,
        "plural": wording.plural,
        "duration": wording.duration,
        "minute": lambda started: started[:16].replace("T", " "),
        "percent": lambda share: wording.UNKNOWN if share is None else f"{100 * share:.1f}%",
        "across": lambda place: round(6 + 108 * place, 1),
        "stretch": lambda length: round(108 * length, 1),
        "facts": machine_facts,
        "provenance": provenance,
        "records": records_table,
        "folder": lambda run: quote(Path(os.path.relpath(run.path, folder)).as_posix()),
    }
    specs = {figure.id: figure.spec for row in drawn.values() for figure in row if figure.spec}
    script, lacking = _script() if specs else ("", "")
    rows = [row for package in summary.packages for row in package.experiments]
    return environment.get_template("page.html.j2").render(
        summary=summary,
        figures=drawn,
        runs=[run for row in rows for run in (row.run, *row.others) if run is not None],
        current={row.run.info.key for row in rows if row.run is not None},
        verdicts=list(VERDICTS.values()),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup(harmless((_HERE / "page.js").read_text(encoding="utf-8"))),
        bundle=Markup(script),
        missing_charts=lacking,
        # Each spec is JSON already, made safe for a script element when the figure was drawn.
        specs=Markup("{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in specs.items()) + "}"),
        config=Markup(script_safe(json.dumps(VEGA_CONFIG, separators=(",", ":")))),
    )


@attrs.frozen
class RecordsTable:
    """The records of a run as text cells; columns nobody filled are left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def records_table(run: Run) -> RecordsTable:
    """Every record of the run, axes as columns; only the first thousand of very many."""
    shown = run.records[:MAX_RECORDS]
    axes = list(dict.fromkeys(name for record in shown for name in record.axes))
    columns: dict[str, list[str]] = {
        "metric": [record.metric for record in shown],
        **{
            wording.words(name): [_cell(record.axes.get(name)) for record in shown] for name in axes
        },
        "value": [wording.with_unit(record.value, record.unit) for record in shown],
        "95% interval": [wording.interval(record.low, record.high) for record in shown],
        "of roofline": [_percent(record.fraction_of_roofline) for record in shown],
        "seconds": [_number(record.seconds) for record in shown],
        "rounds": [_cell(record.rounds) for record in shown],
        "A/A": [_percent(record.noise) for record in shown],
        "": [
            ", ".join(
                word
                for word, said in (("noisy", record.noisy), ("contended", record.contended))
                if said
            )
            for record in shown
        ],
        "claim": [record.claim or "" for record in shown],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    return RecordsTable(
        columns=tuple(filled),
        rows=tuple(zip(*filled.values(), strict=True)),
        left_out=len(run.records) - len(shown),
    )


def provenance(run: Run) -> list[tuple[str, str]]:
    """What a run was made of, as label and text."""
    info = run.info
    settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in info.settings.items())
    revision = (info.git_sha or "unknown")[:12] + (" with local changes" if info.git_dirty else "")
    facts = [
        ("settings", settings or "none"),
        ("seed", str(info.seed)),
        ("threads", str(info.threads)),
        ("machine", info.machine_id),
        ("code", revision),
        ("took", wording.duration(info.seconds)),
        ("peak memory", wording.UNKNOWN if info.peak_mb is None else f"{info.peak_mb:,.0f} MB"),
    ]
    if info.contended:
        facts.append(("contended", "other runs shared the machine"))
    return facts


def machine_facts(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """A machine's description as label and text, units spelled out."""
    return [
        (_FACT_LABELS.get(name, wording.words(name)), _fact(name, value))
        for name, value in facts.items()
        if name != "id"
    ]


_FACT_LABELS = {
    "cpu": "CPU",
    "isa": "instruction sets",
    "cpu_quota": "CPU quota",
    "cache_bytes": "caches",
    "ram_gb": "memory",
    "gpu": "GPU",
    "blas": "BLAS",
    "openmp": "OpenMP",
    "steal_share": "stolen by the host",
}


def _fact(name: str, value: object) -> str:
    match value:
        case None:
            return wording.UNKNOWN
        case Mapping() if name.endswith("_bytes"):
            return ", ".join(f"{level} {_size(size)}" for level, size in value.items())
        case Mapping():
            return ", ".join(f"{key}={inner}" for key, inner in value.items()) or "none set"
        case list() | tuple():
            return ", ".join(map(str, value)) or "none"
        case bool():
            return "yes" if value else "no"
        case float() if name.endswith("_share"):
            return _percent(value)
        case float() | int() if name.endswith("_gb"):
            return f"{wording.number(value)} GB"
        case float() | int():
            return wording.number(value)
    return str(value)


def _size(size: object) -> str:
    if not isinstance(size, int | float):
        return str(size)
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def _script() -> tuple[str, str]:
    try:
        return bundle(), ""
    except (extras.MissingExtra, PermissionError) as problem:
        return "", f"There are no drawings: {problem}"


def _of_package(claims: Mapping[str, Claim], package: str) -> dict[str, Claim]:
    return {key: claim for key, claim in claims.items() if claim.package == package}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return wording.number(value)
    return str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"
