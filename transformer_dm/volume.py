"""What a graph computes and moves: rows of operators under a convention of counting.

Words depend on what one counts. The four conventions differ in which operators a row takes
together, before any fusion, and in how large a stored mask is:
    paper            softmax with its dropout in one row, its scale folded into the contraction
    framework        softmax and dropout each for itself, the scale folded
    framework+scale  the scale a pass of its own too
    bytes            rows of `framework`, a mask in its real size beside 32-bit floats
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import attrs

from transformer_dm.graph import Class, DataflowGraph, Op, Tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Row",
    "Traffic",
    "class_of",
    "class_totals",
    "convention",
    "flop",
    "intensity",
    "lower_bound",
    "reduction",
    "rows",
    "table",
    "traffic",
    "words",
]

MaskStore = Literal["word", "byte", "bit"]


@attrs.frozen
class Convention:
    """One way to count.

    softmax_with_dropout: both directions of the two in one row
    scale_folded:         scaling costs neither words nor arithmetic
    itemsize:             bytes of a word
    mask:                 how a framework stores an element of a mask
    """

    name: str
    softmax_with_dropout: bool
    scale_folded: bool
    itemsize: int
    mask: MaskStore

    def mask_words(self, store: MaskStore | None = None) -> float:
        """Size of a mask's element in words, stored as a framework does or as told."""
        bits = {"word": 8 * self.itemsize, "byte": 8, "bit": 1}[store or self.mask]
        return bits / (8 * self.itemsize)


#: By name. Words of the first three are the paper's 16-bit floats.
CONVENTIONS = {
    found.name: found
    for found in (
        Convention("paper", True, True, 2, "word"),
        Convention("framework", False, True, 2, "word"),
        Convention("framework+scale", False, False, 2, "word"),
        Convention("bytes", False, True, 4, "byte"),
    )
}


def convention(name: str) -> Convention:
    """The convention of that name; raises ValueError listing all four."""
    try:
        return CONVENTIONS[name]
    except KeyError:
        have = ", ".join(CONVENTIONS)
        raise ValueError(f"convention must be one of {have}, got '{name}'") from None


@attrs.frozen
class Row:
    """Operators that count as one pass over memory."""

    name: str
    ops: tuple[str, ...]


@attrs.frozen
class Traffic:
    """Tensors that operators run as one kernel read and write, each once, in a fixed order."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


def traffic(graph: DataflowGraph, ops: Iterable[str], recomputed: Iterable[str] = ()) -> Traffic:
    """What operators move when they run as one kernel.

    A tensor made inside is written only if the graph wants it or an operator outside reads it.
    A recomputed tensor is never written: its readers outside its kernel read what it is made from.
    """
    members = set(ops)
    again = set(recomputed)
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    made = {name for op in members for name in graph.writes(graph.op(op))}
    for op in (op for op in graph.ops() if op.name in members):
        for name in graph.reads(op):
            if name in made:
                continue
            source = graph.producer(name) if name in again else None
            reads |= dict.fromkeys([name] if source is None else graph.reads(source))
        for name in graph.writes(op):
            outside = any(reader.name not in members for reader in graph.consumers(name))
            if name in graph.outputs or (outside and name not in again):
                writes[name] = None
    # What is read again for a recomputed tensor may be made here.
    return Traffic(tuple(name for name in reads if name not in made), tuple(writes))


def words(graph: DataflowGraph, tensors: Iterable[Tensor], mask_words: float) -> float:
    """Words of the tensors, with masks stored in mask_words an element."""
    return sum(
        graph.elements(t) * (mask_words if t.role == "mask" else t.dtype_words) for t in tensors
    )


def rows(graph: DataflowGraph, by: Convention) -> list[Row]:
    """The operators of a graph as the rows of a convention, in topological order."""
    leader = {op.name: op.name for op in graph.ops()}

    def join(op: Op, other: Op | None) -> None:
        if other is not None:
            old, new = leader[op.name], leader[other.name]
            leader.update({name: new for name, head in leader.items() if head == old})

    for op in graph.ops():
        source = graph.producer(op.inputs[0])
        is_folded = by.scale_folded and op.kind in ("scale", "scale_backward")
        if is_folded or (by.softmax_with_dropout and _is_dropped_softmax(op, source)):
            join(op, source)
    groups: dict[str, list[str]] = {}
    for op in graph.ops():
        groups.setdefault(leader[op.name], []).append(op.name)
    return [Row(_row_name(graph, by, ops), tuple(ops)) for ops in groups.values()]


def _is_dropped_softmax(op: Op, source: Op | None) -> bool:
    pairs = (("softmax", "dropout"), ("dropout_backward", "softmax_backward"))
    return source is not None and (source.kind, op.kind) in pairs


def _row_name(graph: DataflowGraph, by: Convention, ops: list[str]) -> str:
    if not by.scale_folded:
        return " + ".join(ops)
    kept = [op for op in ops if graph.op(op).kind not in ("scale", "scale_backward")]
    return " + ".join(kept or ops)


def flop(graph: DataflowGraph, ops: Iterable[str], by: Convention) -> int:
    """Arithmetic of the operators; none for a folded scale."""
    return sum(
        graph.flop(op)
        for op in map(graph.op, ops)
        if not (by.scale_folded and op.kind in ("scale", "scale_backward"))
    )


def class_of(graph: DataflowGraph, ops: Iterable[str]) -> Class:
    """The class of operators together: of the one whose class ranks first."""
    found = {graph.cls(graph.op(op)) for op in ops}
    if "contraction" in found:
        return "contraction"
    return "normalisation" if "normalisation" in found else "elementwise"


def table(graph: DataflowGraph, name: str = "paper") -> pd.DataFrame:
    """A row per row of the convention: what it computes, reads, writes, and flop per word."""
    import pandas as pd

    by = convention(name)
    found = []
    for row in rows(graph, by):
        moved = traffic(graph, row.ops)
        words_in, words_out = (
            words(graph, map(graph.tensor, names), by.mask_words())
            for names in (moved.reads, moved.writes)
        )
        work = flop(graph, row.ops, by)
        found.append(
            {
                "row": row.name,
                "class": class_of(graph, row.ops),
                "stage": graph.op(row.ops[0]).stage,
                "ops": row.ops,
                "flop": work,
                "words_in": words_in,
                "words_out": words_out,
                "flop_per_word": intensity(work, words_in + words_out),
            }
        )
    columns = ["row", "class", "stage", "ops", "flop", "words_in", "words_out", "flop_per_word"]
    return pd.DataFrame(found, columns=columns)


def intensity(work: float, moved: float) -> float:
    """Arithmetic per word moved; 0 where nothing moves."""
    return work / moved if moved else 0.0


def reduction(before: float, after: float) -> float:
    """Percent of the words before that are no longer moved after."""
    return 100.0 * (1.0 - after / before) if before else 0.0


def lower_bound(graph: DataflowGraph, op: Op, fast_words: int | None = None) -> float:
    """Least words that any implementation of an operator moves, the Q of MUE.

    Every tensor crosses once. With a fast memory of S words a contraction of n multiplications
    also moves at least 2 n / sqrt(S) - 2 S (Smith and van de Geijn, 2017, the tight constant for
    matrix products); the larger of both holds. Raises ValueError for a size below one word.
    """
    compulsory = sum(graph.words(op))
    if fast_words is None or op.einsum is None:
        return compulsory
    if fast_words < 1:
        raise ValueError(f"fast_words must be at least 1, got {fast_words}")
    multiplications = math.prod(graph.sizes[letter] for letter in op.space)
    return max(compulsory, 2 * multiplications / math.sqrt(fast_words) - 2 * fast_words)


def class_totals(found: pd.DataFrame) -> Mapping[Class, int]:
    """Arithmetic of a table by class."""
    totals: dict[Class, int] = {"contraction": 0, "normalisation": 0, "elementwise": 0}
    for name, work in zip(found["class"], found["flop"], strict=True):
        totals[name] += int(work)
    return totals
