"""Words that say which loop nest is meant."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="C file with a #pragma scop region or one function"
    )
    parser.add_argument("-D", action="append", default=[], metavar="NAME=VALUE", help="a size")
    parser.add_argument("--function", help="which function of the file")


def sizes(options: argparse.Namespace) -> dict[str, int]:
    """The numbers of -D. Raises ValueError for anything else."""
    return dict(_size(text) for text in options.D)


def _size(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name.isidentifier() or not value.lstrip("-").isdigit():
        raise ValueError(f"-D takes NAME=VALUE with a whole number, got {text!r}")
    return name, int(value)
