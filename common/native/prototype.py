"""A C prototype as a value: names, types and directions of its parameters."""

from __future__ import annotations

import functools
import keyword
import sys
from collections.abc import Collection, Mapping
from typing import Any

import attrs

_INTEGERS = tuple(f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = {name: name.removesuffix("_t") for name in _INTEGERS} | {
    "float": "float32",
    "double": "float64",
}
# Element types C has no fixed-width name for, and the integer that carries them.
_CARRIED = {"bfloat16": "uint16_t", "float16": "uint16_t", "bool": "uint8_t"}
_TYPEDEFS = "".join(f"typedef int {name};" for name in _INTEGERS)


@attrs.frozen
class Parameter:
    """One parameter. Pointers name the dtype of their elements; scalars have their C type."""

    name: str
    ctype: str
    is_pointer: bool
    is_written: bool
    dtype: str
    is_strided: bool = False
    is_optional: bool = False


@attrs.frozen
class Prototype:
    """A function as C declares it; `str()` gives the declaration back."""

    text: str
    name: str
    result: str
    parameters: tuple[Parameter, ...]

    def __str__(self) -> str:
        return self.text

    @property
    def integer_type(self) -> str:
        """The same function's pointer type with addresses as integers, in C."""
        words = ["uintptr_t" if p.is_pointer else p.ctype for p in self.parameters]
        return f"{self.result}(*)({', '.join(words) or 'void'})"


def parse(
    text: str,
    dtypes: Mapping[str, str] | None = None,
    strided: Collection[str] = (),
    optional: Collection[str] = (),
) -> Prototype:
    """Read one prototype such as `void scale(const float* x, float* out, int64_t n)`.

    dtypes: element type of integer pointers that carry another: {"w": "bfloat16"}
    strided: pointers whose strides the caller passes itself, exempt from the contiguity check
    optional: pointers that may be None, which C sees as NULL

    Raises ValueError naming the parameter if a type is not fixed-width, float or double.
    """
    dtypes = dtypes or {}
    clean = text.strip().rstrip(";").strip()
    declaration = _declaration(clean)
    function = declaration.type
    result = _type_name(function.type, f"the result of {declaration.name}", allow_void=True)
    nodes = function.args.params if function.args else []
    if len(nodes) == 1 and _is_void(nodes[0]):
        nodes = []
    parameters = tuple(_parameter(node, dtypes, strided, optional) for node in nodes)
    known = {p.name for p in parameters if p.is_pointer}
    for name in (*dtypes, *strided, *optional):
        if name not in known:
            raise ValueError(f"{name!r} is no pointer parameter of {declaration.name}: {clean}")
    return Prototype(clean, declaration.name, result, parameters)


def _declaration(text: str) -> Any:
    parser = load_parser()
    try:
        tree = parser.parse(f"{_TYPEDEFS}\n{text};")
    except sys.modules[type(parser).__module__].ParseError as error:
        raise ValueError(f"not a C prototype: {text!r} ({error})") from None
    declarations = tree.ext[len(_INTEGERS) :]
    if len(declarations) != 1 or _kind(getattr(declarations[0], "type", None)) != "FuncDecl":
        raise ValueError(f"wanted one C function prototype, got {text!r}")
    return declarations[0]


@functools.cache
def load_parser() -> Any:
    """The C parser cffi itself uses; importing it is the costly part."""
    from pycparser import c_parser  # type: ignore[import-untyped]  # it publishes no types

    return c_parser.CParser()


def _kind(node: Any) -> str:
    return type(node).__name__


def _parameter(
    node: Any, dtypes: Mapping[str, str], strided: Collection[str], optional: Collection[str]
) -> Parameter:
    if _kind(node) == "EllipsisParam":
        raise ValueError("a variable number of arguments cannot be checked: write them out")
    name = getattr(node, "name", None)
    if name is None:
        raise ValueError("every parameter of a prototype needs a name; errors are told by it")
    # Python callers may pass by name, and a Python keyword cannot be one.
    spelled = f"{name}_" if keyword.iskeyword(name) else name
    if _kind(node.type) != "PtrDecl":
        ctype = _type_name(node.type, f"parameter {name!r}")
        return Parameter(spelled, ctype, False, False, DTYPES[ctype])
    ctype = _type_name(node.type.type, f"parameter {name!r}")
    dtype = dtypes.get(name, DTYPES[ctype])
    if dtype != DTYPES[ctype] and _CARRIED.get(dtype) != ctype:
        wanted = ", ".join(f"{key} in {value}*" for key, value in _CARRIED.items())
        raise ValueError(f"{ctype}* {name} cannot hold {dtype}; known are {wanted}")
    is_written = "const" not in node.type.type.quals
    return Parameter(spelled, ctype, True, is_written, dtype, name in strided, name in optional)


def _type_name(node: Any, what: str, allow_void: bool = False) -> str:
    # Structs and pointers to pointers have no list of names.
    spelled = " ".join(getattr(getattr(node, "type", None), "names", None) or ["a compound type"])
    if spelled in DTYPES or (allow_void and spelled == "void"):
        return spelled
    raise ValueError(
        f"{what} must be float, double or a fixed-width integer such as int32_t, "
        f"or a pointer to one, got {spelled}"
    )


def _is_void(node: Any) -> bool:
    return _kind(node) == "Typename" and getattr(node.type.type, "names", None) == ["void"]
