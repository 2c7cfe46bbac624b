"""Tables and pictures of the READMEs, generated from the rows each package has committed.

<package>/reported.jsonl holds one JSON object a line: a record that carries a claim, with the
experiment, profile, machine_id and started of its run.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from common import PAPERS
from common.claims import PACKAGES, load
from common.record import Record, RunInfo
from common.report import headline, pictures
from common.report.summary import ClaimRow, build, judge_all
from common.report.wording import UNKNOWN
from common.results import Run, Store

#: What a row says about its run, beside the record itself.
RUN_FIELDS = ("experiment", "profile", "machine_id", "started")

#: The picture of each paper, in its package.
PICTURE = "speedups.svg"


def write_reported(store: Store, package: str, path: Path) -> int:
    """Write the records that decide the package's claims in this store; return how many.

    Rows of experiments this store has no run of stay: a long experiment may be reported by itself.
    Raises ValueError when the store has none, rather than empty the file.
    """
    (found,) = [part for part in build(store).packages if part.name == package]
    runs = {run.info.key: run for row in found.claims for run in row.runs}
    own = {row.claim.id for row in found.claims}
    lines = []
    for run in sorted(runs.values(), key=lambda run: run.info.experiment):
        fields = {name: getattr(run.info, name) for name in RUN_FIELDS}
        lines += [
            json.dumps(fields | json.loads(record.to_json()))
            for record in run.records
            if record.claim in own
        ]
    if not lines:
        raise ValueError(
            f"{store.root} has no record of a claim of {package}; "
            f"run python -m scripts.reproduce paper={package} first"
        )
    measured = {run.info.experiment for run in runs.values()}
    kept = [line for line in _lines(path) if json.loads(line)["experiment"] not in measured]
    every = sorted([*kept, *lines], key=lambda line: str(json.loads(line)["experiment"]))
    path.write_text("".join(f"{line}\n" for line in every), encoding="utf-8")
    return len(lines)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def read_reported(path: Path) -> list[Run]:
    """The rows of a reported.jsonl as runs; no file, no runs.

    Raises ValueError naming file and line of a row that cannot be read.
    """
    if not path.is_file():
        return []
    infos: dict[str, RunInfo] = {}
    records: dict[str, list[Record]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            info = _run_info(**{name: str(row.pop(name)) for name in RUN_FIELDS})
            infos[info.key] = info
            records.setdefault(info.key, []).append(Record.from_json(json.dumps(row)))
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ValueError(f"{path}:{number} is not a reported record: {problem}") from None
    return [Run(infos[key], tuple(found), path) for key, found in records.items()]


def _run_info(experiment: str, profile: str, machine_id: str, started: str) -> RunInfo:
    return RunInfo(
        experiment=experiment,
        key=f"{experiment}-{profile}-{machine_id}-{started}",
        settings={},
        profile=profile,
        seed=0,
        threads=1,
        machine_id=machine_id,
        started=started,
        status="ok",
    )


def fill_readmes(root: Path) -> list[Path]:
    """Fill the generated tables of the checkout's READMEs and draw their pictures.

    Returns the files that changed.
    """
    reported = {
        package: judge_all(load(package).values(), read_reported(root / package / "reported.jsonl"))
        for package in PACKAGES
    }
    tables = [
        (root / package / "README.md", "claims", claims_table(rows))
        for package, rows in reported.items()
    ]
    papers = [(paper, reported[paper]) for paper in PAPERS]
    tables.append((root / "README.md", "headline", headline_table(papers)))
    changed = []
    for path, marker, table in tables:
        text = path.read_text(encoding="utf-8")
        filled = replace_between(text, marker, table, path)
        if filled != text:
            path.write_text(filled, encoding="utf-8")
            changed.append(path)
    for paper, rows in papers:
        path = root / paper / PICTURE
        drawn = pictures.speedups(paper, rows)
        if not path.is_file() or path.read_text(encoding="utf-8") != drawn:
            path.write_text(drawn, encoding="utf-8")
            changed.append(path)
    return changed


def claims_table(rows: Sequence[ClaimRow]) -> str:
    """A package's claims as a Markdown table, then where the numbers were measured.

    Where no paper gives a value, as for the shared layer, the target stands in its place.
    """
    has_paper = any(row.paper != UNKNOWN for row in rows)
    compared, setting = ("paper", "setting of the paper") if has_paper else ("target", "setting")
    table = _markdown(
        ("claim", compared, "here", "verdict", setting),
        [
            (
                f"`{row.claim.id}`",
                row.paper + _source(row) if has_paper else row.criterion,
                _here(row),
                row.word if row.is_measured else f"{row.word}: {row.reason}",
                f"{row.claim.where}: {row.claim.setting}",
            )
            for row in rows
        ],
    )
    return f"{table}\n{_measured_by(rows)}"


def headline_table(papers: Iterable[tuple[str, Sequence[ClaimRow]]]) -> str:
    """The headline claims of the papers as a Markdown table, and how many of all claims hold."""
    papers = list(papers)
    every = [row for _, rows in papers for row in rows]
    table = _markdown(headline.COLUMNS, headline.headline_cells(papers))
    return f"{table}\n{headline.totals(every)}"


def replace_between(text: str, marker: str, table: str, path: Path) -> str:
    """Put table between the two comments of that name.

    Raises ValueError naming the file unless each of them stands there once and in order.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} must hold {begin} and after it {end}, each once")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table.strip()}\n{end}{rest.partition(end)[2]}"


def _here(row: ClaimRow) -> str:
    return f"{row.ours} {row.interval}".strip()


def _source(row: ClaimRow) -> str:
    return "" if row.claim.source == "read" or row.paper == UNKNOWN else f" ({row.claim.source})"


def _measured_by(rows: Iterable[ClaimRow]) -> str:
    runs = {run.info.key: run.info for row in rows for run in row.runs}
    if not runs:
        return "Nothing has been reported yet.\n"
    parts = sorted(
        f"{info.experiment} ({info.profile}, machine `{info.machine_id}`, {info.started[:10]})"
        for info in runs.values()
    )
    return f"Measured by {', '.join(dict.fromkeys(parts))}. Intervals are 95%.\n"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
