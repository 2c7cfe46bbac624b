"""Training through the emulated switches: a communication hook for DistributedDataParallel.

    state = panama.hook.register(ddp_model, fan_in=[2, 2], fmt="bf16")

Gradients are summed with the numbers of `panama.wire`, so every rank has the very bits that the
accelerator would give, whatever the order in which they arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from panama import codec, wire
from panama.exchange import Exchange

if TYPE_CHECKING:
    import torch
    from torch.distributed import GradBucket, ProcessGroup  # type: ignore[attr-defined]
    from torch.nn.parallel import DistributedDataParallel

Format: TypeAlias = Literal["fp32", "bf16", "int32"]

#: Payload of a packet, for what losses cost.
_PACKET_BYTES = 1408
#: Share of the machine's memory that copies of one bucket may take.
_MEMORY_SHARE = 0.25
#: In place of an exponent, above every true one.
_NO_EXPONENT = 2**20


class AggregationState:
    """What a hook keeps: how it sums, and what it has sent.

    group:   all ranks, for this alone: sums run beside the backward pass, in the order of calls
    fan_in:  workers of a switch, switches of a next one, and so on
    fmt:     fp32; bf16 on the wire, rounded by every switch; or int32 with an agreed exponent
    drop:    probability that a packet of a worker is lost on its way and sent again
    packets, resent: of this rank so far
    """

    def __init__(
        self, group: ProcessGroup, fan_in: Sequence[int], fmt: Format, drop: float, seed: int
    ) -> None:
        self.fmt = fmt
        self.drop = drop
        self.packets = 0
        self.resent = 0
        self._exchange = Exchange(group, fan_in, wire.FORMATS[fmt].dtype)
        self._rng = np.random.default_rng([seed, self._exchange.rank])
        # One thread: gloo matches what ranks send by its order.
        self._thread = ThreadPoolExecutor(1, "panama-hook")

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, (n,) float32: each rank is the switches for an equal part.

        Raises TypeError for other tensors, ValueError for NaN and infinities with int32.
        """
        import torch

        self._check(x)
        out = torch.empty_like(x)
        self._thread.submit(self._mean, x, out, 1).result()
        return out

    def start_mean(self, x: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
        """x becomes the mean over all ranks; at once a promise of it. Raises as sum does."""
        import torch

        self._check(x)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()

        def work() -> None:
            try:
                self._mean(x, x, self._exchange.workers)
            except Exception as error:
                done.set_exception(error)  # type: ignore[arg-type]  # torch declares its result
            else:
                done.set_result(x)

        self._thread.submit(work)
        return done

    def _mean(self, x: torch.Tensor, out: torch.Tensor, divisor: int) -> None:
        given = x.detach().numpy()
        exponent = self._agree(given) if self.fmt == "int32" else 0
        self._send_until_all_arrive(given.size * self._exchange.dtype.itemsize)
        self._exchange.mean(given, out.detach().numpy(), exponent, divisor)

    def _check(self, x: torch.Tensor) -> None:
        import psutil
        import torch

        if x.device.type != "cpu":
            raise TypeError(f"gradients must be on the CPU, got {x.device}: the switch is software")
        if x.layout != torch.strided:
            raise TypeError(f"gradients must be dense, got {x.layout}: use dense embeddings")
        if x.dtype != torch.float32:
            raise TypeError(f"gradients must be torch.float32, got {x.dtype}")
        needed = 3 * 4 * x.numel()
        if needed > _MEMORY_SHARE * psutil.virtual_memory().total:
            raise RuntimeError(
                f"summing a bucket takes {needed / 2**20:.0f} MiB, more than a quarter of the "
                "memory: make bucket_cap_mb of DistributedDataParallel smaller"
            )

    def _agree(self, x: npt.NDArray[np.float32]) -> int:
        """One exponent at which no sum saturates: the largest any rank needs."""
        import torch
        import torch.distributed as dist

        mine = codec.exponent_of(x, self._exchange.workers)
        # All ranks learn of a value that has no fixed point, or the others would wait for ever.
        agreed = torch.tensor([_NO_EXPONENT if mine is None else mine], dtype=torch.int32)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=self._exchange.group)
        if int(agreed) == _NO_EXPONENT:
            raise ValueError(
                "int32 needs finite gradients, got NaN or infinity on a rank: skip this step, or "
                "use fmt='fp32'"
            )
        return int(agreed)

    def _send_until_all_arrive(self, n_bytes: int) -> None:
        """Packets are lost and sent again until the switch has each once; the sum is the same."""
        left = -(-n_bytes // _PACKET_BYTES)
        self.packets += left
        while left and self.drop:
            left = int(self._rng.binomial(left, self.drop))
            self.resent += left


def _average_bucket(
    state: AggregationState, bucket: GradBucket
) -> torch.futures.Future[torch.Tensor]:
    return state.start_mean(bucket.buffer())


def register(
    model: DistributedDataParallel,
    *,
    fan_in: Sequence[int] | int | None = None,
    fmt: Format = "fp32",
    drop: float = 0.0,
    seed: int = 0,
) -> AggregationState:
    """Have a model's gradients averaged by emulated switches instead of an all-reduce.

    fan_in: ports of the switches of each level, from the workers on; None is one switch for all
    fmt, drop, seed: of AggregationState

    Keeps up to three copies of a bucket. Must be called on every rank with the same arguments.

    Raises TypeError for a model that is not wrapped, ValueError for switches without room for all
    ranks, an unknown format or a share outside 0 .. 1.
    """
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    if not isinstance(model, DistributedDataParallel):
        raise TypeError(
            f"model must be a DistributedDataParallel, got {type(model).__name__}: wrap it first"
        )
    if fmt not in wire.FORMATS:
        raise ValueError(f"fmt must be one of {', '.join(wire.FORMATS)}, got {fmt!r}")
    if not 0 <= drop < 1:
        raise ValueError(f"drop must lie in 0 .. 1, got {drop}")
    workers = dist.get_world_size(model.process_group)
    levels = [workers] if fan_in is None else [fan_in] if isinstance(fan_in, int) else list(fan_in)
    if math.prod(levels) < workers:
        raise ValueError(
            f"fan_in {levels} has room for {math.prod(levels)} ranks, got {workers}: add a level "
            "or ports"
        )
    # A group of its own, and joined by its ranks alone.
    ranks = dist.get_process_group_ranks(model.process_group)
    group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    state = AggregationState(group, levels, fmt, drop, seed)
    # DistributedDataParallel looks at the annotations themselves, which here are text.
    _average_bucket.__annotations__ |= {
        "bucket": dist.GradBucket,  # type: ignore[attr-defined]  # exported all the same
        "return": torch.futures.Future[torch.Tensor],
    }
    model.register_comm_hook(state, _average_bucket)
    return state
