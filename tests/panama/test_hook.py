"""The training hook on ranks of their own over loopback: bits, losses, errors."""

import socket
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from panama import hook, wire  # noqa: E402


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_ranks(work, ranks, folder, *args):
    """Runs work(rank, ranks, *args) on each rank; what it returned, by rank."""
    torch.multiprocessing.spawn(_rank, (ranks, free_port(), str(folder), work, args), nprocs=ranks)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]


def _rank(rank, ranks, port, folder, work, args):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    try:
        torch.save(work(rank, ranks, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def gradient(rank, n=1003):
    rng = np.random.default_rng(rank)
    return (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n)).astype(np.float32)


CASES = [
    ((3,), "fp32", 0.0),
    ((2, 2), "fp32", 0.5),
    ((2, 2), "bf16", 0.0),
    ((4,), "int32", 0.0),
]


def all_sums(rank, ranks):
    found = {}
    for case in CASES:
        state = hook.AggregationState(dist.group.WORLD, *case, seed=1)
        total = state.sum(torch.from_numpy(gradient(rank)))
        found[case] = {"total": total, "packets": state.packets, "resent": state.resent}
    return found


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    """What three ranks found, each for every case: starting them takes longer than all sums."""
    return on_ranks(all_sums, 3, tmp_path_factory.mktemp("sums"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rank_has_the_bits_of_the_tree(summed, case):
    fan_in, fmt, drop = case
    rows = [gradient(rank) for rank in range(3)]
    if fmt == "bf16":
        wanted = wire.from_bf16(wire.level_add([wire.to_bf16(row) for row in rows], fan_in))
    elif fmt == "int32":
        exponent = max(wire.scale_exponent(row, 3) for row in rows)
        fixed = [wire.to_fixed(row, exponent) for row in rows]
        wanted = wire.from_fixed(wire.level_add(fixed, fan_in), exponent)
    else:
        wanted = wire.level_add(rows, fan_in)
    for found in summed:
        one = found[case]
        assert one["total"].numpy().tobytes() == wanted.tobytes()
        assert (one["resent"] > 0) == (drop > 0)
        assert one["packets"] > 0
    exact = np.sum(rows, axis=0, dtype=np.float64)
    error = np.abs(wanted - exact)
    scale = np.abs(rows).sum(0)
    if fmt == "int32":  # half a unit each, and the sum rounded to a float32 at the end
        assert (error <= 1.5 * 2.0**exponent + 2**-24 * np.abs(exact)).all()
    else:
        assert (error <= {"fp32": 1e-6, "bf16": 2e-2}[fmt] * scale).all()


def losses(rank, ranks, fmt, steps):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    wrapped = DistributedDataParallel(model)
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
    return torch.tensor(seen)


def refusals(rank, ranks):
    found = []
    state = hook.AggregationState(dist.group.WORLD, [2], "int32", 0.0, seed=0)
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


def all_of_two(rank, ranks):
    return {
        "stock": losses(rank, ranks, "stock", 100),
        "fp32": losses(rank, ranks, "fp32", 100),
        "refused": refusals(rank, ranks),
    }


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two ranks found."""
    return on_ranks(all_of_two, 2, tmp_path_factory.mktemp("two"))


def test_training_in_fp32_is_that_of_a_stock_all_reduce(of_two):
    for found in of_two:
        assert found["stock"][-1] < found["stock"][0]
        torch.testing.assert_close(found["fp32"], found["stock"], rtol=1e-6, atol=1e-7)


def test_what_cannot_be_summed_is_refused_on_every_rank(of_two):
    for both in of_two:
        found = both["refused"]
        assert len(found) == 7
        wanted = (
            "ValueError: int32 needs finite gradients",
            "TypeError: gradients must be torch.float32, got torch.float64",
            "TypeError: gradients must be dense",
            "TypeError: model must be a DistributedDataParallel, got Linear",
            "ValueError: fmt must be one of fp32, bf16, int32, got 'fp8'",
            "ValueError: fan_in [1] has room for 1 ranks, got 2",
            "ValueError: drop must lie in 0 .. 1, got 1.0",
        )
        assert all(text.startswith(start) for text, start in zip(found, wanted, strict=True))
