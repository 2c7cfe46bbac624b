"""What the results say, as plain values: the page, the terminal and the READMEs only lay it out."""

import importlib
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from common import PAPERS
from common.claims import Claim, Judgement, judge
from common.claims import load as load_claims
from common.criteria import ends
from common.experiment import Experiment, all_experiments
from common.record import Record
from common.report import wording
from common.report.style import HOLDS, VERDICTS
from common.results import ResultsWarning, Run, Store

NOT_MEASURED = "not measured"

#: Verdict words that settle a claim one way or the other.
DECIDED = (*HOLDS, "missed")

_HEADLINES = 5


@attrs.frozen
class ClaimRow:
    """A claim of a paper beside what was obtained here.

    runs: those whose records were judged, newest first; empty when nothing was measured
    """

    claim: Claim
    judgement: Judgement | None
    runs: tuple[Run, ...] = ()

    @property
    def word(self) -> str:
        """The verdict, or "not measured"."""
        if self.judgement is None or self.judgement.verdict is None:
            return NOT_MEASURED
        return str(self.judgement.verdict)

    @property
    def is_measured(self) -> bool:
        """Whether there is a value to show."""
        return self.judgement is not None and self.judgement.value is not None

    @property
    def is_remembered(self) -> bool:
        """Whether the paper's value is from memory, and so never judged against."""
        return self.claim.source == "remembered"

    @property
    def source(self) -> str:
        """Where the paper's value comes from, when it was not simply read."""
        known = self.claim.paper is not None or bool(self.claim.points)
        shown = self.claim.source != "read" and (known or not self.claim.is_judged)
        return self.claim.source if shown else ""

    @property
    def label(self) -> str:
        """The claim in words."""
        return wording.claim_label(self.claim.id)

    @property
    def place(self) -> str:
        """The part of the paper that makes the claim: abstract, figure, table or text."""
        part = self.claim.id.split(".")[1].rstrip("0123456789")
        return {"fig": "figure", "tab": "table", "sec": "text"}.get(part, part)

    @property
    def paper(self) -> str:
        """The paper's value with its unit, a dash where it is not known.

        Of a claim with points: that of the deciding one, their range while nothing is measured.
        """
        found = self.judgement
        value = self.claim.paper if found is None or found.paper is None else found.paper
        if value is None and self.claim.points:
            limits = [end for point in self.claim.points for end in ends(point.value)]
            low, high = min(limits), max(limits)
            value = (low, high) if low < high else low
        return wording.paper_value(value, self.claim.unit)

    @property
    def criterion(self) -> str:
        """What the claim must meet, in words."""
        return wording.criterion(self.claim.criterion, self.claim.unit)

    @property
    def ours(self) -> str:
        """The value that decided the verdict, with its unit, or a dash."""
        if self.judgement is None or self.judgement.value is None:
            return wording.UNKNOWN
        if not self.interval:
            return wording.exact(self.judgement.value, self.claim.unit)
        return wording.with_unit(self.judgement.value, self.claim.unit)

    @property
    def interval(self) -> str:
        """The 95% interval of that value, or nothing for an exact number."""
        found = self.judgement
        if found is None or found.value is None:
            return ""
        return wording.interval(found.low, found.high)

    @property
    def among(self) -> str:
        """That the value is the weakest of several points, or nothing."""
        found = self.judgement
        if found is None or found.n_records < 2 or found.value is None:
            return ""
        return f"weakest of {found.n_records}"

    @property
    def note(self) -> str:
        """The claim's note, without what its place has just said ("our own target")."""
        note, place = self.claim.note or "", self.claim.where
        if note.lower().startswith(place.lower()):
            note = note[len(place) :].lstrip(" .,:;")
        return note

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in one sentence."""
        if self.judgement is not None and self.judgement.reason:
            return wording.sentence(self.judgement.reason)
        if self.claim.not_attempted:
            return wording.sentence(self.claim.not_attempted)
        return "No run has recorded it yet."

    @property
    def ratio_bar(self) -> "RatioBar | None":
        """Ours against the paper's value for drawing; None when a ratio says nothing."""
        found = self.judgement
        if found is None or found.value is None or found.ratio is None or found.ratio <= 0:
            return None
        value = found.value
        if value <= 0:
            return None
        low, high = (value if end is None else end for end in (found.low, found.high))
        assert found.paper is not None  # there is a ratio to it
        paper = ends(found.paper)
        if paper[0] <= 0:
            return None
        centre = math.sqrt(paper[0] * paper[1])
        return RatioBar(
            ratio=found.ratio,
            value=_place(value / centre),
            low=_place(low / centre),
            high=_place(high / centre),
            paper=(_place(paper[0] / centre), _place(paper[1] / centre)),
        )


@attrs.frozen
class RatioBar:
    """Ours over the paper's value, as places 0..1 on a log scale from half to twice.

    The paper's value is in the middle; where it is a range, that is the stretch `paper`.
    """

    ratio: float
    value: float
    low: float
    high: float
    paper: tuple[float, float]


@attrs.frozen
class Package:
    """One paper: its claims in the order of claims.toml, its experiments, the verdict counts."""

    name: str
    about: str
    claims: tuple[ClaimRow, ...]
    experiments: tuple["ExperimentRow", ...]

    @property
    def attempted(self) -> tuple[ClaimRow, ...]:
        """Claims with a value here, and those that an experiment has yet to record."""
        return tuple(r for r in self.claims if r.word != NOT_MEASURED or not r.claim.not_attempted)

    @property
    def not_attempted(self) -> tuple[ClaimRow, ...]:
        """Claims that nothing here records, each with its reason."""
        return tuple(r for r in self.claims if r.word == NOT_MEASURED and r.claim.not_attempted)

    @property
    def reasons(self) -> dict[str, tuple[ClaimRow, ...]]:
        """The claims not attempted, by the reason given."""
        reasons = dict.fromkeys(row.reason for row in self.not_attempted)
        return {
            reason: tuple(row for row in self.not_attempted if row.reason == reason)
            for reason in reasons
        }

    @property
    def headlines(self) -> tuple[ClaimRow, ...]:
        """Up to five headline claims, measured ones first; those marked so are cut last."""
        chosen = [row for row in self.claims if row.claim.is_headline] or list(self.claims)
        by_weight = sorted(chosen, key=lambda row: (not row.is_measured, not row.claim.headline))
        kept = sorted(by_weight[:_HEADLINES], key=chosen.index)
        return tuple(sorted(kept, key=lambda row: not row.is_measured))

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict, in the order verdicts are explained; no zeros."""
        return count(self.claims)


@attrs.frozen
class ExperimentRow:
    """An experiment with its newest finished run and its other newest runs.

    declared: None for runs of an experiment that the packages no longer list.
    """

    name: str
    declared: Experiment | None
    run: Run | None
    others: tuple[Run, ...] = ()


@attrs.frozen
class NoiseRow:
    """How steady an experiment's timings were; half-widths are of A/A comparisons."""

    experiment: str
    n_timed: int
    n_unsettled: int
    n_contended: int
    halfwidth_median: float | None
    halfwidth_max: float | None


@attrs.frozen
class MachineCard:
    """A machine that runs were made on, and what to know before trusting its times."""

    id: str
    facts: Mapping[str, object]
    n_runs: int
    warnings: tuple[str, ...]


@attrs.frozen
class Summary:
    """All that a report shows.

    layer: the experiments of the shared layer itself;  notes: runs that could not be read
    """

    papers: tuple[Package, ...]
    layer: Package
    failures: tuple[Run, ...]
    machines: tuple[MachineCard, ...]
    noise: tuple[NoiseRow, ...]
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()

    @property
    def shows_layer(self) -> bool:
        """Whether the layer itself has claims or runs to show."""
        return bool(self.layer.claims or any(e.run or e.others for e in self.layer.experiments))

    @property
    def packages(self) -> tuple[Package, ...]:
        """The five papers and the layer."""
        return (*self.papers, self.layer)

    @property
    def claims(self) -> tuple[ClaimRow, ...]:
        """Every claim of the papers."""
        return tuple(row for paper in self.papers for row in paper.claims)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict counts over the papers."""
        return count(self.claims)

    @property
    def answer(self) -> str:
        """Does it reproduce? In one sentence."""
        counts = self.counts
        decided = sum(counts.get(word, 0) for word in DECIDED)
        holds = sum(counts.get(word, 0) for word in HOLDS)
        if decided:
            return f"{holds} of {wording.plural(decided, 'decided claim')} reproduce here."
        if self.runs:
            return "No claim is decided yet."
        return "Nothing has been measured yet."

    @property
    def newest(self) -> str:
        """When the newest run started, to the minute, or nothing."""
        started = max((run.info.started for run in self.runs), default="")
        return started[:16].replace("T", " ")


def build(
    store: Store,
    *,
    claims: Mapping[str, Claim] | None = None,
    experiments: Mapping[str, Experiment] | None = None,
) -> Summary:
    """Judge every claim by the newest finished run of the experiments that record it.

    claims and experiments default to those of the installed packages.
    """
    claims = load_claims() if claims is None else claims
    experiments = all_experiments() if experiments is None else experiments
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResultsWarning)
        runs = store.run_list()
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    rows = _experiment_rows(runs, experiments)
    current = [row.run for row in rows if row.run is not None]
    judged = judge_all(claims.values(), current)
    packages = {
        name: Package(
            name,
            about(name),
            tuple(row for row in judged if row.claim.package == name),
            tuple(row for row in rows if row.name.startswith(f"{name}_")),
        )
        for name in (*PAPERS, "common")
    }
    return Summary(
        papers=tuple(packages[name] for name in PAPERS),
        layer=packages["common"],
        failures=tuple(run for run in runs if run.info.status != "ok"),
        machines=_machines(runs),
        noise=tuple(row for run in current if (row := _noise(run)) is not None),
        runs=tuple(runs),
        notes=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def judge_all(claims: Iterable[Claim], runs: Sequence[Run]) -> tuple[ClaimRow, ...]:
    """Set each claim beside the records of these runs that carry its id."""
    carriers: dict[str, dict[str, Run]] = {}
    records: dict[str, list[Record]] = {}
    for run in runs:
        for record in run.records:
            if record.claim is None:
                continue
            records.setdefault(record.claim, []).append(record)
            carriers.setdefault(record.claim, {})[run.info.key] = run
    rows = []
    for claim in claims:
        found = records.get(claim.id)
        verdict = judge(claim, found) if found else None
        own = carriers.get(claim.id, {}).values()
        by_age = sorted(own, key=lambda run: run.info.started, reverse=True)
        rows.append(ClaimRow(claim, verdict, tuple(by_age)))
    return tuple(rows)


def count(rows: Iterable[ClaimRow]) -> dict[str, int]:
    """Claims by verdict, in the order verdicts are explained; verdicts nobody got are left out."""
    found = Counter(row.word for row in rows)
    return {word: found[word] for word in VERDICTS if found[word]}


def about(package: str) -> str:
    """First line of the package's docstring: what the paper is about."""
    try:
        text = importlib.import_module(package).__doc__ or ""
    except ImportError:
        return "This package is not installed."
    return text.strip().partition("\n")[0]


def _experiment_rows(
    runs: Sequence[Run], experiments: Mapping[str, Experiment]
) -> list[ExperimentRow]:
    names = [*experiments, *sorted({run.info.experiment for run in runs} - set(experiments))]
    rows = []
    for name in names:
        own = sorted(
            (run for run in runs if run.info.experiment == name),
            key=lambda run: run.info.started,
            reverse=True,
        )
        current = next((run for run in own if run.info.status == "ok"), None)
        others = tuple(run for run in own if run is not current)
        rows.append(ExperimentRow(name, experiments.get(name), current, others))
    return rows


def _machines(runs: Sequence[Run]) -> tuple[MachineCard, ...]:
    cards = []
    for machine_id in dict.fromkeys(run.info.machine_id for run in runs):
        own = [run for run in runs if run.info.machine_id == machine_id]
        newest = max(own, key=lambda run: run.info.started)
        hints = []
        if any(_mentions(run.info.machine, "OPENBLAS_CORETYPE") for run in own):
            hints.append(
                "OPENBLAS_CORETYPE was set: it can halve the speed of numpy, so ratios over numpy "
                "look better than they are."
            )
        n_contended = sum(run.info.contended for run in own)
        if n_contended:
            noun = wording.plural(n_contended, "run")
            hints.append(f"{noun} shared the machine with other runs: times are not judged.")
        cards.append(MachineCard(machine_id, newest.info.machine, len(own), tuple(hints)))
    return tuple(cards)


def _mentions(value: object, name: str) -> bool:
    """Whether a key of this name stands anywhere in nested mappings."""
    if isinstance(value, Mapping):
        return name in value or any(_mentions(inner, name) for inner in value.values())
    return False


def _noise(run: Run) -> NoiseRow | None:
    timed = [record for record in run.records if record.is_timed]
    if not timed:
        return None
    widths = sorted(record.noise for record in timed if record.noise is not None)
    return NoiseRow(
        experiment=run.info.experiment,
        n_timed=len(timed),
        n_unsettled=sum(record.noisy for record in timed),
        n_contended=sum(record.contended for record in timed),
        halfwidth_median=widths[len(widths) // 2] if widths else None,
        halfwidth_max=widths[-1] if widths else None,
    )


def _place(ratio: float) -> float:
    if ratio <= 0:
        return 0.0
    return min(1.0, max(0.0, 0.5 + math.log(ratio) / math.log(4)))
