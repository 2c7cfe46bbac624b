"""Shapes of tensor-train tables: how rows and columns are factored, and what that costs.

A table of n rows by D columns is written with d cores, core k of shape (p_k, r_{k-1}, q_k, r_k),
r_0 = r_d = 1, prod(p) >= n and prod(q) == D. Torch-free.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import attrs

from ttrec.cardinalities import Dataset

MIN_CORES, MAX_CORES = 2, 5
#: Digits are stored in 16 bits by the kernels.
MAX_DIGIT = 2**16
#: suggest_shape gives up widening its search at this many candidate factor lists.
MAX_CANDIDATES = 200_000

# Row factors of the published Kaggle (D = 16) and Terabyte (D = 64) models, by (rows, dim).
PAPER_P: dict[tuple[int, int], tuple[int, int, int]] = {
    (10131227, 16): (200, 220, 250),
    (8351593, 16): (200, 200, 209),
    (7046547, 16): (200, 200, 200),
    (5461306, 16): (166, 175, 188),
    (2202608, 16): (125, 130, 136),
    (286181, 16): (53, 72, 75),
    (142572, 16): (50, 52, 55),
    (9994222, 64): (200, 200, 250),
    (9980333, 64): (200, 222, 225),
    (9946608, 64): (200, 203, 245),
    (9758201, 64): (203, 209, 230),
    (7267859, 64): (200, 200, 200),
    (1333352, 64): (125, 125, 128),
    (415421, 64): (70, 75, 80),
    (313829, 64): (50, 80, 80),
}
PAPER_Q: dict[int, tuple[int, int, int]] = {16: (2, 2, 4), 64: (4, 4, 4)}


class HasItemsize(Protocol):
    """A dtype of torch or numpy."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        ...


def _int_tuple(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(operator.index(v) for v in values)


@attrs.frozen(cache_hash=True)
class TTShape:
    """The factors and ranks of one tensor-train table.

    rows, dim: size of the table it stands for
    p:         row factors, prod(p) >= rows; digit k of a row index runs over p[k]
    q:         column factors, prod(q) == dim
    ranks:     the d - 1 inner ranks

    Raises ValueError for lengths that disagree, d outside 2..5, products that do not cover the
    table, a factor of 2**16 or more, and a rank above the largest useful one.
    """

    rows: int
    dim: int
    p: tuple[int, ...] = attrs.field(converter=_int_tuple)
    q: tuple[int, ...] = attrs.field(converter=_int_tuple)
    ranks: tuple[int, ...] = attrs.field(converter=_int_tuple)

    def __attrs_post_init__(self) -> None:
        _check_size(self.rows, self.dim)
        _check_lengths(self.p, self.q, self.ranks)
        _check_factors(self.rows, self.dim, self.p, self.q)
        _check_ranks(self.p, self.q, self.ranks)

    @property
    def d(self) -> int:
        """Number of cores."""
        return len(self.p)

    @property
    def full_ranks(self) -> tuple[int, ...]:
        """All d + 1 ranks, the outer ones included: (1, *ranks, 1)."""
        return (1, *self.ranks, 1)

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Shape (p_k, r_{k-1}, q_k, r_k) of every core."""
        r = self.full_ranks
        return tuple((self.p[k], r[k], self.q[k], r[k + 1]) for k in range(self.d))

    @property
    def params(self) -> int:
        """Parameters of all cores."""
        return sum(math.prod(shape) for shape in self.core_shapes)

    @property
    def ratio(self) -> float:
        """Parameters of the dense table over those of the cores."""
        return self.rows * self.dim / self.params

    @property
    def padded_rows(self) -> int:
        """Rows the cores can address, prod(p)."""
        return math.prod(self.p)

    def bytes(self, dtype: HasItemsize | None = None) -> int:
        """Bytes of all cores, in float32 unless a torch or numpy dtype is given."""
        return self.params * (4 if dtype is None else dtype.itemsize)

    def digits(self, row: int) -> tuple[int, ...]:
        """Digits (i1, ..., id) of a row index in mixed radix p, most significant first."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row must lie in 0..{self.rows - 1}, got {row}")
        out: list[int] = []
        for factor in reversed(self.p):
            row, digit = divmod(row, factor)
            out.append(digit)
        return tuple(reversed(out))


def max_useful_ranks(p: Sequence[int], q: Sequence[int]) -> tuple[int, ...]:
    """Ranks above which a core boundary adds parameters but no new table.

    Boundary k is a matrix of prod(p_i q_i, i <= k) by prod(p_i q_i, i > k); its rank cannot exceed
    the smaller side.
    """
    sizes = [a * b for a, b in zip(p, q, strict=True)]
    return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes)))


def suggest_shape(
    rows: int,
    dim: int,
    ranks: int | Sequence[int] = 32,
    d: int = 3,
    *,
    waste: float = 0.15,
    balance: Literal["entropy", "waste"] = "entropy",
    preset: Literal["paper"] | None = None,
    clamp_rank: bool = False,
) -> TTShape:
    """Choose factors for a table of `rows` by `dim`.

    The column factors always multiply to `dim` exactly; rows may be padded by at most `waste`
    (0.15 is 15%). Deterministic, and well under a millisecond for rows < 2**31.

    ranks:      one rank for every boundary, or the d - 1 ranks
    balance:    "entropy" takes the most even row factors, "waste" the fewest padded rows near the
                d-th root
    preset:     "paper" gives the published factors of the Criteo tables
    clamp_rank: lower a rank above the largest useful one instead of raising

    Raises ValueError when no factors lie within `waste`, for sizes the preset does not hold, and
    for everything TTShape refuses.
    """
    _check_size(rows, dim)
    if not MIN_CORES <= d <= MAX_CORES:
        raise ValueError(f"d must lie in {MIN_CORES}..{MAX_CORES}, the cores supported, got {d}")
    if not waste >= 0:
        raise ValueError(f"waste must be 0 or more, the share of rows padded, got {waste}")
    if balance not in ("entropy", "waste"):
        raise ValueError(f"balance must be 'entropy' or 'waste', got {balance!r}")
    if preset is None:
        p, q = _row_factors(rows, d, waste, balance), _column_factors(dim, d)
    else:
        p, q = _published_factors(rows, dim, d, preset)
    wanted = (ranks,) * (d - 1) if isinstance(ranks, int) else _int_tuple(ranks)
    if clamp_rank and len(wanted) == d - 1:
        wanted = tuple(min(r, top) for r, top in zip(wanted, max_useful_ranks(p, q), strict=True))
    return TTShape(rows, dim, p, q, wanted)


def model_params(dataset: Dataset, tables: int, rank: int, published: bool = True) -> int:
    """Embedding parameters of a DLRM whose `tables` largest tables are in tensor-train form.

    With `published` the paper's factors are used, otherwise those `suggest_shape` finds.
    """
    compressed = dataset.largest(tables)
    dense = (dataset.total_rows - sum(compressed)) * dataset.dim
    preset: Literal["paper"] | None = "paper" if published else None
    return dense + sum(
        suggest_shape(n, dataset.dim, rank, preset=preset).params for n in compressed
    )


def model_ratio(dataset: Dataset, tables: int, rank: int, published: bool = True) -> float:
    """Model-size ratio of the paper: all embedding parameters dense over compressed.

    The small tables stay dense and count on both sides; the MLPs count on neither.
    """
    return dataset.dense_params / model_params(dataset, tables, rank, published)


def _check_size(rows: int, dim: int) -> None:
    if rows < 1 or dim < 1:
        raise ValueError(f"rows and dim must be at least 1, got rows={rows}, dim={dim}")


def _check_lengths(p: tuple[int, ...], q: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    if not MIN_CORES <= len(p) <= MAX_CORES:
        raise ValueError(
            f"p must hold {MIN_CORES} to {MAX_CORES} factors, one a core, got {len(p)} ({p})"
        )
    if len(q) != len(p):
        raise ValueError(f"q must have as many factors as p: p={p} needs {len(p)}, got q={q}")
    if len(ranks) != len(p) - 1:
        raise ValueError(
            f"ranks must have one entry fewer than factors: {len(p)} factors need "
            f"{len(p) - 1} ranks, got {len(ranks)} ({list(ranks)})"
        )


def _check_factors(rows: int, dim: int, p: tuple[int, ...], q: tuple[int, ...]) -> None:
    if min(p) < 1 or min(q) < 1:
        raise ValueError(f"factors must be at least 1, got p={p}, q={q}")
    if max(p) >= MAX_DIGIT:
        raise ValueError(
            f"every row factor must be below {MAX_DIGIT}, got p={p}; use more cores, as "
            f"suggest_shape({rows}, {dim}, d={min(len(p) + 1, MAX_CORES)}) does"
        )
    if math.prod(p) < rows or math.prod(q) != dim:
        raise ValueError(
            f"p must multiply to at least rows and q exactly to dim: prod{p} = {math.prod(p)} "
            f"for {rows} rows, prod{q} = {math.prod(q)} for dim {dim}; "
            f"{_suggestion(rows, dim, len(p))}"
        )


def _suggestion(rows: int, dim: int, d: int) -> str:
    try:
        return f"p={_row_factors(rows, d, 0.15, 'entropy')}, q={_column_factors(dim, d)} would do"
    except ValueError:
        return f"no {d} factors fit, use another d"


def _check_ranks(p: tuple[int, ...], q: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    if min(ranks) < 1:
        raise ValueError(f"every rank must be at least 1, got {ranks}")
    top = max_useful_ranks(p, q)
    if any(r > t for r, t in zip(ranks, top, strict=True)):
        clamped = tuple(min(r, t) for r, t in zip(ranks, top, strict=True))
        raise ValueError(
            f"ranks must not exceed the largest useful ones {top} of p={p}, q={q}, got {ranks}; "
            f"use ranks={clamped}, or suggest_shape(..., clamp_rank=True)"
        )


def _published_factors(
    rows: int, dim: int, d: int, preset: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if preset != "paper":
        raise ValueError(f"preset must be 'paper' or None, got {preset!r}")
    if d != 3 or (rows, dim) not in PAPER_P:
        raise ValueError(
            f"preset='paper' holds the published 3-core Criteo tables only, got {rows} rows, "
            f"dim {dim}, d={d}; the default preset=None finds factors for any size"
        )
    return PAPER_P[rows, dim], PAPER_Q[dim]


def _ceil_root(rows: int, d: int) -> int:
    """Smallest b with b**d >= rows, exact for any size."""
    b: int = max(1, round(rows ** (1 / d)))
    while b**d >= rows and b > 1:
        b -= 1
    while b**d < rows:
        b += 1
    return b


def _entropy(factors: Sequence[int]) -> float:
    total = sum(factors)
    return -sum(f / total * math.log(f / total) for f in factors)


@lru_cache(maxsize=4096)
def _row_factors(rows: int, d: int, waste: float, balance: str) -> tuple[int, ...]:
    """Ascending row factors whose product lies in [rows, (1 + waste) * rows]."""
    root = _ceil_root(rows, d)
    if root >= MAX_DIGIT:
        raise ValueError(
            f"every row factor must be below {MAX_DIGIT}, but {rows} rows in {d} factors need "
            f"{root}; use a larger d"
        )
    limit = math.floor(rows * (1 + waste))
    if balance == "entropy" and root**d <= limit:
        return (root,) * d  # equal factors have the highest entropy there is
    reach, best_product = 3, None
    while True:
        found: list[tuple[float, int, tuple[int, ...]]] = []
        n_candidates = 0
        for p in _near_root(rows, d, root, reach):
            n_candidates += 1
            product = math.prod(p)
            best_product = product if best_product is None else min(best_product, product)
            if product <= limit:
                score = -_entropy(p)
                found.append((score, product, p))
        if found:
            # Rounded, so that equal entropies in another order of summation stay ties.
            if balance == "entropy":
                return min(found, key=lambda f: (round(f[0], 12), f[1], f[2]))[2]
            return min(found, key=lambda f: (f[1], round(f[0], 12), f[2]))[2]
        if n_candidates > MAX_CANDIDATES or reach > 2 * root:
            assert best_product is not None
            needed = math.ceil((best_product / rows - 1) * 1e6) / 1e6
            raise ValueError(
                f"no {d} row factors near the root of {rows} rows stay within waste={waste}; "
                f"waste={needed} would do"
            )
        reach *= 2


def _near_root(rows: int, d: int, root: int, reach: int) -> Iterator[tuple[int, ...]]:
    """Ascending factor lists: d - 1 factors within `reach` of the root, the last as needed."""
    low = max(1, root - reach)

    def extend(chosen: tuple[int, ...], product: int) -> Iterator[tuple[int, ...]]:
        if len(chosen) == d - 1:
            last = max(-(-rows // product), chosen[-1])
            if last < MAX_DIGIT:
                yield (*chosen, last)
            return
        for factor in range(chosen[-1] if chosen else low, min(root + reach, MAX_DIGIT - 1) + 1):
            yield from extend((*chosen, factor), product * factor)

    return extend((), 1)


@lru_cache(maxsize=4096)
def _column_factors(dim: int, d: int) -> tuple[int, ...]:
    """Ascending column factors multiplying to dim exactly, the most even ones."""

    def split(rest: int, parts: int, least: int) -> Iterator[tuple[int, ...]]:
        if parts == 1:
            if rest >= least:
                yield (rest,)
            return
        factor = least
        while factor**parts <= rest:
            if rest % factor == 0:
                for tail in split(rest // factor, parts - 1, factor):
                    yield (factor, *tail)
            factor += 1

    return min(split(dim, d, 1), key=lambda q: (round(-_entropy(q), 12), q))
