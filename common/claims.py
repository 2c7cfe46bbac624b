"""The papers' numbers, and the verdict on ours: <package>/claims.toml, read and judged."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import attrs

from common import PAPERS
from common.claims_file import Claim, ClaimsError, Point, parse
from common.criteria import Band, Crossover, Finding, Order, PaperValue, Trend, ends, interval
from common.provenance import package_folder
from common.record import Record
from common.spelling import did_you_mean

__all__ = ["Claim", "ClaimsError", "Judgement", "Point", "Verdict", "find", "judge", "load"]

#: Where claims stand when no package is named, in the order reports show them.
PACKAGES = (*PAPERS, "common")


class Verdict(enum.StrEnum):
    """How our value stands beside the paper's."""

    BEATEN = "beaten"
    MATCHED = "matched"
    SHAPE = "shape"
    MISSED = "missed"
    NOISY = "noisy"
    INFORMATIVE = "informative"


#: From worst to best: a claim with several points gets the worst of theirs.
_WORST_FIRST = (
    Verdict.MISSED,
    Verdict.NOISY,
    Verdict.INFORMATIVE,
    Verdict.SHAPE,
    Verdict.MATCHED,
    Verdict.BEATEN,
)
_MET = (Verdict.BEATEN, Verdict.MATCHED, Verdict.SHAPE)
_CONTENDED = "taken while other work ran beside it"


@attrs.frozen
class Judgement:
    """The verdict on a claim and the record that decided it.

    verdict: None while nothing has been measured that could be judged
    reason:  one sentence
    value, low, high: of the deciding record, the worst one
    paper:   the paper's value where that record was taken;  ratio: the record's value to it
    n_records: points (for a shape: groups) that count;  n_met: how many of them meet the criterion
    """

    verdict: Verdict | None
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    paper: PaperValue = None
    ratio: float | None = None
    n_records: int = 0
    n_met: int = 0


def load(package: str | None = None) -> dict[str, Claim]:
    """Claims by id: of one package, or of all five papers and the shared layer.

    Finds claims.toml without importing the package. A package without the file has no claims; a
    paper that is not installed has none either. Raises ClaimsError naming file and field for a bad
    file, ValueError for a package that does not exist.
    """
    if package is None:
        return {key: claim for name in PACKAGES for key, claim in load(name).items()}
    folder = package_folder(package)
    if folder is None and package not in PACKAGES:
        hint = did_you_mean(package, PACKAGES) or f"; there are {', '.join(PACKAGES)}"
        raise ValueError(f"there is no package {package!r} with claims{hint}")
    if folder is None:
        return {}
    path = folder / package / "claims.toml"
    try:
        stat = path.stat()
    except FileNotFoundError:
        return {}
    return dict(_parsed(path, package, stat.st_mtime_ns, stat.st_size))


def find(claim_id: str) -> Claim:
    """The claim of that id; ValueError with the nearest ids if there is none."""
    package = claim_id.partition(".")[0]
    claims = load(package) if package_folder(package) else {}
    if claim_id in claims:
        return claims[claim_id]
    known = [*claims, *(key for key in load() if key not in claims)]
    raise ValueError(f"claim {claim_id!r} is in no claims.toml{did_you_mean(claim_id, known)}")


def judge(claim: Claim, records: Sequence[Record]) -> Judgement:
    """The verdict on a claim from the records that carry its id; others are passed over.

    Whole interval past the paper's value: beaten; whole interval within the criterion: matched;
    wholly outside: missed; otherwise noisy. Values that are not comparable, or whose paper value
    was not read, are informative. Shapes are "shape" where they hold in every group.
    """
    mine = [record for record in records if record.claim == claim.id]
    if not mine:
        return Judgement(None, claim.not_attempted or "nothing has been recorded for it yet")
    usable = [r for r in mine if r.metric == claim.metric and r.unit == claim.unit]
    if not usable:
        got = f"{mine[0].metric} in {mine[0].unit or 'no unit'}"
        wanted = f"{claim.metric} in {claim.unit or 'no unit'}"
        return Judgement(None, f"the records of this claim hold {got}, the claim is on {wanted}")
    if isinstance(claim.criterion, Order | Trend | Crossover):
        return _judge_shape(claim, claim.criterion.find(usable, claim.better), usable)
    return _judge_values(claim, usable)


def _judge_values(claim: Claim, records: list[Record]) -> Judgement:
    if not isinstance(claim.criterion, Band):
        # Points the paper does not report add nothing to judge, unless there are no others.
        records = [r for r in records if claim.paper_value(r.axes) is not None] or records
    verdicts = [_verdict(claim, record) for record in records]
    worst = min(verdicts, key=_WORST_FIRST.index)
    n_met = sum(verdict in _MET for verdict in verdicts)
    decider = min(
        (r for r, verdict in zip(records, verdicts, strict=True) if verdict is worst),
        key=lambda record: _goodness(claim, record),
    )
    reason = _value_reason(claim, decider, worst, len(records), n_met) + _coverage(claim, records)
    return _judgement(claim, decider, worst, reason, len(records), n_met)


def _judgement(
    claim: Claim, decider: Record, verdict: Verdict | None, reason: str, n_records: int, n_met: int
) -> Judgement:
    paper = claim.paper_value(decider.axes)
    return Judgement(
        verdict,
        reason,
        decider.value,
        decider.low,
        decider.high,
        paper,
        _ratio(decider.value, paper),
        n_records,
        n_met,
    )


def _verdict(claim: Claim, record: Record) -> Verdict:
    if not claim.comparable or not claim.is_judged or claim.criterion is None:
        return Verdict.INFORMATIVE
    if record.contended:
        return Verdict.INFORMATIVE
    if record.noisy:
        return Verdict.NOISY
    assert not isinstance(claim.criterion, Order | Trend | Crossover)
    paper = claim.paper_value(record.axes)
    acceptable = claim.criterion.acceptable(paper, claim.better)
    if acceptable is None:
        return Verdict.INFORMATIVE
    low, high = interval(record)
    a, b = acceptable
    past = float("inf")  # beyond this, in the better direction, the paper is beaten
    if paper is not None and claim.better != "equal":
        past = ends(paper)[1] if claim.better == "higher" else -ends(paper)[0]
    if claim.better == "lower":  # mirrored, so that larger is better below
        low, high, a, b = -high, -low, -b, -a
    if low > past:
        return Verdict.BEATEN
    # What lies past the paper's value is acceptable too, whatever the criterion's upper limit.
    if low >= a and (high <= b or past <= b):
        return Verdict.MATCHED
    if (high < a or low > b) and high <= past:
        return Verdict.MISSED
    return Verdict.NOISY


def _goodness(claim: Claim, record: Record) -> float:
    """Larger for a better record; to pick the worst of several with the same verdict."""
    paper = claim.paper_value(record.axes)
    ratio = _ratio(record.value, paper)
    number = record.value if ratio is None else ratio
    if claim.better == "equal":
        if paper is None:
            return 0.0
        low, high = ends(paper)
        return -max(low - record.value, record.value - high, 0.0)
    return -number if claim.better == "lower" else number


def _ratio(value: float, paper: PaperValue) -> float | None:
    """Value over the paper's; over the nearest end of a range, 1 within it; None over 0."""
    if paper is None:
        return None
    low, high = ends(paper)
    if low != high and low <= value <= high:
        return 1.0
    end = low if value < low else high
    return value / end if end else None


def _value_reason(
    claim: Claim, record: Record, verdict: Verdict, n_records: int, n_met: int
) -> str:
    paper = claim.paper_value(record.axes)
    ours = _number(record.value, claim.unit)
    if record.low is not None and record.high is not None:
        ours += f" ({record.low:.4g} to {record.high:.4g})"
    text = f"{ours}, {_paper_text(paper, claim)}"
    if verdict is Verdict.INFORMATIVE:
        return f"{text}; not judged: {_why_informative(claim, record)}"
    if verdict is Verdict.NOISY:
        why = "did not converge" if record.noisy else "is too wide to decide"
        text += f"; the measurement {why}"
    if n_records > 1:
        axes = ", ".join(f"{name} {value}" for name, value in record.axes.items())
        which = f" at {axes}" if axes else ""
        return f"{n_met} of {n_records} points meet the criterion; the weakest{which}: {text}"
    return text


def _why_informative(claim: Claim, record: Record) -> str:
    if not claim.comparable:
        return "the two are not comparable"
    if not claim.is_judged:
        return f"the paper's value is {claim.source}"
    if record.contended:
        return _CONTENDED
    if claim.criterion is None:
        return "the claim has no criterion"
    return "the paper gives no value here"


def _judge_shape(claim: Claim, findings: list[Finding], records: list[Record]) -> Judgement:
    if not findings:
        reason = "the records do not yet hold two places to compare"
        return _judgement(claim, records[-1], None, reason, 0, 0)
    verdicts = [_shape_verdict(claim, finding) for finding in findings]
    worst = min(verdicts, key=_WORST_FIRST.index)
    n_met = sum(verdict is Verdict.SHAPE for verdict in verdicts)
    finding = findings[verdicts.index(worst)]
    reason = finding.reason
    if worst is Verdict.INFORMATIVE:
        why = _CONTENDED
        if not claim.is_judged:
            why = f"the paper's result is {claim.source}"
        reason += f"; not judged: {why}"
    if len(findings) > 1:
        reason = f"{n_met} of {len(findings)} groups have the shape; the weakest: {reason}"
    return _judgement(claim, finding.records[-1], worst, reason, len(findings), n_met)


def _shape_verdict(claim: Claim, finding: Finding) -> Verdict:
    if any(record.contended for record in finding.records):
        return Verdict.INFORMATIVE
    if finding.holds:
        return Verdict.SHAPE
    if finding.holds is None:
        return Verdict.NOISY
    # A result that is only remembered may be confirmed, but its absence must not count against us.
    return Verdict.MISSED if claim.is_judged else Verdict.INFORMATIVE


def _coverage(claim: Claim, records: Sequence[Record]) -> str:
    measured = sum(any(p.fits(record.axes) for record in records) for p in claim.points)
    if measured == len(claim.points):
        return ""
    return f"; {measured} of the paper's {len(claim.points)} points measured"


def _paper_text(paper: PaperValue, claim: Claim) -> str:
    if paper is None:
        return "no paper value"
    if isinstance(paper, tuple):
        return f"paper {paper[0]:.6g} to {_number(paper[1], claim.unit)}"
    return f"paper {_number(paper, claim.unit)}"


def _number(value: float, unit: str) -> str:
    return f"{value:.6g} {unit}".rstrip()


@lru_cache(maxsize=64)
def _parsed(path: Path, package: str, mtime_ns: int, size: int) -> Mapping[str, Claim]:
    return parse(path, package)
