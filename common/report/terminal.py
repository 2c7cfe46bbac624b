"""The verdicts as text: coloured tables in a terminal, plain columns elsewhere, 80 wide."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from common.report import wording
from common.report.style import VERDICTS
from common.report.summary import ClaimRow, Package, Summary, build
from common.results import Store

_WIDTH = 80


def print_summary(store: Store, console: Console, packages: Sequence[str] | None = None) -> None:
    """Print the claims of these packages (all five papers by default) with their verdicts.

    Colour follows the console, which honours NO_COLOR; every verdict has its word and its sign.
    """
    show(build(store), console, packages)


def show(summary: Summary, console: Console, packages: Sequence[str] | None = None) -> None:
    """Print a summary that is already built."""
    wanted = [p for p in summary.packages if packages is None or p.name in packages]
    for package in wanted:
        if package.claims:
            _show_package(package, console)
    for run in summary.failures:
        if packages is None or run.info.experiment.startswith(tuple(f"{p}_" for p in packages)):
            console.print()
            _say(console, f"{run.info.experiment}: {run.info.status}", style="bold red")
            last = (run.info.error or "").strip().splitlines()[:1]
            _say(console, *(f"  {line}" for line in last))
    console.print()
    if packages is None:
        _say(console, summary.answer, style="bold")


def _show_package(package: Package, console: Console) -> None:
    console.print()
    counts = ", ".join(f"{count} {word}" for word, count in package.counts.items())
    heading = Text(package.name, style="bold")
    heading.append(f"  {counts}", style="not bold")
    console.print(heading, width=min(_WIDTH, console.width))
    shown = [row for row in package.claims if row.is_measured]
    if shown:
        console.print(_table(shown, console))
    waiting = [row for row in package.claims if not row.is_measured]
    for reason in dict.fromkeys(row.reason for row in waiting):
        number = sum(row.reason == reason for row in waiting)
        _say(console, f"  {wording.plural(number, 'claim')} not measured: {reason}", style="dim")


def _table(rows: Sequence[ClaimRow], console: Console) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal and _is_unicode(console) else None,
        width=min(_WIDTH, console.width),
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    table.add_column("claim", ratio=1)
    for name in ("paper", "here", "95% interval", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("verdict", no_wrap=True)
    labels = [row.label for row in rows]
    for row in rows:
        look = VERDICTS[row.word]
        # Two claims of one name: a figure's and the abstract's, say.
        label = row.label if labels.count(row.label) == 1 else f"{row.label}, {row.place}"
        sign = look.glyph if _is_unicode(console) else look.ascii
        bar = row.ratio_bar
        table.add_row(
            _text(label, console),
            _text(row.paper + ("*" if row.is_remembered else ""), console),
            _text(row.ours, console),
            _text(row.interval, console),
            "" if bar is None else f"{bar.ratio:.2f}",
            Text(f"{sign} {row.word}", style=look.terminal),
        )
    if any(row.is_remembered for row in rows):
        table.caption = "* remembered, not read: shown and never judged"
        table.caption_justify = "left"
    return table


def _say(console: Console, *lines: str, style: str = "") -> None:
    for line in lines:
        indent = len(line) - len(line.lstrip())
        text = Padding(_text(line.lstrip(), console, style), (0, 0, 0, indent))
        console.print(text, width=min(_WIDTH, console.width))


def _text(content: str, console: Console, style: str = "") -> Text:
    """Text without markup; in ASCII where the console knows no more."""
    if not _is_unicode(console):
        content = content.replace(wording.TIMES, "x").replace(wording.DASH, "-")
        content = content.replace(wording.UNKNOWN, "-").encode("ascii", "replace").decode()
    return Text(content, style=style)


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
