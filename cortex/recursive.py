"""What a user writes a model with: the base class, a node's handle, and the functions.

    class TreeRNN(cx.Recursive):
        structure = cx.Tree(arity=2)

        def __init__(self, hidden, vocab):
            self.E, self.b = cx.Param(vocab, hidden), cx.Param(hidden)
            self.Wl, self.Wr = cx.Param(hidden, hidden), cx.Param(hidden, hidden)
            self.state(h=hidden)

        def leaf(self, n):
            return dict(h=self.E[n.token])

        def node(self, n):
            return dict(h=cx.tanh(n.left.h @ self.Wl + n.right.h @ self.Wr + self.b))

Without `leaf`, a leaf computes `node` with all children's states zero.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, NoReturn

import attrs

from cortex import ra
from cortex.forest import Sequence, Structure
from cortex.ra import Expr, refuse
from cortex.tracing import Binder


@attrs.frozen(eq=False, init=False)
class _Declared:
    """A parameter of this shape; the attribute it is assigned to is its name.

    Two axes, or one; three for a table of matrices that is read by token.
    """

    shape: tuple[int, ...]

    def __init__(self, *shape: int) -> None:
        try:
            sizes = tuple(operator.index(size) for size in shape)
        except TypeError:
            sizes = ()
        if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
            refuse(f"cx.Param needs 1 to 3 sizes from 1, got {shape}")
        object.__setattr__(self, "shape", sizes)


if TYPE_CHECKING:
    # Reading the attribute gives the expression, so this is what a type checker should see.
    class Param(ra.Param):
        """A parameter of this shape; the attribute it is assigned to is its name."""

        def __init__(self, *shape: int) -> None: ...
else:
    Param = _Declared


class Recursive:
    """A model: parameters and states declared in __init__, `node` and, if it differs, `leaf`.

    structure:     cx.Tree(), cx.Dag() or cx.Sequence(), of the class or set in __init__
    feature_width: columns of n.features, set in __init__ by a model that reads them
    imports:       name of a torch module class -> parameter -> where it stands in the module
    """

    structure: Structure
    feature_width: int | None = None
    hoist_inputs: bool = False
    imports: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __setattr__(self, name: str, value: object) -> None:
        if ra.leaf_is_known() is not None:
            refuse(
                f"self.{name} is assigned while the model is traced, but a call may leave nothing "
                "behind for another (property P3); return it as a state"
            )
        held: object = value
        if isinstance(value, _Declared):
            held = self._declare(name, value)
        elif (
            isinstance(value, list | tuple)
            and value
            and all(isinstance(v, _Declared) for v in value)
        ):
            held = tuple(self._declare(f"{name}{j}", v) for j, v in enumerate(value))
        object.__setattr__(self, name, held)

    def _declare(self, name: str, declared: _Declared) -> ra.Param:
        made = ra.Param(name, declared.shape)
        self.__dict__.setdefault("_params", {})[name] = made.shape
        return made

    def state(self, **shapes: int | tuple[int, ...]) -> None:
        """Declare what a recursive call returns: name=size, or name=(rows, columns)."""
        states = self.__dict__.setdefault("_states", {})
        for name, shape in shapes.items():
            sizes = tuple(shape) if isinstance(shape, tuple | list) else (operator.index(shape),)
            if name in _RESERVED or len(sizes) > 2 or any(size < 1 for size in sizes):
                refuse(
                    f"a state needs up to 2 sizes from 1 and a name other than "
                    f"{', '.join(sorted(_RESERVED))}, got {name}={shape!r}"
                )
            states[name] = sizes

    def node(self, n: "Node") -> Mapping[str, Expr]:
        """The states of an inner node."""
        raise NotImplementedError


# Handles given to a model's bodies.


class Token:
    """The node's token; it reads rows of parameters and does nothing else."""

    def __repr__(self) -> str:
        return "n.token"

    def _used(self, *_: object) -> NoReturn:
        refuse("n.token may only look up a row of a parameter: self.E[n.token]")

    __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __sub__ = __mul__ = _used
    __radd__ = __rmul__ = __index__ = __int__ = __float__ = _used
    __eq__ = __ne__ = _used
    __hash__ = None  # type: ignore[assignment]


class ChildHandle:
    """A child of the node: its states are attributes."""

    __slots__ = ("_child", "_states")

    def __init__(self, child: ra.Child | ra.Each, states: Mapping[str, tuple[int, ...]]) -> None:
        self._child, self._states = child, states

    def __getattr__(self, name: str) -> Expr:
        shape = self._states.get(name)
        if shape is None:
            if name.startswith("__"):
                raise AttributeError(name)
            refuse(
                f"a child gives its states ({', '.join(self._states)}), not {name!r}: "
                "only states pass from node to node (properties P2, P3)"
            )
        return ra.ChildState(self._child, name, shape)


class Children:
    """The node's children: loop over them inside cx.sum or cx.max, or index a fixed arity."""

    def __init__(self, arity: int | None, states: Mapping[str, tuple[int, ...]]) -> None:
        self._arity, self._states = arity, states

    def __iter__(self) -> Iterator[ChildHandle]:
        if self._arity is not None:
            yield from (ChildHandle(ra.Child(j), self._states) for j in range(self._arity))
            return
        # Two different children, so that cx.sum sees a loop that treats them differently.
        yield from (ChildHandle(ra.Each(j), self._states) for j in Binder.fresh())

    def __len__(self) -> int:
        if self._arity is None:
            refuse("len(n.children) is not known where the arity is None; use cx.sum or cx.max")
        return self._arity

    def __getitem__(self, position: int) -> ChildHandle:
        if self._arity is None:
            refuse("n.children[j] needs a fixed arity; declare cx.Tree(arity=...) or use cx.sum")
        if not -self._arity <= position < self._arity:
            refuse(f"n.children[{position}] does not exist: the arity is {self._arity}")
        return ChildHandle(ra.Child(position % self._arity), self._states)

    def sum(self, name: str) -> Expr:
        """The sum of a state over all children."""
        return sum(getattr(child, name) for child in self)

    def max(self, name: str) -> Expr:
        """The maximum of a state over all children, element by element."""
        return max(getattr(child, name) for child in self)


class Node:
    """What a body may read: n.token, n.features, n.is_leaf and the children's states.

    n.left and n.right are the children of a binary tree, n.previous the element before.
    """

    __slots__ = ("_feature_width", "_states", "_structure")

    def __init__(
        self,
        structure: Structure,
        states: Mapping[str, tuple[int, ...]],
        feature_width: int | None,
    ) -> None:
        self._structure, self._states, self._feature_width = structure, states, feature_width

    @property
    def token(self) -> Token:
        """The node's token, to look up rows of parameters."""
        return Token()

    @property
    def features(self) -> Expr:
        """The node's own row of dense features."""
        if self._feature_width is None:
            refuse("n.features needs its width: set self.feature_width in __init__")
        return ra.Feature(self._feature_width)

    @property
    def is_leaf(self) -> Expr:
        """Whether the node has no children, for cx.where or a Python `if`."""
        return ra.IsLeaf()

    @property
    def children(self) -> Children:
        """All children."""
        return Children(self._structure.max_children, self._states)

    @property
    def left(self) -> ChildHandle:
        """Child 0 of a structure of arity 2."""
        return self._at("left", 0, 2)

    @property
    def right(self) -> ChildHandle:
        """Child 1 of a structure of arity 2."""
        return self._at("right", 1, 2)

    @property
    def previous(self) -> ChildHandle:
        """The element before, in a sequence."""
        if not isinstance(self._structure, Sequence):
            refuse(f"n.previous needs cx.Sequence(), got {self._structure}")
        return ChildHandle(ra.Child(0), self._states)

    def _at(self, name: str, position: int, arity: int) -> ChildHandle:
        if self._structure.max_children != arity:
            refuse(f"n.{name} needs arity {arity}, got {self._structure}")
        return ChildHandle(ra.Child(position), self._states)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        refuse(
            f"n.{name} cannot be read: a node sees its children's states, its own token and "
            "features, and parameters, not parents or siblings (properties P2, P3)"
        )


_RESERVED = frozenset(("token", "features", "children", "left", "right", "previous", "is_leaf"))


# Functions of values.


def sigmoid(x: Expr | float) -> Expr:
    """1 / (1 + exp(-x)), element by element."""
    return ra.Unary("sigmoid", ra.as_expr(x))


def tanh(x: Expr | float) -> Expr:
    """Hyperbolic tangent, element by element."""
    return ra.Unary("tanh", ra.as_expr(x))


def relu(x: Expr | float) -> Expr:
    """max(x, 0), element by element."""
    return ra.Unary("relu", ra.as_expr(x))


def exp(x: Expr | float) -> Expr:
    """Exponential, element by element."""
    return ra.Unary("exp", ra.as_expr(x))


def maximum(x: Expr | float, y: Expr | float) -> Expr:
    """The larger of two values, element by element; cx.max is over children."""
    return ra.Binary("max", ra.as_expr(x), ra.as_expr(y))


def minimum(x: Expr | float, y: Expr | float) -> Expr:
    """The smaller of two values, element by element."""
    return ra.Binary("min", ra.as_expr(x), ra.as_expr(y))


def dot(x: Expr, y: Expr) -> Expr:
    """The scalar product of two vectors, a number."""
    return ra.Dot(ra.as_expr(x), ra.as_expr(y))


def concat(parts: Iterable[Expr], axis: int = 0) -> Expr:
    """Values one after another along an axis."""
    made = tuple(ra.as_expr(part) for part in parts)
    return made[0] if len(made) == 1 else ra.Concat(made, axis)


def split(x: Expr, n: int, axis: int = -1) -> tuple[Expr, ...]:
    """`n` equal parts along an axis, the last one by default."""
    axis = axis % x.rank if x.rank else refuse(f"{x!r} is a number and has no parts")
    size, rest = divmod(x.shape[axis], n)
    if rest:
        refuse(f"{x!r} of shape {list(x.shape)} does not split into {n} equal parts")
    return tuple(ra.Slice(x, j * size, (j + 1) * size, axis) for j in range(n))


def where(condition: Expr, a: Expr | float, b: Expr | float) -> Expr:
    """`a` at a leaf, `b` elsewhere; the condition is n.is_leaf."""
    left, right = ra.as_expr(a), ra.as_expr(b)
    if not left.rank or not right.rank:
        left, right = _spread(left, right.shape), _spread(right, left.shape)
    return ra.Where(ra.as_expr(condition), left, right)


def constant(value: float, *shape: int) -> Expr:
    """A number, or a vector or matrix filled with it."""
    return ra.Number(value, shape)


def sum(values: Iterable[Expr]) -> Expr:
    """The sum over children: cx.sum(k.h for k in n.children)."""
    return _reduce("sum", values)


def max(values: Iterable[Expr]) -> Expr:
    """The maximum over children, element by element: cx.max(k.h for k in n.children)."""
    return _reduce("max", values)


def _reduce(op: str, values: Iterable[Expr]) -> Expr:
    if isinstance(values, Expr):
        refuse(f"cx.{op} runs over children: cx.{op}(k.h for k in n.children), got {values!r}")
    return Binder.reduce(op, [ra.as_expr(value) for value in values])


def _spread(x: Expr, shape: tuple[int, ...]) -> Expr:
    return ra.Number(x.value, shape) if isinstance(x, ra.Number) and not x.rank else x
