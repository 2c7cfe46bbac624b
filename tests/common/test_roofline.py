"""Roofline arithmetic, its cache and, briefly, the probes themselves."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import machine, native, roofline
from common.roofline import Roofline


def limits(**changes: object) -> Roofline:
    values: dict[str, object] = {
        "fp32_gflops": 200.0,
        "bf16_gflops": 400.0,
        "read_gbs": 20.0,
        "triad_gbs": 16.0,
        "l2_gbs": 100.0,
        "gemm": {"torch_fp32": 100.0},
        "contended": False,
        "threads": 1,
    }
    return Roofline(**(values | changes))


@pytest.mark.parametrize(
    ("flops", "bytes", "seconds"),
    [
        (1e9, 1e9, 1 / 20),  # one operation a byte: bandwidth
        (10e9, 1e9, 1 / 20),  # the ridge
        (1e12, 1e9, 5.0),
        (1e9, 0, 1 / 200),  # in cache
        (0, 1e9, 1 / 20),  # no arithmetic at all
    ],
)
def test_least_time_is_the_longer_of_arithmetic_and_memory(
    flops: float, bytes: float, seconds: float
) -> None:
    assert limits().least_seconds(flops, bytes) == pytest.approx(seconds)


def test_bandwidth_is_the_best_pattern_measured() -> None:
    assert limits(triad_gbs=30.0).least_seconds(1.0, 30e9) == pytest.approx(1.0)


@given(st.floats(1, 1e15), st.floats(1, 1e15), st.floats(1e-9, 1e3))
def test_fraction_is_reached_rate_over_limit(flops: float, bytes: float, seconds: float) -> None:
    rate = flops / seconds / 1e9
    limit = min(200.0, flops / bytes * 20.0)  # peak, or intensity times bandwidth
    assert limits().fraction(flops, bytes, seconds) == pytest.approx(rate / limit)


def test_fraction_of_pure_copying_is_of_bandwidth() -> None:
    assert limits().fraction(0, 10e9, 1.0) == pytest.approx(0.5)


def test_bf16_work_is_held_against_the_bf16_peak() -> None:
    assert limits().fraction(200e9, 0, 1.0, "bf16") == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no bf16 dot instruction"):
        limits(bf16_gflops=None).fraction(200e9, 0, 1.0, "bf16")


@pytest.mark.parametrize(("flops", "bytes"), [(0, 0), (-1, 5), (5, -1)])
def test_work_without_size_is_refused(flops: float, bytes: float) -> None:
    with pytest.raises(ValueError, match=f"got {flops} flops, {bytes} bytes"):
        limits().least_seconds(flops, bytes)


def test_time_must_pass() -> None:
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        limits().fraction(1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="threads and seconds must be above 0"):
        roofline.measure(threads=0)


# ---- cache ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Thread counts that were asked to be measured; each measurement reads one GFLOP/s more."""
    calls: list[int] = []

    def measure(threads: int = 1, seconds: float = 4.0) -> Roofline:
        calls.append(threads)
        return limits(fp32_gflops=100.0 + len(calls), threads=threads)

    monkeypatch.setattr(roofline, "measure", measure)
    return calls


def kept(cache: Path) -> Path:
    (path,) = cache.glob("roofline-*.json")
    return path


def test_one_measurement_serves_a_day(cache: Path, measured: list[int]) -> None:
    first = roofline.cached()
    assert roofline.cached() == first
    assert measured == [1]
    assert machine.fingerprint().id in kept(cache).name


def test_each_thread_count_is_kept_apart(cache: Path, measured: list[int]) -> None:
    assert roofline.cached(2).threads == 2
    assert roofline.cached(1).threads == 1
    assert measured == [2, 1]


@pytest.mark.parametrize("age_s", [86_401.0, -60.0])
def test_an_old_or_future_measurement_is_made_again(
    cache: Path, measured: list[int], age_s: float
) -> None:
    roofline.cached()
    contents = json.loads(kept(cache).read_text())
    contents["taken_s"] = time.time() - age_s
    kept(cache).write_text(json.dumps(contents))
    roofline.cached()
    assert measured == [1, 1]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"taken_s": 1}', '{"taken_s": "x", "environment": {}}']
)
def test_a_damaged_file_is_made_again(cache: Path, measured: list[int], damage: str) -> None:
    roofline.cached()
    kept(cache).write_text(damage)
    assert roofline.cached().fp32_gflops == 102.0
    assert roofline.cached().fp32_gflops == 102.0


def test_another_environment_is_measured_anew(
    cache: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    roofline.cached()
    monkeypatch.setenv(
        "OPENBLAS_CORETYPE",
        "Nehalem" if os.environ.get("OPENBLAS_CORETYPE") != "Nehalem" else "Zen",
    )
    roofline.cached()
    assert measured == [1, 1]


# ---- kernels ----


@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_compute_what_they_say(threads: int) -> None:
    library = native.build("stream", [roofline.KERNELS / "stream.c"], openmp=threads > 1)
    rng = np.random.default_rng(0)
    n = 128 * threads * 3
    a, b, c = (roofline.aligned(n) for _ in range(3))
    b[:] = rng.standard_normal(n)
    c[:] = rng.standard_normal(n)
    triad = library.function(
        "void triad(const float *b, const float *c, float *a, int64_t n, int64_t threads, "
        "float scale)"
    )
    triad(b, c, a, n, threads, 0.5)
    # One rounding, or two where there is no fused multiply-add.
    np.testing.assert_allclose(
        a, b + np.float32(0.5) * c, rtol=0, atol=float(4 * np.finfo(np.float32).eps * 5)
    )
    out = np.zeros(1, np.float32)
    read_sum = library.function(roofline._READ_SUM)
    read_sum(b, out, n, 3, threads)
    # Three passes of n terms, each partial sum at most n terms long: n * eps * the largest sum.
    bound = 3 * n * np.finfo(np.float32).eps * np.abs(b).sum()
    assert abs(out[0] - 3 * b.sum(dtype=np.float64)) <= bound


def test_chain_is_the_recurrence_it_claims() -> None:
    library = native.build("stream", [roofline.KERNELS / "stream.c"])
    chain = library.function("void chain(int64_t *out, int64_t n)")
    out = np.zeros(1, np.int64)
    for n in (0, 1, 2, 1000):
        x = 1
        for _ in range(n):
            x = (x * 0x9E3779B97F4A7C15 + 1) % 2**64
        chain(out, n)
        assert out[0] == x >> 1


@pytest.mark.parametrize("threads", [1, 2])
def test_peak_counts_every_operation_and_stays_finite(threads: int) -> None:
    library = native.build("peak", [roofline.KERNELS / "peak.c"], openmp=threads > 1)
    out = np.zeros(1, np.float32)
    for name in ("fp32", "bf16"):
        kernel = library.function(
            f"int64_t peak_{name}(float *out, int64_t steps, int64_t threads)"
        )
        one = kernel(out, 1, 1)
        assert kernel(out, 1000, threads) == 1000 * one * threads
        if one == 0:
            continue
        # Each lane of each chain ends near 1; a chain that ran away or vanished would show.
        per_operation = {"fp32": 2, "bf16": 4}[name]
        assert out[0] == pytest.approx(threads * one / per_operation, rel=0.01)


def test_aligned_arrays_start_at_a_cache_line() -> None:
    for n in (1, 16, 1000):
        x = roofline.aligned(n)
        assert x.shape == (n,)
        assert x.ctypes.data % 64 == 0


def test_contention_is_too_much_load_or_a_second_thread_without_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    assert roofline.is_contended()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    nothing = {"fp32": roofline.Probe(lambda: None, 1.0)}
    monkeypatch.setattr(roofline, "_compute_probes", lambda threads, length_s: nothing)
    monkeypatch.setattr(roofline, "_seconds", lambda call: 1.0)  # two take as long as one
    assert not roofline.is_contended()
    times = iter([1.0] * 10 + [2.0] * 20)  # two take twice as long as one
    monkeypatch.setattr(roofline, "_seconds", lambda call: next(times))
    assert roofline.is_contended() == (machine.fingerprint().usable_cores >= 2)


def test_probe_keeps_the_third_best_call(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 1.0, 4.0, 2.0, 3.0] + [9.0] * 100_000)
    monkeypatch.setattr(roofline, "_seconds", lambda call: next(times))
    probe = roofline.Probe(lambda: None, 6e9)
    assert roofline.best_rates({"p": probe}, 1e-3) == {"p": pytest.approx(2.0)}


@pytest.mark.bench
def test_no_real_program_beats_the_probes() -> None:
    import torch

    threads = torch.get_num_threads()
    found = roofline.measure(threads=1, seconds=1.5)
    assert torch.get_num_threads() == threads
    assert 1.0 < found.fp32_gflops < 1000.0
    assert found.l2_gbs > found.read_gbs > 0.5
    assert found.gemm["torch_fp32"] <= 1.05 * found.fp32_gflops
    assert found.gemm["numpy_fp32"] <= 1.05 * found.fp32_gflops
    if found.bf16_gflops is not None:
        assert found.bf16_gflops > found.fp32_gflops
        assert found.gemm["torch_bf16"] <= 1.05 * found.bf16_gflops
    assert found.threads == 1
