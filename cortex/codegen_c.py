"""Programs of the loop language as C++: products on packed panels, everything else as vectors.

A nest that is a matrix product becomes one call of `cortex::product` with the element-by-element
nests after it as its epilogue (products.py); any other vector loop runs over `simd::vec` with a
masked tail, or element by element where its body is no plain row of stores. Sizes and places of
weights are constants of the text.

The library exports `pack` (weights to the memory the code reads) and `run`, the whole program.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np

from cortex import affine, products
from cortex import ilir as il
from cortex.packing import Packing, Panels
from cortex.products import Factor, Group

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_INLINE = "__attribute__((always_inline))"


@attrs.frozen
class Source:
    """Generated text and what calling it takes.

    params: parameters and tables in the order `pack` takes their addresses
    outputs: states whose roots `run` gathers, in that order; with kept ones, every row
    cost: floating-point operations a node, roughly
    products: calls of the product kernel in the text
    """

    text: str
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    cost: int
    products: int


def generate(
    program: il.Program,
    outputs: Sequence[str],
    *,
    keep_all: bool = False,
    each_level: bool = False,
) -> Source:
    """C++ of a program.

    outputs:    the states that are wanted, (n_nodes, ...) each
    keep_all:   they are written to memory of the caller's, not only those of the roots
    each_level: a parallel region for the leaves and one for each level, not one for the call
    """
    regions = in_regions(program.body) if each_level else (Region(program.body),)
    return _Generator(program, tuple(outputs), keep_all, regions).source()


@attrs.frozen
class Region:
    """What threads do between their start and their end; with a loop, once for each pass."""

    body: il.Stmt
    loop: il.For | None = None


def in_regions(body: il.Stmt) -> tuple[Region, ...]:
    """A region for each part of a program, and for each pass of its loops over levels.

    The end of a region is a barrier, so one at its start has nothing to wait for.
    """
    found: list[Region] = []
    for stmt in body.body if isinstance(body, il.Seq) else (body,):
        match stmt:
            case il.Barrier():
                pass
            case il.For(kind="serial", dim="level" | "block"):
                parts = stmt.body.body if isinstance(stmt.body, il.Seq) else (stmt.body,)
                if parts and isinstance(parts[0], il.Barrier):
                    parts = parts[1:]
                found.append(Region(il.seq(*parts), stmt))
            case _:
                found.append(Region(stmt))
    return tuple(found)


@attrs.frozen
class _Scope:
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

    def inside(self, loop: il.For) -> "_Scope":
        """The same within a loop."""
        extents = {k: v for k, v in self.extents.items() if k != loop.var}
        if loop.begin == il.Int(0) and isinstance(loop.extent, il.Int):
            extents[loop.var] = loop.extent.value
        parallel = self.parallel or loop.kind == "parallel"
        return attrs.evolve(self, extents=extents, parallel=parallel)


class _Generator:
    """Writes one program."""

    def __init__(
        self,
        program: il.Program,
        outputs: tuple[str, ...],
        keep_all: bool,
        regions: tuple[Region, ...],
    ) -> None:
        self.program, self.outputs, self.keep_all = program, outputs, keep_all
        self.regions = regions
        self.tensors = program.tensors
        self.packing = Packing()
        self.read: set[str] = set()  # parameters that some code reads where they lie
        self.lines: list[str] = []
        self.products = 0
        self.sweeps = 0  # places that go through weights, to and fro
        self.depth = 1
        self.count = 0
        # Addresses found before the vector loop under way, None where none may be.
        self.bases: dict[str, str] | None = None
        self.base_stem = ""
        self.bound: frozenset[str] = frozenset()  # variables that change in that loop
        self.params = tuple(d.name for d in self.tensors.values() if d.scope in ("param", "table"))

    def source(self) -> Source:
        """The whole text."""
        bodies = [self._body(number, region) for number, region in enumerate(self.regions)]
        self.lines = [line for body in bodies for line in body]
        for name in self.params:
            if name in self.read:
                self.packing.read(self.tensors[name])
        text = "\n".join(
            [
                f"/* {self.program.name}, generated. */",
                "#include <cstring>",
                "#include <omp.h>",
                '#include "runtime.h"',
                '#include "structure.h"',
                "",
                "namespace {",
                "",
                "using cortex::Share;",
                "using simd::vec;",
                "using cortex::Term;",
                "",
                *self.packing.places(),
                "",
                *self._workspace(),
                "",
                *self.lines,
                "} // namespace",
                "",
                *self.packing.function(self.params),
                "",
                *self._run(),
                "",
            ]
        )
        return Source(
            text, self.params, self.outputs, max(1, cost(self.program.body)), self.products
        )

    def _body(self, number: int, region: Region) -> list[str]:
        """The function of a region."""
        self.lines, first = [], self.sweeps
        self.statement(region.body, _Scope())
        # One level's sweep goes on where the last one's ended, its function being left between.
        back = f"{region.loop.var} & 1" if region.loop else "true"
        level = f", int64_t {region.loop.var}" if region.loop else ""
        return [
            f"void body{number}(const cortex::Structure &s, const cortex::Team &team,"
            f" const Memory &memory{level}) {{",
            *self._pointers(),
            *([f"  (void){region.loop.var};"] if region.loop else []),
            *(f"  bool back{n} = {back};" for n in range(first, self.sweeps)),
            *self.lines,
            "}",
            "",
        ]

    def _calls(self, team: str, memory: str) -> list[str]:
        """Calls of all regions by one thread."""
        lines = []
        for number, region in enumerate(self.regions):
            if region.loop is None:
                lines.append(f"body{number}(s, {team}, {memory});")
            else:
                loop, call = self._passes(region.loop)
                lines += [loop, f"  body{number}(s, {team}, {memory}{call});"]
        return lines

    def _passes(self, loop: il.For) -> tuple[str, str]:
        """The head of a loop over levels, and what its body's function takes of it."""
        begin, after = self.index(loop.begin), self.index(il.add(loop.begin, loop.extent))
        var = loop.var
        return f"for (int64_t {var} = {begin}; {var} < {after}; {var}++)", f", {var}"

    def _parallel(self) -> list[str]:
        """Calls of each region by a team of its own."""
        lines = []
        for number, region in enumerate(self.regions):
            call = ""
            if region.loop is not None:
                loop, call = self._passes(region.loop)
                lines.append(f"    {loop} {{")
            lines += [
                "#pragma omp parallel num_threads(threads)",
                "    {",
                "      Memory own = memory;",
                "      own.tile += omp_get_thread_num() * tile_size;",
                f"      body{number}(s, cortex::Team{{&meeting, omp_get_thread_num(),"
                f" omp_get_num_threads()}}, own{call});",
                "    }",
            ]
            if region.loop is not None:
                lines.append("    }")
        return lines

    # Memory.

    def _workspace(self) -> list[str]:
        shared = [d for d in self._written() if d.scope != "tile" and not self._is_kept(d.name)]
        used = set(re.findall(r"\w+", "\n".join(self.lines)))
        tiles = [d for d in self._written() if d.scope == "tile" and f"{d.name}_" in used]
        kept = [self.tensors[n] for n in self.outputs if self._is_kept(n)]
        lines = ["struct Memory {", "  const float *weights, *features;", "  float *tile;"]
        lines += [f"  float *{d.name}_;" for d in (*shared, *kept)]
        lines += ["};", ""]
        at = 0
        for d in tiles:
            lines.append(f"constexpr int64_t {d.name}_at = {at};")
            size = 1
            for n in d.shape:
                size *= self._constant(n, d)
            at += -(-size // 16) * 16
        lines.append(f"constexpr int64_t tile_size = {-(-at // 1024) * 1024};")
        lines += [
            "",
            "/* Places tensors; returns the floats they need. */",
            "int64_t place(const cortex::Structure &s, float *workspace, float *kept, Memory &m) {",
            "  int64_t at = 0, kept_at = 0;",
            "  (void)s, (void)kept, (void)kept_at;",
        ]
        for d in shared:
            floats = self.index(_size(d))
            lines.append(f"  m.{d.name}_ = workspace + at, at += ({floats} + 15) / 16 * 16;")
        for d in kept:
            floats = self.index(_size(d))
            lines.append(f"  m.{d.name}_ = kept + kept_at, kept_at += {floats};")
        lines += ["  m.tile = workspace + at;", "  return at;", "}"]
        return lines

    def _constant(self, size: il.Index, decl: il.TensorDecl) -> int:
        if not isinstance(size, il.Int):
            raise TypeError(f"tile {decl.name} has a size known at run time only")
        return size.value

    def _is_kept(self, name: str) -> bool:
        return self.keep_all and name in self.outputs

    def _written(self) -> list[il.TensorDecl]:
        return [d for d in self.tensors.values() if d.scope in ("state", "node", "level", "tile")]

    def _pointers(self) -> list[str]:
        """A local for each tensor the body names."""
        lines = ["  (void)s, (void)team, (void)memory;"]
        where = {name: f"memory.weights + {name}_at" for name in self.packing.panels.values()}
        for d in self.tensors.values():
            if d.scope in ("param", "table"):
                where[f"{d.name}_"] = f"memory.weights + {d.name}_at"
            elif d.scope == "feature":
                where[f"{d.name}_"] = "memory.features"
            elif d.scope == "tile":
                where[f"{d.name}_"] = f"memory.tile + {d.name}_at"
            else:
                where[f"{d.name}_"] = f"memory.{d.name}_"
        used = set(re.findall(r"\w+", "\n".join(self.lines)))
        for name, text in where.items():
            kind = "const float" if "weights" in text or "features" in text else "float"
            if name in used:
                lines.append(f"  {kind} *const {name} = {text};")
        return lines

    def _run(self) -> list[str]:
        gather = []
        for name in self.outputs:
            if self._is_kept(name):
                continue
            width = 1
            for size in self.tensors[name].shape[1:]:
                width *= self._constant(size, self.tensors[name])
            gather += [
                f"  for (int64_t i = 0; i < s.n_roots(); i++, roots += {width})",
                f"    std::memcpy(roots, memory.{name}_ + s.roots[i] * {width}l, {width * 4});",
            ]
        return [
            "/* Fills `roots` (each output, a row a root) and `kept`. Returns 0, or the floats of",
            "   workspace it needs, having done nothing. Structures of fewer than `alone` inner",
            "   nodes are computed by one thread. */",
            "EXPORT int64_t run(const int32_t *linear, const float *features,"
            " const float *weights,",
            "                   float *workspace, int64_t capacity, float *roots, float *kept,",
            "                   int64_t threads, int64_t alone) {",
            "  const cortex::Structure s(linear);",
            "  Memory memory;",
            "  memory.weights = weights;",
            "  memory.features = features;",
            "  (void)roots;",
            "  const int64_t shared = place(s, workspace, kept, memory);",
            "  if (s.inner() < alone) threads = 1;",
            "  threads = std::min<int64_t>(threads, omp_get_max_threads());",
            "  const int64_t needed = shared + threads * tile_size;",
            "  if (needed > capacity) return needed;",
            "  if (threads < 2) {",
            *("    " + line for line in self._calls("cortex::Team{nullptr, 0, 1}", "memory")),
            "  } else {",
            "    cortex::Meeting meeting;",
            *self._parallel(),
            "  }",
            *gather,
            "  return 0;",
            "}",
        ]

    # Statements.

    def put(self, line: str) -> None:
        """Write a line."""
        self.lines.append("  " * self.depth + line)

    def name(self, stem: str) -> str:
        """A name not used before."""
        self.count += 1
        return f"{stem}{self.count}"

    def statement(self, stmt: il.Stmt, scope: _Scope) -> None:
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

    def _indented(self, stmt: il.Stmt, scope: _Scope) -> None:
        self.depth += 1
        self.statement(stmt, attrs.evolve(scope, known={}))
        self.depth -= 1

    def loop(self, loop: il.For, scope: _Scope) -> None:
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

    def is_sweep(self, loop: il.For, scope: _Scope) -> bool:
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

    def sweep(self, loop: il.For, scope: _Scope) -> None:
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

    def store(self, store: il.Store, scope: _Scope) -> None:
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

    def vector_loop(self, loop: il.For, scope: _Scope) -> None:
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

    def vector_store(self, store: il.Store, scope: _Scope) -> None:
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

    def address(self, tensor: str, rest: il.Index, scope: _Scope) -> str:
        """Where a run of columns begins; what does not change in the loop is found before it."""
        text = f"{tensor}_" if rest == il.Int(0) else f"{tensor}_ + {self.index(rest)}"
        if self.bases is not None and rest != il.Int(0) and not il.variables(rest) & self.bound:
            text = self.bases.setdefault(text, f"{self.base_stem}_{len(self.bases)}")
        return f"{text} + {scope.var}"

    def each_lane(self, tensor: str, place: il.Index, scope: _Scope) -> str:
        """The address of each lane of a vector that is no run of memory."""
        moved = il.substitute(place, {scope.var: il.Add(il.Var(scope.var), il.Var("lane"))})
        return f"[&](int lane) {_INLINE} {{ return &{tensor}_[{self.index(moved)}]; }}"  # type: ignore[arg-type]

    # Products.

    def group(self, group: Group, scope: _Scope) -> None:
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
        if not hasattr(self, "_counts"):
            self._counts: dict[str, int] = {}
            for load in il.loads(self.program.body):
                self._counts[load.tensor] = self._counts.get(load.tensor, 0) + 1
        return self._counts.get(name, 0)

    def term(self, factor: Factor, nest: products.Nest, scope: _Scope) -> str:
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

    def value(self, value: il.Float, scope: _Scope) -> tuple[str, bool]:
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
                if op in _INFIX:
                    return f"({texts[0][0]} {_INFIX[op]} {texts[1][0]})", is_vector
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

    def load(self, load: il.Load, scope: _Scope) -> tuple[str, bool]:
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

    def reduction(self, reduce: il.Reduce, scope: _Scope) -> tuple[str, bool]:
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


def _size(decl: il.TensorDecl) -> il.Index:
    size: il.Index = il.Int(1)
    for n in decl.shape:
        size = il.mul(size, n)
    return size


def _number(value: float) -> str:
    if np.isnan(value):
        return "std::numeric_limits<float>::quiet_NaN()"
    if np.isinf(value):
        return f"{'-' if value < 0 else ''}std::numeric_limits<float>::infinity()"
    text = repr(float(value))
    return f"{text}f" if value >= 0 else f"({text}f)"


def cost(node: il.Node) -> int:
    """Operations of a node of the structure, roughly: loops of unknown extent count once."""
    match node:
        case il.For(_, _, extent, body):
            return (extent.value if isinstance(extent, il.Int) else 1) * cost(body)
        case il.Reduce(_, _, _, extent, body):
            return (extent.value if isinstance(extent, il.Int) else 2) * (1 + cost(body))
        case il.Apply(op, args):
            own = 1 if op in _INFIX else 12
            return own + sum(cost(a) for a in args)
        case il.Store(_, _, value):
            return 1 + cost(value)
        case il.If(_, then, orelse):
            return max(cost(then), cost(orelse))
        case _:
            return sum(cost(child) for child in il.children(node))
