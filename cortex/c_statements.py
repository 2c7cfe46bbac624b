"""Statements of the loop language as C++: products on packed panels, everything else as vectors.

A nest that is a matrix product becomes one call of `cortex::product` with the element-by-element
nests after it as its epilogue (products.py); any other vector loop runs over `simd::vec` with a
masked tail, or element by element where its body is no plain row of stores.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import attrs
import numpy as np

from cortex import affine, products
from cortex import ilir as il
from cortex.packing import Packing, Panels
from cortex.products import Factor, Group

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_INLINE = "__attribute__((always_inline))"


@attrs.frozen
class Scope:
    """What is known where code is written.

    extents: loops around that begin at 0 with a known extent
    var:     the column a vector runs over, "" in scalar code
    known:   places stored in this loop already, and reductions computed: their C++ variable
    parallel: whether threads share a loop around
    back:    the variable with the direction of the loop over blocks around, "" without one
    """

    extents: Mapping[str, int] = attrs.field(factory=dict)
    var: str = ""
    known: dict[object, str] = attrs.field(factory=dict)
    parallel: bool = False
    back: str = ""

    def inside(self, loop: il.For) -> "Scope":
        """The same within a loop."""
        extents = {k: v for k, v in self.extents.items() if k != loop.var}
        if loop.begin == il.Int(0) and isinstance(loop.extent, il.Int):
            extents[loop.var] = loop.extent.value
        parallel = self.parallel or loop.kind == "parallel"
        return attrs.evolve(self, extents=extents, parallel=parallel)


class Statements:
    """Writes statements, line by line.

    lines:    what is written, `depth` levels deep
    packing:  the weights that it reads as panels
    read:     parameters that some code reads where they lie
    products: calls of the product kernel
    sweeps:   places that go through weights, to and fro
    """

    def __init__(self, program: il.Program) -> None:
        self.tensors = program.tensors
        self._loads = Counter(load.tensor for load in il.loads(program.body))
        self.packing = Packing()
        self.read: set[str] = set()
        self.lines: list[str] = []
        self.products = 0
        self.sweeps = 0
        self.depth = 1
        self.count = 0
        # Addresses found before the vector loop under way, None where none may be.
        self.bases: dict[str, str] | None = None
        self.base_stem = ""
        self.bound: frozenset[str] = frozenset()  # variables that change in that loop

    def put(self, line: str) -> None:
        """Write a line."""
        self.lines.append("  " * self.depth + line)

    def name(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}{self.count}"

    def statement(self, stmt: il.Stmt, scope: Scope) -> None:
        """Write a statement in scalar surroundings."""
        body = stmt.body if isinstance(stmt, il.Seq) else (stmt,)
        for part in products.groups(body, self.tensors, scope.extents):
            if isinstance(part, Group):
                self.group(part, scope)
                continue
            match part:
                case il.Seq():
                    self.statement(part, scope)
                case il.For():
                    self.loop(part, scope)
                case il.Store():
                    self.store(part, scope)
                case il.If(cond, then, orelse):
                    self.put(f"if ({self.less(cond)}) {{")
                    self._indented(then, scope)
                    if orelse != il.Seq():
                        self.put("} else {")
                        self._indented(orelse, scope)
                    self.put("}")
                case il.Barrier():
                    self.put("team.wait();")

    def _indented(self, stmt: il.Stmt, scope: Scope) -> None:
        self.depth += 1
        self.statement(stmt, attrs.evolve(scope, known={}))
        self.depth -= 1

    def loop(self, loop: il.For, scope: Scope) -> None:
        """Write a loop, a vector one as such if its body allows."""
        if loop.kind == "vector":
            pieces = self.vector_pieces(loop)
            if pieces is not None:
                for piece in pieces:
                    self.vector_loop(piece, scope)
                return
        if self.is_sweep(loop, scope):
            self.sweep(loop, scope)
            return
        begin, extent = self.index(loop.begin), self.index(loop.extent)
        if loop.kind == "parallel" and not scope.parallel:
            share = self.name("share")
            self.put("{")
            self.depth += 1
            self.put(f"const Share {share}({begin}, {extent}, team);")
            self.put(
                f"for (int64_t {loop.var} = {share}.first; {loop.var} < {share}.last;"
                f" {loop.var}++) {{"
            )
            self._indented(loop.body, scope.inside(loop))
            self.put("}")
            self.depth -= 1
            self.put("}")
            return
        end = self.name("end")
        after = self.index(il.add(loop.begin, loop.extent))
        self.put(
            f"for (int64_t {loop.var} = {begin}, {end} = {after}; {loop.var} < {end};"
            f" {loop.var}++) {{"
        )
        self._indented(loop.body, scope.inside(loop))
        self.put("}")

    def is_sweep(self, loop: il.For, scope: Scope) -> bool:
        """Whether a loop over blocks of columns is one product each, in any order.

        A group's elements are independent of one another (products.py), so its blocks are if they
        are stored side by side. What stays in registers is stored nowhere.
        """
        if loop.kind != "serial" or loop.begin != il.Int(0) or not isinstance(loop.extent, il.Int):
            return False
        body = loop.body.body if isinstance(loop.body, il.Seq) else (loop.body,)
        parts = list(products.groups(body, self.tensors, scope.inside(loop).extents))
        if len(parts) != 1 or not isinstance(parts[0], Group):
            return False
        dead = self._dead_stores(parts[0])
        nest = parts[0].nest
        for store in (s for s in nest.stores if s.tensor not in dead):
            block = affine.split(self.flat(store), loop.var)
            column = affine.split(self.flat(store), nest.column)
            if block is None or column is None or block[0] != nest.columns * column[0]:
                return False
        return True

    def sweep(self, loop: il.For, scope: Scope) -> None:
        """Write a loop over blocks that runs the other way every second time."""
        back = self.direction()
        step = self.name("step")
        extent = self.index(loop.extent)
        self.put(f"{back} = !{back};")
        self.put(f"for (int64_t {step} = 0; {step} < {extent}; {step}++) {{")
        self.put(f"  const int64_t {loop.var} = {back} ? {extent} - 1 - {step} : {step};")
        self._indented(loop.body, attrs.evolve(scope.inside(loop), back=back))
        self.put("}")

    def direction(self) -> str:
        """A variable for the direction of one sweep over weights."""
        self.sweeps += 1
        return f"back{self.sweeps - 1}"

    def store(self, store: il.Store, scope: Scope) -> None:
        """Write a store of one element."""
        value, _ = self.value(store.value, scope)
        place = self.index(affine.flatten(self.tensors[store.tensor], store.index))
        self.put(f"{store.tensor}_[{place}] = {value};")

    # Vector loops.

    def vector_pieces(self, loop: il.For) -> list[il.For] | None:
        """The loop cut where a choice depends on its variable; None if it must run scalar."""
        stores = loop.body.body if isinstance(loop.body, il.Seq) else (loop.body,)
        if not stores or not all(isinstance(s, il.Store) for s in stores):
            return None
        for node in il.walk(loop.body):
            if isinstance(node, il.Less) and loop.var in il.variables(node):
                return self._cut(loop, node)
            if isinstance(node, il.For | il.Reduce) and node.var == loop.var and node is not loop:
                return None
            if isinstance(node, il.Reduce) and loop.var in (
                il.variables(node.begin) | il.variables(node.extent)
            ):
                return None
        for store in il.stores(loop.body):
            part = affine.split(self.flat(store), loop.var)
            if part is not None and part[0] == 0:
                return None  # one place: the last one stays
        return None if self._is_better_scalar(loop) else [loop]

    def _cut(self, loop: il.For, less: il.Less) -> list[il.For] | None:
        left, right = affine.split(less.a, loop.var), affine.split(less.b, loop.var)
        if left is None or right is None:
            return None
        step = left[0] - right[0]
        bound = il.sub(right[1], left[1])  # step * var < bound
        begin, extent = loop.begin, loop.extent
        if not (
            step == 1
            and isinstance(bound, il.Int)
            and isinstance(begin, il.Int)
            and isinstance(extent, il.Int)
        ):
            return None
        end = begin.value + extent.value
        middle = min(max(bound.value, begin.value), end)
        pieces: list[il.For] = []
        for first, last, holds in ((begin.value, middle, True), (middle, end, False)):
            if first == last:
                continue
            body = _decide(loop.body, less, holds)
            piece = attrs.evolve(loop, begin=il.Int(first), extent=il.Int(last - first), body=body)
            more = self.vector_pieces(piece)
            if more is None:
                return None
            pieces += more
        return pieces

    def _is_better_scalar(self, loop: il.For) -> bool:
        """Whether sums run along memory and the loop's own variable does not."""
        for reduce in il.walk(loop.body):
            if not isinstance(reduce, il.Reduce):
                continue
            for load in il.loads(reduce.body):
                place = self.flat(load)
                own, along = affine.split(place, loop.var), affine.split(place, reduce.var)
                if along is not None and along[0] == 1 and own is not None and own[0] not in (0, 1):
                    return True
        return False

    def vector_loop(self, loop: il.For, scope: Scope) -> None:
        """Write a loop over columns, a vector at a time."""
        inner = attrs.evolve(scope.inside(loop), var=loop.var, known={})
        stores = loop.body.body if isinstance(loop.body, il.Seq) else (loop.body,)
        self.put("{")
        self.depth += 1
        hoisted = self.name("hoisted")
        mark = len(self.lines)
        if isinstance(loop.extent, il.Int):
            head = f"cortex::columns<{loop.extent.value}>("
        else:
            head = f"cortex::columns({self.index(loop.extent)}, "
        begin = "" if loop.begin == il.Int(0) else f" + {self.index(loop.begin, tight=True)}"
        at = f"{loop.var}_at" if begin else loop.var
        self.put(f"{head}[&](int64_t {at}, auto lanes) {_INLINE} {{")
        self.depth += 1
        if begin:
            self.put(f"const int64_t {loop.var} = {at}{begin};")
        bases: dict[str, str] = {}
        self.bases = bases
        self.base_stem, self.bound = hoisted, frozenset((loop.var,))
        for store in stores:
            assert isinstance(store, il.Store)
            self.vector_store(store, inner)
        self.depth -= 1
        self.put("});")
        made = ["  " * self.depth + f"auto *const {n} = {t};" for t, n in bases.items()]
        self.lines[mark:mark] = made
        self.bases = None
        self.depth -= 1
        self.put("}")

    def vector_store(self, store: il.Store, scope: Scope) -> None:
        """Write a store of a vector; later loads of the same place see the variable."""
        value, is_vector = self.value(store.value, scope)
        name = self.name("x")
        self.put(f"const vec {name} = {value if is_vector else f'cortex::wide({value})'};")
        for key in [k for k in scope.known if isinstance(k, tuple) and k[0] == store.tensor]:
            del scope.known[key]
        scope.known[store.tensor, store.index] = name
        place = self.flat(store)
        part = affine.split(place, scope.var)
        if part is not None and part[0] == 1:
            self.put(f"cortex::store({self.address(store.tensor, part[1], scope)}, {name}, lanes);")
        else:
            self.put(
                f"cortex::scatter({name}, lanes, {self.each_lane(store.tensor, place, scope)});"
            )

    def address(self, tensor: str, rest: il.Index, scope: Scope) -> str:
        """Where a run of columns begins; what does not change in the loop is found before it."""
        text = f"{tensor}_" if rest == il.Int(0) else f"{tensor}_ + {self.index(rest)}"
        if self.bases is not None and rest != il.Int(0) and not il.variables(rest) & self.bound:
            text = self.bases.setdefault(text, f"{self.base_stem}_{len(self.bases)}")
        return f"{text} + {scope.var}"

    def each_lane(self, tensor: str, place: il.Index, scope: Scope) -> str:
        """The address of each lane of a vector that is no run of memory."""
        moved = il.substitute(place, {scope.var: il.Add(il.Var(scope.var), il.Var("lane"))})
        return f"[&](int lane) {_INLINE} {{ return &{tensor}_[{self.index(moved)}]; }}"  # type: ignore[arg-type]

    # Products.

    def group(self, group: Group, scope: Scope) -> None:
        """Write nests that are products with an epilogue as one call."""
        nest = group.nest
        self.products += 1
        self.put("{")
        self.depth += 1
        n_rows = "1"
        if nest.row:
            begin, extent = self.index(nest.begin), self.index(nest.extent)
            if nest.kind == "parallel" and not scope.parallel:
                share = self.name("share")
                self.put(f"const Share {share}({begin}, {extent}, team);")
                self.put(f"const int64_t first_row = {share}.first;")
                n_rows = f"{share}.last - first_row"
            else:
                self.put(f"const int64_t first_row = {begin};")
                n_rows = extent
        used = self._used_factors(group)
        terms = [self.term(f, nest, scope) for f in used.values()]
        sums = {reduce: f"sum{i}" for i, reduce in enumerate(used)}
        head = ", ".join(f"vec {name}" for name in sums.values())
        back = scope.back
        if not back:
            back = self.direction()
            self.put(f"{back} = !{back};")
        self.put(f"cortex::product<{nest.columns}>(")
        self.depth += 2
        self.put(f"{back}, {n_rows},")
        row = f"{nest.row}_at" if nest.row else "_row"
        self.put(f"[&](int64_t {row}, int64_t {nest.column}) {_INLINE} {{")
        self.depth += 1
        self.put(f"(void){row}, (void){nest.column};")
        if nest.row:
            self.put(f"const int64_t {nest.row} = first_row + {row};")
        for place in self._far_places(group):
            self.put(f"__builtin_prefetch({place});")
        self.depth -= 1
        self.put("},")
        self.put(f"[&](int64_t {row}, int64_t {nest.column}, auto lanes, {head}) {_INLINE} {{")
        self.depth += 1
        self.put(f"(void){row}, (void){nest.column};")
        if nest.row:
            self.put(f"const int64_t {nest.row} = first_row + {row};")
        known: dict[object, str] = dict(sums.items())
        inner = attrs.evolve(scope, var=nest.column, known=known)
        dead = self._dead_stores(group)
        for store in nest.stores:
            if store.tensor in dead:
                value, is_vector = self.value(store.value, inner)
                name = self.name("x")
                self.put(f"const vec {name} = {value if is_vector else f'cortex::wide({value})'};")
                inner.known[store.tensor, store.index] = name
            else:
                self.vector_store(store, inner)
        self.depth -= 1
        self.put("},")
        for i, term in enumerate(terms):
            self.put(term + ("," if i + 1 < len(terms) else ");"))
        self.depth -= 3
        self.put("}")

    def _far_places(self, group: Group) -> list[str]:
        """Addresses of the rows an epilogue reads by a node's token or child, at its column.

        Rows of a large table lie in main memory; a product takes longer than they do to arrive.
        """
        found: dict[str, None] = {}
        for store in group.nest.stores:
            for load in _certain_loads(store.value):
                part = affine.split(self.flat(load), group.nest.column)
                is_run = part is not None and part[0] == 1
                if is_run and any(isinstance(n, il.Call) for n in il.walk(load.index[0])):
                    found[f"{load.tensor}_ + {self.index(self.flat(load))}"] = None
        return list(found)

    def _used_factors(self, group: Group) -> dict[il.Reduce, Factor]:
        """One factor for each sum; equal sums are one."""
        return dict(group.factors)

    def _dead_stores(self, group: Group) -> set[str]:
        """Tile tensors whose every load is in the group, after the store, at its place."""
        inside = {s.tensor: s.index for s in group.nest.stores}
        loads = [n for s in group.nest.stores for n in il.loads(s.value)]
        dead = set()
        for name, index in inside.items():
            if self.tensors[name].scope != "tile":
                continue
            own = [n for n in loads if n.tensor == name]
            if all(n.index == index for n in own) and len(own) == self.load_count(name):
                dead.add(name)
        # A value read before it is stored comes from memory, and so must be there.
        seen: set[str] = set()
        for store in group.nest.stores:
            dead -= {n.tensor for n in il.loads(store.value)} - seen
            seen.add(store.tensor)
        return dead

    def load_count(self, name: str) -> int:
        """How many loads of a tensor the whole program has."""
        return self._loads[name]

    def term(self, factor: Factor, nest: products.Nest, scope: Scope) -> str:
        """A Term of product.h."""
        start = factor.x_at
        x = f"{factor.x}_" if start == il.Int(0) else f"{factor.x}_ + {self.index(start)}"
        self.mark_read(factor.x)
        if nest.row and factor.pitch:
            x += f" + first_row * {factor.pitch}"
        known = affine.constant_terms(factor.b_at, scope.extents)
        if known is not None and self.tensors[factor.b].scope in ("param", "table"):
            first, var, step = known
            panels = Panels(
                factor.b,
                first,
                factor.row,
                factor.column,
                factor.depth,
                nest.columns,
                scope.extents[var] if var else 1,
                step,
            )
            data = self.packing.pack(panels)
            if var:
                data += f" + {var} * cortex::packed_size({factor.depth}, {nest.columns})"
            right = f"cortex::Packed<{factor.depth}>"
        else:
            self.mark_read(factor.b)
            data = f"{factor.b}_ + {self.index(factor.b_at)}"
            right = f"cortex::Unpacked<{factor.row}>"
        return f"Term<{factor.depth}, {factor.pitch}, {right}>{{{x}, {{{data}}}}}"

    # Values.

    def mark_read(self, tensor: str) -> None:
        """Note that a parameter must be in memory as it is."""
        if self.tensors[tensor].scope in ("param", "table"):
            self.read.add(tensor)

    def flat(self, at: il.Load | il.Store) -> il.Index:
        """The place of an element in memory."""
        return affine.flatten(self.tensors[at.tensor], at.index)

    def value(self, value: il.Float, scope: Scope) -> tuple[str, bool]:
        """C++ of a value, and whether it is a vector."""
        match value:
            case il.Num(number):
                return _number(number), False
            case il.Load():
                return self.load(value, scope)
            case il.Apply(op, args):
                texts = [self.value(a, scope) for a in args]
                is_vector = any(v for _, v in texts)
                if op == "neg":
                    return f"(-{texts[0][0]})", is_vector
                if op in INFIX:
                    return f"({texts[0][0]} {INFIX[op]} {texts[1][0]})", is_vector
                words = [f"cortex::wide({t})" if is_vector and not v else t for t, v in texts]
                return f"cortex::{op}({', '.join(words)})", is_vector
            case il.Pick(cond, then, orelse):
                # What is not taken may have no place, so nothing of it is found ahead.
                bases, self.bases = self.bases, None
                (yes, a), (no, b) = self.value(then, scope), self.value(orelse, scope)
                self.bases = bases
                if a != b:
                    yes, no = (t if v else f"cortex::wide({t})" for t, v in ((yes, a), (no, b)))
                return f"({self.less(cond)} ? {yes} : {no})", a or b
            case il.Reduce():
                if value in scope.known:
                    return scope.known[value], True
                return self.reduction(value, scope)
        raise AssertionError(value)

    def load(self, load: il.Load, scope: Scope) -> tuple[str, bool]:
        """A load of one element, or of a vector of them."""
        found = scope.known.get((load.tensor, load.index))
        if found is not None:
            return found, True
        self.mark_read(load.tensor)
        place = self.flat(load)
        if not scope.var or scope.var not in il.variables(place):
            return f"{load.tensor}_[{self.index(place)}]", False
        part = affine.split(place, scope.var)
        if part is not None and part[0] == 0:
            return f"{load.tensor}_[{self.index(part[1])}]", False
        if part is not None and part[0] == 1:
            return f"cortex::load({self.address(load.tensor, part[1], scope)}, lanes)", True
        return f"cortex::gather(lanes, {self.each_lane(load.tensor, place, scope)})", True

    def reduction(self, reduce: il.Reduce, scope: Scope) -> tuple[str, bool]:
        """A reduction: a vector of them, or one along memory, or one step after another."""
        k, begin, extent = reduce.var, self.index(reduce.begin), self.index(reduce.extent)
        outer_bound = self.bound
        self.bound = self.bound | {k}
        known = {n: v for n, v in scope.known.items() if k not in il.variables(_as_node(n))}
        inner = attrs.evolve(scope, known=known)
        if not (scope.var and scope.var in il.variables(reduce.body)) and self._is_run(reduce):
            bases, self.bases = self.bases, None
            along = attrs.evolve(inner, var=k, known={})
            body, is_vector = self.value(reduce.body, along)
            self.bases = bases
            self.bound = outer_bound
            body = body if is_vector else f"cortex::wide({body})"
            fn = "sum" if reduce.op == "sum" else "largest"
            start = "" if reduce.begin == il.Int(0) else f" const int64_t {k} = {k}_at + {begin};"
            at = f"{k}_at" if start else k
            return (
                f"cortex::{fn}({extent}, [&](int64_t {at}, auto lanes) {_INLINE} {{{start}"
                f" return {body}; }})",
                False,
            )
        body, is_vector = self.value(reduce.body, inner)
        self.bound = outer_bound
        kind = "vec" if is_vector else "float"
        # Of nothing, 0; otherwise the first starts, as 0 may be the larger.
        combine = (
            f"total = total + {body};"
            if reduce.op == "sum"
            else f"const {kind} next = {body}; total = {k} == from ? next"
            f" : cortex::max(next, total);"
        )
        return (
            f"[&]() {_INLINE} {{ {kind} total = {{}}; for (int64_t from = {begin}, {k} = from,"
            f" end = from + {extent}; {k} < end; {k}++) {{ {combine} }} return total; }}()",
            is_vector,
        )

    def _is_run(self, reduce: il.Reduce) -> bool:
        """Whether a reduction's terms lie along memory and nothing else depends on its variable."""
        found = False
        for node in il.walk(reduce.body):
            if isinstance(node, il.Reduce):
                return False
            if isinstance(node, il.Less) and reduce.var in il.variables(node):
                return False
            if isinstance(node, il.Load):
                part = affine.split(self.flat(node), reduce.var)
                if part is None or part[0] not in (0, 1):
                    return False
                found |= part[0] == 1
        return found

    def less(self, cond: il.Less) -> str:
        """A condition."""
        return f"{self.index(cond.a)} < {self.index(cond.b)}"

    def index(self, index: il.Index, tight: bool = False) -> str:
        """C++ of an integer."""
        match index:
            case il.Int(value):
                return str(value)
            case il.Var(name):
                return name
            case il.Add(a, b):
                text = f"{self.index(a)} + {self.index(b)}"
                return f"({text})" if tight else text
            case il.Mul(a, b):
                return f"{self.index(a, True)} * {self.index(b, True)}"
            case il.Div(a, b):
                return f"cortex::floor_div({self.index(a)}, {self.index(b)})"
            case il.Min(a, b) | il.Max(a, b):
                fn = "least" if isinstance(index, il.Min) else "most"
                return f"cortex::{fn}({self.index(a)}, {self.index(b)})"
            case il.Call(fn, args):
                words = [self.index(a) for a in args]
                if fn.startswith("child") and fn[5:].isdigit():
                    fn, words = "child_of", [fn[5:], *words]
                return f"s.{fn}({', '.join(words)})"
        raise AssertionError(index)


def _as_node(key: object) -> il.Node:
    """A known value's place, for the variables in it."""
    if isinstance(key, tuple):
        return il.Load(*key)
    assert isinstance(key, il.Reduce)
    return key


def _certain_loads(value: il.Float) -> Iterator[il.Load]:
    """Loads that are made in any case, and once: none of a choice or within a reduction."""
    if isinstance(value, il.Load):
        yield value
    elif isinstance(value, il.Apply):
        for arg in value.args:
            yield from _certain_loads(arg)


def _decide(stmt: il.Stmt, less: il.Less, holds: bool) -> il.Stmt:
    """The statement where a condition is known."""

    def change(node: il.Node) -> il.Node:
        if isinstance(node, il.Pick) and node.cond == less:
            return change(node.then if holds else node.orelse)
        return il.rebuild(node, change)

    return change(stmt)  # type: ignore[return-value]


def _number(value: float) -> str:
    if np.isnan(value):
        return "std::numeric_limits<float>::quiet_NaN()"
    if np.isinf(value):
        return f"{'-' if value < 0 else ''}std::numeric_limits<float>::infinity()"
    text = repr(float(value))
    return f"{text}f" if value >= 0 else f"({text}f)"
