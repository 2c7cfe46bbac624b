"""Recursive API: what a model computes at a node, as expressions over its children's states.

An expression reads the states of the node's children, the node's own payload (its token or feature
row), parameters and numbers, and nothing else. The three properties a recursive model needs (sec. 3
of the paper) hold by construction: control flow cannot depend on a value, a node's children are
complete before it, and siblings do not see each other.

Expressions are frozen and kept once: two that are built alike are one object, so `is`, `==` and
hashing agree and a common subexpression is found by being the same object. Torch-free.
"""

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import attrs

from cortex.errors import ModelError
from cortex.forest import Structure

if TYPE_CHECKING:
    from cortex.recursive import Recursive

Shape = tuple[int, ...]

UNARY = ("sigmoid", "tanh", "relu", "exp", "neg")
BINARY = ("add", "sub", "mul", "div", "max", "min")
REDUCE = ("sum", "max")

#: Modules whose frames are not the user's.
_OWN_MODULES = frozenset(
    ("cortex.ra", "cortex.ra_text", "cortex.recursive", "cortex.tracing", "cortex.simplify")
)
_local = threading.local()


# Places a value is read from.


@attrs.frozen
class Own:
    """The node itself."""


@attrs.frozen
class Child:
    """The child at one position, of a structure whose arity is fixed."""

    position: int


@attrs.frozen
class Each:
    """Every child in turn, inside the body of a Reduce.

    probe: None in a finished model; while tracing a structure of any arity, the user's loop is
           shown two different children, so that a loop which treats positions differently is seen
    """

    probe: int | None = None


# Expressions.


def _sizes(shape: Iterable[int]) -> Shape:
    return tuple(shape)


def _exprs(parts: "Iterable[Expr]") -> "tuple[Expr, ...]":
    return tuple(parts)


class _Interned(type):
    """Gives the object already made when an equal expression is asked for."""

    _made: ClassVar["weakref.WeakValueDictionary[tuple[object, ...], Expr]"] = (
        weakref.WeakValueDictionary()
    )
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        new = super().__call__(*args, **kwargs)
        key = (cls, *new._key())
        with _Interned._lock:
            found = _Interned._made.get(key)
            if found is None:
                _Interned._made[key] = found = new
        return found


@attrs.frozen(eq=False, repr=False)
class Expr(metaclass=_Interned):
    """A value of a node.

    shape:  () a number, (n,) a vector, (m, n) a matrix
    source: "file:line" where the user wrote it first
    """

    shape: Shape = attrs.field(init=False)
    source: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "source", here())
        shape = self._infer()
        if shape is not None:
            object.__setattr__(self, "shape", shape)

    def _infer(self) -> Shape | None:
        """The shape, or None where it was given."""
        return None

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in field_names(type(self)))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def operands(self) -> "tuple[Expr, ...]":
        """The expressions this one is computed from, in order."""
        found: list[Expr] = []
        for name in field_names(type(self)):
            value = getattr(self, name)
            if isinstance(value, Expr):
                found.append(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Expr):
                found.extend(value)
        return tuple(found)

    def with_operands(self, operands: "Iterable[Expr]") -> "Expr":
        """The same operation on other operands."""
        rest = iter(operands)
        fields: list[object] = []
        for name in field_names(type(self)):
            value = getattr(self, name)
            if isinstance(value, Expr):
                value = next(rest)
            elif isinstance(value, tuple) and value and isinstance(value[0], Expr):
                value = tuple(next(rest) for _ in value)
            fields.append(value)
        with at_source(self.source):
            made: Expr = type(self)(*fields)
        return made

    def __repr__(self) -> str:
        from cortex.ra_text import expression

        return expression(self)

    # What a user writes.

    def __add__(self, other: object) -> "Expr":
        return Binary("add", self, as_expr(other))

    def __radd__(self, other: object) -> "Expr":
        return Binary("add", as_expr(other), self)

    def __sub__(self, other: object) -> "Expr":
        return Binary("sub", self, as_expr(other))

    def __rsub__(self, other: object) -> "Expr":
        return Binary("sub", as_expr(other), self)

    def __mul__(self, other: object) -> "Expr":
        return Binary("mul", self, as_expr(other))

    def __rmul__(self, other: object) -> "Expr":
        return Binary("mul", as_expr(other), self)

    def __truediv__(self, other: object) -> "Expr":
        return Binary("div", self, as_expr(other))

    def __rtruediv__(self, other: object) -> "Expr":
        return Binary("div", as_expr(other), self)

    def __neg__(self) -> "Expr":
        return Unary("neg", self)

    def __matmul__(self, other: object) -> "Expr":
        right = as_expr(other)
        return Dot(self, right) if self.rank == right.rank == 1 else Product(self, right)

    def __rmatmul__(self, other: object) -> "Expr":
        return as_expr(other) @ self

    @property
    def T(self) -> "Expr":
        """The transpose of a parameter."""
        return Transpose(self)

    def __getitem__(self, index: object) -> "Expr":
        from cortex.recursive import Token

        if isinstance(index, Token):
            if not isinstance(self, Param):
                refuse(f"only a parameter is read by token, got {self!r}[token]")
            return Lookup(self, Own())
        slices = index if isinstance(index, tuple) else (index,)
        if len(slices) > self.rank:
            refuse(f"{self!r} has {self.rank} axes and cannot be indexed along {len(slices)}")
        found = self
        for axis, part in enumerate(slices):
            if not isinstance(part, slice) or part.step not in (None, 1):
                refuse(
                    f"{self!r} may be indexed by slices without step or, a parameter, by n.token; "
                    f"got {part!r} (x[j : j + 1] keeps one element)"
                )
            begin, end, _ = part.indices(found.shape[axis])
            if (begin, end) != (0, found.shape[axis]):
                found = Slice(found, begin, end, axis)
        return found

    # What a user cannot write: a value is not known while the model is traced.

    def __bool__(self) -> bool:  # noqa: PLE0304 - it never returns
        refuse(
            f"control flow may not depend on the value {self!r} (property P1); "
            "use cx.where on n.is_leaf, or arithmetic"
        )

    def _compared(self, other: object) -> NoReturn:
        refuse(
            f"the value {self!r} cannot be compared while the model is traced (property P1); "
            "use cx.maximum, cx.minimum or cx.relu"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _compared

    def __iter__(self) -> "Iterator[Expr]":
        refuse(f"{self!r} cannot be looped over; cx.split gives its parts")

    def __float__(self) -> float:
        refuse(f"the value {self!r} is not known while the model is traced (property P1)")

    __int__ = __index__ = __float__

    def __array_ufunc__(self, ufunc: object, *_: object, **__: object) -> NoReturn:
        name = getattr(ufunc, "__name__", ufunc)
        refuse(f"numpy's {name} cannot be applied to {self!r}; use the functions of cortex")

    def __array__(self, *_: object, **__: object) -> NoReturn:
        refuse(f"{self!r} is an expression, not an array; use the functions of cortex")

    @classmethod
    def __torch_function__(cls, function: object, *_: object, **__: object) -> NoReturn:
        name = getattr(function, "__name__", function)
        refuse(f"torch's {name} cannot be applied to expressions; use the functions of cortex")


@attrs.frozen(eq=False, repr=False)
class Param(Expr):
    """A whole parameter; of rank 3 only to be looked up."""

    name: str
    shape: Shape = attrs.field(converter=_sizes)


@attrs.frozen(eq=False, repr=False)
class Lookup(Expr):
    """The row of a parameter that a node's token names: param[token(of)]."""

    param: Param
    of: Own | Child | Each

    @property
    def operands(self) -> tuple[Expr, ...]:
        """None: a row is read, the table is no value of the node."""
        return ()

    def with_operands(self, operands: Iterable[Expr]) -> Expr:
        """Itself."""
        return self

    def _infer(self) -> Shape:
        if not 1 <= self.param.rank <= 3:
            refuse(f"a looked-up parameter has 1 to 3 axes, got {self.param.shape}")
        return self.param.shape[1:]


@attrs.frozen(eq=False, repr=False)
class Tabulated(Expr):
    """The row of a table computed ahead from parameters; made by lowering only."""

    name: str
    of: Own | Child | Each
    shape: Shape = attrs.field(converter=_sizes)


@attrs.frozen(eq=False, repr=False)
class Hoisted(Expr):
    """The node's own row of a value computed for all nodes before; made by lowering only."""

    name: str
    shape: Shape = attrs.field(converter=_sizes)


@attrs.frozen(eq=False, repr=False)
class Feature(Expr):
    """The node's own row of dense features."""

    width: int

    def _infer(self) -> Shape:
        return (self.width,)


@attrs.frozen(eq=False, repr=False)
class Number(Expr):
    """A constant, the same in every element of `shape`."""

    value: float = attrs.field(converter=float)
    shape: Shape = attrs.field(converter=_sizes, default=())

    def _key(self) -> tuple[object, ...]:
        return (self.value.hex(), self.shape)


@attrs.frozen(eq=False, repr=False)
class IsLeaf(Expr):
    """Whether the node has no children."""

    def _infer(self) -> Shape:
        return ()

    def __bool__(self) -> bool:
        known: bool | None = getattr(_local, "is_leaf", None)
        if known is None:
            return super().__bool__()
        return known


@attrs.frozen(eq=False, repr=False)
class ChildState(Expr):
    """A state of a child: what the recursive call on it returned."""

    child: Child | Each
    name: str
    shape: Shape = attrs.field(converter=_sizes)


@attrs.frozen(eq=False, repr=False)
class Reduce(Expr):
    """The sum or maximum of `body` over all children, which it names by Each().

    A Reduce inside the body has children of its own to run over: each Each() belongs to the
    innermost Reduce around it.
    """

    op: str
    body: Expr

    def _infer(self) -> Shape:
        _known(self.op, REDUCE, "reduction")
        return self.body.shape


@attrs.frozen(eq=False, repr=False)
class Unary(Expr):
    """A function of one value, element by element."""

    op: str
    x: Expr

    def _infer(self) -> Shape:
        _known(self.op, UNARY, "function")
        return self.x.shape


@attrs.frozen(eq=False, repr=False)
class Binary(Expr):
    """A function of two values of equal shape, element by element; either may be a number."""

    op: str
    x: Expr
    y: Expr

    def _infer(self) -> Shape:
        _known(self.op, BINARY, "function")
        x, y = self.x.shape, self.y.shape
        if x and y and x != y:
            refuse(
                f"{self!r} needs two values of equal shape, or one number, "
                f"got {list(x)} and {list(y)}"
            )
        return x or y


@attrs.frozen(eq=False, repr=False)
class Product(Expr):
    """A matrix product: (k) @ (k, n), (m, k) @ (k) or (m, k) @ (k, n)."""

    x: Expr
    y: Expr

    def _infer(self) -> Shape:
        x, y = self.x.shape, self.y.shape
        if (len(x), len(y)) not in ((1, 2), (2, 1), (2, 2)) or x[-1] != y[0]:
            refuse(
                f"{self!r} needs matching inner sizes, as (k) @ (k, n), (m, k) @ (k) or "
                f"(m, k) @ (k, n), got {list(x)} @ {list(y)}"
            )
        return (*x[:-1], *y[1:])


@attrs.frozen(eq=False, repr=False)
class Dot(Expr):
    """The scalar product of two vectors."""

    x: Expr
    y: Expr

    def _infer(self) -> Shape:
        if self.x.rank != 1 or self.x.shape != self.y.shape:
            refuse(
                f"{self!r} needs two vectors of equal length, "
                f"got {list(self.x.shape)} and {list(self.y.shape)}"
            )
        return ()


@attrs.frozen(eq=False, repr=False)
class Concat(Expr):
    """Values one after another along an axis."""

    parts: tuple[Expr, ...] = attrs.field(converter=_exprs)
    axis: int = 0

    def _infer(self) -> Shape:
        shapes = [part.shape for part in self.parts]
        axis = self.axis
        if not shapes or not 0 <= axis < len(shapes[0]):
            refuse(f"cx.concat needs vectors or matrices and an axis of theirs, got {shapes}")
        rest = {(len(s), s[:axis], s[axis + 1 :]) for s in shapes}
        if len(rest) > 1:
            refuse(f"{self!r} needs parts equal but for axis {axis}, got {[*map(list, shapes)]}")
        total = sum(s[axis] for s in shapes)
        return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])


@attrs.frozen(eq=False, repr=False)
class Slice(Expr):
    """Elements begin .. end - 1 along an axis."""

    x: Expr
    begin: int
    end: int
    axis: int = 0

    def _infer(self) -> Shape:
        shape = self.x.shape
        if not 0 <= self.axis < len(shape):
            refuse(f"axis {self.axis} of {self.x!r} does not exist; its shape is {list(shape)}")
        if not 0 <= self.begin < self.end <= shape[self.axis]:
            refuse(
                f"slice {self.begin}:{self.end} of {self.x!r} must hold an element and lie in "
                f"0:{shape[self.axis]}"
            )
        return (*shape[: self.axis], self.end - self.begin, *shape[self.axis + 1 :])


@attrs.frozen(eq=False, repr=False)
class Transpose(Expr):
    """A parameter with its two axes exchanged."""

    x: Expr

    def _infer(self) -> Shape:
        if not isinstance(self.x, Param) or self.x.rank != 2:
            refuse(
                f"only a parameter of two axes can be transposed, got {self.x!r} of shape "
                f"{list(self.x.shape)}; write the product the other way round"
            )
        return self.x.shape[::-1]


@attrs.frozen(eq=False, repr=False)
class Where(Expr):
    """`a` at a leaf, `b` elsewhere; tracing resolves it, lowering may make it again."""

    condition: Expr
    a: Expr
    b: Expr

    def _infer(self) -> Shape:
        if not isinstance(self.condition, IsLeaf):
            refuse(
                f"cx.where may ask only n.is_leaf, got {self.condition!r}: control flow may not "
                "depend on a value (property P1)"
            )
        if self.a.shape != self.b.shape:
            refuse(
                f"both sides of cx.where need one shape, "
                f"got {list(self.a.shape)} and {list(self.b.shape)}"
            )
        return self.a.shape


@attrs.frozen
class Model:
    """What tracing a model gives.

    params: name -> shape, in order of declaration
    states: name -> shape of what a recursive call returns
    leaf, node: state name -> expression; leaf reads no child. Where never occurs in them.
    imports: name of a torch module class -> parameter name -> where it stands in that module
    hoist_inputs: the model asks that products of a node's own payload be computed for all nodes
        before the recursion begins
    sources: where each expression stands in this model
    """

    name: str
    structure: Structure
    params: Mapping[str, Shape]
    states: Mapping[str, Shape]
    leaf: Mapping[str, Expr]
    node: Mapping[str, Expr]
    uses_token: bool
    vocab: int | None
    feature_width: int | None
    imports: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict, eq=False, repr=False)
    hoist_inputs: bool = False
    sources: Mapping[Expr, str] = attrs.field(factory=dict, eq=False, repr=False)

    def where(self, expr: Expr) -> str:
        """The "file:line" of an expression in this model."""
        return self.sources.get(expr, expr.source)

    @property
    def leaf_uses_token(self) -> bool:
        """Whether a leaf needs a token."""
        return any(isinstance(e, Lookup | Tabulated) for e in walk(self.leaf.values()))

    @property
    def node_uses_token(self) -> bool:
        """Whether an internal node needs a token."""
        return any(isinstance(e, Lookup | Tabulated) for e in walk(self.node.values()))

    def __str__(self) -> str:
        from cortex.ra_text import listing

        return listing(self)


def trace(model: "Recursive") -> Model:
    """The expressions of a model, checked, with shapes and shared subexpressions.

    Raises ModelError naming expression and source line.
    """
    from cortex.tracing import trace_model

    return trace_model(model)


def walk(exprs: Iterable[Expr], *, into_reduce: bool = True) -> Iterator[Expr]:
    """Every expression once, operands before what they are operands of.

    into_reduce: the bodies of Reduce are walked too, before the Reduce
    """
    seen: set[Expr] = set()
    for root in exprs:
        stack = [(root, False)]
        while stack:
            expr, ready = stack.pop()
            if ready:
                yield expr
            elif expr not in seen:
                seen.add(expr)
                stack.append((expr, True))
                if into_reduce or not isinstance(expr, Reduce):
                    stack.extend((x, False) for x in reversed(expr.operands) if x not in seen)


def rewrite(expr: Expr, change: Callable[[Expr], Expr | None], *, into_reduce: bool = True) -> Expr:
    """Rebuild from the operands up; `change` gives an expression's replacement, None to keep it.

    `change` sees each expression once, with its operands already rewritten. Without `into_reduce`
    the bodies of Reduce stay as they are.
    """
    done: dict[Expr, Expr] = {}
    stack = [(expr, False)]
    while stack:
        at, ready = stack.pop()
        if at in done:
            continue
        operands = () if isinstance(at, Reduce) and not into_reduce else at.operands
        if not ready:
            stack.append((at, True))
            stack.extend((x, False) for x in operands if x not in done)
            continue
        new = tuple(done[x] for x in operands)
        with at_source(at.source):
            built = at if new == operands else at.with_operands(new)
            changed = change(built)
        done[at] = built if changed is None else changed
    return done[expr]


def as_expr(value: object) -> Expr:
    """An expression, or a plain number as one."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, int | float):
        return Number(value)
    refuse(
        f"a model computes with its parameters, its children's states, its own payload and plain "
        f"numbers, got {type(value).__name__} {value!r:.60}; make arrays parameters (cx.Param)"
    )


def field_names(cls: type[Expr]) -> tuple[str, ...]:
    """The arguments an expression is made from, in order."""
    found = _FIELDS.get(cls)
    if found is None:
        found = _FIELDS[cls] = tuple(
            f.name for f in attrs.fields(cls) if f.init and f.name != "source"
        )
    return found


_FIELDS: dict[type[Expr], tuple[str, ...]] = {}


# Where an expression was written.


def here() -> str:
    """The "file:line" of the nearest frame that is the user's."""
    given: str | None = getattr(_local, "source", None)
    if given is not None:
        return given
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name not in _OWN_MODULES and not frame.f_code.co_filename.startswith("<attrs"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "unknown:0"


@contextlib.contextmanager
def at_source(source: str) -> Iterator[None]:
    """Expressions made inside stand where `source` says."""
    before = getattr(_local, "source", None)
    _local.source = source
    try:
        yield
    finally:
        _local.source = before


@contextlib.contextmanager
def known_leaf(is_leaf: bool) -> Iterator[None]:
    """Inside, n.is_leaf is known, so that Python may branch on it."""
    before = getattr(_local, "is_leaf", None)
    _local.is_leaf = is_leaf
    try:
        yield
    finally:
        _local.is_leaf = before


def leaf_is_known() -> bool | None:
    """What n.is_leaf is in the body being traced, None outside tracing."""
    known: bool | None = getattr(_local, "is_leaf", None)
    return known


def refuse(message: str, source: str | None = None) -> NoReturn:
    """Raise ModelError with the line of the user's code."""
    raise ModelError(f"{message}; at {source or here()}")


def _known(op: str, known: tuple[str, ...], what: str) -> None:
    if op not in known:
        refuse(f"{what} must be one of {', '.join(known)}, got {op!r}")
