"""One function out of a C file, so that what else is in the file need not be readable."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from costmodel.errors import UnsupportedProgram

_TOKEN = re.compile(
    r"""^\#.*$ | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [{}();]""", re.MULTILINE | re.VERBOSE
)
_SCOP = re.compile(r"^\s*#\s*pragma\s+scop\b", re.MULTILINE)
_MARK = re.compile(r'# \d+ "')


@attrs.frozen
class _Definition:
    """A function, by where it stands in the text."""

    name: str
    start: int
    end: int


def cut(text: str, wanted: str | None, file: str) -> tuple[str, str]:
    """The preprocessed text with all functions blank but one, and that one's name.

    It is the one wanted; else the one with `#pragma scop`; else the only one but main. Lines keep
    their numbers.

    Raises UnsupportedProgram with the names there are.
    """
    found = list(_definitions(text))
    chosen = _choose(text, found, wanted, file)
    kept = ""
    for definition in found:
        if definition is not chosen:
            body = text[definition.start : definition.end]
            kept += text[len(kept) : definition.start] + "\n".join(map(_blank, body.split("\n")))
    return kept + text[len(kept) :], chosen.name


def _blank(line: str) -> str:
    return line if _MARK.match(line) else " " * len(line)


def _choose(text: str, found: list[_Definition], wanted: str | None, file: str) -> _Definition:
    names = ", ".join(d.name for d in found) or "none"
    if wanted is not None:
        named = [d for d in found if d.name == wanted]
        if not named:
            raise UnsupportedProgram(f"{file} has no function {wanted}: it has {names}")
        return named[0]
    marked = [d for d in found if _SCOP.search(text, d.start, d.end)]
    plain = [d for d in found if d.name != "main"]
    for choice in (marked, plain):
        if len(choice) == 1:
            return choice[0]
    raise UnsupportedProgram(
        f"{file} has {len(found)} functions ({names}): say which by function=..."
    )


def _definitions(text: str) -> Iterator[_Definition]:
    """Function definitions: outside of everything, a name, parentheses and braces."""
    start = depth = 0
    name: str | None = None
    is_function = False
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "(" | "{" as opening:
                before = text[start : token.start()]
                if depth == 0 and opening == "(" and name is None:
                    last = re.search(r"(\w+)\s*$", before)
                    name = last[1] if last else None
                if depth == 0 and opening == "{":
                    is_function = name is not None and "=" not in before
                depth += 1
            case ")" | "}" as closing:
                depth -= 1
                if depth == 0 and closing == "}" and is_function and name is not None:
                    yield _Definition(name, start, token.end())
                    start, name, is_function = token.end(), None, False
            case ";" if depth == 0:
                start, name = token.end(), None
            case other if (
                other.startswith("#") and depth == 0 and not text[start : token.start()].strip()
            ):
                start = token.end()
