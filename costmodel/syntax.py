"""What a loop nest looks like before it is a program: one small tree for Python and C alike.

Front ends translate their own syntax into these nodes, so that both languages follow the same
rules (lowering.py) and the same kernel written in either is the same program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs


@attrs.frozen
class Place:
    """Where a piece of source stands; its text is made when a message needs it."""

    file: str
    line: int
    show: Callable[[], str]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: '{self.show()}'"


@attrs.frozen
class Number:
    value: int | float
    place: Place


@attrs.frozen
class Name:
    id: str
    place: Place


@attrs.frozen
class Item:
    """name[indices]"""

    name: str
    indices: tuple[Node, ...]
    place: Place


@attrs.frozen
class Operation:
    """An operator or function on its parts.

    Arithmetic `+ - * / % neg`, functions by name (min, max, sqrt, ..., and index, which marks an
    affine value), comparisons, `and or not`, and `?` of a test and two values.
    """

    op: str
    parts: tuple[Node, ...]
    place: Place


@attrs.frozen
class Cast:
    """A value converted to an element type."""

    dtype: str
    part: Node
    place: Place


Node = Number | Name | Item | Operation | Cast


@attrs.frozen
class Assign:
    target: Name | Item
    value: Node
    place: Place


@attrs.frozen
class Declare:
    """A local variable from here on; the shape of a scalar is ()."""

    name: str
    dtype: str
    shape: tuple[Node, ...]
    place: Place


@attrs.frozen
class Fix:
    """A name for a whole number that never changes, from here on."""

    name: str
    value: Node
    place: Place


@attrs.frozen
class For:
    """name goes from start by step while `name relation limit` holds.

    A start of max(...) and a limit of min(...), or the reverse when going down, are allowed.
    """

    name: str
    start: Node
    relation: Literal["<", "<=", ">", ">="]
    limit: Node
    step: int
    body: tuple[Action, ...]
    place: Place


@attrs.frozen
class If:
    test: Node
    then: tuple[Action, ...]
    otherwise: tuple[Action, ...]
    place: Place


@attrs.frozen
class Block:
    """Actions with locals of their own."""

    body: tuple[Action, ...]


Action = Assign | Declare | Fix | For | If | Block


@attrs.frozen
class Argument:
    """A parameter of the function.

    shape: None for a plain number, which is a scalar, or a size if `params` names it
    role:  in, out, inout or temp, or None if it is to follow from the use
    """

    name: str
    dtype: str
    shape: tuple[Node, ...] | None
    role: str | None
    place: Place


@attrs.frozen
class Function:
    name: str
    arguments: tuple[Argument, ...]
    body: tuple[Action, ...]
    place: Place
