"""The training hook on ranks of their own over loopback: bits, losses, errors."""

import numpy as np
import psutil
import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from panama import hook, wire  # noqa: E402
from panama.workers import Workers  # noqa: E402

RANKS = 4


def gradient(rank, n):
    rng = np.random.default_rng(rank)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n)).astype(np.float32)


def summed(rank, fan_in, fmt, drop, n):
    state = hook.AggregationState(dist.group.WORLD, fan_in, fmt, drop, seed=1)
    total = state.sum(torch.from_numpy(gradient(rank, n)))
    return total.numpy(), state.packets, state.resent


def losses(rank, fmt, steps, bucket_mb):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    wrapped = DistributedDataParallel(model, bucket_cap_mb=bucket_mb)
    if fmt != "stock":
        hook.register(wrapped, fmt=fmt)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(rank)
    seen = []
    for _ in range(steps):
        x = torch.randn(8, 16, generator=generator)
        loss = (wrapped(x) - x.sum(1, keepdim=True).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    return np.array(seen)


def refusals(rank):
    found = []
    state = hook.AggregationState(dist.group.WORLD, [RANKS], "int32", 0.0, seed=0)
    bad = torch.ones(4)
    if rank == 0:
        bad[1] = float("nan")
    for x in (bad, torch.ones(3, dtype=torch.float64), torch.ones(3).to_sparse()):
        try:
            state.sum(x)
        except (TypeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    wrapped = DistributedDataParallel(torch.nn.Linear(1, 1))
    for model, options in (
        (wrapped.module, {}),
        (wrapped, {"fmt": "fp8"}),
        (wrapped, {"fan_in": 1}),
        (wrapped, {"drop": 1.0}),
    ):
        try:
            hook.register(model, **options)
        except (TypeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def step_with_infinity(rank):
    """What a backward pass says when a gradient of one rank is infinite."""
    wrapped = DistributedDataParallel(torch.nn.Linear(1, 1))
    hook.register(wrapped, fmt="int32")
    try:
        wrapped(torch.full((1, 1), float("inf") if rank == 2 else 1.0)).sum().backward()
    except RuntimeError as error:
        return str(error)
    return None


def addresses(rank):
    return [end.ip for c in psutil.Process().net_connections() for end in (c.laddr, c.raddr) if end]


def make(rank, ranks):
    duties = (summed, losses, refusals, step_with_infinity, addresses)
    return {d.__name__: lambda *args, d=d: d(rank, *args) for d in duties}


@pytest.fixture(scope="module")
def ranks():
    """Four ranks for all tests: starting them takes longer than what they do."""
    with Workers(RANKS, make) as workers:
        yield workers


CASES = [
    ((4,), "fp32", 0.0, 1003),
    ((2, 2), "fp32", 0.5, 1003),
    ((3, 2), "fp32", 0.0, 64),  # the second switch has an absent port
    ((4,), "fp32", 0.0, 2),  # some ranks have nothing to sum
    ((2, 2), "bf16", 0.0, 1003),
    ((4,), "int32", 0.0, 1003),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rank_has_the_bits_of_the_tree(ranks, case):
    fan_in, fmt, drop, n = case
    rows = [gradient(rank, n) for rank in range(RANKS)]
    if fmt == "bf16":
        wanted = wire.from_bf16(wire.level_add([wire.to_bf16(row) for row in rows], fan_in))
    elif fmt == "int32":
        exponent = max(wire.scale_exponent(row, RANKS) for row in rows)
        fixed = [wire.to_fixed(row, exponent) for row in rows]
        wanted = wire.from_fixed(wire.level_add(fixed, fan_in), exponent)
    else:
        wanted = wire.level_add(rows, fan_in)
    found = ranks.call("summed", *case)
    assert all(total.tobytes() == wanted.tobytes() for total, _, _ in found)
    assert all(packets > 0 for _, packets, _ in found)
    assert (sum(resent for _, _, resent in found) > 0) == (drop > 0)
    exact = np.sum(rows, axis=0, dtype=np.float64)
    error = np.abs(wanted - exact)
    scale = np.abs(rows).sum(0)
    if fmt == "int32":  # half a unit each, and the sum rounded to a float32 at the end
        assert (error <= 0.5 * RANKS * 2.0**exponent + 2**-24 * np.abs(exact)).all()
    else:
        assert (error <= {"fp32": 1e-6, "bf16": 2e-2}[fmt] * scale).all()


def test_training_in_fp32_is_that_of_a_stock_all_reduce(ranks):
    stock, ours = (ranks.call("losses", way, 100, 25) for way in ("stock", "fp32"))
    assert any((a != b).any() for a, b in zip(ours, stock, strict=True))  # it is another sum
    for seen, wanted in zip(ours, stock, strict=True):
        assert wanted[-1] < wanted[0]
        np.testing.assert_allclose(seen, wanted, rtol=1e-6)


@pytest.mark.parametrize(("fmt", "gap"), [("fp32", 1e-6), ("bf16", 2e-2), ("int32", 1e-5)])
def test_training_over_many_buckets_stays_close(ranks, fmt, gap):
    # Buckets so small that every parameter has its own: several are under way at once.
    stock, ours = (ranks.call("losses", way, 20, 1e-4) for way in ("stock", fmt))
    for seen, wanted in zip(ours, stock, strict=True):
        assert (seen != wanted).any()
        np.testing.assert_allclose(seen, wanted, rtol=gap)


def test_what_cannot_be_summed_is_refused_on_every_rank(ranks):
    for found in ranks.call("refusals"):
        wanted = (
            "ValueError: int32 needs finite gradients",
            "TypeError: gradients must be torch.float32, got torch.float64",
            "TypeError: gradients must be dense",
            "TypeError: model must be a DistributedDataParallel, got Linear",
            "ValueError: fmt must be one of fp32, bf16, int32, got 'fp8'",
            "ValueError: fan_in [1] has room for 1 ranks, got 4",
            "ValueError: drop must lie in 0 .. 1, got 1.0",
        )
        assert len(found) == len(wanted)
        assert all(text.startswith(start) for text, start in zip(found, wanted, strict=True))


def test_a_backward_pass_fails_on_every_rank_that_hears_of_an_infinity(ranks):
    for said in ranks.call("step_with_infinity"):
        assert said is not None
        assert "int32 needs finite gradients" in said


def test_ranks_talk_over_loopback_alone(ranks):
    for found in ranks.call("addresses"):
        assert found
        assert all(ip.startswith("127.") or ip in ("::1", "::ffff:127.0.0.1") for ip in found)
