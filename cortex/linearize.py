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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

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

    Arrays of a native call are views of its memory, made when they are first looked at.

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

    if not TYPE_CHECKING:  # else any name would do

        def __getattr__(self, name):
            """An array that nobody has looked at yet."""
            header = self.__dict__.get("_header")
            if header is None or name not in _ARRAYS:
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
            array = self.__dict__[name] = _view(self.memory, header, name)
            return array

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
    if kinds or dedup or depth != 1:
        _check_options(structure, kinds, dedup, depth)
    if type(data) is not Forest and feature_width is None and unary == "keep":
        linear = _number_native(data, structure, attributes, kinds, dedup, depth, tokens, vocab)
        if linear is not None:
            return linear
    if type(data) is Forest and unary == "keep":
        forest = data
    else:
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
    if kinds or dedup or depth != 1:
        _check_options(structure, kinds, dedup, depth)
    if feature_width is not None:
        from cortex import problems

        problems.check_features(forest, feature_width)
    native = native_functions()
    if native is None:
        from cortex import problems
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
        *_numbers(structure, kinds, dedup, depth, tokens, vocab),
    )
    if result is None:
        from cortex import problems

        problems.refuse(forest, structure, tokens=tokens, vocab=vocab)
    return unpack(result, forest.features)


def walk_to_forest(
    roots: list[Any], attributes: tuple[str, str], tokens: Tokens = "any"
) -> tuple[Forest, list[Any]]:
    """The forest below these objects, and its nodes; node i of the forest is object i.

    Nodes are numbered breadth first, one tree after another.
    """
    native = native_functions()
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
    return forest_of(result[0]), result[1]


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


def _numbers(
    structure: Structure, kinds: bool, dedup: bool, depth: int, tokens: Tokens, vocab: int | None
) -> tuple[int, int, int, int, int]:
    """What native functions take last: arity, flags, tokens, vocab, depth; -1 for no limit.

    No node has more children than the most, and no token is above it.
    """
    arity = structure.max_children
    flags = 0 if isinstance(structure, Dag) else _TREE
    if kinds:
        flags |= _KINDS
    if dedup:
        flags |= _DEDUP
    return (
        -1 if arity is None else arity if arity < _MOST else _MOST,
        flags,
        _NEEDED[tokens],
        -1 if vocab is None or vocab > _MOST else vocab,
        depth if depth < _MOST else _MOST,
    )


@functools.cache
def _foreign_test() -> Callable[[object], bool]:
    from cortex.structures import is_foreign  # which needs this module

    return is_foreign


def _number_native(
    data: object,
    structure: Structure,
    attributes: tuple[str, str],
    kinds: bool,
    dedup: bool,
    depth: int,
    tokens: Tokens,
    vocab: int | None,
) -> Linear | None:
    """Objects and tokens numbered in one native call; None for other data, or without compiler."""
    native = native_functions()
    if native is None:
        return None
    numbers = _numbers(structure, kinds, dedup, depth, tokens, vocab)
    if isinstance(structure, Sequence):
        packed = native.sequences(data, *numbers)
        return None if packed is None else unpack(packed, None)
    is_listed = type(data) is list or type(data) is tuple
    if _foreign_test()(data[0] if is_listed and data else data):  # type: ignore[index]  # it is listed
        return None
    # A list of our own, which no property that is read can change.
    roots = list(data) if is_listed else [data]  # type: ignore[call-overload]  # it is listed
    children, token = attributes
    result = native.walk(roots, children, None if tokens == "none" else token, *numbers)
    if type(result) is not tuple:
        return unpack(result, None)
    from cortex import problems

    if len(result) > 2:
        _refuse_object(result, attributes)
    problems.refuse(forest_of(result[1]), structure, tokens=tokens, vocab=vocab)


def _refuse_object(result: tuple[Any, ...], attributes: tuple[str, str]) -> None:
    from cortex import problems

    what, node, position, detail, found = result
    problems.refuse_object(what, node, position, detail, forest_of(found), attributes)


def forest_of(packed: bytes) -> Forest:
    """The forest in the memory a native call filled."""
    words: IntArray = np.frombuffer(packed, np.int32)
    n, n_edges, n_roots = words[:3].tolist()
    idx = 4 + n + 1
    roots = idx + n_edges
    token = roots + n_roots
    return Forest.of_checked(words[4:idx], words[idx:roots], words[roots:token], words[token:])


def unpack(packed: bytes, features: FloatArray | None) -> Linear:
    """The structure in the memory a native call filled; its layout stands in linearize.cpp."""
    header = _read_header(packed)
    linear = Linear.__new__(Linear)
    # As __init__ would, in a fraction of its time: a call for a single tree takes microseconds.
    linear.__dict__.update(
        n_nodes=header[0],
        n_leaves=header[1],
        n_levels=header[2],
        features=None,
        memory=np.frombuffer(packed, np.int32),
        _header=header,
    )
    if features is not None:
        linear.__dict__["features"] = features[linear.order]
    return linear


def _view(words: IntArray, header: tuple[int, ...], name: str) -> IntArray | None:
    """One of the arrays in the memory of a native call; None if it is not there."""
    n, n_leaves, n_levels, n_edges, arity, n_kinds, n_forest, n_roots = header
    n_inner = n - n_leaves
    is_fixed = arity >= 0
    sizes = {
        "order": n,
        "id_of": n_forest,
        "level_ptr": n_levels + 1,
        "kind_ptr": n_levels * (n_kinds + 1) if n_kinds else None,
        "child": arity * n_inner if is_fixed else None,
        "child_ptr": None if is_fixed else n_inner + 1,
        "child_at": None if is_fixed else n_edges,
        "token": n,
        "roots": n_roots,
    }
    begin = _HEADER
    for before, size in sizes.items():
        if before == name:
            if size is None:
                return None
            array = words[begin : begin + size]
            if name == "kind_ptr":
                return array.reshape(n_levels, n_kinds + 1)
            return array.reshape(arity, n_inner) if name == "child" else array
        begin += size or 0
    # What is left is of unrolling; without levels there is the end of no block.
    if begin == len(words):
        return None
    middle = begin + max(n_levels, 1)
    return words[begin:middle] if name == "block_ptr" else words[middle:]


class _Native(NamedTuple):
    """Functions of linearize.cpp; there stands what they take and give."""

    walk: Callable[..., Any]
    number: Callable[..., Any]
    sequences: Callable[..., Any]
    parents: Callable[..., Any]
    chains: Callable[..., Any]


@functools.cache
def native_functions() -> _Native | None:
    """The native functions; None, said once, where they cannot be compiled."""
    from common import native

    include = Path(sysconfig.get_path("include"))
    source = Path(__file__).parent / "kernels" / "linearize.cpp"
    version = sysconfig.get_python_version()
    try:
        if not (include / "Python.h").exists():
            raise FileNotFoundError(
                f"Python.h is not in {include}: apt-get install python{version}-dev "
                "(Debian, Ubuntu), dnf install python3-devel (Fedora)"
            )
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
    functions = ctypes.PyDLL(str(library.path)).cortex_functions  # PyDLL: keeps the lock
    functions.restype = ctypes.py_object
    return _Native(*functions())


def levels(linear: Linear) -> Iterator[range]:
    """The nodes of each level, leaves first."""
    bounds = linear.level_ptr.tolist()
    for begin, end in itertools.pairwise(bounds):
        yield range(begin, end)


__all__ = ["Dag", "Linear", "Sequence", "Tree", "levels", "linearize", "linearize_forest"]
