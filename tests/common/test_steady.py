"""Thread pools are held and let go, and experiments run in the environment gates run in."""

import os
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from common import steady
from common.runner import run_one

np.ones((2, 2)) @ np.ones((2, 2))  # loads the thread pool the tests look at


def pools() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info()]


@pytest.fixture
def three() -> Iterator[None]:
    """Every pool, torch's too, has three threads meanwhile."""
    import torch

    before = torch.get_num_threads()
    with steady.threads(3):
        yield
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("n", [1, 2])
def test_pools_are_held_for_a_while_and_then_as_before(three: None, n: int) -> None:
    import torch

    with steady.threads(n):
        assert set(pools()) == {n}
        assert torch.get_num_threads() == n
    assert set(pools()) == {3}
    assert torch.get_num_threads() == 3


def test_pools_are_as_before_after_an_error(three: None) -> None:
    with pytest.raises(RuntimeError, match="kernel failed"), steady.threads(1):
        raise RuntimeError("kernel failed")
    assert set(pools()) == {3}


def test_set_threads_reaches_what_is_loaded_and_what_comes_later(
    three: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for name in steady.THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    steady.set_threads(2)
    assert [os.environ[name] for name in steady.THREAD_VARIABLES] == ["2", "2", "2"]
    assert set(pools()) == {2}
    assert torch.get_num_threads() == 2


def test_torch_is_not_loaded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with steady.threads(1):
        assert "torch" not in sys.modules


def test_child_of_the_runner_has_the_steady_environment_and_keeps_freed_memory(toy: Any) -> None:
    toy.source("passes").write_text(
        textwrap.dedent(
            """
            import os
            import attrs
            import psutil
            from common import steady

            @attrs.frozen
            class Settings:
                n: int

            def run(settings, ctx):
                wrong = [n for n, v in steady.ENVIRONMENT.items() if os.environ[n] != v]
                ctx.record(None, "wrong", float(len(wrong)), "")
                resident = psutil.Process().memory_info
                before = resident().rss
                block = b"x" * (24 * 2**20)
                del block
                ctx.record(None, "kept_mb", (resident().rss - before) / 2**20, "MB")
            """
        )
    )
    records = run_one(toy.job("passes", {"n": 1})).job.folder.records()
    found = {record.metric: record.value for record in records}
    assert found["wrong"] == 0.0
    # By default glibc maps a block of this size apart and gives it back when it is freed.
    assert found["kept_mb"] > 12.0
