"""Sums over all ranks by gloo, each rank being the switches for an equal part of the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from panama import codec, wire

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

Array: TypeAlias = npt.NDArray[Any]


class Exchange:
    """Every rank sends each other one its part, sums what it gets, and sends the sum to all.

    A rank sends and receives 2 (n - 1) / n of the numbers, as a ring all-reduce does. Ranks call
    in the same order. Buffers are kept: up to three times the largest array seen.

    fan_in: workers of a switch, switches of a next one, and so on
    dtype:  what packets carry, as in wire.FORMATS
    """

    def __init__(self, group: ProcessGroup, fan_in: Sequence[int], dtype: np.dtype[Any]) -> None:
        import torch.distributed as dist

        self.group = group
        self.workers = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.fan_in = tuple(fan_in)
        self.dtype = dtype
        self._rooms: dict[str, Array] = {}

    def mean(
        self, x: npt.NDArray[np.float32], out: npt.NDArray[np.float32], exponent: int, divisor: int
    ) -> None:
        """out = the sum over all ranks / divisor;  x, out: (n,), may be the same array."""
        n, mine = x.size, self._part(x.size, self.rank)
        plain = self.dtype == np.float32
        sent: Array = x
        if not plain:
            sent = self._room("sent", n)
            codec.encode(x, sent, exponent)
        size = mine.stop - mine.start
        came = self._room("came", self.workers * size).reshape(self.workers, size)
        rows = [came[r] if r != self.rank else sent[mine] for r in range(self.workers)]
        parts = [sent[self._part(n, r)] for r in range(self.workers)]
        self._swap(parts, rows)
        total = wire.level_add(rows, self.fan_in)
        # The sum of fp32 is divided by the rank that has it, others as they come out of packets.
        everything = out if plain else self._room("everything", n)
        if plain:
            codec.decode(total, everything[mine], exponent, divisor)
        else:
            everything[mine] = total
        whole = [everything[self._part(n, r)] for r in range(self.workers)]
        self._swap([everything[mine]] * self.workers, whole)
        if not plain:
            codec.decode(everything, out, exponent, divisor)

    def _part(self, n: int, rank: int) -> slice:
        """What a rank sums of n numbers."""
        return slice(n * rank // self.workers, n * (rank + 1) // self.workers)

    def _swap(self, sent: Sequence[Array], came: Sequence[Array]) -> None:
        """sent[r] goes to rank r, came[r] is filled by it; nothing is empty on one side alone."""
        import torch.distributed as dist

        under_way = []
        for distance in range(1, self.workers):
            to, source = (
                (self.rank + distance) % self.workers,
                (self.rank - distance) % self.workers,
            )
            if sent[to].size:
                under_way.append(dist.isend(_tensor(sent[to]), group=self.group, group_dst=to))
            if came[source].size:
                under_way.append(
                    dist.irecv(_tensor(came[source]), group=self.group, group_src=source)
                )
        for one in under_way:
            if one is not None:
                one.wait()

    def _room(self, name: str, count: int) -> Array:
        """Memory that stays, as fresh memory costs more than what is done with it."""
        room = self._rooms.get(name)
        if room is None or room.size < count:
            room = self._rooms[name] = np.empty(count, self.dtype)
        return room[:count]


def _tensor(x: Array) -> torch.Tensor:
    """The same memory as a tensor of bytes, which every transport takes."""
    import torch

    return torch.from_numpy(x.view(np.uint8))
