"""One picture a paper for the READMEs: its speedups with their intervals, from committed rows.

Written as plain SVG, so that equal rows give an equal file on every machine.
"""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from common.criteria import ends
from common.report.style import INK, VERDICTS
from common.report.summary import ClaimRow
from common.report.wording import TIMES, as_given, number

WIDTH, LEFT, RIGHT, TOP, STEP = 760, 250, 96, 58, 26


def speedups(package: str, rows: Sequence[ClaimRow]) -> str:
    """The measured ratios of a package, larger is better, on a log axis around 1.

    A filled mark is ours with its 95% interval, in the colour and with the sign of its verdict; a
    hollow diamond is the paper's value; a dashed bar is where the claim's own target begins.
    """
    shown = [row for row in rows if is_shown(row)]
    place = _scale(shown)
    bottom = TOP + STEP * len(shown)
    parts = [*_frame(package, bottom, place), *_axis(shown, bottom, place)]
    for at, row in enumerate(shown):
        parts += _row(row, TOP + STEP * at + STEP / 2, place)
    parts += [*_legend(shown, bottom + 44), "</svg>"]
    return "\n".join([_open(package, bottom + 62), *parts, ""])


def is_shown(row: ClaimRow) -> bool:
    """Whether a claim is a measured ratio of which more is better."""
    found = row.judgement
    return (
        row.claim.unit == "x"
        and row.claim.better == "higher"
        and found is not None
        and found.value is not None
        and found.value > 0
    )


class _Scale:
    """Places on a log axis, in pixels."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(share, 0.0), 1.0), 1)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, only the powers where there would be too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        fine = [tick for tick in every if self.low <= tick <= self.high]
        if len(fine) <= 8:
            return fine
        return [10.0**power for power in powers if self.low <= 10.0**power <= self.high]


def _scale(rows: Sequence[ClaimRow]) -> _Scale:
    values = [1.0]
    for row in rows:
        values += [*_span(row), *_paper(row)]
    return _Scale(min(values) / 1.2, max(*values, 2.0) * 1.2)


def _span(row: ClaimRow) -> tuple[float, float, float]:
    """Low end, value and high end of ours."""
    found = row.judgement
    assert found is not None  # as is_shown saw
    assert found.value is not None
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    return max(low, found.value / 100), found.value, high


def _paper(row: ClaimRow) -> tuple[float, ...]:
    """The paper's value or the ends of its range; nothing where it is unknown or recalled."""
    found = row.judgement
    value = row.claim.paper if found is None or found.paper is None else found.paper
    if value is None or not row.claim.is_judged:
        return ()
    return tuple(dict.fromkeys(end for end in ends(value) if end > 0))


def _target(row: ClaimRow) -> float | None:
    """Where the claim's criterion begins, when it is one on the value alone."""
    low = getattr(row.claim.criterion, "low", None)
    return low if isinstance(low, float) and 0 < low < math.inf else None


def _open(package: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="sans-serif" font-size="12" fill="{INK}">\n'
        f"<title>Ratios measured for {escape(package)}, with 95% intervals</title>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    )


def _frame(package: str, bottom: int, place: _Scale) -> list[str]:
    x = place(1.0)
    return [
        f'<text x="12" y="22" font-size="15" font-weight="600">{escape(package)}: '
        "ratios with 95% intervals, larger is better</text>",
        f'<text x="{x}" y="{TOP - 8}" text-anchor="middle" fill="#3d4854">equal</text>',
        f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}" stroke="{INK}"/>',
    ]


def _axis(rows: Sequence[ClaimRow], bottom: int, place: _Scale) -> list[str]:
    parts = []
    for tick in place.ticks():
        x = place(tick)
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}" stroke="#e6e8ea"/>')
        parts.append(
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" fill="#3d4854">'
            f"{as_given(tick)}{TIMES}</text>"
        )
    if not rows:
        parts.append(f'<text x="{LEFT}" y="{bottom + 16}">nothing measured yet</text>')
    return parts


def _row(row: ClaimRow, y: float, place: _Scale) -> list[str]:
    low, value, high = _span(row)
    look = VERDICTS[row.word]
    x = place(value)
    parts = [
        f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>',
        f'<line x1="{place(low)}" y1="{y}" x2="{place(high)}" y2="{y}" stroke="{look.colour}" '
        'stroke-width="2"/>',
    ]
    target = _target(row)
    if target is not None:
        t = place(target)
        parts.append(
            f'<line x1="{t}" y1="{y - 8}" x2="{t}" y2="{y + 8}" stroke="#68717d" '
            'stroke-dasharray="2 2"/>'
        )
    parts += [
        f'<path d="M{place(p)} {y - 6}l6 6l-6 6l-6 -6z" fill="none" stroke="{INK}"/>'
        for p in _paper(row)
    ]
    parts += [
        f'<circle cx="{x}" cy="{y}" r="4.5" fill="{look.colour}"/>',
        f'<text x="{WIDTH - RIGHT + 10}" y="{y + 4}" fill="{look.colour}">{look.glyph} '
        f"{number(value)}{TIMES}</text>",
    ]
    return parts


def _legend(rows: Sequence[ClaimRow], y: int) -> list[str]:
    words = [word for word in VERDICTS if any(row.word == word for row in rows)]
    signs = "   ".join(f"{VERDICTS[word].glyph} {word}" for word in words)
    notes = ["hollow diamond: the paper's value", "dashed: the claim's own target", signs]
    text = "   ·   ".join(note for note in notes if note)
    return [f'<text x="12" y="{y}" fill="#3d4854">{escape(text)}</text>']
