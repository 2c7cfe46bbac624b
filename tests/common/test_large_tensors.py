"""Large tensors take over the memory of dead ones, and of no living one."""

import copy
import gc
import io
import mmap
import threading

import pytest
import torch

from common import large_tensors

MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    large_tensors.release()
    yield
    large_tensors.release()


def new(mib: float) -> torch.Tensor:
    return large_tensors.empty((int(mib * MIB) // 4,), torch.float32)


@pytest.mark.parametrize("shape", [(0,), (3, 5), (1024, 1024), (1025, 1023, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_as_asked_for(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = large_tensors.empty(shape, dtype)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    assert tensor.untyped_storage().nbytes() == tensor.nbytes
    tensor.fill_(3)
    assert tensor.eq(3).all()
    if large_tensors.is_large(tensor.nbytes):
        assert tensor.data_ptr() % (2 * MIB) == 0


def test_memory_of_the_dead_is_used_again() -> None:
    tensor = new(8)
    address = tensor.data_ptr()
    assert large_tensors.kept_bytes() == 0
    del tensor
    assert large_tensors.kept_bytes() >= 8 * MIB
    assert new(7.5).data_ptr() == address


def test_a_view_keeps_the_memory_alive() -> None:
    tensor = new(8).fill_(1)
    view = tensor[5:7]
    del tensor
    assert large_tensors.kept_bytes() == 0
    other = new(8).fill_(2)
    assert view.eq(1).all()
    del view
    assert large_tensors.kept_bytes() > 0
    assert other.eq(2).all()


def test_what_autograd_saved_is_alive() -> None:
    tensor = new(4).fill_(3)
    leaf = torch.ones(tensor.shape, requires_grad=True)
    y = (leaf * tensor).sum()
    del tensor
    other = new(4).fill_(9)
    y.backward()
    assert leaf.grad.eq(3).all()
    assert other.eq(9).all()


def test_much_smaller_tensors_do_not_take_large_blocks() -> None:
    del_me = new(64)
    address = del_me.data_ptr()
    del del_me
    assert new(8).data_ptr() != address
    assert new(62).data_ptr() == address


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_tensors, "_limit", lambda: 30 * MIB)
    tensors = [new(8) for _ in range(5)]
    last = tensors[-1].data_ptr()
    while tensors:
        del tensors[0]
    assert 20 * MIB <= large_tensors.kept_bytes() <= 30 * MIB
    assert new(8).data_ptr() == last


def test_released_memory_is_gone() -> None:
    new(8)
    assert large_tensors.kept_bytes() > 0
    large_tensors.release()
    assert large_tensors.kept_bytes() == 0


def test_a_profiler_sees_what_is_not_kept() -> None:
    with large_tensors.not_kept():
        tensor = new(8)
    del tensor
    assert large_tensors.kept_bytes() == 0


def test_without_huge_pages_tensors_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert new(8).fill_(1).eq(1).all()


def test_copies_and_files_of_a_large_tensor() -> None:
    tensor = new(4).normal_()
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    assert torch.equal(torch.load(file), tensor)
    assert torch.equal(copy.deepcopy(tensor), tensor)
    values = tensor.clone()
    assert torch.equal(tensor.share_memory_(), values)


def test_threads_never_share_a_block() -> None:
    failures: list[int] = []

    def work(value: int) -> None:
        for _ in range(50):
            tensor = new(4).fill_(value)
            if not tensor.eq(value).all():
                failures.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
