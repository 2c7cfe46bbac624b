"""What is read out of the READMEs by more than one test."""

import re
from pathlib import Path

from common import PAPERS

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "common/README.md", *(f"{paper}/README.md" for paper in PAPERS)]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(file: str, language: str) -> list[str]:
    """Fenced code of a language, with the indent of its fence taken off; none without the file."""
    found = []
    if not (ROOT / file).is_file():
        return []
    for indent, name, body in FENCE.findall((ROOT / file).read_text()):
        if name == language:
            found.append("".join(line.removeprefix(indent) for line in body.splitlines(True)))
    return found


def library_examples() -> dict[str, str]:
    """The examples of the top README that import a paper's package, by package."""
    found = {}
    for code in blocks("README.md", "python"):
        imported = re.search(rf"^(?:from|import) ({'|'.join(PAPERS)})\b", code, re.MULTILINE)
        if imported:
            found[imported[1]] = code
    return found
