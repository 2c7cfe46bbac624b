"""Weights in the memory generated code reads: panels for products, the rest as it is."""

from collections.abc import Iterable

import attrs

from cortex import ilir as il


@attrs.frozen
class Panels:
    """A matrix cut from a parameter, in blocks of columns, each block in panels.

    Element (k, j) of block n is the parameter's element first + n * block_step + k * row
    + j * column.
    """

    param: str
    first: int
    row: int
    column: int
    depth: int
    columns: int
    blocks: int
    block_step: int


@attrs.define
class Packing:
    """Collects what generated code reads of the weights, in the order it asks."""

    panels: dict[Panels, str] = attrs.field(factory=dict)
    plain: dict[str, int] = attrs.field(factory=dict)

    def pack(self, panels: Panels) -> str:
        """The name of the pointer to a packed matrix."""
        return self.panels.setdefault(panels, f"{panels.param}_panels{len(self.panels)}")

    def read(self, decl: il.TensorDecl) -> None:
        """Note that a parameter is read as it is."""
        self.plain[decl.name] = tensor_size(decl)

    def places(self) -> list[str]:
        """C++ constants: where each begins, in floats, and the size of all; multiples of 16."""
        lines: list[str] = []
        at = "0"
        for name, floats in self.plain.items():
            lines.append(f"constexpr int64_t {name}_at = {at};")
            at = f"{name}_at + {-(-floats // 16) * 16}"
        for p, name in self.panels.items():
            lines.append(f"constexpr int64_t {name}_at = {at};")
            size = f"cortex::packed_size({p.depth}, {p.columns})"
            at = f"{name}_at + ({p.blocks} * {size} + 15) / 16 * 16"
        lines.append(f"constexpr int64_t weights_size = {at};")
        return lines

    def function(self, order: Iterable[str]) -> list[str]:
        """The C++ function that fills the memory from the parameters, given in `order`."""
        place = {name: n for n, name in enumerate(order)}
        lines = [
            "EXPORT int64_t pack(const int64_t *sources, float *weights) {",
            "  if (!weights) return weights_size;",
        ]
        for name, floats in self.plain.items():
            lines.append(
                f"  std::memcpy(weights + {name}_at, {_source(place[name])}, {floats} * 4l);"
            )
        for p, name in self.panels.items():
            size = f"cortex::packed_size({p.depth}, {p.columns})"
            lines += [
                f"  for (int64_t n = 0; n < {p.blocks}; n++)",
                f"    cortex::pack({_source(place[p.param])} + {p.first} + n * {p.block_step},"
                f" {p.row}, {p.column}, {p.depth}, {p.columns},",
                f"                 weights + {name}_at + n * {size});",
            ]
        return [*lines, "  return weights_size;", "}"]


def _source(n: int) -> str:
    return f"reinterpret_cast<const float *>(sources[{n}])"


def tensor_size(decl: il.TensorDecl) -> int:
    """Elements of a tensor whose sizes are constants."""
    total = 1
    for size in decl.shape:
        if not isinstance(size, il.Int):
            raise TypeError(f"{decl.name} has a size known at run time only: {size}")
        total *= size.value
    return total
