"""Errors of the native layer, worded so that the first line is enough to act on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_DIAGNOSTIC = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: .*$", re.M)
_OTHER_ERROR = re.compile(r"^.*(?:error|undefined reference|Killed|terminated|timed out).*$", re.M)


class NativeBuildError(RuntimeError):
    """A source did not become a loadable library.

    command: the command line that failed, empty if none was run
    log: everything the compiler wrote
    source_path: the source to look at; generated text is kept there
    """

    def __init__(self, command: Sequence[str], log: str, source_path: Path) -> None:
        super().__init__(tuple(command), log, source_path)
        self.command = tuple(command)
        self.log = log
        self.source_path = source_path

    def __str__(self) -> str:
        return f"{_first_error(self.log, self.source_path)}\n  source kept at {self.source_path}"


class CompilerNotFound(RuntimeError):
    """No compiler of the wanted language is installed."""

    def __init__(self, language: str, tried: str) -> None:
        super().__init__(language, tried)
        self.language = language
        self.tried = tried

    def __str__(self) -> str:
        return (
            f"no compiler for {self.language} found (looked for {self.tried}): "
            "apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora) "
            "or conda install -c conda-forge cxx-compiler"
        )


def _first_error(log: str, source_path: Path) -> str:
    """The first diagnostic with three source lines, or the most telling line of the log."""
    found = _DIAGNOSTIC.search(log)
    if found is None:
        other = _OTHER_ERROR.search(log)
        return other.group(0) if other else log.strip().rpartition("\n")[2] or "the compiler failed"
    message = found.group(0)
    excerpt = _source_lines(Path(found["file"]), int(found["line"]))
    if not excerpt:
        # A #line directive may name a file that exists only as a name; gcc's own excerpt is next.
        following = log[found.end() :].lstrip("\n").splitlines()[:3]
        excerpt = [line for line in following if "|" in line]
    return "\n".join([message, *excerpt])


def _source_lines(path: Path, line: int) -> list[str]:
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    shown = range(max(line - 1, 1), min(line + 1, len(text)) + 1)
    return [f"  {n:>5}{'>' if n == line else ' '} {text[n - 1]}" for n in shown]
