"""The nearest names to a misspelt one."""

from collections.abc import Iterable

import pytest

from common.spelling import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("bach", ["ranks", "batch"], ", did you mean 'batch'?"),
        ("bach", {"batches": 1, "batch": 2}, ", did you mean 'batch' or 'batches'?"),
        ("zzz", ["ranks", "batch"], ""),
        ("batch", [], ""),
    ],
)
def test_near_names_are_offered(word: str, known: Iterable[str], expected: str) -> None:
    assert did_you_mean(word, known) == expected


def test_no_more_than_three_are_named() -> None:
    assert did_you_mean("core", [f"core{n}" for n in range(9)]).count(" or ") == 2
