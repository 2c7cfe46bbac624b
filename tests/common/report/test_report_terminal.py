"""The verdicts as text: what a terminal, a pipe and an ASCII locale get."""

import io
from typing import Any

import pytest
from rich.console import Console

from common.record import Record
from common.report import terminal
from common.report.summary import build


def printed(sample: Any, packages: list[str] | None = None, **console: Any) -> str:
    """What is printed to a console of these properties."""
    out = console.pop("file", None) or io.StringIO()
    terminal.show(build(sample.store, **sample.known), Console(file=out, **console), packages)
    out.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in out.read().splitlines())


def test_pipe_gets_plain_text_within_80_columns(five_papers: Any) -> None:
    text = printed(five_papers)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminal_lines_fit_whatever_the_width(five_papers: Any, width: int) -> None:
    text = printed(five_papers, force_terminal=True, color_system=None, width=width)
    assert max(len(line) for line in text.splitlines()) <= min(width, 80)


def test_terminal_gets_colour(five_papers: Any) -> None:
    assert "\x1b[" in printed(five_papers, force_terminal=True, color_system="standard")


def test_no_color_is_honoured(five_papers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(five_papers, force_terminal=True, color_system="standard")
    # Bold and dim may stay; colours are the codes 30 to 37.
    assert not any(f"{code}m" in text for code in range(30, 38))


def test_every_measured_claim_has_value_interval_and_verdict(five_papers: Any) -> None:
    lines = printed(five_papers).splitlines()
    (kernel,) = [line for line in lines if line.startswith("kernel speedup")]
    for part in ("3×", "3.20×", "[3.14, 3.26]", "1.07", "▲ beaten"):  # noqa: RUF001
        assert part in kernel


def test_reasons_of_what_is_not_measured_are_counted(five_papers: Any) -> None:
    assert "3 claims not measured: The network simulator is not built yet." in " ".join(
        printed(five_papers).split()
    )


def test_failures_are_told_with_their_first_line(five_papers: Any) -> None:
    text = printed(five_papers)
    assert "cortex_sequence: failed\n  killed by signal 11 (SIGSEGV)\n" in text


def test_only_the_asked_packages_are_shown(five_papers: Any) -> None:
    text = printed(five_papers, packages=["ttrec"])
    assert "kernel speedup" in text
    assert "latency reduction" not in text
    assert "cortex_sequence" not in text


def test_ascii_locale_loses_no_verdict(five_papers: Any) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    text = printed(five_papers, file=out)
    assert "^ beaten" in text
    assert "3.20x" in text


def test_remembered_paper_values_are_marked(five_papers: Any) -> None:
    text = printed(five_papers)
    assert "0.9*" in text
    assert "* remembered, not read" in text


def test_claims_of_one_name_are_told_apart(sample: Any) -> None:
    figure = sample.claims["ttrec.fig.kaggle_ratio"]
    abstract = sample.claims["ttrec.abstract.kaggle_ratio"]
    records = [
        Record(claim.metric, 4.1, claim.unit, claim=claim.id, axes={"tables": 3, "rank": 8})
        for claim in (abstract, figure)
    ]
    sample.run("ttrec_compression", records)
    text = printed(sample, force_terminal=False, width=80)
    assert "Kaggle ratio, abstract" in text
    assert "Kaggle ratio, figure" in text


def test_brackets_in_a_reason_are_not_markup(sample: Any) -> None:
    sample.run("ttrec_kernels", [], status="failed", error="[bold]IndexError[/bold]: x[3]")
    assert "[bold]IndexError[/bold]: x[3]" in printed(sample)
