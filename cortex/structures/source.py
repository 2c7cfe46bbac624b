"""Real trees that every installation has: Python's own syntax trees."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterable
from pathlib import Path

from cortex.errors import StructureError
from cortex.forest import Forest
from cortex.structures.arrays import from_children

#: Names of the node types, by token.
AST_TYPES: tuple[str, ...] = tuple(
    sorted(
        name
        for name, kind in vars(ast).items()
        if isinstance(kind, type)
        and issubclass(kind, ast.AST)
        and kind.__module__ in ("ast", "_ast")
    )
)
_NUMBER = {name: i for i, name in enumerate(AST_TYPES)}


def from_ast(
    source: str | Path | ast.AST | Iterable[str | Path | ast.AST], words: bool = False
) -> Forest:
    """Syntax trees of Python: a tree a module, tokens are the types of nodes (`AST_TYPES`).

    source: source text, the Path of a file, a parsed tree, or several of these
    words:  nodes with a name or a constant get a token for type and text together, numbered after
            the types in the order they appear; so `x` and `y` are no equal subtrees

    Contexts (`Load`, `Store`, `Del`) say where a name stands, not what it is, and are left out.
    Raises StructureError for source that does not parse, naming file and line.
    """
    items = [source] if isinstance(source, (str, Path, ast.AST)) else list(source)
    rows: list[list[int]] = []
    tokens: list[int] = []
    roots: list[int] = []
    seen: dict[tuple[str, ...], int] = {}
    for item in items:
        roots.append(len(rows))
        queue = [_parsed(item)]
        first = len(rows)
        for node in queue:  # grows while it is read
            children = [
                c for c in ast.iter_child_nodes(node) if not isinstance(c, ast.expr_context)
            ]
            begin = first + len(queue)
            rows.append(list(range(begin, begin + len(children))))
            said = _said(node) if words else ()
            token = _NUMBER[_type_name(node)]
            tokens.append(seen.setdefault(said, len(AST_TYPES) + len(seen)) if said else token)
            queue += children
    return from_children(rows, roots, tokens)


def _said(node: ast.AST) -> tuple[str, ...]:
    """Type and text of a node that has text of its own; empty for others."""
    fields = [value for _, value in ast.iter_fields(node)]
    own = [repr(v) for v in fields if v is not None and not isinstance(v, (ast.AST, list))]
    return (_type_name(node), *own) if own else ()


def _type_name(node: ast.AST) -> str:
    return next(kind.__name__ for kind in type(node).__mro__ if kind.__name__ in _NUMBER)


def standard_library(n_modules: int | None = None, words: bool = False) -> Forest:
    """Syntax trees of the modules of the standard library that runs this, a tree a module.

    n_modules: the first so many, in the order of their names; None for all of the top folder
    words:     as in `from_ast`
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = sorted(folder.glob("*.py"))[:n_modules]
    return from_ast(paths, words)


def _parsed(item: str | Path | ast.AST) -> ast.AST:
    if isinstance(item, ast.AST):
        return item
    text = item.read_bytes() if isinstance(item, Path) else item
    where = str(item.name) if isinstance(item, Path) else "<source>"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's source
            return ast.parse(text, where)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise StructureError(f"{where}, line {line}: source must parse, got: {error}") from None
