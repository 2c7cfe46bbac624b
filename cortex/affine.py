"""Indices as a multiple of a loop's variable and the rest: where memory is a run, and where not."""

from collections.abc import Mapping

from cortex import ilir as il


def split(index: il.Index, var: str) -> tuple[int, il.Index] | None:
    """(a, rest) with index = a * var + rest and var not in rest, None if there is no such form."""
    match index:
        case il.Var(name):
            return (1, il.Int(0)) if name == var else (0, index)
        case il.Add(a, b):
            left, right = split(a, var), split(b, var)
            if left is None or right is None:
                return None
            return left[0] + right[0], il.add(left[1], right[1])
        case il.Mul(il.Int(factor), b) | il.Mul(b, il.Int(factor)):
            part = split(b, var)
            return None if part is None else (factor * part[0], il.mul(il.Int(factor), part[1]))
    return None if var in il.variables(index) else (0, index)


def flatten(decl: il.TensorDecl, index: tuple[il.Index, ...]) -> il.Index:
    """The place of an element in a tensor's memory, row after row, constants multiplied out."""
    flat: il.Index = il.Int(0)
    for size, at in zip(decl.shape, index, strict=True):
        flat = il.add(_times(flat, size), at)
    return flat


def _times(index: il.Index, size: il.Index) -> il.Index:
    """index * size, sums opened so that constants meet."""
    if isinstance(index, il.Add):
        return il.add(_times(index.a, size), _times(index.b, size))
    if isinstance(size, il.Int) and isinstance(index, il.Mul) and isinstance(index.a, il.Int):
        return il.mul(il.Int(index.a.value * size.value), index.b)
    return il.mul(index, size)


def constant_terms(index: il.Index, extents: Mapping[str, int]) -> tuple[int, str, int] | None:
    """(constant, var, step) of an index that is constant + step * var, var a loop from 0.

    extents: variables of the loops around that begin at 0 and have a known extent. var is "" for a
    constant. None for anything else.
    """
    found, step = "", 0
    for var in il.variables(index):
        part = split(index, var)
        if part is None or found or var not in extents:
            return None
        found, (step, index) = var, part
    return (index.value, found, step) if isinstance(index, il.Int) else None
