"""Tensor-train tables in plain torch: any number of cores, any dtype, differentiable.

The slow, obvious version of what the kernels compute, and what they are tested against.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ttrec.versions import check_torch_pair

check_torch_pair()

Mode = Literal["sum", "mean", "max"]


def digits(index: Tensor, p: Sequence[int]) -> list[Tensor]:
    """Split row indices into their mixed-radix digits, most significant first.

    index: (n,) integer, 0 <= index < prod(p); returns len(p) tensors (n,)
    """
    out = []
    for factor in reversed(p):
        out.append(index % factor)
        index = torch.div(index, factor, rounding_mode="floor")
    return out[::-1]


def rows(cores: Sequence[Tensor], index: Tensor) -> Tensor:
    """Rebuild table rows from the cores.

    Row i is the chain product of one slice per core:
    W[i, (j1, ..., jd)] = sum over inner ranks of G1[i1, :, j1, :] ... Gd[id, :, jd, :].

    cores[k]: (p_k, r_{k-1}, q_k, r_k), r_0 = r_d = 1
    index:    (n,) integer, 0 <= index < prod(p)
    returns:  (n, prod(q))

    Raises IndexError naming the first index out of range. Differentiable in the cores.
    """
    p = [core.shape[0] for core in cores]
    check_index(index, math.prod(p))
    return chain(cores, digits(index, p))


def chain(cores: Sequence[Tensor], digits: Sequence[Tensor]) -> Tensor:
    """The chain product of `rows` by gather and batched product, digits (n,) given and trusted."""
    n = digits[0].numel()
    product = cores[0].new_ones(n, 1, 1)
    for core, digit in zip(cores, digits, strict=True):
        _, r_in, q, r_out = core.shape
        part = core.index_select(0, digit).reshape(n, r_in, q * r_out)
        width = product.shape[1] * q
        product = torch.bmm(product, part).reshape(n, width, r_out)
    return product.reshape(n, product.shape[1])


def full(cores: Sequence[Tensor], n_rows: int | None = None) -> Tensor:
    """Expand the whole table, (n_rows, prod(q)); all prod(p) rows if n_rows is None.

    One large product a core boundary, as no row is looked up twice. Differentiable in the cores.
    """
    table = cores[0].new_ones(1, 1, 1)  # (prod p, prod q, r)
    for core in cores:
        p, _, q, r_out = core.shape
        n, width, _ = table.shape
        table = torch.einsum("nwa,paqb->npwqb", table, core).reshape(n * p, width * q, r_out)
    return table[:n_rows, :, 0]


def bag(
    cores: Sequence[Tensor],
    index: Tensor,
    bounds: Tensor,
    mode: Mode = "sum",
    weights: Tensor | None = None,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """Pool rows bag by bag.

    out[b] = sum of weights[i] * W[index[i]] over bounds[b] <= i < bounds[b+1].

    index: (n,) integer; bounds: (batch + 1,) integer from 0 to n, never falling
    weights: (n,) or None, with mode "sum" only; mode "mean" divides by the bag's length, "max"
        takes the largest of each column
    padding_idx: an index that counts as absent
    scale_grad_by_freq: gradients of a row are divided by how often it occurs
    returns: (batch, prod(q)); zeros for an empty bag
    """
    lengths = torch.diff(bounds.long())
    owner = torch.repeat_interleave(torch.arange(lengths.numel(), device=index.device), lengths)
    if padding_idx is not None:
        is_there = index != padding_idx
        index, owner = index[is_there], owner[is_there]
        weights = None if weights is None else weights[is_there]
    values = rows(cores, index)
    if scale_grad_by_freq and index.numel():
        _, inverse, counts = torch.unique(index, return_inverse=True, return_counts=True)
        share = (1 / counts.to(values.dtype))[inverse][:, None]
        values = values * share + (values * (1 - share)).detach()
    if weights is not None:
        values = values * weights[:, None]
    out = values.new_zeros(lengths.numel(), values.shape[1])
    if mode == "max":
        return _largest(values, owner, out)
    out = out.index_add(0, owner, values)
    if mode == "mean":
        counts = torch.bincount(owner, minlength=lengths.numel()).clamp(min=1)
        out = out / counts.to(out.dtype)[:, None]
    return out


def _largest(values: Tensor, owner: Tensor, zeros: Tensor) -> Tensor:
    """Largest value of each column by owner; the first of equals has the gradient."""
    if not owner.numel():
        return zeros + values.sum() * 0
    with torch.no_grad():
        at = owner[:, None].expand_as(values)
        most = torch.full_like(zeros, -math.inf).scatter_reduce(0, at, values, "amax")
        position = torch.arange(owner.numel(), device=owner.device)[:, None].expand_as(values)
        candidates = torch.where(values == most[owner], position, owner.numel())
        first = torch.full(zeros.shape, owner.numel(), device=owner.device)
        first = first.scatter_reduce(0, at, candidates, "amin")
        is_empty = first == owner.numel()
    picked = values.gather(0, first.masked_fill(is_empty, 0))
    return torch.where(is_empty, zeros, picked)


def check_index(index: Tensor, n_rows: int) -> None:
    """Raise IndexError naming the first index outside 0..n_rows-1 and its position."""
    bad = torch.nonzero((index < 0) | (index >= n_rows))
    if bad.numel():
        position = int(bad[0, 0])
        raise IndexError(
            f"index of the TT table must lie in 0..{n_rows - 1}, got {int(index[position])} "
            f"at position {position}"
        )


def check_batch(index: Tensor, bounds: Tensor, n_rows: int) -> None:
    """Raise IndexError for a bad index, ValueError for bounds that do not cut n indices into bags.

    bounds must start at 0, never fall and end at n; the first offence is named.
    """
    check_index(index, n_rows)
    n, ends = index.numel(), [int(b) for b in bounds]
    if ends[0] != 0:
        raise ValueError(f"offsets must start at 0, got {ends[0]}")
    for position, (before, after) in enumerate(itertools.pairwise(ends), start=1):
        if after < before:
            raise bounds_error(position, after, before, n)
    if ends[-1] != n:
        raise ValueError(
            f"offsets must end at the {n} indices, got {ends[-1]} at position {len(ends) - 1}"
        )


def bounds_error(position: int, value: int, before: int, n: int) -> ValueError:
    """What to say of bounds that fall from `before` to `value` at `position`."""
    if before <= n:
        return ValueError(
            f"offsets must not fall, got {value} at position {position} after {before}"
        )
    return ValueError(
        f"offsets must not exceed the {n} indices, got {before} at position {position - 1}"
    )
