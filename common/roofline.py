"""What one core, or all, of this machine can do at most: the limits speeds are held against."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from common import files, machine, native, steady

KERNELS = Path(__file__).with_name("kernels")
DAY_S = 86_400.0
SLOT_S = 5e-3  # a probe's turn; short, so that a disturbance of some ms falls on few probes
PROBE_S = 3e-4  # a call's length: most calls then fall between two pre-emptions
GEMM_SIZES = (256, 384, 512)  # below a millisecond each at any rate a core has today
TRIAL_STEPS = 2_000  # some 10 us of multiply-add
STREAM_CHUNK = 2**21  # floats walked in a call: 8 MiB, too long for prefetch to miss its start

Precision = Literal["fp32", "bf16"]


@attrs.frozen
class Roofline:
    """Measured limits of `threads` threads together.

    fp32_gflops: multiply-add on full vectors in registers, counted as two operations
    bf16_gflops: the same with the bf16 dot instruction; None without one
    read_gbs:    summing an array of four times the last-level cache
    triad_gbs:   a = b + s * c over arrays of that size, three transfers an element; the read of
                 a's line that precedes a cached write is not counted
    l2_gbs:      summing an array of half a second-level cache (each thread its own)
    gemm:        GFLOP/s of square products by "torch_fp32", "torch_bf16", "numpy_fp32"
    contended:   the machine was doing other work; the limits may read low
    """

    fp32_gflops: float
    bf16_gflops: float | None
    read_gbs: float
    triad_gbs: float
    l2_gbs: float
    gemm: Mapping[str, float]
    contended: bool
    threads: int

    @property
    def memory_gbs(self) -> float:
        """The most that any measured pattern moves to or from memory."""
        return max(self.read_gbs, self.triad_gbs)

    def fraction(
        self, flops: float, bytes: float, seconds: float, precision: Precision = "fp32"
    ) -> float:
        """Share of the limit that work of this size reached in `seconds`; 1 is the roofline."""
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, got {seconds}")
        return self.least_seconds(flops, bytes, precision) / seconds

    def least_seconds(self, flops: float, bytes: float, precision: Precision = "fp32") -> float:
        """Shortest time the work can take, whichever of arithmetic and memory is slower.

        bytes: moved to and from memory; 0 for work that stays in cache
        """
        if flops < 0 or bytes < 0 or flops + bytes <= 0:
            raise ValueError(
                f"work needs flops or bytes, neither below 0: got {flops} flops, {bytes} bytes"
            )
        peak = self.fp32_gflops if precision == "fp32" else self.bf16_gflops
        if peak is None:
            raise ValueError("this processor has no bf16 dot instruction: hold the work to 'fp32'")
        return max(flops / peak, bytes / self.memory_gbs) / 1e9


def measure(threads: int = 1, seconds: float = 4.0) -> Roofline:
    """Probe the machine for about `seconds` and keep the best rate of each probe.

    The probes take turns of some milliseconds and each call is well below one, so that other
    work on the machine spoils some calls of each rather than all of one. Torch's and numpy's
    thread counts are as before afterwards.
    """
    if threads < 1 or not seconds > 0:
        raise ValueError(f"threads and seconds must be above 0, got {threads} and {seconds}")
    products = _gemm_probes()  # loads torch, whose threads are then held as well
    with steady.threads(threads):
        probes = {**_compute_probes(threads), **memory_probes(threads), **products}
        rates = best_rates(probes, seconds)
    gemm: dict[str, float] = {}
    for name, rate in rates.items():
        kind, _, _size = name.partition("@")
        if kind.startswith("gemm_"):
            peer = kind.removeprefix("gemm_")
            gemm[peer] = max(rate, gemm.get(peer, 0.0))
    return Roofline(
        fp32_gflops=rates["fp32"],
        bf16_gflops=rates.get("bf16"),
        read_gbs=rates["read"],
        triad_gbs=rates["triad"],
        l2_gbs=rates["l2"],
        gemm=gemm,
        contended=is_contended(),
        threads=threads,
    )


def cached(threads: int = 1) -> Roofline:
    """The roofline measured on this machine within the last day, else a new one.

    Kept in the folder of built kernels, apart for every machine id, thread count and setting of
    the environment variables that change speed. Processes that ask at once measure once.
    """
    from filelock import FileLock

    path = native.cache_folder() / f"roofline-{machine.fingerprint().id}-{threads}.json"
    with FileLock(path.with_suffix(".lock")):
        known = _read(path)
        if known is None:
            known = measure(threads)
            _write(path, known)
    return known


def cache_level_gbs(level_bytes: int, threads: int = 1, seconds: float = 0.2) -> float:
    """Read bandwidth in GB/s over an array of half of `level_bytes` for each thread."""
    return best_rates({"level": _resident_probe(level_bytes, threads)}, seconds)["level"]


def is_contended() -> bool:
    """Whether other work runs here: more load than cores, or two threads under 1.5x one."""
    cores = machine.fingerprint().usable_cores
    if os.getloadavg()[0] > cores:
        return True
    if cores < 2:
        return False
    from concurrent.futures import ThreadPoolExecutor

    # Ten times a probe: starting the second thread must not count.
    work = _compute_probes(1, length_s=10 * PROBE_S)["fp32"].call

    def both(pool: ThreadPoolExecutor) -> None:
        futures = [pool.submit(work), pool.submit(work)]
        for future in futures:
            future.result()

    with ThreadPoolExecutor(2) as pool:
        one = min(_seconds(work) for _ in range(10))
        two = min(_seconds(partial(both, pool)) for _ in range(20))
    return 2 * one / two < 1.5


@attrs.frozen
class Probe:
    """A call and what it does: floating-point operations or bytes."""

    call: Callable[[], object]
    amount: float


def best_rates(probes: Mapping[str, Probe], seconds: float) -> dict[str, float]:
    """Best rate in GFLOP/s or GB/s of each probe, all taking turns until the time ends.

    The third best call counts: now and then a virtual machine's clock makes a call look shorter
    than it can be (seen once: 1.4x).
    """
    best = {name: [float("inf")] * 3 for name in probes}
    deadline = time.perf_counter() + seconds
    turn = 0
    while turn < 3 or time.perf_counter() < deadline:
        for name, probe in probes.items():
            slot_end = time.perf_counter() + SLOT_S
            # The first call of a turn finds the caches of another probe.
            probe.call()
            while True:
                best[name] = sorted([*best[name], _seconds(probe.call)])[:3]
                if time.perf_counter() >= slot_end:
                    break
        turn += 1
    return {name: probe.amount / best[name][-1] / 1e9 for name, probe in probes.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9


def _compute_probes(threads: int, length_s: float = PROBE_S) -> dict[str, Probe]:
    """Multiply-add in registers, by fp32 and, if the processor can, by bf16 dot products."""
    library = native.build("peak", [KERNELS / "peak.c"], openmp=threads > 1)
    out = np.zeros(1, np.float32)
    probes = {}
    for name in ("fp32", "bf16"):
        kernel = library.function(
            f"int64_t peak_{name}(float *out, int64_t steps, int64_t threads)"
        )
        trial = partial(kernel, out, TRIAL_STEPS, threads)
        if trial() == 0:
            continue
        trial_s = min(_seconds(trial) for _ in range(20))
        steps = max(TRIAL_STEPS, int(TRIAL_STEPS * length_s / trial_s))
        probes[name] = Probe(partial(kernel, out, steps, threads), kernel(out, steps, threads))
    return probes


def memory_probes(threads: int) -> dict[str, Probe]:
    """Probes "read" and "triad" over memory, and "l2" over what that cache holds."""
    library = native.build("stream", [KERNELS / "stream.c"], openmp=threads > 1)
    read_sum = library.function(_READ_SUM)
    triad = library.function(
        "void triad(const float *b, const float *c, float *a, int64_t n, int64_t threads, "
        "float scale)"
    )
    out = np.zeros(1, np.float32)
    chunks = memory_chunks(threads)
    a, b, c = chunks.arrays

    def read_next() -> None:
        read_sum(b[chunks.next()], out, chunks.size, 1, threads)

    def triad_next() -> None:
        at = chunks.next()
        triad(b[at], c[at], a[at], chunks.size, threads, 0.5)

    sizes = machine.cache_sizes_or_typical()
    return {
        "read": Probe(read_next, 4 * chunks.size),
        "triad": Probe(triad_next, 3 * 4 * chunks.size),
        "l2": _resident_probe(sizes["L2"], threads),
    }


_READ_SUM = "void read_sum(const float *x, float *out, int64_t n, int64_t passes, int64_t threads)"


def _resident_probe(level_bytes: int, threads: int) -> Probe:
    library = native.build("stream", [KERNELS / "stream.c"], openmp=threads > 1)
    read_sum = library.function(_READ_SUM)
    per_thread = max(128, level_bytes // 2 // 4 // 128 * 128)
    x = aligned(per_thread * threads)
    out = np.zeros(1, np.float32)
    # About PROBE_S at the 100 GB/s a core reads from its caches at the least.
    passes = max(1, int(PROBE_S * 100e9 / (4 * per_thread)))
    return Probe(partial(read_sum, x, out, x.size, passes, threads), 4.0 * x.size * passes)


def _gemm_probes() -> dict[str, Probe]:
    """Square products by the libraries users have; torch is left out where it is not installed."""
    probes = {}
    for n in GEMM_SIZES:
        flops = 2.0 * n**3
        x, y, out = (np.ones((n, n), np.float32) for _ in range(3))
        probes[f"gemm_numpy_fp32@{n}"] = Probe(partial(np.matmul, x, y, out=out), flops)
        with contextlib.suppress(ImportError):
            import torch

            for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
                s, t, u = (torch.ones(n, n, dtype=dtype) for _ in range(3))
                probes[f"gemm_torch_{precision}@{n}"] = Probe(partial(torch.mm, s, t, out=u), flops)
    return probes


def aligned(n: int) -> NDArray[np.float32]:
    """n floats of value 1 that start at a 64-byte boundary, every page of them touched."""
    whole = np.ones(n + 16, np.float32)
    start = (-whole.ctypes.data % 64) // 4
    return whole[start : start + n]


@attrs.define
class Chunks:
    """Three arrays of several chunks, walked chunk by chunk without end.

    arrays: each (n_chunks, size) float32, n_chunks * size at least four times the last-level
            cache: a chunk that comes round again has left it
    """

    arrays: tuple[NDArray[np.float32], ...]
    size: int
    _at: int = 0

    def next(self) -> int:
        """Index of the chunk that was left alone longest."""
        self._at = (self._at + 1) % len(self.arrays[0])
        return self._at


def memory_chunks(threads: int) -> Chunks:
    """Arrays for loops over memory; a call walks one chunk of 8 MiB for each thread."""
    size = STREAM_CHUNK * threads
    n_chunks = -(-machine.last_level_cache_bytes() * 4 // (4 * size))
    arrays = (aligned(n_chunks * size).reshape(n_chunks, size) for _ in range(3))
    return Chunks(tuple(arrays), size)


def _read(path: Path) -> Roofline | None:
    """The kept roofline, or None if there is none, it is old or cannot be read."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        age_s = time.time() - kept["taken_s"]
        if not 0 <= age_s < DAY_S or kept["environment"] != machine.speed_variables():
            return None
        return Roofline(**kept["roofline"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, roofline: Roofline) -> None:
    kept = {
        "taken_s": time.time(),
        "environment": machine.speed_variables(),
        "roofline": attrs.asdict(roofline),
    }
    files.write_whole(path, json.dumps(kept, indent=1))
