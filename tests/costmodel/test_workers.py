"""One function for many arguments, here or on Ray."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from common.extras import MissingExtra
from costmodel import dataset, workers


def double(n: int) -> int:
    return 2 * n


def test_joblib_keeps_the_order() -> None:
    assert workers.each(double, [3, 1, 2], jobs=1) == [6, 2, 4]


def test_without_ray_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ray is needed .* pip install .*\[ray\]"):
        workers.each(double, [1], jobs=1, backend="ray")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="joblib or ray, got 'dask'"):
        workers.each(double, [1], jobs=1, backend="dask")  # type: ignore[arg-type]


class Ray:
    """As much of Ray as is used: remote functions give tickets, `get` takes lists of them."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []
        self.asked = 0

    def is_initialized(self) -> bool:
        return bool(self.started)

    def init(self, **words: object) -> None:
        self.started.append(words)

    def remote(self, function):  # type: ignore[no-untyped-def]
        assert type(function) is type(double), "Ray takes plain functions only"

        def submit(argument):  # type: ignore[no-untyped-def]
            self.asked += 1
            return SimpleNamespace(value=function(argument))

        return SimpleNamespace(remote=submit)

    def get(self, tickets):  # type: ignore[no-untyped-def]
        return [ticket.value for ticket in tickets]


def test_ray_is_started_once_and_given_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    for _ in range(2):
        assert workers.each(double, range(4), jobs=3, backend="ray") == [0, 2, 4, 6]
    assert [words["num_cpus"] for words in ray.started] == [3]


def test_programs_of_a_set_are_the_same_by_either(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    monkeypatch.setattr(dataset, "compile_many", lambda programs, jobs: [None] * len(programs))
    here, there = (
        dataset._prepare(0, range(2), 2, "tiny", "paper", 1, backend).drawn
        for backend in ("joblib", "ray")
    )
    assert here == there
    assert ray.asked == 2


def test_real_ray_gives_the_same() -> None:
    pytest.importorskip("ray", reason="ray comes with the extra of that name")
    assert workers.each(double, [3, 1], jobs=1, backend="ray") == [6, 2]
