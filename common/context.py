"""What a run function receives besides its settings: to record, compare, draw and resume."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from common import provenance
from common.cells import Cells

if TYPE_CHECKING:
    import numpy
    import torch

    from common.bench import Comparison
    from common.clock import Clock
    from common.progress import ProgressBoard
    from common.record import Record, Scalar
    from common.roofline import Roofline
    from common.run_folder import RunFolder

T = TypeVar("T")

#: The records' own axes, and what bench.compare takes and is not for experiments to choose.
_RESERVED_AXES = ("system", "baseline", "min_rounds", "setup", "rng")


@attrs.frozen
class Work:
    """What one call of every candidate does at least, for its share of the machine's limit.

    flops: floating point operations;  bytes: bytes moved to and from memory
    """

    flops: float = attrs.field(validator=attrs.validators.ge(0))
    bytes: float = attrs.field(validator=attrs.validators.ge(0))


class Context:
    """Everything an experiment may do to its run.

    threads: threads to time with, already set for torch, BLAS and OpenMP
    contended: other work runs beside it, so that times are shown but not judged
    seed:    root seed of the run
    profile: "quick" or "full"
    scratch: empty folder, gone when the run ends
    log:     goes to the run's log.txt; warnings also to the console

    Built by the runner. sources gives the digests of the code loaded so far, resume=False leaves
    cells of earlier runs unread.
    """

    def __init__(
        self,
        experiment: str,
        claims: Iterable[str],
        folder: RunFolder,
        *,
        threads: int,
        seed: int,
        profile: str,
        scratch: Path,
        log: logging.Logger,
        board: ProgressBoard,
        sources: Callable[[], Mapping[str, str]] = dict,
        resume: bool = True,
        contended: bool = False,
    ) -> None:
        self.threads = threads
        self.seed = seed
        self.profile = profile
        self.scratch = scratch
        self.log = log
        self._experiment = experiment
        self._claims = tuple(claims)
        self._folder = folder
        self._board = board
        self._cells = Cells(
            folder.cells,
            sources=sources,
            digest=provenance.digest,
            replay=self._append,
            log=log,
            resume=resume,
        )
        self.contended = contended
        self._noise: float | None = None
        self._n_compared = 0

    @functools.cached_property
    def roofline(self) -> Roofline:
        """Measured peaks of this machine for this number of threads; at most a day old."""
        from common import roofline

        return roofline.cached(threads=self.threads)

    def record(
        self,
        claim: str | None,
        metric: str,
        value: float,
        unit: str,
        *,
        low: float | None = None,
        high: float | None = None,
        fraction_of_roofline: float | None = None,
        timed: bool = False,
        **axes: Scalar,
    ) -> None:
        """Keep one value; it is on the disk when this returns.

        claim: id in claims.toml the value is judged by, None for a value no claim speaks of
        low, high: its 95% interval; without one the value is exact
        timed: the value comes from a clock, so other jobs of a parallel launcher may have
            disturbed it; it is then marked contended
        axes: what the value belongs to, e.g. rank=32, system="ours"

        Raises ValueError for a number that is not finite and for a claim that does not exist or
        that the experiment does not declare.
        """
        from common.record import Record

        self._check_claim(claim)
        self._append(
            Record(
                metric=metric,
                value=value,
                unit=unit,
                claim=claim,
                low=low,
                high=high,
                contended=timed and self.contended,
                fraction_of_roofline=fraction_of_roofline,
                axes=axes,
            )
        )

    def compare(
        self,
        metric: str,
        candidates: Mapping[str, Callable[[], Any]],
        *,
        baseline: str,
        verify: Callable[[Any, Any], object] | None,
        claim: str | Sequence[str] | None = None,
        subject: str = "ours",
        halfwidth: float = 0.02,
        max_seconds: float = 3.0,
        sample_s: float = 2e-3,
        cold: bool = False,
        clock: Clock | None = None,
        work: Work | None = None,
        **axes: Scalar,
    ) -> Comparison:
        """Time the candidates against the baseline and record the speedup of each over it.

        Every record has the axes system=<candidate> and baseline=<baseline>; the claim stands on
        the one whose system is `subject`, once for each of several claims. With work
        each also has its fraction of the machine's
        limit, and the baseline's fraction is a record of its own (metric fraction_of_roofline).
        The other arguments are those of common.bench.compare.
        """
        from common import bench
        from common.record import Record

        judged_by = [claim] if isinstance(claim, str) else list(claim or ())
        for one in judged_by:
            self._check_claim(one)
        taken = [name for name in _RESERVED_AXES if name in axes]
        if taken:
            raise ValueError(f"axis '{taken[0]}' is set by compare itself; use another name")
        if judged_by and (subject not in candidates or subject == baseline):
            others = [name for name in candidates if name != baseline]
            raise ValueError(
                f"claim '{judged_by[0]}' is about '{subject}', which must be a candidate besides "
                f"the baseline '{baseline}': have {', '.join(others) or 'none'}; name it by "
                "subject="
            )
        rng = self.rng(f"compare {self._n_compared}")
        self._n_compared += 1
        how: dict[str, Any] = {
            "max_seconds": max_seconds,
            "sample_s": sample_s,
            "cold": cold,
            "clock": clock,
            "threads": self.threads,
        }
        comparison = bench.compare(
            candidates,
            baseline=baseline,
            verify=verify,
            halfwidth=halfwidth,
            rng=rng,
            **how,
        )
        noise = self._noise_of(candidates[baseline], **how)

        def fraction(seconds: float) -> float | None:
            if work is None:
                return None
            return self.roofline.fraction(work.flops, work.bytes, seconds)

        for system, estimate in comparison.items():
            record = Record(
                metric=metric,
                value=estimate.estimate,
                unit="x",
                low=estimate.low,
                high=estimate.high,
                axes={**axes, "system": system, "baseline": baseline},
                rounds=estimate.rounds,
                noise=noise,
                noisy=estimate.status == "noisy",
                contended=self.contended,
                fraction_of_roofline=fraction(estimate.seconds),
                seconds=estimate.seconds,
            )
            judges: list[str | None] = [*judged_by] if system == subject else []
            for judge in judges or [None]:
                self._append(attrs.evolve(record, claim=judge))
        of_baseline = fraction(comparison.baseline_seconds)
        if of_baseline is not None:
            self._append(
                Record(
                    metric="fraction_of_roofline",
                    value=of_baseline,
                    unit="",
                    axes={**axes, "system": baseline, "baseline": baseline},
                    rounds=comparison.rounds,
                    noisy=comparison.status == "noisy",
                    contended=self.contended,
                    fraction_of_roofline=of_baseline,
                    seconds=comparison.baseline_seconds,
                )
            )
        if comparison.status == "noisy":
            self.log.warning("%s: %s", metric, comparison.reason)
        return comparison

    def adopt(self, records: Iterable[Record]) -> None:
        """Keep records as they are: what a part of this experiment measured in another process.

        Raises ValueError for a claim that the experiment does not declare.
        """
        for record in records:
            self._check_claim(record.claim)
            self._append(record)

    def rng(self, name: str) -> numpy.random.Generator:
        """A fresh generator that depends on the root seed, the experiment and the name alone."""
        import numpy

        return numpy.random.default_rng(self._seed_of(name))

    def torch_rng(self, name: str) -> torch.Generator:
        """The same for torch."""
        import torch

        return torch.Generator().manual_seed(self._seed_of(name) % 2**63)

    def cell(self, fn: Callable[..., T], /, **params: Any) -> T:
        """fn(**params), or what it gave in an earlier run that was cut short.

        A cell is one part of an experiment that is worth keeping. Its value and the records made
        inside it are stored as soon as it is done and come back as they were, so long as no file of
        ours that had been loaded by then has changed. The parameters must tell cells apart.
        """
        return self._cells.get(fn, params)

    def progress(self, iterable: Iterable[T], label: str) -> Iterator[T]:
        """Yield the items and show how far they are: a bar in a terminal, else a line per tenth."""
        return self._board.track(iterable, label)

    def data_folder(self, name: str, version: int) -> Path:
        """Folder for an expensive data set, kept beside the runs whatever code is edited.

        version: of the generator; raise it when what it makes changes
        """
        folder = self._folder.path.parents[1] / "data" / f"{name}-v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _append(self, record: Record) -> None:
        self._folder.append(record)
        self._cells.note(record)

    def _check_claim(self, claim: str | None) -> None:
        if claim is None:
            return
        from common import claims

        claims.find(claim)
        if claim not in self._claims:
            raise ValueError(
                f"claim '{claim}' must be listed in the claims of {self._experiment}, "
                f"which has {', '.join(self._claims) or 'none'}"
            )

    def _noise_of(self, fn: Callable[[], Any], **how: Any) -> float:
        """What this machine cannot tell apart: the first baseline against itself, once per run."""
        if self._noise is None:
            from common import bench

            self._noise = bench.noise(fn, rng=self.rng("noise"), **how)
        return self._noise

    def _seed_of(self, name: str) -> int:
        text = f"{self.seed}/{self._experiment}/{name}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
