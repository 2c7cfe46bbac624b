"""Training jobs: what they compute and exchange, and when."""

from __future__ import annotations

import math

import attrs
import numpy as np

from common.spelling import did_you_mean

from .models import BYTES_OF_FORMAT, gradient_bytes
from .plan import Int64

#: Of an iteration's computation, as the backward pass has about twice the forward's operations.
BACKWARD_SHARE = 2 / 3


@attrs.frozen(init=False)
class Job:
    """A data-parallel training job: compute, sum the gradients over all workers, and again.

    model:      a name of the catalogue, or "custom" for one given by its bytes
    bytes:      of one worker's gradients
    compute_s:  of an iteration. There is no default of a model: it belongs to a machine, and is 0
                unless it is given
    compute_share: instead: the share an iteration spends computing where its communication takes as
                long as the best host-based all-reduce alone on the network, 2(n-1)/n * bytes at the
                rate of a host's link
    fmt:        fp32, bf16 or int32
    buckets:    gradients are ready in so many equal parts, evenly over the backward pass; 1: at the
                end of the computation, so that nothing overlaps
    hosts:      names of nodes, for placement "trace"

    Raises ValueError naming the job, the value and what is allowed.
    """

    model: str
    bytes: int
    workers: int
    iterations: int
    arrival_s: float
    compute_s: float
    compute_share: float | None
    fmt: str
    buckets: int
    hosts: tuple[object, ...] | None

    def __init__(
        self,
        model: str | None = None,
        *,
        bytes: int | None = None,
        workers: int,
        iterations: int = 1,
        arrival_s: float = 0.0,
        compute_s: float | None = None,
        compute_share: float | None = None,
        fmt: str = "fp32",
        buckets: int = 1,
        hosts: tuple[object, ...] | list[object] | None = None,
    ) -> None:
        name = model or "custom"
        if fmt not in BYTES_OF_FORMAT:
            raise ValueError(
                f"job {name!r}: unknown fmt {fmt!r}{did_you_mean(fmt, BYTES_OF_FORMAT)}; "
                f"there are {', '.join(BYTES_OF_FORMAT)}"
            )
        if bytes is None:
            if model is None:
                raise ValueError("a job needs a model's name or bytes=")
            bytes = gradient_bytes(model, fmt)
        elif bytes % 1:
            raise ValueError(f"job {name!r}: bytes must be a whole number, got {bytes}")
        if compute_s is not None and compute_share is not None:
            raise ValueError(f"job {name!r}: give compute_s or compute_share, not both")
        for what, value, least in (
            ("workers", workers, 2),
            ("bytes", bytes, 1),
            ("iterations", iterations, 1),
            ("arrival_s", arrival_s, 0),
            ("compute_s", compute_s or 0.0, 0),
            ("buckets", buckets, 1),
        ):
            if not (value >= least and math.isfinite(value)):
                raise ValueError(f"job {name!r}: {what} must be at least {least}, got {value}")
        if compute_share is not None and not 0 <= compute_share < 1:
            raise ValueError(
                f"job {name!r}: compute_share must be at least 0 and below 1, got {compute_share}"
            )
        if buckets > bytes:
            raise ValueError(f"job {name!r}: {bytes} bytes do not fill {buckets} buckets")
        if hosts is not None and not len(set(hosts)) == len(hosts) == workers:
            raise ValueError(
                f"job {name!r}: hosts must name {workers} different hosts, one a worker, "
                f"got {list(hosts)}"
            )
        self.__attrs_init__(
            name,
            int(bytes),
            workers,
            iterations,
            arrival_s,
            compute_s or 0.0,
            compute_share,
            fmt,
            buckets,
            None if hosts is None else tuple(hosts),
        )

    def compute_ps(self, ps_per_byte: int) -> int:
        """Computation of an iteration where a byte takes so long on a host's link."""
        if self.compute_share is None:
            return round(self.compute_s * 1e12)
        ring = 2 * (self.workers - 1) / self.workers * self.bytes * ps_per_byte
        return round(ring * self.compute_share / (1 - self.compute_share))

    def bucket_bytes(self) -> Int64:
        """(buckets,) equal parts of the gradients, the first ones a byte longer where they must."""
        ends = -(-np.arange(self.buckets + 1, dtype=np.int64) * self.bytes // self.buckets)
        return np.diff(ends)

    def bucket_ps(self, compute_ps: int) -> Int64:
        """(buckets,) release of each, from the start of an iteration."""
        backward = compute_ps * BACKWARD_SHARE
        done = np.arange(1, self.buckets + 1) / self.buckets
        return np.round(compute_ps - backward + backward * done).astype(np.int64)
