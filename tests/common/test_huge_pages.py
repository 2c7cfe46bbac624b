"""Advice about huge pages: the memory asked for is inside the tensor, and its values stay."""

import mmap

import pytest
import torch

from common import huge_pages
from common.huge_pages import advise

MIB = 2**20


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The arguments of each system call, which is not made."""
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *call: calls.append(call) or 0)
    return calls


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="this system has no such advice")
@pytest.mark.parametrize("n_bytes", [4 * MIB, 4 * MIB + 4, 9 * MIB])
def test_whole_huge_pages_inside_the_tensor_are_asked_for(
    asked: list[tuple[int, int, int]], n_bytes: int
) -> None:
    tensor = torch.empty(n_bytes // 4)
    assert advise(tensor) is tensor
    ((first, size, advice),) = asked
    assert advice == mmap.MADV_HUGEPAGE
    assert first % (2 * MIB) == size % (2 * MIB) == 0
    assert tensor.data_ptr() <= first
    assert first + size <= tensor.data_ptr() + n_bytes
    assert n_bytes - size < 4 * MIB


def test_small_tensors_cost_no_system_call(asked: list[tuple[int, int, int]]) -> None:
    advise(torch.empty(MIB - 1))
    assert asked == []


def test_values_survive_advice() -> None:
    tensor = torch.arange(3 * MIB, dtype=torch.float32)
    assert torch.equal(advise(tensor), torch.arange(3 * MIB, dtype=torch.float32))


def test_nothing_happens_where_the_system_has_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_madvise", lambda: None)
    tensor = torch.empty(2 * MIB)
    assert advise(tensor) is tensor
