"""The table of headline claims in the top README, from rows that are committed.

A claim names in claims.toml two others of its package that belong beside it: `equal_footing`, the
same thing over the peer made as strong as we know how, and `limit`, the share of the machine's
limit that ours reaches. A win over a weak peer is so seen as one.
"""

from collections.abc import Iterable, Mapping, Sequence

from common.report.summary import ClaimRow, count
from common.report.wording import UNKNOWN, plural

COLUMNS = (
    "package", "headline claim", "paper", "here", "over a peer on equal footing",
    "share of the machine's limit", "verdict",
)  # fmt: skip


def headline_cells(papers: Iterable[tuple[str, Sequence[ClaimRow]]]) -> Sequence[tuple[str, ...]]:
    """A row of COLUMNS for each headline claim."""
    cells: list[tuple[str, ...]] = []
    for paper, rows in papers:
        by_id = {row.claim.id: row for row in rows}
        for row in rows:
            if row.claim.is_headline:
                equal = _beside(row.claim.equal_footing, by_id)
                limit = _beside(row.claim.limit, by_id)
                ours = f"{row.ours} {row.interval}".strip()
                cells.append(
                    (f"`{paper}`", row.label, row.paper, ours, equal, limit, row.word)
                )  # fmt: skip
    return cells


def totals(rows: Sequence[ClaimRow]) -> str:
    """How many claims have which verdict, and when and where the rows were measured."""
    counts = ", ".join(f"{number} {word}" for word, number in count(rows).items())
    return f"All {len(rows)} claims: {counts}. {_measured(rows)}"


def _beside(claim_id: str | None, by_id: Mapping[str, ClaimRow]) -> str:
    """Another claim's value and what it is, or that it is not measured; a dash for none."""
    if claim_id is None:
        return UNKNOWN
    row = by_id[claim_id]
    value = f"{row.ours} {row.interval}".strip() if row.is_measured else row.word
    return f"{value} ({row.label})"


def _measured(rows: Sequence[ClaimRow]) -> str:
    """The runs in one sentence: each package's own README names them one by one."""
    runs = {run.info.key: run.info for row in rows for run in row.runs}
    if not runs:
        return "Nothing has been reported yet.\n"
    machines = ", ".join(f"`{name}`" for name in sorted({i.machine_id for i in runs.values()}))
    days = sorted({info.started[:10] for info in runs.values()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    profiles = dict.fromkeys(sorted({info.profile for info in runs.values()}), 0)
    for info in runs.values():
        profiles[info.profile] += 1
    made = " and ".join(f"{number} {profile}" for profile, number in profiles.items())
    machine = "machine" if machines.count("`") == 2 else "machines"
    return (
        f"From {plural(len(runs), 'run')} ({made}) on {machine} {machines}, {when}; "
        "each package's README names its own. Intervals are 95%.\n"
    )
