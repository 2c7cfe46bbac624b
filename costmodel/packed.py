"""Contiguous copies of what a statement with a register tile reads."""

from __future__ import annotations

import attrs

from costmodel.affine import Affine
from costmodel.ir import Access


@attrs.frozen
class Packed:
    """A contiguous copy of a box of an array.

    bases:   per dimension, where the box lies: linear in the counts t0, t1, ... of the loops around
    lows:    where it begins relative to that
    extents: of the box
    is_inside: per dimension, whether the box always lies within the array
    """

    array: str
    buffer: str
    level: int
    bases: tuple[Affine, ...]
    lows: tuple[int, ...]
    extents: tuple[int, ...]
    shape: tuple[int, ...]
    is_inside: tuple[bool, ...]

    @property
    def declarator(self) -> str:
        extents = "".join(f"[{extent}]" for extent in self.extents)
        return f"{self.buffer}{extents} __attribute__((aligned(64)))"

    def cell(self, access: Access, passed: list[Affine]) -> str:
        """The copy of a cell."""
        starts = self._starts(passed)
        places = (i - start for i, start in zip(access.index, starts, strict=True))
        return self.buffer + "".join(f"[{place}]" for place in places)

    def copy(self, passed: list[Affine]) -> list[str]:
        """Loops that fill the buffer; where the box sticks out of the array they stop."""
        lines, source, target = [], self.array, self.buffer
        for at, (start, extent, end, is_inside) in enumerate(
            zip(self._starts(passed), self.extents, self.shape, self.is_inside, strict=True)
        ):
            name, low, high = f"p{at}", "0", str(extent)
            if not is_inside:
                low, high = f"max(0, -({start}))", f"min({extent}, {end} - ({start}))"
            lines.append(f"for (int {name} = {low}; {name} < {high}; {name} += 1)")
            source += f"[{start + Affine.of(name)}]"
            target += f"[{name}]"
        return [*lines, f"  {target} = {source};"]

    def _starts(self, passed: list[Affine]) -> list[Affine]:
        counts = {f"t{at}": count for at, count in enumerate(passed)}
        return [b.substitute(counts) + low for b, low in zip(self.bases, self.lows, strict=True)]
