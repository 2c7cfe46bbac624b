"""Sums as a switch makes them: by the place of the child, never by the order of arrival.

A switch of P ports adds in a heap. Port i is leaf P - 1 + i, node k adds nodes 2 k + 1 and 2 k + 2,
node 0 is the sum. A port that has no child in the job contributes -0.0, which changes nothing but
keeps its place: without it the others would be added in another order, with other bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from panama.kernels import tree_add as native
from panama.wire.numbers import Format, add, canonical, format_of, from_bf16, to_bf16

Array = npt.NDArray[Any]
#: Ports of the largest switch.
MOST_PORTS = 64


def tree_add(
    X: Array | Sequence[Array], ports: Sequence[int] | None = None, P: int | None = None
) -> Array:
    """The sum one switch gives, in compiled code where there is a compiler.

    X:     (children, n), or so many arrays (n,): float32, int32 or uint16 (the bits of bfloat16)
    ports: the port of each child, 0 .. P - 1; by default their place in X
    P:     ports of the switch; by default the number of children
    returns (n,) of the same dtype; fp32 and bf16 with zeros for subnormals and one NaN

    Raises TypeError naming another dtype, ValueError for ports and shapes that do not fit.
    """
    rows, places, format = _check(X, ports, P)
    if native.available():
        return native.tree_add(rows, places, format)
    return _heap(rows, places, format)


def tree_add_reference(
    X: Array | Sequence[Array], ports: Sequence[int] | None = None, P: int | None = None
) -> Array:
    """As tree_add, in numpy."""
    return _heap(*_check(X, ports, P))


def level_add(X: Array | Sequence[Array], fan_in: Sequence[int]) -> Array:
    """The sum of a tree of switches: fan_in[0] workers a switch, fan_in[1] such a next one, ...

    The last switches of a level have absent ports where workers run out. With bf16 every switch
    rounds.

    X: (workers, n), or so many arrays

    Raises ValueError if the workers do not all fit below one root.
    """
    rows, _, _ = _check(X, None, None, most=None)
    room = int(np.prod(fan_in, dtype=np.int64)) if len(fan_in) else 0
    if room < len(rows) or min(fan_in) < 1:
        raise ValueError(
            f"fan_in {list(fan_in)} has room for {room} workers below one root, got {len(rows)}: "
            "add a level or ports"
        )
    for ports in fan_in:
        groups = [rows[i : i + ports] for i in range(0, len(rows), ports)]
        rows = [tree_add(group, P=ports) for group in groups]
    return rows[0]


def _heap(rows: list[Array], places: list[int | None], format: Format) -> Array:
    """rows[places[i]] is what port i contributes; None: nothing."""
    n_ports = len(places)
    leaves = [from_bf16(row) for row in rows] if format.name == "bf16" else rows
    absent = np.full(rows[0].shape, format.identity, dtype=leaves[0].dtype)

    def node(k: int) -> Array:
        if k >= n_ports - 1:
            place = places[k - (n_ports - 1)]
            leaf = absent if place is None else leaves[place]
            return leaf if format.name == "int32" else canonical(leaf)
        return add(node(2 * k + 1), node(2 * k + 2))

    total = node(0)
    if format.name == "bf16":
        return to_bf16(total)
    return total.copy() if any(total is row for row in rows) else total


def _check(
    X: Array | Sequence[Array],
    ports: Sequence[int] | None,
    P: int | None,
    most: int | None = MOST_PORTS,
) -> tuple[list[Array], list[int | None], Format]:
    """The children, which of them sits at each port, and their format."""
    rows = [np.asarray(row) for row in X]
    if not rows:
        raise ValueError("a sum needs at least one child, got none")
    format = format_of(rows[0].dtype)
    for i, row in enumerate(rows):
        if row.dtype != format.dtype:
            raise TypeError(f"child {i} must be {format.dtype} as child 0, got {row.dtype}")
        if row.ndim != 1 or row.shape != rows[0].shape:
            raise ValueError(
                f"every child must have shape (n,), the same n: child 0 has {rows[0].shape}, "
                f"child {i} has {row.shape}"
            )
    n_ports = len(rows) if P is None else P
    if n_ports < 1 or (most is not None and n_ports > most):
        raise ValueError(f"P must be 1 to {most} ports, got {n_ports}: use level_add for more")
    at = list(range(len(rows))) if ports is None else [int(port) for port in ports]
    if len(at) != len(rows) or len(set(at)) != len(at) or not all(0 <= p < n_ports for p in at):
        raise ValueError(
            f"ports must be {len(rows)} different numbers from 0 to {n_ports - 1}, got {at}"
        )
    places: list[int | None] = [None] * n_ports
    for child, port in enumerate(at):
        places[port] = child
    return [np.ascontiguousarray(row) for row in rows], places, format
