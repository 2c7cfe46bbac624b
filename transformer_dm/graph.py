"""The dataflow graph of a training step: operators joined by the tensors they hand on.

An operator is known by its loops: the dimensions it may run over in parallel and those it reduces.
Its work, its memory traffic and its class follow from these and from the tensors it names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
import networkx as nx

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Class", "DataflowGraph", "GraphError", "Op", "Role", "Stage", "Tensor"]

Class = Literal["contraction", "normalisation", "elementwise"]
Stage = Literal["fwd", "bwd"]
Role = Literal["activation", "parameter", "mask"]


class GraphError(ValueError):
    """A graph that cannot be: the message names operators, tensors and dimensions."""


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _letters(letters: Iterable[str]) -> frozenset[str]:
    return frozenset(letters)


@attrs.frozen
class Tensor:
    """An array that operators read and write.

    dims:        a letter per dimension, outermost first
    dtype_words: size of an element in words; 1 is the type of the activations
    role:        a mask may be stored in fewer bits; a parameter is nothing a kernel has to save
    parts:       tensors that lie one after the other in this one, which then is only their name:
                 whoever reads or writes it reads or writes them
    """

    name: str
    dims: tuple[str, ...] = attrs.field(converter=_names)
    dtype_words: float = 1.0
    role: Role = "activation"
    parts: tuple[str, ...] = attrs.field(default=(), converter=_names)


@attrs.frozen
class Op:
    """An operator by its loops.

    independent:    dimensions whose points do not wait for each other
    reduced:        dimensions summed over; a map over independent + reduced may follow
    flop_per_point: arithmetic for each point of the loops over independent + reduced
    einsum:         of a contraction, one letter a dimension; None otherwise
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = attrs.field(converter=_names)
    outputs: tuple[str, ...] = attrs.field(converter=_names)
    independent: frozenset[str] = attrs.field(converter=_letters)
    reduced: frozenset[str] = attrs.field(default=frozenset(), converter=_letters)
    stage: Stage = "fwd"
    flop_per_point: int = 1
    einsum: str | None = None

    @property
    def space(self) -> frozenset[str]:
        """All dimensions of its loops."""
        return self.independent | self.reduced


class DataflowGraph:
    """Operators and tensors over named sizes; a thin layer over networkx.MultiDiGraph.

    sizes:   letter -> extent of the dimension
    outputs: tensors wanted by whoever runs the graph: never dropped by a fused kernel
    seams:   incoming gradient -> forward output it is computed from, outside this graph. No kernel
             may reach across.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes: dict[str, int] = {}
        self.outputs: set[str] = set()
        self.seams: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._ops: dict[str, Op] = {}
        self._producer: dict[str, str] = {}
        self._consumers: dict[str, list[str]] = {}
        self._graph: Any = nx.MultiDiGraph()
        self._sorted: list[Op] = []
        self._touched: dict[str, tuple[list[str], list[str]]] = {}
        for letter, size in sizes.items():
            self.bind(letter, size)

    # ------------------------------------------------------------------ building

    def bind(self, letter: str, size: int, where: str = "sizes") -> None:
        """Give a dimension its extent; raises GraphError if it has another one already."""
        known = self.sizes.setdefault(letter, size)
        if known != size:
            raise GraphError(f"{where}: dimension '{letter}' has two sizes, {known} and {size}")
        if size < 0:
            raise GraphError(f"{where}: size of dimension '{letter}' must be >= 0, got {size}")

    def declare(self, tensor: Tensor, shape: Iterable[int] | None = None) -> Tensor:
        """Make a tensor known; a shape gives sizes to its dimensions.

        Raises GraphError if it is known with other dimensions, if a dimension has no size or two,
        or if it is not as large as its parts together.
        """
        where = f"tensor '{tensor.name}'"
        if shape is not None:
            extents = tuple(shape)
            if len(extents) != len(tensor.dims):
                raise GraphError(
                    f"{where} needs a size for each of {''.join(tensor.dims)}, got {extents}"
                )
            for letter, size in zip(tensor.dims, extents, strict=True):
                self.bind(letter, size, where)
        known = self._tensors.get(tensor.name)
        if known is not None and known != tensor:
            raise GraphError(
                f"{where} is declared twice, over {''.join(known.dims)} and {''.join(tensor.dims)}"
            )
        self._require_sizes(tensor.dims, where)
        self._tensors[tensor.name] = tensor
        if tensor.parts:
            parts = sum(self.elements(self.tensor(part)) for part in tensor.parts)
            if parts != self.elements(tensor):
                raise GraphError(
                    f"{where} has {self.elements(tensor)} elements, its parts "
                    f"{', '.join(tensor.parts)} together {parts}"
                )
        return tensor

    def add(self, op: Op) -> None:
        """Add an operator whose tensors are declared; producers may come later.

        Raises GraphError for a name or a tensor written twice, a tensor or size missing, an einsum
        whose letters do not fit its tensors, and an operator that closes a cycle.
        """
        if op.name in self._ops:
            raise GraphError(f"two operators are named '{op.name}'")
        for name in (*op.inputs, *op.outputs):
            if name not in self._tensors:
                raise GraphError(f"operator '{op.name}': tensor '{name}' is not declared")
        self._require_sizes(op.space, f"operator '{op.name}'")
        if op.einsum is not None:
            self._check_einsum(op, op.einsum)
        reads, writes = self.expand(op.inputs), self.expand(op.outputs)
        for name in writes:
            if name in self._producer:
                raise GraphError(
                    f"tensor '{name}' has two producers, '{self._producer[name]}' and '{op.name}'"
                )
        later = {c for name in writes for c in self._consumers.get(name, ())}
        earlier = {self._producer[name] for name in reads if name in self._producer}
        for start in later:
            for end in earlier:
                if nx.has_path(self._graph, start, end):
                    path = nx.shortest_path(self._graph, start, end)
                    raise GraphError(f"operators form a cycle: {' -> '.join([op.name, *path])}")
        if set(reads) & set(writes):
            raise GraphError(f"operators form a cycle: {op.name} -> {op.name}")
        self._ops[op.name] = op
        self._touched[op.name] = reads, writes
        self._graph.add_node(op.name)
        for name in writes:
            self._producer[name] = op.name
            for consumer in self._consumers.get(name, ()):
                self._graph.add_edge(op.name, consumer, key=name)
        for name in reads:
            self._consumers.setdefault(name, []).append(op.name)
            if name in self._producer:
                self._graph.add_edge(self._producer[name], op.name, key=name)

    def check(self) -> None:
        """Raise GraphError unless every operator is joined to the others by tensors."""
        joined = nx.Graph()
        for op in self._ops.values():
            for name in (*self.reads(op), *self.writes(op)):
                joined.add_edge(("op", op.name), ("tensor", name))
        for gradient, output in self.seams.items():
            joined.add_edge(("tensor", gradient), ("tensor", output))
        islands = sorted(nx.connected_components(joined), key=len)
        if len(islands) > 1:
            alone = sorted(name for kind, name in islands[0] if kind == "op")
            raise GraphError(
                f"the graph is not connected: no tensor joins {', '.join(alone)} to the rest"
            )

    def _require_sizes(self, letters: Iterable[str], where: str) -> None:
        for letter in letters:
            if letter not in self.sizes:
                have = ", ".join(sorted(self.sizes)) or "none"
                raise GraphError(f"{where}: dimension '{letter}' has no size; sizes: {have}")

    def _check_einsum(self, op: Op, einsum: str) -> None:
        """Letters stand for positions: 'phbk' may read a tensor over phbj if j and k are equal."""
        left, _, right = einsum.partition("->")
        terms = [*left.split(","), right]
        names = [*op.inputs, *op.outputs]
        if len(terms) != len(names):
            raise GraphError(
                f"operator '{op.name}': '{einsum}' has {len(terms)} terms for "
                f"{len(names)} tensors ({', '.join(names)})"
            )
        for term, name in zip(terms, names, strict=True):
            tensor = self.tensor(name)
            where = f"operator '{op.name}', tensor '{name}'"
            self._require_sizes(term, where)
            if len(term) != len(tensor.dims):
                dims = "".join(tensor.dims)
                raise GraphError(f"{where}: '{term}' does not fit dimensions {dims}")
            for letter, dim in zip(term, tensor.dims, strict=True):
                if self.sizes[letter] != self.sizes[dim]:
                    raise GraphError(
                        f"{where}: dimension '{letter}' has two sizes, "
                        f"{self.sizes[letter]} and {self.sizes[dim]}"
                    )
        missing = set(right) - set(left)
        if missing:
            letter = min(missing)
            raise GraphError(
                f"operator '{op.name}', tensor '{op.outputs[0]}': dimension '{letter}' of the "
                f"result is in no operand of '{einsum}'"
            )

    # ------------------------------------------------------------------ looking

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; GraphError if there is none."""
        try:
            return self._tensors[name]
        except KeyError:
            raise GraphError(f"tensor '{name}' is not declared") from None

    def op(self, name: str) -> Op:
        """The operator of that name; GraphError if there is none."""
        try:
            return self._ops[name]
        except KeyError:
            raise GraphError(f"there is no operator '{name}'") from None

    def ops(self, stage: Stage | None = None) -> list[Op]:
        """Operators in topological order, those added first in front where the order is free."""
        if len(self._sorted) != len(self._ops):
            place = {name: number for number, name in enumerate(self._ops)}
            order = nx.lexicographical_topological_sort(self._graph, key=place.__getitem__)
            self._sorted = [self._ops[name] for name in order]
        return [op for op in self._sorted if stage is None or op.stage == stage]

    def tensors(self) -> list[Tensor]:
        """All tensors as they were declared."""
        return list(self._tensors.values())

    def expand(self, names: Iterable[str]) -> list[str]:
        """The tensors that really lie in memory: parts in place of what they make up, once each."""
        found: dict[str, None] = {}
        for name in names:
            parts = self.tensor(name).parts
            found |= dict.fromkeys(self.expand(parts) if parts else [name])
        return list(found)

    def reads(self, op: Op) -> list[str]:
        """Tensors in memory that an operator of the graph reads, once each."""
        return list(self._touched[op.name][0])

    def writes(self, op: Op) -> list[str]:
        """Tensors in memory that an operator of the graph writes."""
        return list(self._touched[op.name][1])

    def producer(self, name: str) -> Op | None:
        """Who writes the tensor; None for an input of the graph."""
        made_by = self._producer.get(name)
        return None if made_by is None else self._ops[made_by]

    def consumers(self, name: str) -> list[Op]:
        """Who reads the tensor."""
        return [self._ops[op] for op in self._consumers.get(name, ())]

    def elements(self, tensor: Tensor) -> int:
        """Number of its elements."""
        return math.prod(self.sizes[letter] for letter in tensor.dims)

    def flop(self, op: Op) -> int:
        """Arithmetic operations of an operator."""
        return op.flop_per_point * math.prod(self.sizes[letter] for letter in op.space)

    def words(self, op: Op) -> tuple[float, float]:
        """Words that it reads and words that it writes, each tensor once."""
        read, written = (
            sum(self.elements(t) * t.dtype_words for t in map(self.tensor, names))
            for names in (self.reads(op), self.writes(op))
        )
        return read, written

    def cls(self, op: Op) -> Class:
        """Contraction, normalisation (anything else that reduces) or elementwise (sec. 3)."""
        if op.einsum is not None:
            return "contraction"
        return "normalisation" if op.reduced else "elementwise"

    def table(self, convention: str = "paper") -> pd.DataFrame:
        """A row per operator with flop and words, counted as the convention says (volume.py)."""
        from transformer_dm.volume import table

        return table(self, convention)

    # ------------------------------------------------------------------ leaving

    def to_networkx(self) -> Any:
        """A copy as MultiDiGraph: operators, an edge per tensor handed on, its elements on it."""
        copy = nx.MultiDiGraph(sizes=dict(self.sizes))
        for op in self.ops():
            copy.add_node(op.name, op=op, flop=self.flop(op), cls=self.cls(op))
        for source, target, name in self._graph.edges(keys=True):
            tensor = self.tensor(name)
            copy.add_edge(source, target, key=name, tensor=tensor, elements=self.elements(tensor))
        return copy

    def dependencies(self) -> Any:
        """Which operator must run before which, as networkx.DiGraph.

        A seam stands for what runs outside between the two: a node named by the gradient.
        """
        graph = nx.DiGraph(self._graph)
        for gradient, output in self.seams.items():
            made_by = self.producer(output)
            if made_by is not None:
                graph.add_edge(made_by.name, gradient)
                graph.add_edges_from((gradient, c.name) for c in self.consumers(gradient))
        return graph

    def to_dot(self) -> str:
        """Graphviz text: a box per operator, its class as colour, tensors on the edges."""
        fill = {
            "contraction": "#cfe3f7",
            "normalisation": "#fbdcc4",
            "elementwise": "#d3ecdf",
        }
        lines = ["digraph dataflow {", "  node [shape=box, style=filled];"]
        for op in self.ops():
            flop = f"{self.flop(op) / 2**30:.3g}G flop"
            lines.append(
                f'  "{op.name}" [label="{op.name}\\n{flop}", fillcolor="{fill[self.cls(op)]}"];'
            )
        for source, target, name in self._graph.edges(keys=True):
            lines.append(f'  "{source}" -> "{target}" [label="{name}"];')
        return "\n".join([*lines, "}"])

    def to_json(self) -> str:
        """Everything, as text that from_json reads back."""

        def plain(value: Any) -> dict[str, Any]:
            fields = attrs.asdict(value)
            return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in fields.items()}

        return json.dumps(
            {
                "sizes": self.sizes,
                "tensors": [plain(tensor) for tensor in self._tensors.values()],
                "ops": [plain(op) for op in self._ops.values()],
                "outputs": sorted(self.outputs),
                "seams": self.seams,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> DataflowGraph:
        """The graph to_json wrote; raises GraphError for what could not have been built."""
        content = cast("dict[str, Any]", json.loads(text))
        graph = cls(content["sizes"])
        for fields in content["tensors"]:
            graph.declare(Tensor(**fields))
        for fields in content["ops"]:
            graph.add(Op(**fields))
        graph.outputs = set(content["outputs"])
        graph.seams = dict(content["seams"])
        return graph
