"""Training on several ranks, with a stock all-reduce or through the emulated switches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from panama import hook, lessons
from panama.workers import Duties

if TYPE_CHECKING:
    import torch

MODELS = ("mlp", "cnn")
#: How gradients are averaged: DistributedDataParallel's own all-reduce, or a format of the hook.
WAYS = ("stock", "fp32", "bf16", "int32")


def losses(
    rank: int, way: str, model: str, pictures: str, steps: int, batch: int, rate: float, seed: int
) -> list[float]:
    """Train from the start on this rank's own pictures; the loss of each step, before it.

    way: of WAYS;  model: of MODELS;  pictures: of lessons.NAMES
    batch: pictures of a rank in a step;  rate: of stochastic gradient descent, momentum 0.9
    """
    import torch

    torch.manual_seed(seed)
    wrapped = _wrapped(_model(model), way)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=rate, momentum=0.9)
    x, wanted = lessons.draw(pictures, steps * batch, seed=1000 * seed + rank)
    seen = []
    for step in range(steps):
        now = slice(step * batch, (step + 1) * batch)
        loss = torch.nn.functional.cross_entropy(wrapped(x[now]), wanted[now])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


def make_lessons(rank: int, ranks: int) -> Duties:
    """Duties of workers that train: losses, without the rank."""
    return {"losses": lambda *args: losses(rank, *args)}


def make_steps(rank: int, ranks: int, width: int, batch: int, ways: list[str]) -> Duties:
    """Duties of workers of which only the time of a step counts: one for each way.

    Each has a model of its own with about 5/2 width**2 parameters; all start from the same
    numbers. A step gives some of the averaged gradient.
    """
    import torch

    def stepper(way: str) -> Callable[[], Any]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(width // 2, width), torch.nn.ReLU(),
            torch.nn.Linear(width, width), torch.nn.ReLU(),
            torch.nn.Linear(width, width), torch.nn.ReLU(),
            torch.nn.Linear(width, 10),
        )  # fmt: skip
        wrapped = _wrapped(net, way)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
        x = torch.randn(batch, width // 2, generator=torch.Generator().manual_seed(rank))
        wanted = torch.arange(batch) % 10

        def step() -> Any:
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(wrapped(x), wanted))
            optimizer.step()
            first = next(wrapped.parameters()).grad
            assert first is not None
            return first[0, :64].numpy().copy()

        return step

    return {way: stepper(way) for way in ways}


def parameters(width: int) -> int:
    """Of the model of make_steps."""
    return width * (width // 2 + 1) + 2 * width * (width + 1) + 10 * (width + 1)


def _wrapped(net: torch.nn.Module, way: str) -> torch.nn.parallel.DistributedDataParallel:
    from torch.nn.parallel import DistributedDataParallel

    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    wrapped = DistributedDataParallel(net)
    if way != "stock":
        hook.register(wrapped, fmt=cast("hook.Format", way))
    return wrapped


def _model(name: str) -> torch.nn.Module:
    from torch import nn

    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(lessons.SIDE**2, 64), nn.Tanh(), nn.Linear(64, lessons.CLASSES)
        )
    if name == "cnn":
        left = (lessons.SIDE - 2 - 1) // 2  # of the side after the two convolutions
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * left**2, lessons.CLASSES),
        )  # fmt: skip
    raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
