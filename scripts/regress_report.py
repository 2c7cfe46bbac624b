"""How a comparison of two revisions is shown: a table, a GitHub step summary, a JSON file."""

import json
import statistics
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from common.regression import Outcome, Verdict

COLUMNS = ("gate", "base", "head", "slowdown", "95% interval", "verdict")
COLOURS = {
    Verdict.REGRESSED: "red",
    Verdict.BROKEN: "red",
    Verdict.UNDECIDED: "yellow",
    Verdict.UNMEASURED: "yellow",
    Verdict.STEADY: "green",
    Verdict.FASTER: "green",
}


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """One row of COLUMNS per batch; base and head are medians of peer time / our time."""
    table: list[tuple[str, ...]] = []
    for result in outcome.results:
        for number, batch in enumerate(result.batches, 1):
            last = number == len(result.batches)
            table.append(
                (
                    result.name if number == 1 else "  again",
                    f"{statistics.median(batch.base):.3f}x",
                    f"{statistics.median(batch.head):.3f}x",
                    f"{batch.slowdown:.3f}",
                    f"{batch.low:.3f} to {batch.high:.3f}",
                    result.verdict if last else "",
                )
            )
        if not result.batches:
            table.append((result.name, "", "", "", "", result.verdict))
    return table


def remarks(outcome: Outcome) -> list[str]:
    """Sentences below the table: failures, gates of one side only, and the conclusion."""
    sentences = [f"{r.name}: {r.reason}" for r in outcome.results if r.reason]
    sentences += outcome.notes
    noisy = sum(batch.noisy for result in outcome.results for batch in result.batches)
    if noisy:
        sentences.append(f"{noisy} processes could not settle; their numbers widen the intervals")
    broken = [r.name for r in outcome.results if r.verdict is Verdict.BROKEN]
    if broken:
        sentences.append(f"does not run in the working tree: {', '.join(broken)}")
    if outcome.n_measured == 0:
        sentences.append(
            "nothing was measured, so nothing is known about speed: "
            "base and working tree need at least one gate in common that runs"
        )
    else:
        slower = [r.name for r in outcome.results if r.verdict is Verdict.REGRESSED]
        sentences.append(
            f"slower than {outcome.base[:12]} by more than {outcome.tolerance - 1:.0%}: "
            + (", ".join(slower) or "no gate")
        )
    return sentences


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Table and remarks for a person."""
    title = f"{outcome.head[:12]}{' with changes' if outcome.dirty else ''}"
    table = Table(title=f"{title} against {outcome.base[:12]}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("gate", "verdict") else "right")
    for row in rows(outcome):
        colour = COLOURS.get(Verdict(row[-1])) if row[-1] else None
        table.add_row(*row, style=colour)
    console.print(table)
    for sentence in remarks(outcome):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def markdown(outcome: Outcome) -> str:
    """The same as a GitHub step summary."""
    lines = ["### Speed against the base revision", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(outcome)]
    lines += [""] + [f"- {line}" for line in remarks(outcome)]
    return "\n".join(lines) + "\n"


def write_json(outcome: Outcome, path: Path) -> None:
    """Everything measured, for later analysis."""
    from common import machine

    content = attrs.asdict(outcome) | {
        "schema": 1,
        "machine_id": machine.fingerprint().id,
        "n_measured": outcome.n_measured,
        "exit_code": outcome.exit_code,
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
