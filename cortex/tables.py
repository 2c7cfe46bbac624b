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


def build(
    tables: Iterable[tuple[str, Any, ra.Expr]], params: Mapping[str, Array]
) -> dict[str, npt.NDArray[np.float32]]:
    """Each table (vocabulary, ...) float32, computed in float64; later ones may read earlier."""
    done: dict[str, Array] = {}
    for name, _, expr in tables:
        done[name] = _rows(expr, params, done).astype(np.float32)
    return done


def _rows(expr: ra.Expr, params: Mapping[str, Array], done: Mapping[str, Array]) -> Array:
    known: dict[ra.Expr, Array] = {}

    def at(e: ra.Expr) -> Array:
        """The values of all rows, (rows or 1, *e.shape)."""
        if e not in known:
            known[e] = compute(e)
        return known[e]

    def compute(e: ra.Expr) -> Array:
        match e:
            case ra.Param():
                return params[e.name].astype(np.float64)[None]
            case ra.Lookup():
                return params[e.param.name].astype(np.float64)
            case ra.Tabulated():
                return done[e.name].astype(np.float64)
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
                rows = max(len(p) for p in parts)
                parts = [np.broadcast_to(p, (rows, *p.shape[1:])) for p in parts]
                return np.concatenate(parts, axis=e.axis + 1)
            case ra.Slice():
                cut: list[slice] = [slice(None)] * (e.x.rank + 1)
                cut[e.axis + 1] = slice(e.begin, e.end)
                return at(e.x)[tuple(cut)]
            case ra.Transpose():
                return at(e.x).swapaxes(1, 2)
        raise NotImplementedError(f"{type(e).__name__} cannot stand in a table")

    return at(expr)


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
