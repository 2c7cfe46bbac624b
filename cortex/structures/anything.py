"""Whatever a user passes, as a Forest."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cortex.errors import StructureError
from cortex.forest import Forest, Sequence, Structure
from cortex.structures import arrays, graphs, objects, source, text

#: Modules whose objects are read by functions of their own.
_READERS: dict[str, Callable[[Any], Forest]] = {
    "networkx": graphs.from_networkx,
    "torch_geometric": graphs.from_pyg,
    "dgl": graphs.from_dgl,
    "nltk": objects.from_nltk,
}


#: Remembered for each type without keeping the type alive, and for the last one that is plain.
_origins: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()
_last_plain: weakref.ref[type] = weakref.ref(int)


def _origin(kind: type) -> str | None:
    """Which reader objects of this type need; None for plain objects with children."""
    if kind not in _origins:
        _origins[kind] = _find_origin(kind)
    return _origins[kind]


def _find_origin(kind: type) -> str | None:
    if issubclass(kind, Forest):
        return "forest"
    if issubclass(kind, (str, Path)):
        return "ptb"
    for base in kind.__mro__:
        module = base.__module__.partition(".")[0]
        if module in _READERS:
            return module
        if module in ("ast", "_ast"):
            return "ast"
    return None


def is_foreign(item: object) -> bool:
    """True for a tree of another library, text or a Forest; False for an object to be walked."""
    global _last_plain
    kind = type(item)
    if _last_plain() is kind:
        return False
    if _origin(kind) is not None:
        return True
    _last_plain = weakref.ref(kind)
    return False


def as_forest(
    data: object,
    structure: Structure,
    *,
    attributes: tuple[str, str] = ("children", "token"),
    tokens: Any = "any",
    unary: str = "keep",
) -> Forest:
    """A Forest from anything with a structure: one item, or a list of them.

    Objects with children (or dicts), nltk trees, PTB text or the path to it, networkx, PyG and
    DGL graphs, Python syntax trees; for a Sequence lists or arrays of tokens or feature rows.

    unary: "collapse" leaves out nodes with a single child
    """
    return objects.collapsed(_read(data, structure, attributes, tokens), unary)


def _read(data: Any, structure: Structure, attributes: tuple[str, str], tokens: Any) -> Forest:
    origin = _origin(type(data))
    if origin == "forest":
        return data  # type: ignore[no-any-return]  # _origin says so
    if isinstance(structure, Sequence) and origin is None:
        head = data[0] if isinstance(data, (list, tuple)) and data else None
        if head is not None and is_foreign(head):
            return _read_list(list(data), structure)
        if not (hasattr(head, attributes[0]) or hasattr(data, attributes[0])):
            return arrays.sequences(data)
    if type(data) in (list, tuple):
        if data and is_foreign(data[0]):
            return _read_list(list(data), structure)
        data = list(data)
    elif origin is not None:
        return _read_list([data], structure)
    else:
        data = [data]
    children, token = attributes
    return objects.from_objects(data, children, None if tokens == "none" else token)


def _read_list(items: list[Any], structure: Structure) -> Forest:
    origins = [_origin(type(item)) for item in items]
    odd = next((i for i, origin in enumerate(origins) if origin != origins[0]), None)
    if odd is not None:
        raise StructureError(
            "the structures of one batch must be of one kind: "
            f"0 is {type(items[0]).__name__}, {odd} is {type(items[odd]).__name__}"
        )
    origin = origins[0]
    if origin == "forest":
        return arrays.concatenate(items)
    if origin == "ptb":
        return arrays.concatenate([text.from_ptb(item) for item in items])
    if origin == "ast":
        return source.from_ast(items)
    if origin == "nltk":
        return objects.from_nltk(items)
    return arrays.concatenate([_READERS[origin or ""](item) for item in items])
