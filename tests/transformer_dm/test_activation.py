"""Element-wise kernels against plain torch in float64, on every width of vectors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from transformer_dm import philox
from transformer_dm.kernels import activation as kernels
from transformer_dm.kernels.philox import keep_bits
from transformer_dm.reference import activation as reference
from transformer_dm.reference import masks

MODULES = (kernels,)
SEED = -0x5EED
COLUMNS = st.one_of(st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 128, 129, 257]),
                    st.integers(1, 300))  # fmt: skip
ROWS = st.one_of(st.sampled_from([0, 1, 63, 64, 65]), st.integers(0, 140))
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
DTYPES = [torch.float32, torch.bfloat16]
drawn = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", autouse=True)
def compiled(compile_all: Callable[..., None]) -> None:
    compile_all(*MODULES)


def random(rng: np.random.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.from_numpy(3 * rng.standard_normal(shape, dtype=np.float32)).to(dtype)


def exact(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.double()


def size(x: Tensor | None) -> Tensor | float:
    return 0.0 if x is None else x.double().abs()


# GELU is 4e-7 max(1, |x|) off at most, which is 7 units of 2^-24, and its slope 1.13 at most; the
# derivative is made of an erf of 1.5 units and a density of exp, each below 1, whose argument x^2/2
# has a rounding of its own: |x|^3/2 exp(-x^2/2) < 0.6 units more.
ROUNDINGS = {None: 2, "relu": 2, "gelu": 10}


@drawn
@given(
    ROWS, COLUMNS, st.sampled_from(DTYPES), PROBABILITIES,
    st.sampled_from([None, "relu", "gelu"]), st.integers(0, 3), st.integers(0, 2**32),
)  # fmt: skip
def test_forward_and_backward_are_plain_torch_but_for_rounding(
    build: str, assert_rounded: Callable[..., None],
    rows: int, columns: int, dtype: torch.dtype, p: float, name: str | None, absent: int, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x, d, residual = (random(rng, dtype, rows, columns) for _ in range(3))
    bias = None if absent & 1 else random(rng, dtype, columns)
    residual = None if absent & 2 else residual
    k, scale = ROUNDINGS[name], philox.scale(p)
    out, bits = kernels.elementwise_forward(x, bias, residual, name, p, SEED, 2)
    wanted, _ = reference.elementwise_forward(
        exact(x), exact(bias), exact(residual), name, p, SEED, 2
    )
    terms = scale * (1 + size(x) + size(bias)) * (p < 1)
    assert_rounded(out, wanted, terms + size(residual), k + 2)

    found = kernels.elementwise_backward(d, x, bias, bits, name, p)
    assert found[0].dtype is dtype
    assert found[1].dtype is torch.float32
    # A sum that rounds to the other side of 0, or to 0, has ReLU's other slope. It cannot: x + bias
    # of two floats has the sign of the exact sum.
    wanted = reference.elementwise_backward(exact(d), exact(x), exact(bias), bits, name, p)
    terms = scale * size(d) * (2 + size(x) + size(bias))
    assert_rounded(found[0], wanted[0], terms, k)
    assert_rounded(found[1], wanted[1], terms.sum(0), k + rows**0.5)

    again = d.clone()
    found_in_place = kernels.elementwise_backward(again, x, bias, bits, name, p, in_place=True)
    assert found_in_place[0] is again
    assert again.equal(found[0])
    assert found_in_place[1].equal(found[1])


@drawn
@given(ROWS, COLUMNS, st.sampled_from(DTYPES), PROBABILITIES, st.integers(0, 2**32))
def test_single_operators_are_plain_torch_but_for_rounding(
    build: str, assert_rounded: Callable[..., None],
    rows: int, columns: int, dtype: torch.dtype, p: float, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x, y = (random(rng, dtype, rows, columns) for _ in range(2))
    bias = random(rng, dtype, columns)
    assert_rounded(kernels.residual_add(x, y), exact(x) + exact(y), size(x) + size(y), 1)
    assert_rounded(kernels.bias_forward(x, bias), exact(x) + exact(bias), size(x) + size(bias), 1)
    assert_rounded(kernels.bias_gradient(x), exact(x).sum(0), size(x).sum(0), 1 + rows**0.5)
    out, bits = kernels.dropout_forward(x, p, SEED, 0)
    kept = torch.from_numpy(philox.keep_mask(rows, columns, p, SEED, 0))
    wanted = exact(x) * kept * philox.scale(p)
    assert_rounded(out, wanted, size(wanted), 2)
    assert_rounded(kernels.dropout_backward(x, bits, p), wanted, size(wanted), 2)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_the_reference_is_torchs_own_activation_and_its_gradient(
    name: str, rng: np.random.Generator
) -> None:
    h, bias, da = (torch.from_numpy(rng.standard_normal(s)) for s in ((9, 50), (50,), (9, 50)))
    h.requires_grad_(), bias.requires_grad_()
    out, bits = reference.activation_forward(h, bias, name, 0.3, SEED, 2)
    kept = torch.from_numpy(philox.keep_mask(9, 50, 0.3, SEED, 2))
    plain = getattr(torch.nn.functional, name)(h + bias) * kept * philox.scale(0.3)
    torch.testing.assert_close(out, plain)
    gradients = torch.autograd.grad(plain, (h, bias), da)
    with torch.no_grad():
        found = reference.activation_backward(da, h, bias, bits, name, 0.3)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_gradients_are_those_of_finite_differences(
    build: str, name: str, p: float, rng: np.random.Generator
) -> None:
    h, da = (random(rng, torch.float32, 70, 200) for _ in range(2))
    bias = random(rng, torch.float32, 200)
    if name == "relu":  # away from its kink
        h = torch.where((h + bias).abs() < 0.2, h + 0.5, h)

    def loss(h: Tensor, bias: Tensor) -> float:
        out, _ = kernels.activation_forward(h, bias, name, p, SEED, 2)
        return float((out.double() * da.double()).sum())

    _, bits = kernels.activation_forward(h, bias, name, p, SEED, 2)
    dh, d_bias = kernels.activation_backward(da, h, bias, bits, name, p)
    for which, gradient in enumerate((dh, d_bias)):
        # Not square to the gradient, or the slope would drown in rounding.
        noise = torch.from_numpy(rng.standard_normal(gradient.shape, dtype=np.float32))
        direction = gradient / gradient.square().mean().sqrt() + noise
        step, ends = 2e-3, []
        for sign in (1, -1):
            operands = [h, bias]
            operands[which] = operands[which] + sign * step * direction
            ends.append(loss(*operands))
        slope = float((gradient.double() * direction.double()).sum())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-3), which


def test_gelu_over_the_whole_range(build: str, assert_rounded: Callable[..., None]) -> None:
    x = torch.cat([torch.linspace(-16, 16, 2**16), torch.tensor([-1e30, 1e30, -0.0, 1e-40, 1e-30])])
    x, ones = x[None], torch.ones(1, len(x))
    none = torch.empty(0, dtype=torch.int32)
    out, _ = kernels.activation_forward(x, None, "gelu", 0.0, 0, 0)
    slope, _ = kernels.activation_backward(ones, x, None, none, "gelu", 0.0)
    wanted, _ = reference.activation_forward(x.double(), None, "gelu", 0.0, 0, 0)
    wanted_slope, _ = reference.activation_backward(
        ones.double(), x.double(), None, none, "gelu", 0.0
    )
    assert_rounded(out, wanted, x.abs().clamp(1), 4e-7 * 2**24)
    assert_rounded(slope, wanted_slope, 1.0, 4e-7 * 2**24)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_nan_and_infinity_go_through(build: str, dtype: torch.dtype, name: str) -> None:
    nan, inf = torch.nan, torch.inf
    x = torch.tensor([[nan, inf, -inf, 1.0] * 5], dtype=dtype)
    ones, none = torch.ones_like(x), torch.empty(0, dtype=torch.int32)
    out, _ = kernels.activation_forward(x, None, name, 0.0, 0, 0)
    slope, _ = kernels.activation_backward(ones, x, None, none, name, 0.0)
    assert out.isnan().equal(x.isnan())
    assert (out[0, 1::4] == inf).all()
    assert (out[0, 2::4] == 0).all()
    # The slope of GELU is within the error it has everywhere; what it ends at is not forced.
    assert ((slope[0, 1::4] - 1).abs() < 4e-7).all()
    assert (slope[0, 2::4].abs() < 4e-7).all()
    # As torch has it: ReLU's gradient asks whether x <= 0, which a NaN is not.
    leaf = x.clone().requires_grad_()
    getattr(torch.nn.functional, name)(leaf).backward(ones)
    assert slope[0, 0::4].isnan().equal(leaf.grad[0, 0::4].isnan())
    # A NaN of the gradient stays, but for ReLU's other side; one that is dropped stays too.
    kernel_slope, _ = kernels.activation_backward(ones * nan, ones, None, none, name, 0.0)
    assert kernel_slope.isnan().all()
    dropped, bits = kernels.activation_forward(ones * nan, None, name, 0.5, SEED, 0)
    assert dropped.isnan().all()
    assert not masks.unpack(bits, 20).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(
    build: str, dtype: torch.dtype, with_threads: Callable[[int], None], rng: np.random.Generator
) -> None:
    h, da = (random(rng, dtype, 301, 200) for _ in range(2))
    bias, results = random(rng, dtype, 200), []
    for n in (1, 2, 3):
        with_threads(n)
        out, bits = kernels.activation_forward(h, bias, "gelu", 0.1, SEED, 2)
        backward = kernels.activation_backward(da, h, bias, bits, "gelu", 0.1)
        results.append([out, bits, *backward, kernels.residual_add(h, da)])
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward_use_the_mask_of_the_definition(
    build: str, dtype: torch.dtype
) -> None:
    rows, columns, p = 67, 200, 0.3
    ones = torch.ones(rows, columns, dtype=dtype)
    mask = torch.from_numpy(philox.keep_mask(rows, columns, p, SEED, 2))
    out, bits = kernels.activation_forward(ones, None, "relu", p, SEED, 2)
    assert bits.equal(keep_bits(rows, columns, p, SEED, 2))
    assert (out != 0).equal(mask)
    dh, _ = kernels.activation_backward(ones, ones, None, bits, "relu", p)
    assert (dh != 0).equal(mask)
    assert dh.equal(out)


def test_no_mask_is_made_where_nothing_is_dropped(build: str) -> None:
    _, bits = kernels.activation_forward(torch.ones(2, 3), None, "relu", 7e-6, SEED, 2)
    assert bits.shape == (0,)


def test_operands_that_do_not_fit_are_named() -> None:
    x, none = torch.ones(3, 20), torch.empty(0, dtype=torch.int32)
    with pytest.raises(ValueError, match="activation must be relu or gelu, got 'tanh'"):
        kernels.activation_forward(x, None, "tanh", 0.0, 0, 0)
    with pytest.raises(ValueError, match="activation must be relu or gelu, got None"):
        kernels.activation_backward(x, x, None, none, None, 0.0)
    with pytest.raises(ValueError, match=r"h must have shape \(3, 20\), got \(2, 20\)"):
        kernels.activation_backward(x, x[:2], None, none, "relu", 0.0)
    with pytest.raises(ValueError, match=r"bias must have shape \(20,\), got \(3,\)"):
        kernels.bias_forward(x, x[:, 0])
    with pytest.raises(ValueError, match=r"y must have shape \(3, 20\), got \(2, 20\)"):
        kernels.residual_add(x, x[:2])
    with pytest.raises(ValueError, match=r"bits of 3 rows of 20 with p=0.5"):
        kernels.dropout_backward(x, none, 0.5)
    with pytest.raises(TypeError, match=r"got torch\.float16"):
        kernels.bias_gradient(x.half())
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        kernels.dropout_forward(x, 2.0, 0, 0)
