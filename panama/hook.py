"""Training through the emulated switches: a communication hook for DistributedDataParallel.

    state = panama.hook.register(ddp_model, fan_in=[2, 2], fmt="bf16")

Gradients are summed with the numbers of `panama.wire`, so every rank has the very bits that the
accelerator would give, whatever the order in which they arrive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from panama import wire

if TYPE_CHECKING:
    import torch
    from torch.distributed import GradBucket, ProcessGroup  # type: ignore[attr-defined]
    from torch.nn.parallel import DistributedDataParallel

Format: TypeAlias = Literal["fp32", "bf16", "int32"]
Array: TypeAlias = npt.NDArray[Any]

#: Elements of a packet of 1408 bytes, for what losses cost.
_PACKET_BYTES = 1408
#: Share of the machine's memory that copies of one bucket may take.
_MEMORY_SHARE = 0.25


class AggregationState:
    """What a hook keeps: how it sums, and what it has sent.

    fan_in:  workers of a switch, switches of a next one, and so on
    fmt:     fp32; bf16 on the wire, rounded by every switch; or int32 with an agreed exponent
    drop:    probability that a packet of a worker is lost on its way and sent again
    packets, resent: of this rank so far
    """

    def __init__(
        self, group: ProcessGroup, fan_in: Sequence[int], fmt: Format, drop: float, seed: int
    ) -> None:
        import torch.distributed as dist

        self.group = group
        self.workers = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.fan_in = tuple(fan_in)
        self.fmt = fmt
        self.drop = drop
        self.packets = 0
        self.resent = 0
        self._rng = np.random.default_rng([seed, self.rank])

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, (n,) float32: each rank is the switches for an equal part.

        Raises TypeError for other tensors, ValueError for NaN and infinities with int32.
        """
        import torch
        import torch.distributed as dist

        n, part = x.numel(), -(-x.numel() // self.workers)
        self._check(x, part)
        exponent = self._agree(x) if self.fmt == "int32" else 0
        mine = np.zeros((self.workers, part), np.float32)
        mine.reshape(-1)[:n] = x.detach().numpy()
        sent = self._encode(mine.reshape(-1), exponent).reshape(self.workers, part)
        self._send_until_all_arrive(sent.nbytes)
        came = np.empty_like(sent)
        dist.all_to_all_single(_tensor(came), _tensor(sent), group=self.group)
        total = wire.level_add(came, self.fan_in)
        everything = np.empty((self.workers, part), total.dtype)
        dist.all_gather_into_tensor(_tensor(everything), _tensor(total), group=self.group)
        return torch.from_numpy(self._decode(everything.reshape(-1)[:n], exponent))

    def _check(self, x: torch.Tensor, part: int) -> None:
        import psutil
        import torch

        if x.device.type != "cpu":
            raise TypeError(f"gradients must be on the CPU, got {x.device}: the switch is software")
        if x.layout != torch.strided:
            raise TypeError(f"gradients must be dense, got {x.layout}: use dense embeddings")
        if x.dtype != torch.float32:
            raise TypeError(f"gradients must be torch.float32, got {x.dtype}")
        needed = 3 * 4 * part * self.workers
        if needed > _MEMORY_SHARE * psutil.virtual_memory().total:
            raise RuntimeError(
                f"summing a bucket takes {needed / 2**20:.0f} MiB, more than a quarter of the "
                "memory: make bucket_cap_mb of DistributedDataParallel smaller"
            )

    def _agree(self, x: torch.Tensor) -> int:
        """One exponent at which no sum saturates: the largest any rank needs."""
        import torch
        import torch.distributed as dist

        found = x.detach().numpy()
        usable = bool(np.isfinite(found).all())
        mine = wire.scale_exponent(found, self.workers) if usable else 2**20
        # All ranks learn of a value that has no fixed point, or the others would wait for ever.
        agreed = torch.tensor([mine], dtype=torch.int32)
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX, group=self.group)
        if int(agreed) == 2**20:
            raise ValueError(
                "int32 needs finite gradients, got NaN or infinity on a rank: skip this step, or "
                "use fmt='fp32'"
            )
        return int(agreed)

    def _encode(self, x: npt.NDArray[np.float32], exponent: int) -> Array:
        if self.fmt == "bf16":
            return wire.to_bf16(x)
        if self.fmt == "int32":
            return wire.to_fixed(x, exponent)
        return x

    def _decode(self, x: Array, exponent: int) -> npt.NDArray[np.float32]:
        if self.fmt == "bf16":
            return wire.from_bf16(x)
        if self.fmt == "int32":
            return wire.from_fixed(x, exponent)
        return np.ascontiguousarray(x)

    def _send_until_all_arrive(self, n_bytes: int) -> None:
        """Packets are lost and sent again until the switch has each once; the sum is the same."""
        left = -(-n_bytes // _PACKET_BYTES)
        self.packets += left
        while left and self.drop:
            left = int(self._rng.binomial(left, self.drop))
            self.resent += left


def _tensor(x: Array) -> torch.Tensor:
    """The same memory as a tensor of integers or floats that every transport takes."""
    import torch

    return torch.from_numpy(x.reshape(-1).view(np.uint8))


def _sum_bucket(state: AggregationState, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    import torch

    total = state.sum(bucket.buffer())
    bucket.buffer().copy_(total.div_(state.workers))
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


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

    Costs three copies of a bucket. Must be called on every rank with the same arguments.

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
    state = AggregationState(model.process_group, levels, fmt, drop, seed)
    # DistributedDataParallel looks at the annotations themselves, which here are text.
    _sum_bucket.__annotations__ |= {
        "bucket": dist.GradBucket,  # type: ignore[attr-defined]  # exported all the same
        "return": torch.futures.Future[torch.Tensor],
    }
    model.register_comm_hook(state, _sum_bucket)
    return state
