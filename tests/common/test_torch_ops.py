"""Operators: they trace, differentiate and compile, and a wrong registration says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from common import native, torch_ops

SOURCE = """
#include <stdint.h>
#define CUBE(type)                                                            \\
    EXPORT void cube_##type(const type* x, type* out, int64_t n) {            \\
        for (int64_t i = 0; i < n; i++) out[i] = x[i] * x[i] * x[i];          \\
    }
CUBE(float) CUBE(double)
"""


@pytest.fixture(scope="module")
def cube() -> Callable[..., torch.Tensor]:
    """x ** 3 by a native kernel, with its gradient."""
    library = native.build_source("cube", SOURCE)
    kernels = {
        dtype: library.function(f"void cube_{c}(const {c}* x, {c}* out, int64_t n)")
        for dtype, c in ((torch.float32, "float"), (torch.float64, "double"))
    }

    def cpu(x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        kernels[x.dtype](x, out, x.numel())
        return out

    def fake(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    def save(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad

    return torch_ops.register("test_ops::cube", "(Tensor x) -> Tensor", cpu, fake, backward, save)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33])
def test_values(cube: Callable[..., torch.Tensor], n: int) -> None:
    x = torch.linspace(-2, 2, n)
    # Two roundings on either side, in one order or the other.
    torch.testing.assert_close(cube(x), x**3, rtol=4 * 2**-24, atol=0)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.T], ids=["contiguous", "transposed"])
def test_opcheck(
    cube: Callable[..., torch.Tensor],
    make: Callable[[torch.Tensor], torch.Tensor],
    requires_grad: bool,
) -> None:
    x = torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_(requires_grad)
    torch.library.opcheck(cube, (make(x),))


def test_gradcheck(cube: Callable[..., torch.Tensor]) -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(cube, (x,))
    assert torch.autograd.gradgradcheck(cube, (x,))


def test_it_traces_without_breaking_the_graph(cube: Callable[..., torch.Tensor]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return cube(x) + 1

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    x = torch.linspace(-1, 1, 4)
    torch.testing.assert_close(compiled(x), function(x), rtol=0, atol=0)


def test_it_is_the_operator_of_its_name(cube: Callable[..., torch.Tensor]) -> None:
    assert cube is torch.ops.test_ops.cube.default


def test_opcheck_notices_a_fake_of_the_wrong_shape() -> None:
    wrong = torch_ops.register(
        "test_ops::wrong",
        "(Tensor x) -> Tensor",
        lambda x: x.neg(),
        lambda x: x.new_empty(x.numel() + 1),
    )
    with pytest.raises(torch.testing._internal.optests.generate_tests.OpCheckError):
        torch.library.opcheck(wrong, (torch.ones(3),))


def test_an_operator_that_writes_to_its_argument() -> None:
    kernel = native.build_source("one", "EXPORT void one(float* x) { x[0] = 1; }").function(
        "void one(float* x)"
    )
    fill = torch_ops.register("test_ops::fill", "(Tensor(a!) x) -> ()", kernel, lambda x: None)
    x = torch.zeros(1)
    fill(x)
    assert x.item() == 1
    torch.library.opcheck(fill, (torch.zeros(1),))


def nothing(x: torch.Tensor) -> torch.Tensor:
    return x.neg()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cube", "(Tensor x) -> Tensor"), "name must be \"<package>::<operator>\", got 'cube'"),
        (("test_ops::a::b", "(Tensor x) -> Tensor"), "name must be"),
        (("test_ops::c", "c(Tensor x) -> Tensor"), "schema must start with its arguments"),
        (("test_ops::cube", "(Tensor x) -> Tensor"), "operator test_ops::cube is registered"),
    ],
)
def test_malformed_registrations(
    cube: Callable[..., torch.Tensor], arguments: tuple[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        torch_ops.register(*arguments, nothing, nothing)


def test_contradictory_registrations() -> None:
    with pytest.raises(ValueError, match="setup_context saves for a backward, but none"):
        torch_ops.register(
            "test_ops::d", "(Tensor x) -> Tensor", nothing, nothing, setup_context=nothing
        )
    with pytest.raises(ValueError, match="writes to an argument, which autograd cannot follow"):
        torch_ops.register("test_ops::e", "(Tensor(a!) x) -> ()", nothing, nothing, nothing)
    assert not hasattr(torch.ops.test_ops, "e")
