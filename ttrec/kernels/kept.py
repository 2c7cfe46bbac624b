"""Partial products that forward leaves for backward, found again or computed again.

They are a cache and nothing else: backward computes what it does not find, with the same bits. So
they are no output of an operator, which would have to be copied and traced.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Bytes held for forwards whose backward has not come; the oldest go first.
MOST_BYTES = 256 * 2**20


class _Entry(NamedTuple):
    digest: int
    versions: tuple[tuple[int, int], ...]
    products: Tensor
    n_pairs: int


_entries: OrderedDict[int, _Entry] = OrderedDict()
_free: list[Tensor] = []
_lock = threading.Lock()


def _versions(cores: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((core.data_ptr(), core._version) for core in cores)


def lend(n_floats: int) -> Tensor:
    """Memory for products, used before if possible: fresh pages cost more than the products."""
    with _lock:
        for i, block in enumerate(_free):
            if n_floats <= block.numel() <= 4 * n_floats:
                return _free.pop(i)
    return torch.empty(n_floats)


def put(plan_at: int, digest: int, cores: Sequence[Tensor], products: Tensor, n_pairs: int) -> None:
    """Keep the products of the first n_pairs pairs of the plan at this address."""
    entry = _Entry(digest, _versions(cores), products, n_pairs)
    with _lock:
        _entries.pop(plan_at, None)
        _entries[plan_at] = entry
        held = sum(e.products.nbytes for e in _entries.values()) if len(_entries) > 1 else 0
        while held > MOST_BYTES and len(_entries) > 1:
            held -= _entries.popitem(last=False)[1].products.nbytes


def take(plan_at: int, digest: int, cores: Sequence[Tensor]) -> tuple[Tensor | None, int]:
    """The products of this plan and these values of the cores, and of how many pairs.

    None and 0 if there are none. They are forgotten here.

    Give the tensor back by `reclaim` when done with it.
    """
    with _lock:
        entry = _entries.pop(plan_at, None)
    if entry is None or entry.digest != digest or entry.versions != _versions(cores):
        return None, 0
    return entry.products, entry.n_pairs


def reclaim(products: Tensor) -> None:
    """Take memory back for a later `lend`."""
    with _lock:
        _free.append(products)
        while sum(block.nbytes for block in _free) > MOST_BYTES // 8:
            _free.pop(0)
