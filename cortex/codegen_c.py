"""From a program to C++: products on the microkernel, everything else as vectors of columns.

A nest of two loops whose stored value holds sums over products of a row and a column is recognised
(`_terms`) and calls `cortex::product` on packed panels; its elementwise rest runs on the sums while
they are in the nearest cache. A vector loop becomes one lambda for whole vectors and the masked
last one. Whatever is neither becomes plain loops, so that every program has its code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs

from cortex import ilir as il
from cortex.packing import Panels, View

_INLINE = "__attribute__((always_inline))"
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
#: int32 arrays of a linearized structure, in the order of the generated function's parameters.
STRUCTURE = (
    *("level_ptr", "kind_ptr", "child", "child_ptr", "child_at", "token", "roots"),
    *("block_ptr", "super_ptr"),
)
#: Numbers of a call, likewise.
COUNTS = ("n_nodes", "n_leaves", "n_levels", "n_edges", "n_roots", "n_tokens", "n_blocks")


@attrs.frozen
class Source:
    """Generated text, and what a caller must know about it.

    inputs: tensors read (parameters, tables, features), in the order of their addresses
    """

    text: str
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    views: tuple[View, ...]
    products: int
    flops: tuple[tuple[int, int], ...]  # of each product: multiply-adds a row


def generate(program: il.Program) -> Source:
    """The C++ of a program; its functions are `cortex_run`, `_pack` and `_panels`."""
    return _Emitter(program).source()


@attrs.frozen
class _Vector:
    """The vector loop that code is emitted into."""

    var: str
    lanes: str


@attrs.frozen
class _Term:
    """One product: rows of x, `pitch` apart, and a right side of `columns` columns."""

    reduce: il.Reduce
    left: il.Load
    right: il.Load
    depth: int
    pitch: int | None  # None: rows lie anywhere and are gathered


@attrs.define
class _Emitter:
    program: il.Program
    lines: list[str] = attrs.field(factory=list)
    indent: int = 1
    count: int = 0
    panels: Panels = attrs.field(factory=Panels)
    known: list[dict[object, tuple[str, bool]]] = attrs.field(factory=lambda: [{}])
    loops: dict[str, tuple[il.Index, il.Index]] = attrs.field(factory=dict)
    in_parallel: bool = False
    products: int = 0
    flops: list[tuple[int, int]] = attrs.field(factory=list)

    # ---- Text ----

    def line(self, text: str) -> None:
        self.lines.append("  " * self.indent + text)

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    @contextmanager
    def block(self, head: str, tail: str = "}") -> Iterator[None]:
        """A scope: what is known inside is forgotten outside."""
        self.line(head)
        self.indent += 1
        self.known.append({})
        try:
            yield
        finally:
            self.known.pop()
            self.indent -= 1
            self.line(tail)

    def source(self) -> Source:
        program = self.program
        body = _split_picks(program.body)
        self.statement(body)
        main = self.lines
        inputs = [d for d in program.tensors.values() if d.scope in ("param", "table", "feature")]
        others = [
            d for d in program.tensors.values() if d.scope not in ("param", "table", "feature")
        ]
        states = [d for d in others if d.name in program.states]
        shared = [d for d in others if d.scope != "tile" and d.name not in program.states]
        tiles = [d for d in others if d.scope == "tile"]
        text = ['#include "runtime.h"', "", "namespace {", "using cortex::vec;", ""]
        text += self.panels.declarations()
        text += ["struct Run {"]
        text += [f"  const int32_t *{name};" for name in STRUCTURE]
        text += [f"  int64_t {name};" for name in (*COUNTS, "widest_level")]
        text += [f"  const float *{_tensor(d.name)};" for d in inputs]
        text += [f"  float *{_tensor(d.name)};" for d in (*states, *shared)]
        text += ["  const float *panels;", "  float *tiles;", "  int64_t threads;", "};", ""]
        text += self._places(states, shared, tiles)
        text += ["__attribute__((noinline)) void body(const Run &r, const cortex::Team &team) {"]
        text += [f"  const int32_t *const {name} = r.{name};" for name in STRUCTURE]
        text += [f"  const int64_t {name} = r.{name};" for name in (*COUNTS, "widest_level")]
        text += [f"  const float *const {_tensor(d.name)} = r.{_tensor(d.name)};" for d in inputs]
        text += [
            f"  float *const {_tensor(d.name)} = r.{_tensor(d.name)};" for d in (*states, *shared)
        ]
        text += ["  const float *const panels = r.panels;"]
        text += ["  float *const tiles = r.tiles + team.thread * tiles_size;"]
        text += [f"  float *const {_tensor(d.name)} = tiles + at_{_tensor(d.name)};" for d in tiles]
        unused = (
            *STRUCTURE,
            *COUNTS,
            "widest_level",
            "panels",
            "tiles",
            *(_tensor(d.name) for d in (*inputs, *states, *shared, *tiles)),
        )
        text += ["  " + " ".join(f"(void){name};" for name in unused)]
        text += [*main, "}", "} // namespace", ""]
        text += self._entry(inputs, states, shared)
        return Source(
            "\n".join(text) + "\n",
            tuple(d.name for d in inputs),
            tuple(d.name for d in states),
            tuple(self.panels.views),
            self.products,
            tuple(self.flops),
        )

    def _places(
        self, states: list[il.TensorDecl], shared: list[il.TensorDecl], tiles: list[il.TensorDecl]
    ) -> list[str]:
        """Sizes of tensors, and their places in the workspace: each on a cache line of its own."""
        lines, start = [], "0"
        for d in tiles:
            lines.append(f"constexpr int64_t at_{_tensor(d.name)} = {start};")
            start = f"at_{_tensor(d.name)} + ({self._size(d)} + 31) / 16 * 16"
        # Room for the rows that a product gathers.
        gathered = max((depth for depth, _ in self.flops), default=0)
        lines.append(f"constexpr int64_t at_gathered = {start};")
        lines.append(f"constexpr int64_t tiles_size = at_gathered + {64 * gathered} + 32;")
        lines += ["", "int64_t place(Run &r, float *workspace, bool places_states) {"]
        lines += ["  int64_t at = 0;"]
        counts = [
            f"[[maybe_unused]] const int64_t {name} = r.{name};"
            for name in (*COUNTS, "widest_level")
        ]
        lines += ["  " + c for c in counts]
        for d in (*states, *shared):
            size = f"({self._size(d)} + 31) / 16 * 16"
            guard = "if (places_states) " if d in states else ""
            lines.append(f"  {guard}{{ r.{_tensor(d.name)} = workspace + at; at += {size}; }}")
        lines += ["  r.tiles = workspace + at;", "  return at + tiles_size * r.threads;", "}", ""]
        return lines

    def _size(self, decl: il.TensorDecl) -> str:
        return " * ".join(f"({self.index(s)})" for s in decl.shape) or "1"

    def _entry(
        self, inputs: list[il.TensorDecl], states: list[il.TensorDecl], shared: list[il.TensorDecl]
    ) -> list[str]:
        """The exported functions.

        numbers: COUNTS, threads, floats of workspace, then addresses: workspace, panels, inputs,
        states (0: in the workspace), and for each state where its roots go (0: nowhere).
        Returns the floats of workspace that are needed if there are fewer, and else 0.
        """
        n = len(COUNTS)
        first = n + 4
        fill = [f"  r.{name} = numbers[{i}];" for i, name in enumerate(COUNTS)]
        fill += [f"  r.threads = numbers[{n}];"]
        pointers = [f"  r.{name} = {name};" for name in STRUCTURE]
        pointers += [
            "  for (int64_t b = 0; b < r.n_levels; b++)",
            "    r.widest_level = cortex::most(r.widest_level, level_ptr[b + 1] - level_ptr[b]);",
        ]
        pointers += [f"  float *const workspace = (float *)numbers[{n + 2}];"]
        pointers += [f"  r.panels = (const float *)numbers[{n + 3}];"]
        pointers += [
            f"  r.{_tensor(d.name)} = (const float *)numbers[{first + i}];"
            for i, d in enumerate(inputs)
        ]
        at = first + len(inputs)
        given = [f"numbers[{at}]" if states else "0"]
        pointers += [f"  const int64_t needed = place(r, workspace, !{given[0]});"]
        pointers += [f"  if (needed > numbers[{n + 1}]) return needed;"]
        pointers += [
            f"  if (numbers[{at + i}]) r.{_tensor(d.name)} = (float *)numbers[{at + i}];"
            for i, d in enumerate(states)
        ]
        out = at + len(states)
        copies = []
        for i, d in enumerate(states):
            row = _product_of(d.shape[1:])
            copies += [
                f"  if (float *const out = (float *)numbers[{out + i}])",
                f"    for (int64_t b = 0; b < r.n_roots; b++) std::memcpy(out + b * {row}, "
                f"r.{_tensor(d.name)} + r.roots[b] * int64_t({row}), {row} * sizeof(float));",
            ]
        arrays = ", ".join(f"const int32_t *{name}" for name in STRUCTURE)
        return [
            "EXPORT int64_t cortex_panels(void) { return panels_size; }",
            "EXPORT void cortex_pack([[maybe_unused]] const int64_t *params, "
            "[[maybe_unused]] float *panels) {",
            *(
                "  " + s
                for s in self.panels.packing(
                    {d.name: f"(const float *)params[{i}]" for i, d in enumerate(inputs)}
                )
            ),
            "}",
            f"EXPORT int64_t cortex_run({arrays}, const int64_t *numbers) {{",
            "  Run r{};",
            *fill,
            *pointers,
            "  if (r.threads <= 1) {",
            "    body(r, cortex::Team{nullptr, 0, 1});",
            "  } else {",
            "    cortex::Meeting meeting;",
            "#pragma omp parallel num_threads((int)r.threads)",
            "    body(r, cortex::Team{&meeting, omp_get_thread_num(), omp_get_num_threads()});",
            "  }",
            *copies,
            "  return 0;",
            "}",
        ]

    # ---- Integers ----

    def index(self, e: il.Index) -> str:
        """An integer expression."""
        match e:
            case il.Int(value):
                return f"INT64_C({value})" if value >= 0 else f"(-INT64_C({-value}))"
            case il.Var(name):
                return _var(name)
            case il.Add(a, b):
                return f"({self.index(a)} + {self.index(b)})"
            case il.Mul(a, b):
                return f"({self.index(a)} * {self.index(b)})"
            case il.Div(a, b):
                return f"cortex::floor_div({self.index(a)}, {self.index(b)})"
            case il.Min(a, b):
                return f"cortex::least({self.index(a)}, {self.index(b)})"
            case il.Max(a, b):
                return f"cortex::most({self.index(a)}, {self.index(b)})"
            case il.Call(fn, args):
                return self.call(fn, [self.index(a) for a in args])
        raise NotImplementedError(f"index {e!r}")

    def call(self, fn: str, args: list[str]) -> str:
        """A function of the structure."""
        if not args:
            return fn
        n = args[0]
        if fn in ("level_begin", "level_end"):
            return f"int64_t(level_ptr[{n}{' + 1' if fn == 'level_end' else ''}])"
        if fn in ("block_begin", "block_end", "super_begin", "super_end"):
            return f"int64_t({fn[:5]}_ptr[{n}{' + 1' if fn.endswith('end') else ''}])"
        if fn == "root":
            return f"int64_t(roots[{n}])"
        if fn in ("kind_begin", "kind_end"):
            kinds = 2 ** sum(
                name.startswith("child") and name[5:].isdigit() for name in self.program.functions
            )
            after = " + 1" if fn == "kind_end" else ""
            return f"int64_t(kind_ptr[{n} * {kinds + 1} + {args[1]}{after}])"
        if fn == "token":
            return f"int64_t(token[{n}])"
        if fn == "child_at":
            return f"int64_t(child_at[{n}])"
        if fn in ("child_begin", "child_end"):
            after = " + 1" if fn == "child_end" else ""
            return f"({n} < n_leaves ? 0 : int64_t(child_ptr[{n} - n_leaves{after}]))"
        if re.fullmatch(r"child\d+", fn):
            j = int(fn[5:])
            return f"int64_t(child[{j} * (n_nodes - n_leaves) + {n} - n_leaves])"
        raise NotImplementedError(f"the C back end knows no function {fn}()")

    def offset(self, tensor: str, index: tuple[il.Index, ...]) -> il.Index:
        """Where an element lies in its tensor, in floats."""
        shape = self.program.tensors[tensor].shape
        total: il.Index = il.Int(0)
        stride: il.Index = il.Int(1)
        for i, extent in zip(reversed(index), reversed(shape), strict=True):
            total = il.add(total, il.mul(stride, i))
            stride = il.mul(stride, extent)
        return total

    # ---- Statements ----

    def statement(self, s: il.Stmt) -> None:
        match s:
            case il.Seq(parts):
                for part in parts:
                    self.statement(part)
            case il.Barrier():
                self.line("team.wait();")
            case il.If(cond, then, orelse):
                with self.block(f"if ({self.less(cond)}) {{"):
                    self.statement(then)
                if orelse != il.Seq():
                    with self.block("else {"):
                        self.statement(orelse)
            case il.Store():
                with self.block("{"):
                    self.store(s, None)
            case il.For():
                self.loop(s)

    def less(self, cond: il.Less) -> str:
        return f"{self.index(cond.a)} < {self.index(cond.b)}"

    def loop(self, s: il.For) -> None:
        outer = self.loops.get(s.var)
        self.loops[s.var] = (s.begin, s.extent)
        if not self.product_nest(s):
            if s.kind == "vector" and self.is_vectorizable(s):
                self.vector_loop(s)
            else:
                self.plain_loop(s)
        if outer is None:
            del self.loops[s.var]
        else:
            self.loops[s.var] = outer

    def plain_loop(self, s: il.For) -> None:
        begin, end, v = self.name("begin"), self.name("end"), _var(s.var)
        with self.block("{"):
            was = self.in_parallel
            self.line(f"const int64_t {begin} = {self.index(s.begin)};")
            if s.kind == "parallel" and not was:
                share = self.name("share")
                self.line(f"const cortex::Share {share}({begin}, {self.index(s.extent)}, team);")
                head = f"for (int64_t {v} = {share}.first; {v} < {share}.last; {v}++) {{"
                self.in_parallel = True
            else:
                self.line(f"const int64_t {end} = {begin} + {self.index(s.extent)};")
                head = f"for (int64_t {v} = {begin}; {v} < {end}; {v}++) {{"
            with self.block(head):
                self.statement(s.body)
            self.in_parallel = was

    def vector_loop(self, s: il.For) -> None:
        begin, lanes = self.name("begin"), self.name("lanes")
        step, v = self.name("step"), _var(s.var)
        with self.block("{"):
            self.line(f"const int64_t {begin} = {self.index(s.begin)};")
            head = (
                f"cortex::columns<{s.extent.value}>("
                if isinstance(s.extent, il.Int)
                else (f"cortex::columns({self.index(s.extent)}, ")
            )
            with self.block(f"{head}[&](int64_t {step}, auto {lanes}) {_INLINE} {{", "});"):
                self.line(f"[[maybe_unused]] const int64_t {v} = {begin} + {step};")
                for part in _parts(s.body):
                    assert isinstance(part, il.Store)
                    self.store(part, _Vector(s.var, lanes))

    def is_vectorizable(self, s: il.For) -> bool:
        """Stores only, each moving with the variable, and no sum better taken along itself."""
        for part in _parts(s.body):
            if not isinstance(part, il.Store):
                return False
            if s.var not in il.variables(il.Store(part.tensor, part.index, il.Num(0.0))):
                return False
            for node in il.walk(part.value):
                if isinstance(node, il.Pick) and s.var in il.variables(node.cond):
                    return False
                if isinstance(node, il.Reduce):
                    if s.var in il.variables(node.begin) | il.variables(node.extent):
                        return False
                    across = [self.step(load, s.var) for load in il.loads(node.body)]
                    if any(a not in (0, 1) for a in across) and self.is_run(node):
                        return False
        return True

    def step(self, load: il.Load | il.Store, var: str) -> int | None:
        """Floats between neighbours along a variable; None if that is no constant."""
        split = _linear(self.offset(load.tensor, load.index), var)
        return None if split is None else split[0]

    def is_run(self, reduce: il.Reduce) -> bool:
        """Whether a sum reads runs of memory along its own variable."""
        for node in il.walk(reduce.body):
            if isinstance(node, il.Load) and self.step(node, reduce.var) not in (0, 1):
                return False
            if isinstance(node, il.Reduce):
                return False
            if isinstance(node, il.Pick) and reduce.var in il.variables(node.cond):
                return False
        return True

    def store(self, s: il.Store, vector: _Vector | None) -> None:
        value, is_vec = self.value(s.value, vector)
        self.put(s, value, is_vec, vector)
        # What was loaded from this tensor may have changed.
        for scope in self.known:
            for key in [k for k in scope if isinstance(k, tuple) and s.tensor in k[1]]:
                del scope[key]

    def put(self, s: il.Store, value: str, is_vec: bool, vector: _Vector | None) -> None:
        offset = self.offset(s.tensor, s.index)
        at = f"{_tensor(s.tensor)} + {self.index(offset)}"
        if vector is None:
            self.line(f"*({at}) = {value};")
            return
        value = value if is_vec else f"cortex::wide({value})"
        if self.step(s, vector.var) == 1:
            self.line(f"cortex::store({at}, {value}, {vector.lanes});")
            return
        with self._each_lane(vector, "lane", f"cortex::scatter({value}, {vector.lanes}, ") as v:
            self.line(f"return {_tensor(s.tensor)} + {self.index(il.substitute(offset, v))};")  # type: ignore[arg-type]

    @contextmanager
    def _each_lane(self, vector: _Vector, stem: str, head: str) -> Iterator[dict[str, il.Index]]:
        lane, moved = self.name(stem), self.name("at_lane")
        with self.block(f"{head}[&](int {lane}) {_INLINE} {{", "});"):
            self.line(f"const int64_t {_var(moved)} = {_var(vector.var)} + {lane};")
            yield {vector.var: il.Var(moved)}

    # ---- Floats ----

    def value(self, e: il.Float, vector: _Vector | None) -> tuple[str, bool]:
        """The name of a value, and whether it is a vector rather than one float."""
        key = (e, frozenset(load.tensor for load in il.loads(e)), vector)
        for scope in reversed(self.known):
            if key in scope:
                return scope[key]
        result = self.compute(e, vector)
        self.known[-1][key] = result
        return result

    def define(self, text: str, is_vec: bool) -> tuple[str, bool]:
        name = self.name("x")
        self.line(f"const {'vec' if is_vec else 'float'} {name} = {text};")
        return name, is_vec

    def compute(self, e: il.Float, vector: _Vector | None) -> tuple[str, bool]:
        match e:
            case il.Num(number):
                return _number(number), False
            case il.Load():
                return self.load(e, vector)
            case il.Apply(op, args):
                return self.apply(op, [self.value(a, vector) for a in args])
            case il.Reduce():
                return self.reduce(e, vector)
            case il.Pick(cond, then, orelse):
                is_vec = vector is not None
                name = self.name("x")
                self.line(f"{'vec' if is_vec else 'float'} {name};")
                for head, branch in ((f"if ({self.less(cond)}) {{", then), ("else {", orelse)):
                    with self.block(head):
                        text, wide = self.value(branch, vector)
                        whole = f"cortex::wide({text})" if is_vec and not wide else text
                        self.line(f"{name} = {whole};")
                return name, is_vec
        raise NotImplementedError(f"float {e!r}")

    def load(self, e: il.Load, vector: _Vector | None) -> tuple[str, bool]:
        offset = self.offset(e.tensor, e.index)
        at = f"{_tensor(e.tensor)} + {self.index(offset)}"
        if vector is None or vector.var not in il.variables(offset):
            return self.define(f"*({at})", False)
        if self.step(e, vector.var) == 1:
            return self.define(f"cortex::load({at}, {vector.lanes})", True)
        name = self.name("x")
        head = f"const vec {name} = cortex::gather({vector.lanes}, "
        with self._each_lane(vector, "lane", head) as moved:
            where = il.substitute(offset, moved)
            self.line(f"return {_tensor(e.tensor)} + {self.index(where)};")  # type: ignore[arg-type]
        return name, True

    def apply(self, op: str, args: list[tuple[str, bool]]) -> tuple[str, bool]:
        is_vec = any(wide for _, wide in args)
        if op in _INFIX:
            (a, _), (b, _) = args
            return self.define(f"{a} {_INFIX[op]} {b}", is_vec)
        if op == "neg":
            return self.define(f"-{args[0][0]}", is_vec)
        texts = [a if wide or not is_vec else f"cortex::wide({a})" for a, wide in args]
        return self.define(f"cortex::{op}({', '.join(texts)})", is_vec)

    def reduce(self, e: il.Reduce, vector: _Vector | None) -> tuple[str, bool]:
        begin, extent, result = self.name("begin"), self.name("extent"), self.name("x")
        self.line(f"const int64_t {begin} = {self.index(e.begin)};")
        self.line(f"const int64_t {extent} = {self.index(e.extent)};")
        v = _var(e.var)
        if vector is None and self.is_run(e):
            function = "sum" if e.op == "sum" else "largest"
            step, lanes = self.name("step"), self.name("lanes")
            head = f"const float {result} = cortex::{function}({extent}, "
            head += f"[&](int64_t {step}, auto {lanes}) {_INLINE} -> vec {{"
            with self.block(head, "});"):
                self.line(f"[[maybe_unused]] const int64_t {v} = {begin} + {step};")
                text, wide = self.value(e.body, _Vector(e.var, lanes))
                self.line(f"return {text if wide else f'cortex::wide({text})'};")
            return result, False
        is_vec = vector is not None
        kind = "vec" if is_vec else "float"
        self.line(f"{kind} {result}{{}};")
        head = f"for (int64_t {v} = {begin}; {v} < {begin} + {extent}; {v}++) {{"
        with self.block(head):
            text, wide = self.value(e.body, vector)
            text = f"cortex::wide({text})" if is_vec and not wide else text
            if e.op == "sum":
                self.line(f"{result} += {text};")
            else:
                self.line(f"{result} = {v} == {begin} ? {text} : cortex::max({text}, {result});")
        return result, is_vec

    # ---- Products ----

    def product_nest(self, s: il.For) -> bool:
        """Emit a nest of products; False if it is none."""
        if s.kind == "vector":
            rows, inner = None, s
        else:
            body = s.body
            if not (isinstance(body, il.For) and body.kind == "vector"):
                return False
            rows, inner = s, body
        if not (isinstance(inner.extent, il.Int) and inner.begin == il.Int(0)):
            return False
        parts = _parts(inner.body)
        stores = [p for p in parts if isinstance(p, il.Store)]
        if len(stores) != len(parts) or not stores:
            return False
        row_var = rows.var if rows is not None else None
        if rows is not None and inner.var in il.variables(rows.extent):
            return False
        terms: dict[il.Reduce, _Term] = {}
        for store in stores:
            if not self._is_plain(store, inner.var):
                return False
            for node in _outer_reduces(store.value):
                term = self._term(node, row_var, inner)
                if term is None:
                    return False
                terms[node] = term
        if not terms or not self._is_independent(stores, list(terms.values())):
            return False
        self._emit_product(rows, inner, stores, list(terms.values()))
        return True

    def _is_plain(self, store: il.Store, column: str) -> bool:
        if self.step(store, column) != 1:
            return False
        return not any(
            isinstance(node, il.Pick) and (column in il.variables(node.cond) or _has_reduce(node))
            for node in il.walk(store.value)
        )

    def _is_independent(self, stores: list[il.Store], terms: list[_Term]) -> bool:
        """Whether blocks may be computed in any order: nothing stored is read elsewhere."""
        written = {s.tensor: s.index for s in stores}
        if len(written) != len(stores):
            return False
        if any(t.left.tensor in written or t.right.tensor in written for t in terms):
            return False
        return all(
            written.get(load.tensor, load.index) == load.index
            for s in stores
            for load in il.loads(s.value)
        )

    def _term(self, e: il.Reduce, row: str | None, inner: il.For) -> _Term | None:
        body = e.body
        if e.op != "sum" or e.begin != il.Int(0) or not isinstance(e.extent, il.Int):
            return None
        if not (isinstance(body, il.Apply) and body.op == "mul"):
            return None
        for x, p in (body.args, body.args[::-1]):
            if not (isinstance(x, il.Load) and isinstance(p, il.Load)):
                continue
            if self.step(x, e.var) != 1 or self.step(x, inner.var) != 0:
                continue
            if row is not None and self.step(p, row) != 0:
                continue
            is_param = self.program.tensors[p.tensor].scope == "param"
            across, along = self.step(p, inner.var), self.step(p, e.var)
            if across is None or along is None or across == 0:
                continue
            if not is_param and (across != 1 or along <= 0):
                continue
            if is_param and self._view(p, e, inner) is None and (across != 1 or along <= 0):
                continue
            pitch = 0 if row is None else self.step(x, row)
            return _Term(e, x, p, e.extent.value, pitch)
        return None

    def _view(self, p: il.Load, e: il.Reduce, inner: il.For) -> tuple[View, il.Index] | None:
        """The panels of a parameter, and the block to begin at; None if these cannot be packed."""
        assert isinstance(e.extent, il.Int)
        assert isinstance(inner.extent, il.Int)
        if self.program.tensors[p.tensor].scope != "param":
            return None
        offset = self.offset(p.tensor, p.index)
        along = _linear(offset, e.var)
        across = along and _linear(along[1], inner.var)
        if not along or not across:
            return None
        rest, block, blocks, number = across[1], 0, 1, il.Int(0)
        free = sorted(il.variables(rest))
        chosen: il.Index = number
        if len(free) == 1:
            begin, extent = self.loops.get(free[0], (None, None))
            split = _linear(rest, free[0])
            if begin != il.Int(0) or not isinstance(extent, il.Int) or split is None:
                return None
            block, rest, blocks, chosen = split[0], split[1], extent.value, il.Var(free[0])
        if not isinstance(rest, il.Int):
            return None
        depth, columns = e.extent.value, inner.extent.value
        view = View(p.tensor, rest.value, along[0], across[0], block, blocks, depth, columns)
        return view, chosen

    def _emit_product(
        self, rows: il.For | None, inner: il.For, stores: list[il.Store], terms: list[_Term]
    ) -> None:
        assert isinstance(inner.extent, il.Int)
        columns = inner.extent.value
        self.products += 1
        with self.block("{"):
            first, n_rows = self.name("first"), self.name("rows")
            was = self.in_parallel
            if rows is None:
                self.line(f"const int64_t {first} = 0, {n_rows} = 1;")
            elif rows.kind == "parallel" and not was:
                share = self.name("share")
                begin, extent = self.index(rows.begin), self.index(rows.extent)
                self.line(f"const cortex::Share {share}({begin}, {extent}, team);")
                self.line(f"const int64_t {first} = {share}.first;")
                self.line(f"const int64_t {n_rows} = {share}.last - {first};")
            else:
                self.line(f"const int64_t {first} = {self.index(rows.begin)};")
                self.line(f"const int64_t {n_rows} = {self.index(rows.extent)};")
            gathers = any(t.pitch is None for t in terms)
            chunk = first
            if gathers:
                # As many rows at a time as there is room for.
                size = 64 // len(terms)
                chunk, top = self.name("first"), self.name("top")
                last = f"{first} + {n_rows}"
                head = f"for (int64_t {chunk} = {first}; {chunk} < {last}; {chunk} += {size}) {{"
                self.line(head)
                self.indent += 1
                self.line(f"const int64_t {top} = cortex::least({size}, {last} - {chunk});")
                n_rows = top
            parts = [
                self._operand(t, rows, inner, chunk, n_rows, i, len(terms))
                for i, t in enumerate(terms)
            ]
            i, j, lanes = self.name("row"), self.name("column"), self.name("lanes")
            sums = [self.name("sum") for _ in terms]
            given = "".join(f", vec {name}" for name in sums)
            head = f"cortex::product<{columns}>({n_rows}, "
            head += f"[&](int64_t {i}, int64_t {j}, auto {lanes}{given}) {_INLINE} {{"
            with self.block(head, f"}}, {', '.join(parts)});"):
                if rows is not None:
                    self.line(f"[[maybe_unused]] const int64_t {_var(rows.var)} = {chunk} + {i};")
                else:
                    self.line(f"(void){i};")
                self.line(f"[[maybe_unused]] const int64_t {_var(inner.var)} = {j};")
                vector = _Vector(inner.var, lanes)
                for t, name in zip(terms, sums, strict=True):
                    tensors = frozenset((t.left.tensor, t.right.tensor))
                    self.known[-1][(t.reduce, tensors, vector)] = (name, True)
                for store in stores:
                    self.store(store, vector)
            if gathers:
                self.indent -= 1
                self.line("}")
        self.flops += [(t.depth, columns * self._blocks(inner)) for t in terms]

    def _blocks(self, inner: il.For) -> int:
        """How often a constant loop around repeats the nest for one row."""
        times = 1
        for var, (_, extent) in self.loops.items():
            if var != inner.var and isinstance(extent, il.Int):
                times *= extent.value
        return times

    def _operand(
        self,
        t: _Term,
        rows: il.For | None,
        inner: il.For,
        first: str,
        n_rows: str,
        number: int,
        n_terms: int,
    ) -> str:
        """The C++ value of a term; its pointers are to row `first`, column 0, step 0."""
        zero: dict[str, il.Index] = {t.reduce.var: il.Int(0), inner.var: il.Int(0)}
        found = self._view(t.right, t.reduce, inner)
        if found is not None:
            view, block = found
            size = f"cortex::packed_size({t.depth}, {view.columns})"
            base = f"panels + panel_{self.panels.add(view)} + {self.index(block)} * {size}"
            right = f"cortex::Packed<{t.depth}>"
        else:
            along = self.step(t.right, t.reduce.var)
            where = il.substitute(self.offset(t.right.tensor, t.right.index), zero)
            base = f"{_tensor(t.right.tensor)} + {self.index(where)}"  # type: ignore[arg-type]
            right = f"cortex::Unpacked<{along}>"
        left = il.substitute(self.offset(t.left.tensor, t.left.index), zero)
        pitch = t.pitch
        if pitch is None:
            assert rows is not None
            pitch = t.depth
            room = 64 // n_terms
            data = self.name("gathered")
            self.line(f"float *const {data} = tiles + at_gathered + {number * room * t.depth};")
            v = _var(rows.var)
            with self.block(f"for (int64_t {v} = {first}; {v} < {first} + {n_rows}; {v}++)", ""):
                self.line(
                    f"std::memcpy({data} + ({v} - {first}) * {t.depth}, "
                    f"{_tensor(t.left.tensor)} + {self.index(left)}, "  # type: ignore[arg-type]
                    f"{t.depth} * sizeof(float));"
                )
            start = data
        else:
            start = self.name("left")
            where_text = self.index(left)  # type: ignore[arg-type]
            if rows is not None:
                where_text = re.sub(rf"\b{_var(rows.var)}\b", first, where_text)
            self.line(f"const float *const {start} = {_tensor(t.left.tensor)} + {where_text};")
        return f"cortex::Term<{t.depth}, {pitch}, {right}>{{{start}, {{{base}}}}}"


# ---- Shapes of expressions ----


def _tensor(name: str) -> str:
    return "t_" + re.sub(r"\W", "_", name)


def _var(name: str) -> str:
    return "v_" + re.sub(r"\W", "_", name)


def _number(value: float) -> str:
    if value != value:
        return '__builtin_nanf("")'
    if value in (float("inf"), float("-inf")):
        return f"({'-' if value < 0 else ''}__builtin_inff())"
    return f"({value!r}f)" if re.search(r"[.e]", repr(value)) else f"({value!r}.0f)"


def _product_of(shape: tuple[il.Index, ...]) -> int:
    size = 1
    for extent in shape:
        if not isinstance(extent, il.Int):
            raise NotImplementedError(f"a state's row must have a constant size, got {extent}")
        size *= extent.value
    return size


def _parts(s: il.Stmt) -> tuple[il.Stmt, ...]:
    return s.body if isinstance(s, il.Seq) else (s,)


def _has_reduce(e: il.Float) -> bool:
    return any(isinstance(node, il.Reduce) for node in il.walk(e))


def _outer_reduces(e: il.Node) -> Iterator[il.Reduce]:
    if isinstance(e, il.Reduce):
        yield e
    else:
        for child in il.children(e):
            yield from _outer_reduces(child)


def _linear(e: il.Index, var: str) -> tuple[int, il.Index] | None:
    """(c, rest) with e = c var + rest and rest free of var; None if e is not of that form."""
    if var not in il.variables(e):
        return 0, e
    match e:
        case il.Var():
            return 1, il.Int(0)
        case il.Add(a, b):
            left, right = _linear(a, var), _linear(b, var)
            if left is None or right is None:
                return None
            return left[0] + right[0], il.add(left[1], right[1])
        case il.Mul(il.Int(factor), x) | il.Mul(x, il.Int(factor)):
            split = _linear(x, var)
            return split and (factor * split[0], il.mul(il.Int(factor), split[1]))
        case _:
            return None


# ---- Loops over joined parts: one loop for each part ----


def _split_picks(s: il.Stmt) -> il.Stmt:
    """Vector loops and sums whose Picks ask for the place of the variable, split at that place."""

    def on(node: il.Node) -> il.Node:
        node = il.rebuild(node, on)
        if isinstance(node, il.Reduce) and node.op == "sum":
            return _split_reduce(node)
        if isinstance(node, il.For) and node.kind == "vector":
            return _split_loop(node)
        return node

    return on(s)  # type: ignore[return-value]


def _cut(loop: il.For | il.Reduce) -> tuple[il.Pick, int] | None:
    """A Pick on the loop's variable, and the iterations for which it holds."""
    if not (isinstance(loop.begin, il.Int) and isinstance(loop.extent, il.Int)):
        return None
    for node in il.walk(loop.body):
        if isinstance(node, il.Pick) and loop.var in il.variables(node.cond):
            a, b = node.cond.a, node.cond.b
            split = _linear(a, loop.var)
            if split and split[0] == 1 and isinstance(split[1], il.Int) and isinstance(b, il.Int):
                held = b.value - split[1].value - loop.begin.value
                return node, min(max(held, 0), loop.extent.value)
    return None


def _replace(node: il.Node, values: Mapping[il.Node, il.Node]) -> il.Node:
    if node in values:
        return values[node]
    return il.rebuild(node, lambda child: _replace(child, values))


def _pieces(loop: il.For | il.Reduce) -> list[il.For | il.Reduce]:
    cut = _cut(loop)
    if cut is None:
        return [loop]
    pick, held = cut
    assert isinstance(loop.begin, il.Int)
    assert isinstance(loop.extent, il.Int)
    pieces: list[il.For | il.Reduce] = []
    for begin, extent, branch in (
        (loop.begin.value, held, pick.then),
        (loop.begin.value + held, loop.extent.value - held, pick.orelse),
    ):
        if extent:
            # From 0 on, so that both parts look alike to the search for products.
            moved = il.add(il.Var(loop.var), il.Int(begin))
            body = il.substitute(_replace(loop.body, {pick: branch}), {loop.var: moved})
            piece: il.For | il.Reduce = attrs.evolve(
                loop,
                begin=il.Int(0),
                extent=il.Int(extent),
                body=body,  # type: ignore[arg-type]
            )
            pieces += _pieces(piece)
    return pieces


def _split_reduce(reduce: il.Reduce) -> il.Float:
    first, *rest = _pieces(reduce)
    total: il.Float = first  # type: ignore[assignment]
    for piece in rest:
        total = il.Apply("add", (total, piece))  # type: ignore[arg-type]
    return total


def _split_loop(loop: il.For) -> il.Stmt:
    return il.seq(*_pieces(loop))  # type: ignore[arg-type]
