"""From a user's structures to nodes numbered by height: leaves first, children before parents.

The numbering is that of the paper's appendix B: leaves are 0 .. n_leaves - 1, every level is a
contiguous range, and children lie in lower levels than their parent. So "is a leaf" is one
comparison, and a batch is a first and a last number.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np

from cortex.forest import Dag, FloatArray, Forest, IntArray, Sequence, Structure, Tree

Tokens: TypeAlias = Literal["none", "any", "leaf", "all"]

_TREE, _KINDS, _DEDUP, _FOREST, _NODES = 1, 2, 4, 8, 16  # bits of the native options word
_NEEDED = {"none": 0, "leaf": 1, "all": 2, "any": 3}
_MOST_KIND_ARITY = 4
_MOST = 2**31 - 1  # that the native code counts to
_HEADER = 8
_read_header = struct.Struct(f"={_HEADER}i").unpack_from


@attrs.frozen(eq=False, slots=False)
class Linear:
    """Nodes of a forest in the order they are computed; all arrays int32 and read-only.

    order:     (n_nodes,) the forest's node of each new one; with dedup, of the first equal one
    id_of:     (forest's n_nodes,) the new number of each of the forest's nodes
    level_ptr: (n_levels + 1,); level b is level_ptr[b] .. level_ptr[b + 1] - 1, level 0 the leaves
    kind_ptr:  (n_levels, 2**arity + 1) or None; nodes of level b and kind k are
               kind_ptr[b, k] .. kind_ptr[b, k + 1] - 1. Bit j of a kind says that child j is a
               leaf; leaves themselves are of kind 0
    child:     (arity, n_nodes - n_leaves), row j the child j of inner node n_leaves + i; None if
               the number of children differs
    child_ptr: (n_nodes - n_leaves + 1,) and child_at: (n_edges,), the same for any number of
               children; None if it is fixed
    token:     (n_nodes,), -1 where there is none
    features:  (n_nodes, width) float32 or None
    roots:     (n_roots,)
    block_ptr: (n_blocks + 1,) and super_ptr: (n_supers + 1,), with unrolling; block b is the super
               nodes block_ptr[b] .. block_ptr[b + 1] - 1, super node s the nodes super_ptr[s] ..
               super_ptr[s + 1] - 1, children first. A level is then a block
    memory:    the one array that all others but features are parts of; `offsets` says where
    """

    n_nodes: int
    n_leaves: int
    n_levels: int
    order: IntArray
    id_of: IntArray
    level_ptr: IntArray
    kind_ptr: IntArray | None
    child: IntArray | None
    child_ptr: IntArray | None
    child_at: IntArray | None
    token: IntArray
    roots: IntArray
    features: FloatArray | None = None
    block_ptr: IntArray | None = None
    super_ptr: IntArray | None = None
    memory: IntArray = attrs.field(factory=lambda: np.empty(0, np.int32), repr=False, kw_only=True)

    @property
    def n_roots(self) -> int:
        """Trees of the batch, B."""
        return len(self.roots)

    @property
    def n_inner(self) -> int:
        """Nodes that are no leaves."""
        return self.n_nodes - self.n_leaves

    @property
    def offsets(self) -> dict[str, int]:
        """Where in memory each array begins, in words, so that one address is enough for all."""
        base = self.memory.ctypes.data
        named = {name: getattr(self, name) for name in _ARRAYS}
        return {
            name: (array.ctypes.data - base) // 4
            for name, array in named.items()
            if array is not None
        }


_ARRAYS = (
    "order",
    "id_of",
    "level_ptr",
    "kind_ptr",
    "child",
    "child_ptr",
    "child_at",
    "token",
    "roots",
    "block_ptr",
    "super_ptr",
)


def linearize(
    data: object,
    structure: Structure,
    *,
    kinds: bool = False,
    dedup: bool = False,
    depth: int = 1,
    attributes: tuple[str, str] = ("children", "token"),
    tokens: Tokens = "any",
    vocab: int | None = None,
    feature_width: int | None = None,
    unary: str = "keep",
) -> Linear:
    """Number the nodes of trees, DAGs or sequences by height.

    data:       what `structures.as_forest` takes: a Forest, one object with children or a list of
                them, trees of other libraries, lists of tokens for a Sequence
    kinds:      group the nodes of a level by which of their children are leaves (arity up to 4)
    dedup:      compute equal subtrees once: equal tokens, features and children, in order
    depth:      above 1, number by blocks of so many heights, for unrolled recursion over trees;
                without kinds and dedup
    attributes: names of the objects' fields, or keys of dicts, for children and token
    tokens:     which nodes must have one: "all", "leaf", or "any" for none; with "leaf" those of
                inner nodes, and with "none" all of them, are not looked at
    vocab:      tokens of these must lie below it
    feature_width: columns the features must have
    unary:      "collapse" leaves out nodes with a single child; their parents take the child

    What comes back shares nothing with data, so changing that later has no effect.

    Raises StructureError for data that is not of this structure, TokenError for a token outside
    the vocabulary; both name tree and node.
    """
    _check_options(structure, kinds, dedup, depth)
    is_plain = feature_width is None and unary == "keep"
    if is_plain and type(data) is not Forest and not isinstance(structure, Sequence):
        roots = _plain_roots(data)
        if roots is not None and (native := _native()) is not None:
            return _walk(native, roots, structure, attributes, kinds, dedup, depth, tokens, vocab)
    from cortex import structures

    forest = structures.as_forest(
        data, structure, attributes=attributes, tokens=tokens, unary=unary
    )
    return linearize_forest(
        forest,
        structure,
        kinds=kinds,
        dedup=dedup,
        depth=depth,
        tokens=tokens,
        vocab=vocab,
        feature_width=feature_width,
    )


def linearize_forest(
    forest: Forest,
    structure: Structure,
    *,
    kinds: bool = False,
    dedup: bool = False,
    depth: int = 1,
    tokens: Tokens = "any",
    vocab: int | None = None,
    feature_width: int | None = None,
) -> Linear:
    """The same for arrays; arguments and errors are those of `linearize`."""
    from cortex import problems

    _check_options(structure, kinds, dedup, depth)
    problems.check_features(forest, feature_width)
    native = _native()
    if native is None:
        from cortex.reference import linearize as reference

        problems.check(forest, structure, tokens=tokens, vocab=vocab)
        plain = reference.linearize(forest, structure, kinds=kinds, dedup=dedup, tokens=tokens)
        if depth == 1:
            return plain
        from cortex.blocks import into_blocks

        return into_blocks(plain, depth)
    result = native.number(
        forest.child_ptr,
        forest.child_idx,
        forest.roots,
        forest.token,
        forest.features if dedup else None,
        _arity(structure),
        _flags(structure, kinds, dedup),
        _NEEDED[tokens],
        _limit(vocab),
        min(depth, _MOST),
    )
    if result is None:
        problems.refuse(forest, structure, tokens=tokens, vocab=vocab)
    return unpack(result, forest.features)


def walk_to_forest(
    roots: list[Any], attributes: tuple[str, str], tokens: Tokens = "any"
) -> tuple[Forest, list[Any]]:
    """The forest below these objects, and its nodes; node i of the forest is object i.

    Nodes are numbered breadth first, one tree after another.
    """
    native = _native()
    if native is None:
        from cortex.reference import linearize as reference

        return reference.walk(roots, attributes, tokens)
    children, token = attributes
    result = native.walk(
        roots,
        children,
        None if tokens == "none" else token,
        -1,
        _FOREST | _NODES,
        _NEEDED[tokens],
        -1,
        1,
    )
    if len(result) > 2:
        _refuse_object(result, attributes)
    return _forest_of(result[0]), result[1]


def _check_options(structure: Structure, kinds: bool, dedup: bool, depth: int) -> None:
    arity = structure.max_children
    if kinds and (arity is None or arity > _MOST_KIND_ARITY):
        raise ValueError(
            f"kinds need a fixed number of children up to {_MOST_KIND_ARITY}, got {structure}"
        )
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    if depth > 1 and (kinds or dedup or isinstance(structure, Dag)):
        got = "kinds" if kinds else "dedup" if dedup else structure
        raise ValueError(
            f"blocks of depth {depth} need trees without kinds and dedup, got {got}: "
            "use a depth of 1"
        )


def _flags(structure: Structure, kinds: bool, dedup: bool) -> int:
    is_tree = not isinstance(structure, Dag)
    return is_tree * _TREE | bool(kinds) * _KINDS | bool(dedup) * _DEDUP


def _arity(structure: Structure) -> int:
    """Children of an inner node, for native code."""
    arity = structure.max_children
    return -1 if arity is None else min(arity, _MOST)


def _limit(vocab: int | None) -> int:
    """What tokens lie below, for native code, whose tokens are below 2**31 anyway."""
    return -1 if vocab is None or vocab > _MOST else vocab


def _plain_roots(data: object) -> list[Any] | None:
    """Data as a list of objects to walk; None if it is not that."""
    if type(data) is list or type(data) is tuple:
        from cortex.structures import is_foreign

        return None if data and is_foreign(data[0]) else list(data)
    from cortex.structures import is_foreign

    return None if is_foreign(data) else [data]


def _walk(
    native: _Native,
    roots: list[Any],
    structure: Structure,
    attributes: tuple[str, str],
    kinds: bool,
    dedup: bool,
    depth: int,
    tokens: Tokens,
    vocab: int | None,
) -> Linear:
    children, token = attributes
    result = native.walk(
        roots,
        children,
        None if tokens == "none" else token,
        _arity(structure),
        _flags(structure, kinds, dedup),
        _NEEDED[tokens],
        _limit(vocab),
        min(depth, _MOST),
    )
    if type(result) is tuple:
        from cortex import problems

        if len(result) > 2:
            _refuse_object(result, attributes)
        problems.refuse(_forest_of(result[1]), structure, tokens=tokens, vocab=vocab)
    return unpack(result, None)


def _refuse_object(result: tuple[Any, ...], attributes: tuple[str, str]) -> None:
    from cortex import problems

    what, node, position, detail, found = result
    problems.refuse_object(what, node, position, detail, _forest_of(found), attributes)


def _forest_of(packed: bytes) -> Forest:
    words = np.frombuffer(packed, np.int32)
    n, n_edges, n_roots, _ = words[:4].tolist()
    ends = np.cumsum([4, n + 1, n_edges, n_roots, n]).tolist()
    parts = [words[begin:end] for begin, end in itertools.pairwise(ends)]
    child_ptr, child_idx, roots, token = parts
    return Forest(child_ptr, child_idx, roots, token)


def unpack(packed: bytes, features: FloatArray | None) -> Linear:
    """The arrays in the memory a native call filled; its layout stands in linearize.cpp."""
    words: IntArray = np.frombuffer(packed, np.int32)
    n, n_leaves, n_levels, n_edges, arity, n_kinds, n_forest, n_roots = _read_header(packed)
    n_inner = n - n_leaves
    at = _HEADER + n
    order = words[_HEADER:at]
    id_of = words[at : at + n_forest]
    at += n_forest
    level_ptr = words[at : at + n_levels + 1]
    at += n_levels + 1
    kind_ptr = child = child_ptr = child_at = None
    if n_kinds:
        kind_ptr = words[at : at + n_levels * (n_kinds + 1)].reshape(n_levels, n_kinds + 1)
        at += n_levels * (n_kinds + 1)
    if arity >= 0:
        child = words[at : at + arity * n_inner].reshape(arity, n_inner)
        at += arity * n_inner
    else:
        child_ptr = words[at : at + n_inner + 1]
        at += n_inner + 1
        child_at = words[at : at + n_edges]
        at += n_edges
    ends = at + n + n_roots
    block_ptr = super_ptr = None
    if ends < len(words):
        block_ptr = words[ends : ends + max(n_levels, 1)]
        super_ptr = words[ends + max(n_levels, 1) :]
    linear = Linear.__new__(Linear)
    # As __init__ would, in a third of its time: a call for a single tree takes microseconds.
    linear.__dict__.update(
        n_nodes=n,
        n_leaves=n_leaves,
        n_levels=n_levels,
        order=order,
        id_of=id_of,
        level_ptr=level_ptr,
        kind_ptr=kind_ptr,
        child=child,
        child_ptr=child_ptr,
        child_at=child_at,
        token=words[at : at + n],
        roots=words[at + n : ends],
        features=None if features is None else features[order],
        block_ptr=block_ptr,
        super_ptr=super_ptr,
        memory=words,
    )
    return linear


@attrs.frozen
class _Native:
    walk: Any
    number: Any


@functools.cache
def _native() -> _Native | None:
    """The native functions; None, said once, where they cannot be compiled."""
    from common import native

    include = Path(sysconfig.get_path("include"))
    source = Path(__file__).parent / "kernels" / "linearize.cpp"
    try:
        if not (include / "Python.h").exists():
            raise FileNotFoundError(f"Python.h is not in {include}")
        version = sysconfig.get_python_version()
        headers: dict[Path | str, str] = {include: f"{version} {sysconfig.get_config_var('SOABI')}"}
        library = native.build(
            source.stem,
            [source],
            foreign_headers=headers,
            flags=["-fexceptions"],
            link_flags=["-Wl,-z,undefs"],  # the interpreter itself brings them
        )
    except (native.CompilerNotFound, FileNotFoundError) as error:
        warnings.warn(
            f"structures are numbered in Python, some twenty times slower: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    functions = ctypes.PyDLL(str(library.path))  # unlike cffi it keeps the interpreter lock
    obj, i32 = ctypes.py_object, ctypes.c_int32
    walk, number = functions.cortex_walk, functions.cortex_number
    walk.restype = number.restype = obj
    walk.argtypes = [*[obj] * 3, *[i32] * 5]
    number.argtypes = [*[obj] * 5, *[i32] * 5]
    return _Native(walk, number)


def levels(linear: Linear) -> Iterator[range]:
    """The nodes of each level, leaves first."""
    bounds = linear.level_ptr.tolist()
    for begin, end in itertools.pairwise(bounds):
        yield range(begin, end)


__all__ = ["Dag", "Linear", "Sequence", "Tree", "levels", "linearize", "linearize_forest"]
