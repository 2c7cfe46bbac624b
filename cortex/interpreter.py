"""Programs run with NumPy: the meaning of the loop language, for every stage of lowering.

Innermost loops whose iterations are independent are computed as arrays. In hostile order several
threads are simulated: each executes the body, takes a random share of each parallel loop in random
order, and is interrupted anywhere between two barriers. Memory begins as NaN, so what is read
before it is written shows.
"""

from collections.abc import Generator, Mapping
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from cortex import ilir as il
from cortex.linearize import Linear

Array = npt.NDArray[Any]
DType = Literal["float32", "float64"]
Env = dict[str, Any]

_APPLY: dict[str, Any] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "neg": np.negative,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _sigmoid(x: Any) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


_APPLY["sigmoid"] = _sigmoid


def structure_values(linear: Linear, n_tokens: int = 0) -> dict[str, Any]:
    """The uninterpreted functions of a linearized structure; each takes numbers or arrays."""
    level, kind = linear.level_ptr, linear.kind_ptr
    first = linear.n_leaves
    widths = np.diff(level)
    edges = linear.child.size if linear.child is not None else 0
    if linear.child_at is not None:
        edges = linear.child_at.size
    found: dict[str, Any] = {
        "n_nodes": lambda: linear.n_nodes,
        "n_leaves": lambda: linear.n_leaves,
        "n_levels": lambda: linear.n_levels,
        "n_roots": lambda: len(linear.roots),
        "n_edges": lambda: edges,
        "n_tokens": lambda: n_tokens,
        "widest_level": lambda: int(widths.max(initial=0)),
        "widest_inner": lambda: int(widths[1:].max(initial=0)),
        "level_begin": lambda b: level[b],
        "level_end": lambda b: level[b + 1],
        "token": lambda n: linear.token[n],
        "root": lambda i: linear.roots[i],
    }
    if kind is not None:
        found["kind_begin"] = lambda b, k: kind[b, k]
        found["kind_end"] = lambda b, k: kind[b, k + 1]
    if linear.block_ptr is not None and linear.super_ptr is not None:
        blocks, supers = linear.block_ptr, linear.super_ptr
        found["n_blocks"] = lambda: len(blocks) - 1
        found["block_begin"] = lambda b: blocks[b]
        found["block_end"] = lambda b: blocks[b + 1]
        found["super_begin"] = lambda s: supers[s]
        found["super_end"] = lambda s: supers[s + 1]
    if linear.child is not None:
        for j, row in enumerate(linear.child):
            found[f"child{j}"] = lambda n, row=row: row[n - first]
    if linear.child_ptr is not None and linear.child_at is not None:
        ptr, at = linear.child_ptr, linear.child_at
        found["child_begin"] = lambda n: ptr[n - first]
        found["child_end"] = lambda n: ptr[n - first + 1]
        found["child_at"] = lambda e: at[e]
    return found


def run(
    program: il.Program,
    linear: Linear,
    arrays: Mapping[str, npt.ArrayLike],
    *,
    dtype: DType = "float32",
    hostile: int | None = None,
    threads: int = 3,
) -> dict[str, Array]:
    """The program's states, a row a node in linear order.

    arrays:  parameters and tables by name
    hostile: a seed: simulate `threads` threads in an order drawn from it
    """
    machine = _Machine(program, linear, arrays, np.dtype(dtype))
    if hostile is None:
        for _ in _Thread(machine, None, 0, 1).execute(program.body, {}):
            pass
    else:
        _interleave(machine, hostile, threads)
    return {name: machine.shared[name] for name in program.states}


def _interleave(machine: "_Machine", seed: int, n_threads: int) -> None:
    """Run all threads, one step of a random one at a time; a barrier lets go when all are there."""
    rng = np.random.default_rng(seed)
    running = {
        i: _Thread(machine, seed, i, n_threads).execute(machine.program.body, {})
        for i in range(n_threads)
    }
    waiting: set[int] = set()
    while running:
        ready = [i for i in running if i not in waiting]
        if not ready:
            waiting.clear()
            continue
        i = int(rng.choice(ready))
        # Long runs of one thread find what short ones do not, and the other way round.
        for _ in range(int(rng.choice([1, 4, 1000]))):
            try:
                if next(running[i]):
                    waiting.add(i)
                    break
            except StopIteration:
                del running[i]
                break


class _Machine:
    """Memory that all threads share, and the structure."""

    def __init__(
        self,
        program: il.Program,
        linear: Linear,
        arrays: Mapping[str, npt.ArrayLike],
        dtype: np.dtype[Any],
    ) -> None:
        self.program = program
        self.dtype = dtype
        tokens = [d for d in program.tensors.values() if d.scope == "table"]
        n_tokens = max((index(d.shape[0], {}, {}) for d in tokens), default=0)
        self.functions = structure_values(linear, n_tokens)
        self.shared: dict[str, Array] = {}
        for name, decl in program.tensors.items():
            if decl.scope in ("param", "table"):
                self.shared[name] = np.asarray(arrays[name], dtype)
            elif decl.scope == "feature":
                self.shared[name] = np.asarray(linear.features, dtype)
            elif decl.scope != "tile":
                self.shared[name] = self.empty(decl)

    def empty(self, decl: il.TensorDecl) -> Array:
        """A tensor of NaN."""
        return np.full([index(s, {}, self.functions) for s in decl.shape], np.nan, self.dtype)


def index(i: il.Index, env: Env, functions: Mapping[str, Any]) -> Any:
    """The value of an integer expression: a number, or an array where variables are arrays."""
    match i:
        case il.Int(value):
            return value
        case il.Var(name):
            return env[name]
        case il.Add(a, b):
            return index(a, env, functions) + index(b, env, functions)
        case il.Mul(a, b):
            return index(a, env, functions) * index(b, env, functions)
        case il.Div(a, b):
            return index(a, env, functions) // index(b, env, functions)
        case il.Min(a, b):
            return np.minimum(index(a, env, functions), index(b, env, functions))
        case il.Max(a, b):
            return np.maximum(index(a, env, functions), index(b, env, functions))
        case il.Call(fn, args):
            return functions[fn](*(index(a, env, functions) for a in args))


@attrs.define
class _Thread:
    """One thread's walk through the body. Yields False after a step, True at a barrier."""

    machine: _Machine
    seed: int | None
    number: int
    n_threads: int
    own: dict[str, Array] = attrs.field(factory=dict)
    loops: int = 0

    def __attrs_post_init__(self) -> None:
        for name, decl in self.machine.program.tensors.items():
            if decl.scope == "tile":
                self.own[name] = self.machine.empty(decl)

    def tensor(self, name: str) -> Array:
        """A tensor's memory."""
        found = self.own.get(name)
        return self.machine.shared[name] if found is None else found

    def index(self, i: il.Index, env: Env) -> Any:
        """The value of an integer expression."""
        return index(i, env, self.machine.functions)

    def execute(self, stmt: il.Stmt, env: Env) -> Generator[bool, None, None]:
        """Execute a statement."""
        match stmt:
            case il.Seq(parts):
                for part in parts:
                    yield from self.execute(part, env)
            case il.Barrier():
                yield True
            case il.If(cond, then, orelse):
                yes = self.index(cond.a, env) < self.index(cond.b, env)
                yield from self.execute(then if yes else orelse, env)
            case il.Store():
                self.store(stmt, env, [])
                yield False
            case il.For():
                yield from self.loop(stmt, env)

    def loop(self, stmt: il.For, env: Env) -> Generator[bool, None, None]:
        """A loop: as arrays where its nest is independent, otherwise one iteration at a time."""
        shared_out = stmt.kind == "parallel" and self.seed is not None
        nest = None if shared_out else _nest(stmt)
        if nest is not None:
            loops, body = nest
            for store in body:
                self.store(store, env, loops)
                yield False
            return
        begin, extent = int(self.index(stmt.begin, env)), int(self.index(stmt.extent, env))
        order = np.arange(begin, begin + max(extent, 0))
        if shared_out:
            self.loops += 1
            # All threads draw alike, so that every iteration is someone's.
            rng = np.random.default_rng((self.seed or 0, self.loops))
            owner = rng.integers(0, self.n_threads, len(order))
            order = rng.permutation(order[owner == self.number])
        for value in order:
            yield from self.execute(stmt.body, {**env, stmt.var: int(value)})

    def store(self, stmt: il.Store, env: Env, loops: list[il.For]) -> None:
        """Store one element, or all elements of a nest of loops."""
        env = dict(env)
        for axis, loop in enumerate(loops):
            begin, extent = int(self.index(loop.begin, env)), int(self.index(loop.extent, env))
            if extent <= 0:
                return
            shape = [1] * len(loops)
            shape[axis] = extent
            env[loop.var] = np.arange(begin, begin + extent).reshape(shape)
        where = tuple(self.index(i, env) for i in stmt.index)
        self.tensor(stmt.tensor)[where] = self.value(stmt.value, env, len(loops))

    def value(self, f: il.Float, env: Env, rank: int) -> Any:
        """A float expression, over the first `rank` axes."""
        dtype = self.machine.dtype.type
        match f:
            case il.Num(number):
                return dtype(number)
            case il.Load(tensor, at):
                return self.tensor(tensor)[tuple(self.index(i, env) for i in at)]
            case il.Apply(op, args):
                with np.errstate(all="ignore"):
                    return _APPLY[op](*(self.value(a, env, rank) for a in args))
            case il.Pick(cond, then, orelse):
                return self.pick(cond, then, orelse, env, rank)
            case il.Reduce():
                return self.reduce(f, env, rank)

    def pick(self, cond: il.Less, then: il.Float, orelse: il.Float, env: Env, rank: int) -> Any:
        """Each side only where it is taken: the other may index out of range."""
        yes = self.index(cond.a, env) < self.index(cond.b, env)
        if not isinstance(yes, np.ndarray) or yes.ndim == 0:
            return self.value(then if yes else orelse, env, rank)
        arrays = [v for v in env.values() if isinstance(v, np.ndarray) and v.ndim]
        shape = np.broadcast_shapes(yes.shape, *(a.shape for a in arrays))
        yes = np.broadcast_to(yes, shape)
        out = np.empty(shape, self.machine.dtype)
        for mask, side in ((yes, then), (~yes, orelse)):
            flat = {
                k: np.broadcast_to(v, shape)[mask] if isinstance(v, np.ndarray) and v.ndim else v
                for k, v in env.items()
            }
            if mask.any():
                out[mask] = self.value(side, flat, 1)
        return out

    def reduce(self, f: il.Reduce, env: Env, rank: int) -> Any:
        """A reduction: a product as one contraction, anything else term by term."""
        begin, extent = self.index(f.begin, env), self.index(f.extent, env)
        ragged = isinstance(extent, np.ndarray) and extent.ndim > 0
        dtype = self.machine.dtype.type
        if f.op == "sum" and not ragged and isinstance(begin, int):
            match f.body:
                case il.Apply("mul", (a, b)):
                    return self.contract(f, a, b, env, begin, int(extent))
        total: Any = dtype(-np.inf if f.op == "max" else 0)
        combine = np.maximum if f.op == "max" else np.add
        longest = int(np.max(extent)) if ragged else int(extent)
        for step in range(longest):
            at = begin + step
            if ragged:
                inside = step < extent
                at = np.where(inside, at, 0)
                term = self.value(f.body, {**env, f.var: at}, rank)
                total = np.where(inside, combine(total, term), total)
            else:
                total = combine(total, self.value(f.body, {**env, f.var: at}, rank))
        return total

    def contract(
        self, f: il.Reduce, a: il.Float, b: il.Float, env: Env, begin: int, extent: int
    ) -> Any:
        """sum over k of a * b, k an axis in front."""
        arrays = [v.ndim for v in env.values() if isinstance(v, np.ndarray)]
        rank = max(arrays, default=0)
        k = np.arange(begin, begin + extent).reshape((extent,) + (1,) * rank)
        inner = {**env, f.var: k}
        x, y = self.value(a, inner, rank + 1), self.value(b, inner, rank + 1)
        shape = (
            np.broadcast_shapes(np.shape(x)[1:], np.shape(y)[1:])
            if np.ndim(x) and np.ndim(y)
            else None
        )
        if shape is None or np.ndim(x) != rank + 1 or np.ndim(y) != rank + 1:
            # A side without axes, a number, takes those of the other.
            terms = np.asarray(x * y)
            rest = terms.shape[1:] if terms.ndim == rank + 1 else (1,) * rank
            return np.sum(np.broadcast_to(terms, (extent, *rest)), axis=0)
        letters = "abcdefgh"[:rank]

        def used(v: Array) -> tuple[Array, str]:
            keep = [i for i in range(rank) if v.shape[i + 1] > 1]
            flat = v.reshape((v.shape[0], *(v.shape[i + 1] for i in keep)))
            if v.shape[0] == 1 and extent > 1:
                flat = np.broadcast_to(flat, (extent, *flat.shape[1:]))
            return flat, "k" + "".join(letters[i] for i in keep)

        (x1, xs), (y1, ys) = used(np.asarray(x)), used(np.asarray(y))
        out = "".join(c for c in letters if c in xs or c in ys)
        found = np.einsum(f"{xs},{ys}->{out}", x1, y1, optimize=True)
        return found.reshape(shape)


def _nest(stmt: il.For) -> tuple[list[il.For], list[il.Store]] | None:
    """The loops of a perfect nest over stores that may be computed as arrays, or None."""
    loops: list[il.For] = []
    at: il.Stmt = stmt
    while isinstance(at, il.For):
        outer = {loop.var for loop in loops}
        if (il.variables(at.begin) | il.variables(at.extent)) & outer:
            return None
        loops.append(at)
        at = at.body
    if isinstance(at, il.Store):
        body = [at]
    elif isinstance(at, il.Seq) and at.body and all(isinstance(s, il.Store) for s in at.body):
        body = [s for s in at.body if isinstance(s, il.Store)]
    else:
        return None
    # A serial loop may carry a value from one iteration to the next.
    if any(loop.kind == "serial" for loop in loops):
        stored = {s.tensor: s.index for s in body}
        for load in (load for s in body for load in il.loads(s.value)):
            if load.tensor in stored and load.index != stored[load.tensor]:
                return None
    names = {loop.var for loop in loops}
    for store in body:
        if not names <= il.variables(il.Store(store.tensor, store.index, il.Num(0))):
            return None
    return loops, body
