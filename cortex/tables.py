"""Values that depend on parameters and a token only, for every row of the vocabulary at once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cortex import ra

Array = npt.NDArray[Any]

_UNARY: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: 0.5 * (1.0 + np.tanh(0.5 * x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "neg": np.negative,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


#: Rows computed at a time: values between stay in the cache, and little memory is taken.
_ROWS = 1024


def build(
    tables: Iterable[tuple[str, Any, ra.Expr]], params: Mapping[str, Array]
) -> dict[str, npt.NDArray[np.float32]]:
    """Each table (vocabulary, ...) float32, computed in float64; later ones may read earlier.

    Tables have many values in common (a leaf's state and its products), each computed once.
    """
    tables = tuple(tables)
    wide = {name: np.asarray(value, np.float64) for name, value in params.items()}
    looked_up = {
        e.param.name
        for e in ra.walk(tuple(expr for *_, expr in tables))
        if isinstance(e, ra.Lookup)
    }
    n_rows = max((len(wide[name]) for name in looked_up), default=1)
    done: dict[str, npt.NDArray[np.float32]] = {}
    for begin in range(0, n_rows, _ROWS):
        rows = slice(begin, min(begin + _ROWS, n_rows))
        for (name, of, _), value in zip(tables, _values(tables, wide, rows), strict=True):
            if name not in done:
                n = n_rows if of == "token" else 1
                done[name] = np.empty((n, *value.shape[1:]), np.float32)
            done[name][rows if of == "token" else slice(1)] = value
    return done


def _values(
    tables: tuple[tuple[str, Any, ra.Expr], ...], params: Mapping[str, Array], rows: slice
) -> list[Array]:
    """The values of all tables for some tokens; one row where a value depends on none."""
    known: dict[ra.Expr, Array] = {}
    done: dict[str, Array] = {}

    def at(e: ra.Expr) -> Array:
        """The values of all rows, (rows or 1, *e.shape)."""
        if e not in known:
            known[e] = compute(e)
        return known[e]

    def compute(e: ra.Expr) -> Array:
        match e:
            case ra.Param():
                return params[e.name][None]
            case ra.Lookup():
                return params[e.param.name][rows]
            case ra.Tabulated():
                return done[e.name]
            case ra.Number():
                return np.full((1, *e.shape), e.value)
            case ra.Unary():
                return _UNARY[e.op](at(e.x))
            case ra.Binary():
                x, y = (_padded(at(v), v.rank, e.rank) for v in (e.x, e.y))
                return _BINARY[e.op](x, y)
            case ra.Product():
                return _product(at(e.x), at(e.y), e.x.rank, e.y.rank)
            case ra.Dot():
                return np.asarray((at(e.x) * at(e.y)).sum(-1))
            case ra.Concat():
                parts = [at(p) for p in e.parts]
                longest = max(len(p) for p in parts)
                parts = [np.broadcast_to(p, (longest, *p.shape[1:])) for p in parts]
                return np.concatenate(parts, axis=e.axis + 1)
            case ra.Slice():
                cut: list[slice] = [slice(None)] * (e.x.rank + 1)
                cut[e.axis + 1] = slice(e.begin, e.end)
                return at(e.x)[tuple(cut)]
            case ra.Transpose():
                return at(e.x).swapaxes(1, 2)
        raise NotImplementedError(f"{type(e).__name__} cannot stand in a table")

    for name, _, expr in tables:
        done[name] = at(expr)
    return list(done.values())


def _padded(x: Array, rank: int, wanted: int) -> Array:
    return x.reshape(len(x), *(1,) * (wanted - rank), *x.shape[1:]) if rank < wanted else x


def _product(x: Array, y: Array, x_rank: int, y_rank: int) -> Array:
    if x_rank == 1 and len(y) == 1:
        return np.asarray(x @ y[0])
    out: Array
    left = x[:, None, :] if x_rank == 1 else x
    right = y[:, :, None] if y_rank == 1 else y
    out = left @ right
    if x_rank == 1:
        out = out[:, 0]
    return np.asarray(out[..., 0] if y_rank == 1 else out)
