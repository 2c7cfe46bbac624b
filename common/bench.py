"""Compare the speed of functions side by side, on a machine that does other things too."""

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common import paired
from common.clock import Clock, HostClock, Sample
from common.comparison import Arm, Comparison, Estimate, Looks, NoisyMeasurement

__all__ = [
    "CandidateError",
    "Comparison",
    "Estimate",
    "NoisyMeasurement",
    "balanced_orders",
    "compare",
    "noise",
]

MAX_CALLS = 2**22  # calls in one sample; a function still unseen by the clock then is refused
WARM_SAMPLES = 20
FEWEST_ROUNDS = 3
LONGER_THAN_A_SLICE_S = 0.1
ORDERS_AT_ONCE = 32


class CandidateError(RuntimeError):
    """A candidate raised, or gave another result than the baseline; nothing was timed."""


def compare(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    baseline: str,
    verify: Callable[[Any, Any], object] | None,
    halfwidth: float = 0.02,
    min_rounds: int = 15,
    max_seconds: float = 3.0,
    sample_s: float = 2e-3,
    cold: bool = False,
    setup: Callable[[], None] | None = None,
    rng: np.random.Generator | None = None,
    threads: int = 1,
    clock: Clock | None = None,
) -> Comparison:
    """Time the candidates in rounds of random order until every ratio is known to `halfwidth`.

    A round times each candidate once, over as many calls as last about `sample_s`; the ratio is
    the median over rounds of baseline time / candidate time, so above 1 the candidate is faster.
    What slows the machine for a while slows both sides of a round and cancels.

    verify:  called as verify(result, baseline_result) for each candidate before anything is
             timed; raising, or returning something false, ends the comparison. None: unchecked.
    halfwidth: wanted half-width of the 95% interval; looked at after 15, 30, 60, ... rounds
    max_seconds: end of timing, though never before 3 rounds; under `min_rounds` rounds or a
             wider interval the result is "noisy"
    sample_s: short, so that some samples fall between two pre-emptions
    cold:    every sample is one call with twice the last-level cache walked through before it
    setup:   called untimed before every sample and before the call that warms it
    threads: how many threads the candidates use; only for 1 can CPU time be read
    clock:   time source, the host's by default

    Raises ValueError for fewer than two candidates or an unknown baseline, CandidateError naming
    the candidate that failed or disagreed.
    """
    _check_arguments(candidates, baseline, halfwidth, min_rounds, max_seconds, sample_s, threads)
    clock = clock or HostClock(threads)
    rng = rng or np.random.default_rng()
    _verify_all(candidates, baseline, verify, setup)

    start = clock.now()
    evict = _cache_walker() if cold else None
    arms = [_Candidate(name, call, clock, setup, evict) for name, call in candidates.items()]
    for arm in arms:
        arm.calibrate(sample_s)
        arm.warm_up(start + max_seconds / 4)
    looks = Looks(arms, [arm.name for arm in arms].index(baseline), halfwidth, min_rounds)

    before = sum(arm.inside_s for arm in arms)
    rounds_start = clock.busy()
    next_look = min_rounds
    orders = balanced_orders(len(arms), rng)
    rounds = 0
    while True:
        for position in next(orders):
            arms[position].take()
        rounds += 1
        if rounds == next_look:
            if looks.settled():
                break
            next_look *= 2
        if rounds >= FEWEST_ROUNDS and clock.now() - start >= max_seconds:
            break
    rounds_busy = clock.busy() - rounds_start
    inside = sum(arm.inside_s for arm in arms) - before
    estimates = looks.estimates()
    noisy = [f"{name}: {e.reason}" for name, e in estimates.items() if e.status == "noisy"]
    base = looks.baseline_seconds()
    base_median, base_low, base_high = paired.interval(base)
    return Comparison(
        estimates=estimates,
        baseline=baseline,
        baseline_seconds=base_median,
        baseline_low=base_low,
        baseline_high=base_high,
        baseline_seconds_min=float(base.min()),
        rounds=rounds,
        status="noisy" if noisy else "ok",
        reason="; ".join(noisy),
        elapsed_s=clock.now() - start,
        overhead=max(rounds_busy - inside, 0.0) / inside,
    )


def noise(fn: Callable[[], Any], **options: Any) -> float:
    """Half-width of a comparison of `fn` with itself: what this machine cannot tell apart.

    options: as of `compare`
    """
    return compare({"a": fn, "b": fn}, baseline="a", verify=None, **options).only.halfwidth


def balanced_orders(n: int, rng: np.random.Generator) -> Iterator[Sequence[int]]:
    """Endless random orders of range(n); every n of them put each item once in each place.

    Strict alternation of two arms lets a periodic disturbance fall on the same arm each time,
    and unbalanced chance lets a first-place penalty fall on one arm more often.
    """

    def shuffles() -> NDArray[np.int64]:
        return rng.permuted(np.tile(np.arange(n), (ORDERS_AT_ONCE, 1)), axis=1)

    while True:
        # Latin squares (i + j) mod n with rows, columns and names shuffled, many in one go: what
        # is computed here is computed between samples.
        places = (shuffles()[:, :, None] + shuffles()[:, None, :]) % n
        names = np.take_along_axis(shuffles()[:, None, :], places, axis=2)
        yield from names.reshape(-1, n).tolist()


class _Candidate(Arm):
    """A candidate that takes its own samples."""

    def __init__(
        self,
        name: str,
        call: Callable[[], Any],
        clock: Clock,
        setup: Callable[[], None] | None,
        evict: Callable[[], None] | None,
    ) -> None:
        super().__init__(name)
        self.inside_s = 0.0
        self._call = call
        self._clock = clock
        self._setup = setup
        self._evict = evict

    def calibrate(self, sample_s: float) -> None:
        """Find the number of calls that lasts about `sample_s`."""
        if self._evict:
            return  # only the first call after the walk is cold
        while True:
            taken = self._undisturbed(self.k, sample_s)
            if taken >= sample_s / 2:
                self.k = max(1, round(self.k * sample_s / taken))
                return
            if self.k >= MAX_CALLS:
                if taken > 0:
                    return
                raise ValueError(
                    f"candidate '{self.name}' took no measurable time in {self.k} calls: "
                    "give it more work per call"
                )
            wanted = self.k * sample_s / taken if taken > 0 else math.inf
            self.k = int(min(max(wanted, 2 * self.k), 10 * self.k, MAX_CALLS))

    def _undisturbed(self, k: int, sample_s: float) -> float:
        """Seconds k calls take without pre-emption.

        A pre-empted sample would leave this arm with fewer calls, so with shorter samples that
        escape pre-emption more often than the other arm's. What lasts longer than any scheduler
        slice is taken at its word.
        """
        first = self._sample(k)
        taken = _own_time(first)
        by_wall = first.cpu is None or first.waited
        if by_wall and sample_s / 2 <= taken < LONGER_THAN_A_SLICE_S:
            taken = min(taken, *(_own_time(self._sample(k)) for _ in range(2)))
        return taken

    def warm_up(self, deadline: float) -> None:
        """Sample until two in a row agree within 10%, at most 20 times."""
        last = math.inf
        for _ in range(WARM_SAMPLES):
            now = _own_time(self._sample(self.k))
            if abs(now - last) <= 0.1 * now or self._clock.now() > deadline:
                return
            last = now

    def take(self) -> None:
        self.samples.append(self._sample(self.k))

    def _sample(self, k: int) -> Sample:
        before = self._clock.busy()
        if self._setup:
            self._setup()
        if self._evict:
            self._evict()
        else:
            self._call()
            if self._setup:
                self._setup()
        collects = gc.isenabled()
        gc.disable()
        ready = self._clock.busy()
        try:
            sample = self._clock.sample(self._call, k)
        finally:
            if collects:
                gc.enable()
        self.inside_s += ready - before + (sample.wall if sample.cpu is None else sample.cpu)
        return sample


def _own_time(sample: Sample) -> float:
    """CPU seconds where they tell the work, which pre-emption does not lengthen; else elapsed."""
    return sample.wall if sample.cpu is None or sample.waited else sample.cpu


def _verify_all(
    candidates: Mapping[str, Callable[[], Any]],
    baseline: str,
    verify: Callable[[Any, Any], object] | None,
    setup: Callable[[], None] | None,
) -> None:
    """Run every candidate once, the baseline first, and check its result against the baseline's."""

    def result_of(name: str) -> Any:
        if setup:
            setup()
        try:
            return candidates[name]()
        except Exception as error:
            raise CandidateError(
                f"candidate '{name}' raised {type(error).__name__}: {error}"
            ) from error

    reference = result_of(baseline)
    for name, call in candidates.items():
        if name == baseline:
            continue
        result = result_of(name)
        if verify is None:
            continue
        if result is reference and hasattr(result, "shape") and call is not candidates[baseline]:
            raise CandidateError(
                f"candidate '{name}' returns the very array the baseline '{baseline}' returned, "
                "so comparing them proves nothing: give each its own output"
            )
        try:
            agrees = verify(result, reference)
        except Exception as error:
            raise CandidateError(
                f"candidate '{name}' disagrees with the baseline '{baseline}': {error}"
            ) from error
        if agrees is not None and not agrees:
            raise CandidateError(f"candidate '{name}' disagrees with the baseline '{baseline}'")


def _check_arguments(
    candidates: Mapping[str, Callable[[], Any]],
    baseline: str,
    halfwidth: float,
    min_rounds: int,
    max_seconds: float,
    sample_s: float,
    threads: int,
) -> None:
    if baseline not in candidates:
        raise ValueError(f"baseline must be one of {sorted(candidates)}, got '{baseline}'")
    if len(candidates) < 2:
        raise ValueError(f"a comparison needs a candidate besides the baseline '{baseline}'")
    for name, value in (
        ("halfwidth", halfwidth),
        ("max_seconds", max_seconds),
        ("sample_s", sample_s),
    ):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    for name, count in (("min_rounds", min_rounds), ("threads", threads)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def _cache_walker() -> Callable[[], None]:
    """A function that replaces what the last-level cache holds."""
    from common.machine import last_level_cache_bytes

    buffer = np.zeros(2 * last_level_cache_bytes(), dtype=np.uint8)
    lines = buffer[::64]

    def walk() -> None:
        np.add(lines, 1, out=lines)

    return walk
