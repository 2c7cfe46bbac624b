"""A batch of trees, DAGs or sequences as flat arrays, and what a model may declare about them."""

from __future__ import annotations

from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from cortex.errors import StructureError

IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]


def _check_arity(_: object, attribute: attrs.Attribute[int], value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(
            f"{attribute.name} must be an integer from 1, or None for any number of children, "
            f"got {value!r}"
        )


@attrs.frozen
class Tree:
    """Every node is the child of at most one node; inner nodes have exactly `arity` children.

    arity: None for any number of children, different from node to node
    """

    arity: int | None = attrs.field(default=2, validator=_check_arity)

    @property
    def max_children(self) -> int | None:
        """Children of an inner node, None if that differs."""
        return self.arity


@attrs.frozen
class Dag:
    """Nodes may be the child of many; inner nodes have exactly `arity` children, if that is set."""

    arity: int | None = attrs.field(default=None, validator=_check_arity)

    @property
    def max_children(self) -> int | None:
        """Children of an inner node, None if that differs."""
        return self.arity


@attrs.frozen
class Sequence:
    """A chain: child 0 of an element is the element before it; the root is the last element."""

    @property
    def max_children(self) -> int:
        """One."""
        return 1


Structure: TypeAlias = Tree | Dag | Sequence


def _as_ints(values: object) -> IntArray:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int32).reshape(-1)
    if array.dtype.kind not in "iu":
        raise StructureError(
            f"child_ptr, child_idx, roots and token must hold integers, got {array.dtype}"
        )
    if array.dtype.itemsize > 2 and array.dtype != np.int32 and array.size:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise StructureError(
                "child_ptr, child_idx, roots and token must fit in 32 bits, "
                f"got values from {array.min()} to {array.max()}"
            )
    return np.ascontiguousarray(array, dtype=np.int32)


def _as_floats(values: object) -> FloatArray | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.dtype != np.float32:
        raise StructureError(f"features must be float32, got {array.dtype}")
    return np.ascontiguousarray(array)


@attrs.frozen(eq=False)
class Forest:
    """Trees, DAGs or sequences of one batch, flat.

    child_ptr: (n_nodes + 1,) int32; the children of node n are
               child_idx[child_ptr[n]:child_ptr[n + 1]], in order
    child_idx: (n_edges,) int32, any numbering of the nodes
    roots:     (n_roots,) int32, one node a tree; what a model's result is read from
    token:     (n_nodes,) int32, -1 where a node has none
    features:  (n_nodes, width) float32 or None
    names:     what each node was called in the data it came from, or None

    Raises StructureError for arrays whose shapes or types do not fit; what they say is looked at
    by `validate`, and by `linearize`.
    """

    child_ptr: IntArray = attrs.field(converter=_as_ints)
    child_idx: IntArray = attrs.field(converter=_as_ints)
    roots: IntArray = attrs.field(converter=_as_ints)
    token: IntArray = attrs.field(converter=_as_ints)
    features: FloatArray | None = attrs.field(default=None, converter=_as_floats)
    names: tuple[object, ...] | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("child_ptr", "child_idx", "roots", "token"):
            shape = getattr(self, name).shape
            if len(shape) != 1:
                raise StructureError(f"{name} must have one dimension, got shape {shape}")
        n = len(self.token)
        if len(self.child_ptr) != n + 1:
            raise StructureError(
                f"child_ptr must have one entry more than token: {n} nodes need {n + 1}, "
                f"got {len(self.child_ptr)}"
            )
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != n):
            raise StructureError(
                f"features must have one row for each node, ({n}, width), "
                f"got shape {self.features.shape}"
            )
        if self.names is not None and len(self.names) != n:
            raise StructureError(f"names must be {n}, one a node, got {len(self.names)}")

    @classmethod
    def of_checked(
        cls, child_ptr: IntArray, child_idx: IntArray, roots: IntArray, token: IntArray
    ) -> Forest:
        """The forest of int32 arrays whose sizes fit, without looking: ten times faster."""
        forest = cls.__new__(cls)
        put = object.__setattr__
        put(forest, "child_ptr", child_ptr)
        put(forest, "child_idx", child_idx)
        put(forest, "roots", roots)
        put(forest, "token", token)
        put(forest, "features", None)
        put(forest, "names", None)
        return forest

    @property
    def n_nodes(self) -> int:
        """Nodes of all trees together."""
        return len(self.token)

    @property
    def n_roots(self) -> int:
        """Trees of the batch, B."""
        return len(self.roots)

    def children(self, node: int) -> list[int]:
        """The children of a node, in order."""
        begin, end = self.child_ptr[node], self.child_ptr[node + 1]
        return [int(child) for child in self.child_idx[begin:end]]

    def validate(
        self,
        structure: Structure,
        vocab: int | None = None,
        feature_width: int | None = None,
    ) -> None:
        """Raise unless this is what a model of this structure can read.

        vocab:         tokens must lie below it; None: they are not read
        feature_width: columns features must have; None: they are not read

        Raises StructureError or TokenError, naming tree and node.
        """
        from cortex import problems

        problems.check(self, structure, vocab=vocab, feature_width=feature_width)
