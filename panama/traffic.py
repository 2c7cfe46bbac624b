"""Ordinary traffic: sizes from a distribution, Poisson arrivals at a load, and incasts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from .cluster import Cluster
from .plan import Float64, Int32, Int64
from .seeds import stream

# Both tables are in packets of 1460 bytes, as the simulations of pFabric (Alizadeh et al., SIGCOMM
# 2013) use them: the first is the measured flow sizes of web search (DCTCP, Alizadeh et al.,
# SIGCOMM 2010, fig. 4), the second those of a cluster for data mining (VL2, Greenberg et al.,
# SIGCOMM 2009, fig. 2). Their means are 1.7 and 7.5 MB.
_PACKET = 1460
_WEBSEARCH = (
    (6, 0.0),
    (6, 0.15),
    (13, 0.2),
    (19, 0.3),
    (33, 0.4),
    (53, 0.53),
    (133, 0.6),
    (667, 0.7),
    (1333, 0.8),
    (3333, 0.9),
    (6667, 0.97),
    (20000, 1.0),
)
_DATAMINING = (
    (1, 0.0),
    (1, 0.5),
    (2, 0.6),
    (3, 0.7),
    (7, 0.8),
    (267, 0.9),
    (2107, 0.95),
    (66667, 0.99),
    (666667, 1.0),
)


@attrs.frozen(eq=False)
class Arrivals:
    """Flows by start: start_ps, src and dst (node numbers), n_bytes of payload; all (flows,)."""

    start_ps: Int64
    src: Int32
    dst: Int32
    n_bytes: Int64

    def __len__(self) -> int:
        return len(self.start_ps)


@attrs.frozen
class Traffic:
    """Flows between hosts drawn at random.

    kind:  "poisson", "incast" or "none"
    sizes: (points) bytes and probabilities: the share of flows up to that size, straight in between
    load:  of "poisson": payload sent over what the hosts' links carry
    fan_in, every_s: of "incast": so many hosts at once send to one, so often
    """

    name: str
    kind: Literal["poisson", "incast", "none"]
    sizes: tuple[tuple[float, float], ...] = ()
    load: float = 0.0
    fan_in: int = 0
    every_s: float = 0.0

    @classmethod
    def websearch(cls, load: float) -> Traffic:
        """Web search (DCTCP, fig. 4): half the flows below 80 kB, most bytes above 1 MB."""
        return cls("websearch", "poisson", _in_bytes(_WEBSEARCH), _checked_load(load))

    @classmethod
    def datamining(cls, load: float) -> Traffic:
        """Data mining (VL2, fig. 2): four flows of five below 11 kB, most bytes above 100 MB."""
        return cls("datamining", "poisson", _in_bytes(_DATAMINING), _checked_load(load))

    @classmethod
    def fixed(cls, bytes: int, load: float) -> Traffic:
        """Flows of one size."""
        if bytes < 1:
            raise ValueError(f"a flow has at least one byte, got bytes={bytes}")
        return cls(
            "fixed", "poisson", ((float(bytes), 0.0), (float(bytes), 1.0)), _checked_load(load)
        )

    @classmethod
    def from_cdf(cls, path: str | Path, load: float) -> Traffic:
        """Sizes from a file: on each line bytes and the share of flows up to that size.

        Blank lines and what follows # are passed over. Where the first share is above 0, that many
        flows have the first size. Raises ValueError naming file and line.
        """
        path = Path(path)
        return cls(path.stem, "poisson", read_cdf(path), _checked_load(load))

    @classmethod
    def incast(cls, fan_in: int, bytes: int, every_s: float) -> Traffic:
        """Every `every_s` seconds `fan_in` hosts send `bytes` each to one other host at once."""
        if fan_in < 1 or bytes < 1 or not every_s > 0:
            raise ValueError(
                f"an incast needs fan_in >= 1, bytes >= 1 and every_s > 0, got fan_in={fan_in}, "
                f"bytes={bytes}, every_s={every_s}"
            )
        sizes = ((float(bytes), 0.0), (float(bytes), 1.0))
        return cls("incast", "incast", sizes, fan_in=fan_in, every_s=every_s)

    @classmethod
    def none(cls) -> Traffic:
        """No ordinary traffic."""
        return cls("none", "none")

    @property
    def mean_bytes(self) -> float:
        """Mean of the distribution."""
        x, p = np.array(self.sizes, dtype=np.float64).T
        return float(p[0] * x[0] + (np.diff(p) * (x[1:] + x[:-1]) / 2).sum())

    def draw(self, cluster: Cluster, horizon_s: float, seed: int) -> Arrivals:
        """Flows that start within the horizon; jobs and schemes have no part in them."""
        rng = stream(seed, "traffic")
        if self.kind == "none" or (self.kind == "poisson" and self.load == 0):
            return Arrivals(_ints(0), _nodes(0), _nodes(0), _ints(0))
        if self.kind == "incast":
            return self._incasts(cluster, horizon_s, rng)
        n_hosts = len(cluster.hosts)
        bytes_per_s = float((1e12 / cluster.host_ps_per_byte).sum())
        rate = self.load * bytes_per_s / self.mean_bytes
        start = _poisson(rate, horizon_s, rng)
        n = len(start)
        src = rng.integers(0, n_hosts, n)
        dst = (src + rng.integers(1, n_hosts, n)) % n_hosts
        return Arrivals(
            start_ps=np.round(start * 1e12).astype(np.int64),
            src=cluster.hosts[src],
            dst=cluster.hosts[dst],
            n_bytes=self._sizes(rng.random(n)),
        )

    def _sizes(self, share: Float64) -> Int64:
        """(n,) whole bytes at given shares of the distribution, at least one."""
        x, p = np.array(self.sizes, dtype=np.float64).T
        sizes: Int64 = np.maximum(1, np.round(np.interp(share, p, x))).astype(np.int64)
        return sizes

    def _incasts(self, cluster: Cluster, horizon_s: float, rng: np.random.Generator) -> Arrivals:
        n_hosts = len(cluster.hosts)
        if self.fan_in >= n_hosts:
            raise ValueError(
                f"an incast of {self.fan_in} hosts to another needs {self.fan_in + 1} hosts, the "
                f"cluster has {n_hosts}"
            )
        times = np.arange(0, horizon_s, self.every_s)
        picks = np.array(
            [rng.permutation(n_hosts)[: self.fan_in + 1] for _ in times], dtype=np.int64
        ).reshape(len(times), self.fan_in + 1)
        return Arrivals(
            start_ps=np.repeat(np.round(times * 1e12).astype(np.int64), self.fan_in),
            src=cluster.hosts[picks[:, 1:].ravel()],
            dst=cluster.hosts[np.repeat(picks[:, 0], self.fan_in)],
            n_bytes=self._sizes(np.ones(len(times) * self.fan_in)),
        )


def read_cdf(path: Path) -> tuple[tuple[float, float], ...]:
    """Points (bytes, share) of a file; ValueError naming file and line."""
    points: list[tuple[float, float]] = []
    line = 0
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        words = text.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        here = f"{path}, line {line}"
        try:
            size, share = (float(word) for word in words)
        except ValueError:
            raise ValueError(f"{here}: wanted two numbers, bytes and share, got {text!r}") from None
        if not (math.isfinite(size) and size >= 0 and 0 <= share <= 1):
            raise ValueError(f"{here}: wanted bytes >= 0 and a share in [0, 1], got {text!r}")
        if points and not (size >= points[-1][0] and share >= points[-1][1]):
            raise ValueError(
                f"{here}: bytes and shares must not decrease, got {size:g} {share:g} after "
                f"{points[-1][0]:g} {points[-1][1]:g}"
            )
        points.append((size, share))
    if not points:
        raise ValueError(f"{path}, line {line}: the file has no points")
    if points[-1][1] != 1:
        raise ValueError(f"{path}, line {line}: the last share must be 1, got {points[-1][1]:g}")
    if points[-1][0] < 1:
        raise ValueError(f"{path}, line {line}: the largest size must be at least one byte")
    if points[0][1] > 0:
        points.insert(0, (points[0][0], 0.0))
    return tuple(points)


def _poisson(rate: float, horizon_s: float, rng: np.random.Generator) -> Float64:
    """Arrival times within the horizon, rising."""
    block = max(16, math.ceil(rate * horizon_s * 1.1))
    times = np.cumsum(rng.exponential(1 / rate, block))
    while times[-1] < horizon_s:
        more = np.cumsum(rng.exponential(1 / rate, block)) + times[-1]
        times = np.concatenate([times, more])
    kept: Float64 = times[times < horizon_s]
    return kept


def _in_bytes(points: tuple[tuple[int, float], ...]) -> tuple[tuple[float, float], ...]:
    return tuple((float(packets * _PACKET), share) for packets, share in points)


def _checked_load(load: float) -> float:
    if not 0 <= load < 1:
        raise ValueError(f"load must be at least 0 and below 1, got {load}")
    return load


def _ints(n: int) -> Any:
    return np.zeros(n, dtype=np.int64)


def _nodes(n: int) -> Any:
    return np.zeros(n, dtype=np.int32)
