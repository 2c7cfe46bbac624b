"""Programs written in C: a `#pragma scop` region, or a whole function.

    program = from_c("gemm.c", params={"NI": 64, "NJ": 64, "NK": 64})

Arrays are parameters with their extents, `double A[N][M]`, and are taken not to overlap; plain
numbers passed by value and scalar locals are arrays without dimensions. Arithmetic is C's with two
liberties, those of <tgmath.h> and gcc's -fsingle-precision-constant: functions and constants take
the type of what a statement writes. fmin and fmax mean `a < b ? a : b` and `a > b ? a : b`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pycparser import c_ast, c_parser  # type: ignore[import-untyped]  # it publishes no types

from costmodel import bounds, lowering
from costmodel.c_cut import cut
from costmodel.c_reader import Reader
from costmodel.drop_in import Parameter
from costmodel.errors import UnsupportedProgram
from costmodel.ir import Program
from costmodel.preprocess import first_error, preprocessed


def from_c(
    source: str | os.PathLike[str],
    function: str | None = None,
    params: Mapping[str, int] | None = None,
    *,
    defines: Mapping[str, object] | None = None,
) -> Program:
    """Read a program from a C file or text.

    source:   path of a file, or the text itself (whatever has a line break or a brace)
    function: which one, if the source has several; the others need not be readable
    params:   numbers for sizes, before any `#define` of the same name
    defines:  macros before any `#define` of the same name: {"DATA_TYPE": "float"}

    Raises NotAffine, UnboundParameter and UnsupportedProgram with file, line and text, OutOfBounds
    with an access and an iteration in which it leaves its array, CompileError without a compiler.
    """
    return from_c_with_parameters(source, function, params, defines=defines)[0]


def from_c_with_parameters(
    source: str | os.PathLike[str],
    function: str | None = None,
    params: Mapping[str, int] | None = None,
    *,
    defines: Mapping[str, object] | None = None,
) -> tuple[Program, tuple[Parameter, ...] | None]:
    """`from_c`, and the parameters of the function; None for them where it returns a value."""
    text, file, folder = _read(source)
    clean = preprocessed(text, file, folder, tuple(params or {}), defines or {})
    clean, name = cut(clean, function, file)
    try:
        tree = c_parser.CParser().parse(clean, file)
    except c_parser.ParseError as error:
        raise UnsupportedProgram(f"{first_error(clean) or error}: this is no plain C") from None
    definition = next(
        node for node in tree.ext if isinstance(node, c_ast.FuncDef) and node.decl.name == name
    )
    reader = Reader(file, tree, params or {})
    lowered = lowering.lower(reader.function(definition), params or {}, c_types=True)
    bounds.check(lowered.program, lowered.places)
    return lowered.program, reader.parameters(definition)


def _read(source: str | os.PathLike[str]) -> tuple[str, str, Path | None]:
    """Text, name for messages, folder."""
    if isinstance(source, str) and any(mark in source for mark in "\n{;"):
        return source, "<source>", None
    path = Path(source)
    return path.read_text(), path.name, path.parent
