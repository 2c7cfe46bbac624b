"""The loop language: scalar loops over arrays, bounded by functions of the structure (sec. 5).

One language for every stage of lowering. Integers index, floats are stored, statements loop. What
the structure decides at run time (a level's first node, a node's children) is a call of an
uninterpreted function with a declared range.

A program is one body that every thread executes. Iterations of a `parallel` loop are shared out
among the threads, everything else is executed by each of them, and a `Barrier` waits for all.
Hence shared tensors are stored to inside parallel loops only; `tile` tensors belong to a thread.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeAlias

import attrs

LoopKind: TypeAlias = Literal["serial", "parallel", "vector"]
#: param: weights; table: made from weights once; feature: rows of the input; state: a row a node,
#: kept; node: a row a node, not kept; level: a row a node of one level; tile: a thread's own.
Scope: TypeAlias = Literal["param", "table", "feature", "state", "node", "level", "tile"]
ReduceOp: TypeAlias = Literal["sum", "max"]

UNARY = ("sigmoid", "tanh", "relu", "exp", "neg")
BINARY = ("add", "sub", "mul", "div", "max", "min")


# Integers.


@attrs.frozen(cache_hash=True)
class Int:
    """A constant."""

    value: int


@attrs.frozen(cache_hash=True)
class Var:
    """A loop's variable."""

    name: str


@attrs.frozen(cache_hash=True)
class Add:
    """a + b."""

    a: "Index"
    b: "Index"


@attrs.frozen(cache_hash=True)
class Mul:
    """a * b."""

    a: "Index"
    b: "Index"


@attrs.frozen(cache_hash=True)
class Div:
    """a / b rounded down; b is positive."""

    a: "Index"
    b: "Index"


@attrs.frozen(cache_hash=True)
class Min:
    """The smaller of both."""

    a: "Index"
    b: "Index"


@attrs.frozen(cache_hash=True)
class Max:
    """The larger of both."""

    a: "Index"
    b: "Index"


@attrs.frozen(cache_hash=True)
class Call:
    """An uninterpreted function of the structure, such as `child0(n)`."""

    fn: str
    args: tuple["Index", ...] = ()


Index: TypeAlias = Int | Var | Add | Mul | Div | Min | Max | Call


@attrs.frozen(cache_hash=True)
class Less:
    """a < b, the only condition there is."""

    a: Index
    b: Index


# Floats.


@attrs.frozen(cache_hash=True)
class Num:
    """A constant."""

    value: float


@attrs.frozen(cache_hash=True)
class Load:
    """An element of a tensor."""

    tensor: str
    index: tuple[Index, ...]


@attrs.frozen(cache_hash=True)
class Apply:
    """A unary or binary operation on floats: one of UNARY or BINARY."""

    op: str
    args: tuple["Float", ...]


@attrs.frozen(cache_hash=True)
class Reduce:
    """The sum or the maximum of body for var = begin .. begin + extent - 1; an empty sum is 0."""

    op: ReduceOp
    var: str
    begin: Index
    extent: Index
    body: "Float"


@attrs.frozen(cache_hash=True)
class Pick:
    """then if cond holds, else orelse; only the one taken is evaluated."""

    cond: Less
    then: "Float"
    orelse: "Float"


Float: TypeAlias = Num | Load | Apply | Reduce | Pick


# Statements.


@attrs.frozen(cache_hash=True)
class Seq:
    """One statement after the other."""

    body: tuple["Stmt", ...] = ()


@attrs.frozen(cache_hash=True)
class For:
    """body for var = begin .. begin + extent - 1; dim names what the loop runs over.

    serial loops run in order; iterations of parallel and vector loops are independent.
    """

    var: str
    begin: Index
    extent: Index
    body: "Stmt"
    kind: LoopKind = "serial"
    dim: str = ""


@attrs.frozen(cache_hash=True)
class Store:
    """tensor[index] = value."""

    tensor: str
    index: tuple[Index, ...]
    value: Float


@attrs.frozen(cache_hash=True)
class If:
    """The conditional operator."""

    cond: Less
    then: "Stmt"
    orelse: "Stmt" = Seq()


@attrs.frozen(cache_hash=True)
class Barrier:
    """No thread goes on before all have come here."""


Stmt: TypeAlias = Seq | For | Store | If | Barrier
Node: TypeAlias = Index | Less | Float | Stmt


# Declarations.


@attrs.frozen(cache_hash=True)
class TensorDecl:
    """A float tensor: its shape, the name of each dimension, and where it lives."""

    name: str
    shape: tuple[Index, ...]
    dims: tuple[str, ...]
    scope: Scope


@attrs.frozen(cache_hash=True)
class FunctionDecl:
    """An uninterpreted function with the range of its values, low .. high inclusive."""

    name: str
    n_args: int
    low: Index
    high: Index


@attrs.frozen(eq=True, hash=False)
class Program:
    """A whole program; states name the tensors that are its results."""

    name: str
    tensors: Mapping[str, TensorDecl]
    functions: Mapping[str, FunctionDecl]
    body: Stmt
    states: tuple[str, ...]

    def __str__(self) -> str:
        from cortex.ilir_text import print_program

        return print_program(self)


# Construction with constants folded.


def add(a: Index, b: Index) -> Index:
    """a + b, folded."""
    if isinstance(a, Int) and isinstance(b, Int):
        return Int(a.value + b.value)
    if isinstance(a, Int):
        a, b = b, a
    if b == Int(0):
        return a
    if isinstance(b, Int) and isinstance(a, Add) and isinstance(a.b, Int):
        return add(a.a, Int(a.b.value + b.value))
    return Add(a, b)


def sub(a: Index, b: Index) -> Index:
    """a - b, folded."""
    if a == b:
        return Int(0)
    return add(a, mul(Int(-1), b))


def mul(a: Index, b: Index) -> Index:
    """a * b, folded."""
    if isinstance(b, Int):
        a, b = b, a
    if isinstance(a, Int):
        if isinstance(b, Int):
            return Int(a.value * b.value)
        if a.value == 0:
            return Int(0)
        if a.value == 1:
            return b
    return Mul(a, b)


def div(a: Index, b: Index) -> Index:
    """a / b rounded down, folded."""
    if isinstance(a, Int) and isinstance(b, Int):
        return Int(a.value // b.value)
    if b == Int(1):
        return a
    return Div(a, b)


def ceil_div(a: Index, b: Index) -> Index:
    """a / b rounded up, folded."""
    return div(add(a, sub(b, Int(1))), b)


def minimum(a: Index, b: Index) -> Index:
    """The smaller of both, folded."""
    if isinstance(a, Int) and isinstance(b, Int):
        return Int(min(a.value, b.value))
    return a if a == b else Min(a, b)


def seq(*parts: Stmt) -> Stmt:
    """Statements in order, nested sequences opened."""
    flat: list[Stmt] = []
    for part in parts:
        flat.extend(part.body if isinstance(part, Seq) else (part,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


# Traversal.


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below."""
    match node:
        case Add(a, b) | Mul(a, b) | Div(a, b) | Min(a, b) | Max(a, b) | Less(a, b):
            return (a, b)
        case Call(_, args):
            return args
        case Load(_, index):
            return index
        case Apply(_, values):
            return values
        case Reduce(_, _, begin, extent, body):
            return (begin, extent, body)
        case Pick(cond, then, orelse):
            return (cond, then, orelse)
        case Seq(parts):
            return parts
        case For(_, begin, extent, inner):
            return (begin, extent, inner)
        case Store(_, index, value):
            return (*index, value)
        case If(cond, yes, no):
            return (cond, yes, no)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below, a node before what is below it."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(children(current)))


def rebuild(node: Node, fn: Callable[[Node], Node]) -> Node:
    """The same node over fn of each node directly below."""
    match node:
        case Add(a, b):
            return add(fn(a), fn(b))  # type: ignore[arg-type]
        case Mul(a, b):
            return mul(fn(a), fn(b))  # type: ignore[arg-type]
        case Div(a, b):
            return div(fn(a), fn(b))  # type: ignore[arg-type]
        case Min(a, b):
            return minimum(fn(a), fn(b))  # type: ignore[arg-type]
        case Max(a, b):
            return Max(fn(a), fn(b))  # type: ignore[arg-type]
        case Less(a, b):
            return Less(fn(a), fn(b))  # type: ignore[arg-type]
        case Call(name, args):
            return Call(name, tuple(fn(a) for a in args))  # type: ignore[misc]
        case Load(tensor, index):
            return Load(tensor, tuple(fn(i) for i in index))  # type: ignore[misc]
        case Apply(op, values):
            return Apply(op, tuple(fn(v) for v in values))  # type: ignore[misc]
        case Reduce(rop, var, begin, extent, body):
            return Reduce(rop, var, fn(begin), fn(extent), fn(body))  # type: ignore[arg-type]
        case Pick(cond, then, orelse):
            return Pick(fn(cond), fn(then), fn(orelse))  # type: ignore[arg-type]
        case Seq(parts):
            return Seq(tuple(fn(p) for p in parts))  # type: ignore[misc]
        case For(var, begin, extent, inner, kind, dim):
            return For(var, fn(begin), fn(extent), fn(inner), kind, dim)  # type: ignore[arg-type]
        case Store(tensor, index, value):
            return Store(tensor, tuple(fn(i) for i in index), fn(value))  # type: ignore[misc, arg-type]
        case If(cond, yes, no):
            return If(fn(cond), fn(yes), fn(no))  # type: ignore[arg-type]
        case _:
            return node


def substitute(node: Node, values: Mapping[str, Index]) -> Node:
    """The node with variables replaced; a loop's own variable hides an outer one."""
    if not values:
        return node
    if isinstance(node, Var):
        return values.get(node.name, node)
    if isinstance(node, For | Reduce) and node.var in values:
        inner = {name: value for name, value in values.items() if name != node.var}
        below = {id(node.begin): values, id(node.extent): values, id(node.body): inner}
        return rebuild(node, lambda child: substitute(child, below[id(child)]))
    return rebuild(node, lambda child: substitute(child, values))


def variables(node: Node) -> frozenset[str]:
    """Names of the variables that are free in the node."""
    if isinstance(node, Var):
        return frozenset((node.name,))
    if isinstance(node, For | Reduce):
        below = variables(node.begin) | variables(node.extent)
        return below | (variables(node.body) - {node.var})
    result: frozenset[str] = frozenset()
    for child in children(node):
        result |= variables(child)
    return result


def loads(node: Node) -> Iterator[Load]:
    """Every load below."""
    return (n for n in walk(node) if isinstance(n, Load))


def stores(node: Node) -> Iterator[Store]:
    """Every store below."""
    return (n for n in walk(node) if isinstance(n, Store))


# The functions that a linearized structure supplies.

N_NODES, N_LEAVES, N_LEVELS = Call("n_nodes"), Call("n_leaves"), Call("n_levels")
#: Rows of the widest level.
WIDEST = Call("widest_level")
#: Rows of the widest level above the leaves.
WIDEST_INNER = Call("widest_inner")


def structure_functions(arity: int | None) -> dict[str, FunctionDecl]:
    """Every function that may occur in a program over structures of this arity, by name."""
    last_node = Add(N_NODES, Int(-1))
    edges = Call("n_edges")
    some: dict[str, tuple[int, Index, Index]] = {
        "n_nodes": (0, Int(0), N_NODES),
        "n_leaves": (0, Int(0), N_NODES),
        "n_levels": (0, Int(0), N_NODES),
        "widest_level": (0, Int(0), N_NODES),
        "widest_inner": (0, Int(0), N_NODES),
        "n_edges": (0, Int(0), edges),
        "level_begin": (1, Int(0), N_NODES),
        "level_end": (1, Int(0), N_NODES),
        "token": (1, Int(-1), Add(Call("n_tokens"), Int(-1))),
        "n_tokens": (0, Int(0), Call("n_tokens")),
        "n_roots": (0, Int(0), Call("n_roots")),
        "root": (1, Int(0), last_node),
        "n_blocks": (0, Int(0), N_NODES),
        "block_begin": (1, N_LEAVES, N_NODES),
        "block_end": (1, N_LEAVES, N_NODES),
        "super_begin": (1, N_LEAVES, N_NODES),
        "super_end": (1, N_LEAVES, N_NODES),
    }
    if arity is None:
        some |= {
            "child_begin": (1, Int(0), edges),
            "child_end": (1, Int(0), edges),
            "child_at": (1, Int(0), last_node),
        }
    else:
        some |= {f"child{j}": (1, Int(0), last_node) for j in range(arity)}
        some |= {"kind_begin": (2, Int(0), N_NODES), "kind_end": (2, Int(0), N_NODES)}
    return {name: FunctionDecl(name, *rest) for name, rest in some.items()}
