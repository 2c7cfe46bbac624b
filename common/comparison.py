"""What a comparison found: ratios with their intervals, from samples taken side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs
import numpy as np

from common import paired
from common.clock import Sample
from common.paired import Floats

Status = Literal["ok", "noisy"]

# More samples than this share in which the thread waited: the CPU clock misses part of the work.
WAITING_SHARE = 0.1


class NoisyMeasurement(RuntimeError):
    """A ratio was asked of a comparison that did not settle."""


@attrs.frozen
class Estimate:
    """How many times faster than the baseline one candidate is, with its 95% interval.

    estimate, low, high: exp of the median of log(t_baseline / t_candidate) over the rounds
    clock:              which clock these come from; the CPU clock if the thread never waited
    wall_ratio:         the same estimate by the wall clock
    cpu_ratio:          by the thread's CPU clock; None where it is not readable
    ratio_of_minima, ratio_of_quartiles: baseline over candidate, from unpaired extremes
    mad:                median absolute deviation of the paired logs
    seconds, seconds_min: of one call of the candidate, median and least
    """

    estimate: float
    low: float
    high: float
    rounds: int
    status: Status
    reason: str
    clock: Literal["wall", "cpu"]
    wall_ratio: float
    cpu_ratio: float | None
    ratio_of_minima: float
    ratio_of_quartiles: float
    mad: float
    seconds: float
    seconds_min: float

    @property
    def halfwidth(self) -> float:
        """Half the interval's width, relative: 0.02 is within 2%."""
        return paired.half_width(math.log(self.low), math.log(self.high))

    @property
    def speedup(self) -> float:
        """The estimate; raises NoisyMeasurement if the comparison did not settle."""
        if self.status == "noisy":
            raise NoisyMeasurement(
                f"speedup is undecided: {self.estimate:.3f} in [{self.low:.3f}, {self.high:.3f}] "
                f"after {self.rounds} rounds, {self.reason}; "
                "read .estimate with its interval, or give more max_seconds"
            )
        return self.estimate


@attrs.frozen
class Comparison(Mapping[str, Estimate]):
    """Estimates of every candidate but the baseline, by name.

    baseline_seconds, baseline_low, baseline_high: of one call of the baseline, median over the
        rounds and its 95% interval;  baseline_seconds_min: least
    status: "noisy" if any estimate is; reason then says of which and why
    overhead: seconds computed between the calls (order, bookkeeping, looks) per second of calls
    """

    estimates: Mapping[str, Estimate]
    baseline: str
    baseline_seconds: float
    baseline_low: float
    baseline_high: float
    baseline_seconds_min: float
    rounds: int
    status: Status
    reason: str
    elapsed_s: float
    overhead: float

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    @property
    def only(self) -> Estimate:
        """The estimate, when there is a single candidate besides the baseline."""
        if len(self.estimates) != 1:
            raise ValueError(
                f"say which candidate: the comparison holds {len(self.estimates)} "
                f"({', '.join(self.estimates)}), take comparison[name]"
            )
        return next(iter(self.estimates.values()))

    @property
    def speedup(self) -> float:
        """Of the single candidate; raises NoisyMeasurement if it did not settle."""
        return self.only.speedup

    @property
    def estimate(self) -> float:
        return self.only.estimate

    @property
    def low(self) -> float:
        return self.only.low

    @property
    def high(self) -> float:
        return self.only.high


class Arm:
    """Samples of one candidate.

    k: calls in each sample
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.k = 1
        self.samples: list[Sample] = []

    def times(self, *, cpu: bool) -> Floats:
        """Seconds per call, (rounds,), by the CPU or the wall clock."""
        seconds = [s.cpu if cpu and s.cpu is not None else s.wall for s in self.samples]
        # A clock that saw nothing saw at most its own step; no ratio may become infinite.
        floored: Floats = np.maximum(np.array(seconds), 1e-9)
        return floored / self.k


class Looks:
    """Estimates from the samples so far."""

    def __init__(
        self, arms: Sequence[Arm], baseline: int, halfwidth: float, min_rounds: int
    ) -> None:
        self._base = arms[baseline]
        self._others = [arm for arm in arms if arm is not self._base]
        self._arms = arms
        self._halfwidth = halfwidth
        self._min_rounds = min_rounds

    def settled(self) -> bool:
        cpu = self._uses_cpu()
        base = np.log(self._base.times(cpu=cpu))
        widths = (
            paired.half_width(*paired.interval(base - np.log(arm.times(cpu=cpu)))[1:])
            for arm in self._others
        )
        return all(width <= self._halfwidth for width in widths)

    def estimates(self) -> dict[str, Estimate]:
        return {arm.name: self._estimate(arm) for arm in self._others}

    def baseline_seconds(self) -> Floats:
        return self._base.times(cpu=self._uses_cpu())

    def _reads_cpu(self) -> bool:
        return all(sample.cpu is not None for arm in self._arms for sample in arm.samples)

    def _uses_cpu(self) -> bool:
        if not self._reads_cpu():
            return False
        waits = (np.mean([s.waited for s in arm.samples]) for arm in self._arms)
        return all(share <= WAITING_SHARE for share in waits)

    def _estimate(self, arm: Arm) -> Estimate:
        cpu = self._uses_cpu()
        base, ours = self._base.times(cpu=cpu), arm.times(cpu=cpu)
        logs = np.log(base / ours)
        centre, low, high = paired.interval(logs)
        reasons = []
        width = paired.half_width(low, high)
        if len(logs) < self._min_rounds:
            reasons.append(f"{len(logs)} rounds of {self._min_rounds} fitted in the time")
        if width > self._halfwidth:
            reasons.append(f"half-width {width:.3f} where {self._halfwidth:.3f} was wanted")
        ratios = {True: None, False: None} | {cpu: math.exp(centre)}
        if self._reads_cpu():
            other = np.log(self._base.times(cpu=not cpu) / arm.times(cpu=not cpu))
            other_centre, other_low, other_high = paired.interval(other)
            ratios[not cpu] = math.exp(other_centre)
            # Intervals apart, and by more than was asked to be told apart. Work that waits has
            # no CPU time to agree with.
            apart = other_low > high or other_high < low
            if cpu and apart and math.sinh(abs(other_centre - centre)) > self._halfwidth:
                reasons.append(f"wall clock says {ratios[False]:.3f}, CPU clock {ratios[True]:.3f}")
        wall_ratio = ratios[False]
        assert wall_ratio is not None
        return Estimate(
            estimate=math.exp(centre),
            low=math.exp(low),
            high=math.exp(high),
            rounds=len(logs),
            status="noisy" if reasons else "ok",
            reason=", ".join(reasons),
            clock="cpu" if cpu else "wall",
            wall_ratio=wall_ratio,
            cpu_ratio=ratios[True],
            ratio_of_minima=float(base.min() / ours.min()),
            ratio_of_quartiles=float(np.quantile(base, 0.25) / np.quantile(ours, 0.25)),
            mad=float(np.median(np.abs(logs - centre))),
            seconds=float(np.median(ours)),
            seconds_min=float(ours.min()),
        )
