"""Programs of the loop language as C++: a function a region, and what calls them.

The library exports `pack` (weights to the memory the code reads) and `run`, the whole program;
statements are c_statements.py's. Sizes and places of weights are constants of the text.
"""

import re
from collections.abc import Sequence

import attrs

from cortex import ilir as il
from cortex.c_statements import INFIX, Scope, Statements


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


class _Generator(Statements):
    """Writes one program."""

    def __init__(
        self,
        program: il.Program,
        outputs: tuple[str, ...],
        keep_all: bool,
        regions: tuple[Region, ...],
    ) -> None:
        super().__init__(program)
        self.program, self.outputs, self.keep_all = program, outputs, keep_all
        self.regions = regions
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
        self.statement(region.body, Scope())
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


def _size(decl: il.TensorDecl) -> il.Index:
    size: il.Index = il.Int(1)
    for n in decl.shape:
        size = il.mul(size, n)
    return size


def cost(node: il.Node) -> int:
    """Operations of a node of the structure, roughly: loops of unknown extent count once."""
    match node:
        case il.For(_, _, extent, body):
            return (extent.value if isinstance(extent, il.Int) else 1) * cost(body)
        case il.Reduce(_, _, _, extent, body):
            return (extent.value if isinstance(extent, il.Int) else 2) * (1 + cost(body))
        case il.Apply(op, args):
            own = 1 if op in INFIX else 12
            return own + sum(cost(a) for a in args)
        case il.Store(_, _, value):
            return 1 + cost(value)
        case il.If(_, then, orelse):
            return max(cost(then), cost(orelse))
        case _:
            return sum(cost(child) for child in il.children(node))
