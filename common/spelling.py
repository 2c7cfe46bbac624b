"""What a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'batch'?` to end a message with, or nothing where no known word is near.

    Names up to three, the nearest first.
    """
    near = difflib.get_close_matches(word, list(known), n=3)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""
