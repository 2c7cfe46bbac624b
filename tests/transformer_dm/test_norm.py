"""Normalisation kernels against plain torch in float64, on every width of vectors."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from transformer_dm import philox
from transformer_dm.kernels import activation, norm
from transformer_dm.kernels.philox import keep_bits
from transformer_dm.reference import masks
from transformer_dm.reference import norm as reference

MODULES = (norm, activation)
EPS = 1e-5
SEED = 0x5EED_0000_0001

# Around a vector (8, 16), a word of bits (32), a group (128), and beyond two groups.
COLUMNS = st.one_of(st.sampled_from([1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 127, 128, 129, 257]),
                    st.integers(1, 300))  # fmt: skip
ROWS = st.one_of(st.sampled_from([0, 1, 63, 64, 65]), st.integers(0, 140))
PROBABILITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
drawn = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", autouse=True)
def compiled(compile_all: Callable[..., None]) -> None:
    compile_all(*MODULES)


class Problem:
    """Random operands of one shape; `absent` says which optional ones to leave out."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, seed: int, absent: int) -> None:
        rng = np.random.default_rng(seed)

        def random(*shape: int) -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(dtype)

        self.x, self.residual, self.dy, self.dy2, self.d_total = (
            random(rows, columns) for _ in range(5)
        )
        self.bias, self.gamma, self.beta = (random(columns) for _ in range(3))
        for i, name in enumerate(("bias", "gamma", "beta", "dy2", "d_total")):
            if absent >> i & 1:
                setattr(self, name, None)

    def forward(self, kernels: object, p: float, **settings: object) -> tuple[Tensor, ...]:
        operands = (self.x, self.bias, self.residual, self.gamma, self.beta)
        if kernels is reference:
            operands = tuple(map(exact, operands))
        return kernels.bdrln_forward(*operands, p, SEED, 1, EPS, **settings)

    def backward(
        self, kernels: object, xhat: Tensor, rstd: Tensor, bits: Tensor, p: float
    ) -> tuple[Tensor, ...]:
        operands = (self.dy, self.dy2, self.d_total, xhat, rstd, self.gamma)
        if kernels is reference:
            operands = tuple(map(exact, operands))
        return kernels.bdrln_backward(*operands, bits, p)


def exact(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.double()


def size(x: Tensor | None) -> Tensor | float:
    return 0.0 if x is None else x.double().abs()


def statistic_roundings(columns: int) -> float:
    """Of a row's sum, whose roundings add up like a random walk, and of the steps around it."""
    return 8 + columns**0.5


@drawn
@given(ROWS, COLUMNS, DTYPES, PROBABILITIES, st.integers(0, 31), st.integers(0, 2**32))
def test_bdrln_is_plain_torch_but_for_rounding(
    build: str, assert_rounded: Callable[..., None],
    rows: int, columns: int, dtype: torch.dtype, p: float, absent: int, seed: int,
) -> None:  # fmt: skip
    problem, k = Problem(rows, columns, dtype, seed, absent), statistic_roundings(columns)
    y, xhat, rstd, bits, total = problem.forward(norm, p, want_sum=True)
    assert (y.dtype, xhat.dtype, total.dtype, rstd.dtype) == (dtype, dtype, dtype, torch.float32)
    wanted = problem.forward(reference, p, want_sum=True)
    terms = size(problem.residual) + philox.scale(p) * (size(problem.x) + size(problem.bias))
    assert_rounded(total, wanted[4], terms, 4)
    # What is lost of a row's elements is scaled up with them.
    lost = wanted[2][:, None] * terms.amax(1, keepdim=True) + size(wanted[1])
    assert_rounded(xhat, wanted[1], lost, k)
    gamma = 1.0 if problem.gamma is None else size(problem.gamma)
    assert_rounded(y, wanted[0], lost * gamma + size(problem.beta), k)
    # d rstd = -rstd^3 / 2 d variance, and |d variance| < 2 deviation d t.
    assert_rounded(rstd, wanted[2], wanted[2] * (1 + lost.amax(1) if rows else 1), k)

    found = problem.backward(norm, xhat, rstd, bits, p)
    assert [x.dtype for x in found] == [dtype, dtype] + [torch.float32] * 3
    wanted = problem.backward(reference, xhat, rstd, bits, p)
    d, h = size(problem.dy) + size(problem.dy2), size(xhat)
    g = d * gamma
    terms = g + g.mean(1, keepdim=True) + h * (g * h).mean(1, keepdim=True)
    terms = size(rstd)[:, None] * terms + size(problem.d_total)
    assert_rounded(found[0], wanted[0], terms, k)
    assert_rounded(found[1], wanted[1], terms * philox.scale(p), k)
    k_rows = 4 + rows**0.5
    assert_rounded(found[2], wanted[2], (d * h).sum(0), k_rows)
    assert_rounded(found[3], wanted[3], d.sum(0), k_rows)
    assert_rounded(found[4], wanted[4], (terms * philox.scale(p)).sum(0), k + k_rows)


@drawn
@given(ROWS, COLUMNS, DTYPES, PROBABILITIES, st.integers(0, 7), st.integers(0, 2**32))
def test_the_parts_are_plain_torch_but_for_rounding(
    build: str, assert_rounded: Callable[..., None],
    rows: int, columns: int, dtype: torch.dtype, p: float, absent: int, seed: int,
) -> None:  # fmt: skip
    """Normalisation alone, dropout and residual alone, and the two halves of the backward."""
    q, k = Problem(rows, columns, dtype, seed, absent), statistic_roundings(columns)
    k_rows = 4 + rows**0.5
    gamma = 1.0 if q.gamma is None else size(q.gamma)
    y, xhat, rstd = norm.layernorm_forward(q.x, q.gamma, q.beta, EPS)
    wanted = reference.layernorm_forward(exact(q.x), exact(q.gamma), exact(q.beta), EPS)
    lost = wanted[2][:, None] * size(q.x).amax(1, keepdim=True) + size(wanted[1])
    assert_rounded(y, wanted[0], lost * gamma + size(q.beta), k)
    assert_rounded(xhat, wanted[1], lost, k)

    d, h = size(q.dy), size(xhat)
    found = norm.layernorm_backward(q.dy, q.d_total, xhat, rstd, q.gamma)
    wanted = reference.layernorm_backward(*map(exact, (q.dy, q.d_total, xhat, rstd, q.gamma)))
    g = d * gamma
    terms = g + g.mean(1, keepdim=True) + h * (g * h).mean(1, keepdim=True)
    terms = size(rstd)[:, None] * terms
    assert_rounded(found[0], wanted[0], terms + size(q.d_total), k)
    assert_rounded(found[1], wanted[1], (d * h).sum(0), k_rows)
    assert_rounded(found[2], wanted[2], d.sum(0), k_rows)

    both = d + size(q.dy2)
    for dy2, d_linear in ((None, None), (q.dy2, q.x)):
        found = norm.backward_scale(q.dy, dy2, xhat, q.gamma, d_linear)
        wanted = reference.backward_scale(*map(exact, (q.dy, dy2, xhat, q.gamma, d_linear)))
        assert_rounded(found[0], wanted[0], both * gamma, 3)
        assert_rounded(found[1], wanted[1], (both * h).sum(0), k_rows)
        assert_rounded(found[2], wanted[2], both.sum(0), k_rows)
        if d_linear is None:
            assert found[3] is wanted[3] is None
        else:
            assert_rounded(found[3], wanted[3], size(d_linear).sum(0), k_rows)

    total, bits = norm.dropout_residual_forward(q.x, q.bias, q.residual, p, SEED, 3)
    wanted = reference.dropout_residual_forward(
        exact(q.x), exact(q.bias), exact(q.residual), p, SEED, 3
    )
    scaled = philox.scale(p) * (size(q.x) + size(q.bias))
    assert_rounded(total, wanted[0], size(q.residual) + scaled, 4)
    found = norm.dropout_residual_backward(q.dy, bits, p)
    wanted = reference.dropout_residual_backward(exact(q.dy), bits, p)
    assert_rounded(found[0], wanted[0], d * philox.scale(p), 2)
    assert_rounded(found[1], wanted[1], d.sum(0) * philox.scale(p), k_rows)

    found = norm.backward_normalize(q.dy, xhat, rstd, bits, p)
    wanted = reference.backward_normalize(exact(q.dy), exact(xhat), exact(rstd), bits, p)
    terms = size(rstd)[:, None] * (d + d.mean(1, keepdim=True) + h * (d * h).mean(1, keepdim=True))
    assert_rounded(found[0], wanted[0], terms, k)
    assert_rounded(found[1], wanted[1], terms * philox.scale(p), k)


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_the_reference_is_torchs_own_layer_norm_and_its_gradients(
    p: float, rng: np.random.Generator
) -> None:
    x, bias, residual, gamma, beta = (
        torch.from_numpy(rng.standard_normal(shape)).requires_grad_()
        for shape in ((4, 3, 40), (40,), (4, 3, 40), (40,), (40,))
    )
    y, xhat, rstd, bits, total = reference.bdrln_forward(
        x, bias, residual, gamma, beta, p, SEED, 1, EPS, want_sum=True
    )
    kept = torch.from_numpy(philox.keep_mask(12, 40, p, SEED, 1)).reshape(4, 3, 40)
    plain = residual + (x + bias) * kept * philox.scale(p)
    torch.testing.assert_close(total, plain)
    expected = torch.nn.functional.layer_norm(plain, (40,), gamma, beta, EPS)
    torch.testing.assert_close(y, expected)
    dy, dy2, d_total = (torch.from_numpy(rng.standard_normal((4, 3, 40))) for _ in range(3))
    loss = (expected * (dy + dy2) + plain * d_total).sum()
    gradients = torch.autograd.grad(loss, (residual, x, gamma, beta, bias))
    with torch.no_grad():
        found = reference.bdrln_backward(dy, dy2, d_total, xhat, rstd, gamma, bits, p)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_gradients_are_those_of_finite_differences(
    build: str, p: float, rng: np.random.Generator
) -> None:
    problem = Problem(70, 200, torch.float32, int(rng.integers(2**32)), absent=0)
    names = ("residual", "x", "gamma", "beta", "bias")

    def loss() -> float:
        y, _, _, _, total = problem.forward(norm, p, want_sum=True)
        weights = problem.dy.double() + problem.dy2.double()
        return float((y.double() * weights + total.double() * problem.d_total.double()).sum())

    _, xhat, rstd, bits, _ = problem.forward(norm, p)
    gradients = problem.backward(norm, xhat, rstd, bits, p)
    for name, gradient in zip(names, gradients, strict=True):
        operand = getattr(problem, name)
        # Not square to the gradient, or the slope would drown in rounding.
        noise = torch.from_numpy(rng.standard_normal(operand.shape, dtype=np.float32))
        direction = gradient / gradient.square().mean().sqrt() + noise
        step, ends = 2e-3, []
        for sign in (1, -1):
            setattr(problem, name, operand + sign * step * direction)
            ends.append(loss())
        setattr(problem, name, operand)
        slope = float((gradient.double() * direction.double()).sum())
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-3), name


def test_variance_keeps_its_digits_far_from_zero(
    build: str, rng: np.random.Generator, assert_rounded: Callable[..., None]
) -> None:
    """As the difference of two mean squares it would lose all of them: 4096^2 is 2^24."""
    x = torch.from_numpy(4096 + rng.standard_normal((5, 257), dtype=np.float32))
    _, xhat, rstd = norm.layernorm_forward(x, None, None, EPS)
    _, wanted, spread = reference.layernorm_forward(x.double(), None, None, EPS)
    # An error of the mean enters the variance squared, so that rstd has all its digits.
    assert_rounded(rstd, spread, spread, statistic_roundings(257))
    assert_rounded(xhat, wanted, spread[:, None] * 4096, statistic_roundings(257))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(
    build: str, dtype: torch.dtype, with_threads: Callable[[int], None]
) -> None:
    problem, results = Problem(301, 200, dtype, 5, absent=0), []
    for n in (1, 2, 3):
        with_threads(n)
        forward = problem.forward(norm, 0.1, want_sum=True)
        backward = problem.backward(norm, *forward[1:4], 0.1)
        halves = norm.backward_scale(problem.dy, problem.dy2, forward[1], problem.gamma, problem.x)
        results.append([*forward, *backward, *halves])
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_use_the_mask_of_the_definition(
    build: str, dtype: torch.dtype
) -> None:
    rows, columns, p = 67, 200, 0.3
    ones, zeros = torch.ones(rows, columns, dtype=dtype), torch.zeros(rows, columns, dtype=dtype)
    mask = torch.from_numpy(philox.keep_mask(rows, columns, p, SEED, 1))
    *_, bits, total = norm.bdrln_forward(
        ones, None, zeros, None, None, p, SEED, 1, EPS, want_sum=True
    )
    assert bits.equal(keep_bits(rows, columns, p, SEED, 1))
    assert bits.equal(masks.draw_bits(rows, columns, p, SEED, 1))
    assert masks.unpack(bits, columns).equal(mask)
    assert (total != 0).equal(mask)
    zero_rows = torch.zeros(rows)
    d_residual, dx, *_ = norm.bdrln_backward(zeros, None, ones, zeros, zero_rows, None, bits, p)
    assert d_residual.equal(ones)
    assert (dx != 0).equal(mask)
    dx, _ = norm.dropout_residual_backward(ones, bits, p)
    assert (dx != 0).equal(mask)


def test_without_dropout_there_is_one_gradient_and_no_mask(build: str) -> None:
    q = Problem(3, 20, torch.float32, 1, absent=0)
    _, xhat, rstd, bits, total = q.forward(norm, 5e-6)  # rounds to no dropout at all
    assert bits.shape == (0,)
    assert total is None
    d_residual, dx, *_ = q.backward(norm, xhat, rstd, bits, 5e-6)
    assert dx is d_residual
    assert norm.dropout_residual_backward(q.dy, bits, 0.0)[0] is q.dy
    d_residual, dx = norm.backward_normalize(q.dy, xhat, rstd, bits, 0.0)
    assert dx is d_residual


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_spoils_its_row_and_no_other_even_where_it_is_dropped(
    build: str, dtype: torch.dtype
) -> None:
    p = 0.5
    kept = philox.keep_mask(4, 50, p, SEED, 1)
    for row, column in ((1, int(np.argmax(kept[1]))), (2, int(np.argmin(kept[2])))):
        q = Problem(4, 50, dtype, 3, absent=0)
        q.x[row, column] = torch.nan
        y, xhat, rstd, bits, total = q.forward(norm, p, want_sum=True)
        spoilt = torch.arange(4) == row
        assert y.isnan().all(1).equal(spoilt)
        assert y.isnan().any(1).equal(spoilt)
        assert rstd.isnan().equal(spoilt)
        assert total.isnan().sum() == 1
        d_residual, dx, d_gamma, d_beta, d_bias = q.backward(norm, xhat, rstd, bits, p)
        assert d_residual.isnan().any(1).equal(spoilt)
        assert dx.isnan().all(1).equal(spoilt)
        assert d_gamma.isnan().all()
        assert d_bias.isnan().all()
        assert not d_beta.isnan().any()


def test_tensors_of_three_dimensions_are_rows_too(build: str) -> None:
    q = Problem(6, 20, torch.float32, 1, absent=0)
    flat = q.forward(norm, 0.1)
    q.x, q.residual = q.x.view(2, 3, 20), q.residual.view(2, 3, 20)
    deep = q.forward(norm, 0.1)
    assert deep[0].shape == (2, 3, 20)
    assert deep[0].view(6, 20).equal(flat[0])
    assert deep[2].equal(flat[2])


def test_operands_that_do_not_fit_are_named() -> None:
    q = Problem(3, 20, torch.float32, 1, absent=0)
    y, xhat, rstd, bits, _ = q.forward(norm, 0.1)
    with pytest.raises(ValueError, match=r"x must have shape \(3, 20\), got \(3, 19\)"):
        norm.bdrln_forward(q.x[:, :19], None, q.residual, None, None, 0.1, 0, 1, EPS)
    with pytest.raises(ValueError, match=r"gamma must have shape \(20,\), got \(19,\)"):
        norm.layernorm_forward(q.x, q.gamma[:19], None, EPS)
    with pytest.raises(ValueError, match=r"rstd must have shape \(3,\), got \(2,\)"):
        norm.bdrln_backward(q.dy, None, None, xhat, rstd[:2], None, bits, 0.1)
    with pytest.raises(ValueError, match=r"p=0.1 must have shape \(3, 4\), got \(0,\)"):
        norm.bdrln_backward(q.dy, None, None, xhat, rstd, None, bits[:0, 0], 0.1)
    with pytest.raises(ValueError, match=r"at least one element, got \(3, 0\)"):
        norm.layernorm_forward(q.x[:, :0].contiguous(), None, None, EPS)
    with pytest.raises(TypeError, match=r"float32 and bfloat16, got torch\.float64"):
        norm.layernorm_forward(q.x.double(), None, None, EPS)
    with pytest.raises(TypeError, match=r"'gamma' must have dtype float32, got torch\.bfloat16"):
        norm.layernorm_forward(q.x, q.gamma.bfloat16(), None, EPS)
    with pytest.raises(ValueError, match="'residual' must be contiguous"):
        norm.layernorm_forward(y.t(), None, None, EPS)
