"""One look for the whole report: a colour and a shape per system, a colour and a shape per verdict.

Shape carries the same information as colour, so that a print in grey and a colour-blind reader lose
nothing. Colours keep at least 3:1 contrast against white.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import attrs

INK = "#1c2530"


@attrs.frozen
class Style:
    """How one system is drawn: fill colour and Vega symbol name."""

    colour: str
    shape: str


#: The paper's values of its own system: a hollow diamond in every chart.
PAPER_STYLE = Style(INK, "diamond")

PALETTE: tuple[Style, ...] = (
    Style("#0b5cad", "circle"),
    Style("#c8550a", "square"),
    Style("#0b7f5b", "triangle-up"),
    Style("#8452b0", "diamond"),
    Style("#a3761a", "triangle-down"),
    Style("#bf3173", "cross"),
    Style("#157f9e", "triangle-right"),
    Style("#68717d", "triangle-left"),
    Style("#5c7a08", "square"),
    Style("#8c3b2e", "diamond"),
    Style("#7a6a58", "triangle-up"),
    Style("#2f3a46", "cross"),
)

# Peers that never meet in one chart may share a place; "ours" keeps the first for itself.
_PLACES: dict[str, int] = {
    "ours": 0,
    "torch": 1, "pytorch": 1, "eager": 1, "torch_eager": 1, "torch_fp32": 1,
    "t3nsor": 1, "ring": 1, "gcc": 1,
    "numpy": 2, "numpy_fp32": 2, "dynet": 2, "fbgemm": 2, "hier_ring": 2, "polly": 2,
    "torch_compile": 3, "compile": 3, "dgl": 3, "torch_bmm": 3, "halving_doubling": 3, "isl": 3,
    "onednn": 4, "sdpa": 4, "cavs": 4, "ps": 4, "hashing": 4, "mcts": 4, "torch_bf16": 4,
    "aten": 5, "unlocked": 5, "ina_single": 5, "embedding_bag": 5, "quotient_remainder": 5,
    "beam_execution": 5,
    "native": 6, "halide": 6, "halide_adams2019": 6,
    "pytest_benchmark": 7, "separated": 7, "reference": 7, "dense": 7, "halide_mullapudi2016": 7,
    "halide_li2018": 8, "level_batched": 7, "level_batched_onednn": 11,
    "ring_sorted": 6, "hier_pipelined": 9, "panama": 8, "panama_plus": 11, "none": 7,
}  # fmt: skip


def _canonical(system: str) -> str:
    return system.strip().lower().replace("-", "_").replace(" ", "_")


def styles(systems: Iterable[str]) -> dict[str, Style]:
    """Return a style for each system; no two of a chart are alike, nor, up to eight, of one shape.

    A name listed above always gets its own place. Another name gets a place from a hash of its
    spelling, moved on only when the chart has already given its shape away; beyond twelve systems
    places repeat.
    """
    names = list(dict.fromkeys(systems))
    found: dict[str, Style] = {}
    for name in sorted(names, key=lambda name: (_canonical(name) not in _PLACES, name)):
        listed = _PLACES.get(_canonical(name))
        first = zlib.crc32(_canonical(name).encode()) if listed is None else listed
        wanted = [PALETTE[(first + step) % len(PALETTE)] for step in range(len(PALETTE))]
        free = [style for style in wanted if style not in found.values() and style != PALETTE[0]]
        shapes = {style.shape for style in found.values()} | {PALETTE[0].shape}
        fresh = [style for style in free if style.shape not in shapes]
        own = [] if listed is None else [PALETTE[listed]]
        if own and own[0] in found.values():
            own = []  # two names of one place meet after all
        found[name] = (own or fresh or free or wanted)[0]
    return {name: found[name] for name in names}


@attrs.frozen
class VerdictLook:
    """How a verdict appears: page colour, terminal glyph and its ASCII stand-in, terminal style."""

    word: str
    colour: str
    glyph: str
    ascii: str
    terminal: str
    meaning: str


#: Keyed by the verdict's word; "not measured" stands for a claim without records.
VERDICTS: dict[str, VerdictLook] = {
    look.word: look
    for look in (
        VerdictLook("beaten", "#0b6b3f", "▲", "^", "bold green",
                    "better than the paper, with the whole interval"),
        VerdictLook("matched", "#17864f", "●", "o", "green",
                    "the whole interval meets the claim's criterion"),
        VerdictLook("shape", "#0b5cad", "◆", "*", "blue",
                    "the trend or ordering holds; the number itself is not compared"),
        VerdictLook("missed", "#b3261e", "✕", "x", "bold red",
                    "the whole interval lies outside the criterion"),
        VerdictLook("noisy", "#8a6100", "◌", "~", "yellow",
                    "measured, but the interval is too wide to decide"),
        VerdictLook("informative", "#56606c", "■", "i", "cyan",
                    "shown beside the paper, never judged"),
        VerdictLook("not measured", "#737d88", "□", "-", "dim",
                    "no record here yet"),
    )
}  # fmt: skip

HOLDS = ("beaten", "matched", "shape")

_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"

#: The Vega-Lite config every chart shares; the page carries it once.
VEGA_CONFIG: dict[str, Any] = {
    "font": _SANS,
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "#3d4854",
        "titleColor": "#3d4854",
        "titleFontWeight": 500,
        "titleFontSize": 12,
        "labelFontSize": 12,
        "gridColor": "#e6e8ea",
        "domainColor": "#9aa3ad",
        "tickColor": "#9aa3ad",
        "labelLimit": 150,
        "titlePadding": 8,
    },
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "title": None,
        "labelFontSize": 12,
        "labelColor": INK,
        "labelLimit": 260,
        "symbolSize": 80,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 1.6,
        "columnPadding": 16,
        "columns": 5,
        "offset": 10,
    },
    "header": {"labelFontSize": 12, "labelFontWeight": 600, "labelColor": INK, "title": None},
    "line": {"strokeWidth": 1.8},
    "facet": {"spacing": 28},
}
