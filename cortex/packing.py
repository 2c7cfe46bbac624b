"""Which parts of the parameters generated code wants in panels, and where these lie.

A product reads its right side as panels, [block][panel][k][column]: one stream of memory whatever
the layout of the parameter. The width of a panel is the target's, so the arithmetic of sizes stands
in the C++ text (`cortex::packed_size`) and the packing itself is a function of the library.
"""

import attrs


@attrs.frozen
class View:
    """A part of a parameter as the right side of a product.

    Block q is b[k, j] = parameter[origin + k * row + j * column + q * block], for k < depth and
    j < columns, offsets in elements.
    """

    param: str
    origin: int
    row: int
    column: int
    block: int
    blocks: int
    depth: int
    columns: int

    @property
    def size(self) -> str:
        """Floats of all its panels, as a C++ constant."""
        return f"{self.blocks} * cortex::packed_size({self.depth}, {self.columns})"


@attrs.define
class Panels:
    """The views of a program, each once, in the order of their first use."""

    views: list[View] = attrs.field(factory=list)

    def add(self, view: View) -> int:
        """The number of a view."""
        if view not in self.views:
            self.views.append(view)
        return self.views.index(view)

    def declarations(self) -> list[str]:
        """Where each view begins in the packed memory, as C++ constants."""
        lines, start = [], "0"
        for i, view in enumerate(self.views):
            lines.append(f"constexpr int64_t panel_{i} = {start};")
            start = f"panel_{i} + {view.size}"
        return [*lines, f"constexpr int64_t panels_size = {start};"]

    def packing(self, address: dict[str, str]) -> list[str]:
        """Statements that fill `panels`; address gives the C++ name of a parameter's data."""
        return [
            f"for (int64_t q = 0; q < {v.blocks}; q++) cortex::pack({address[v.param]} + {v.origin}"
            f" + q * {v.block}, {v.row}, {v.column}, {v.depth}, {v.columns}, panels + panel_{i}"
            f" + q * cortex::packed_size({v.depth}, {v.columns}));"
            for i, v in enumerate(self.views)
        ]
