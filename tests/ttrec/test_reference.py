"""The oracle against brute force: one einsum over all cores, and a loop over rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttrec import reference
from ttrec.shapes import TTShape


def random_cores(p, q, ranks, seed=0):
    """float64 cores, so that comparisons may be tight."""
    generator = torch.Generator().manual_seed(seed)
    r = (1, *ranks, 1)
    return [
        torch.randn(p[k], r[k], q[k], r[k + 1], generator=generator, dtype=torch.float64)
        for k in range(len(p))
    ]


def brute_force_table(cores):
    """W[i, j] by a loop over rows, columns digit by digit."""
    p, q = [c.shape[0] for c in cores], [c.shape[2] for c in cores]
    n, dim = torch.Size(p).numel(), torch.Size(q).numel()
    table = torch.empty(n, dim, dtype=cores[0].dtype)
    for i in range(n):
        for j in range(dim):
            product, row, column = torch.ones(1, 1, dtype=cores[0].dtype), i, j
            for core in reversed(cores):
                row, i_k = divmod(row, core.shape[0])
                column, j_k = divmod(column, core.shape[2])
                product = core[i_k, :, j_k, :] @ product
            table[i, j] = product[0, 0]
    return table


CASES = [
    ((2, 3), (3, 2), (4,)),
    ((3, 2, 2), (2, 1, 3), (2, 3)),
    ((1, 4, 2), (1, 1, 5), (1, 2)),
    ((2, 2, 3, 2), (2, 1, 2, 1), (2, 3, 2)),
    ((2, 1, 2, 2, 2), (1, 2, 1, 2, 1), (1, 2, 3, 2)),
]


@pytest.mark.parametrize(("p", "q", "ranks"), CASES)
def test_rows_and_full_equal_brute_force(p, q, ranks):
    cores = random_cores(p, q, ranks)
    table = brute_force_table(cores)
    torch.testing.assert_close(reference.full(cores), table)
    torch.testing.assert_close(reference.rows(cores, torch.arange(len(table))), table)


def test_three_cores_equal_one_einsum():
    cores = random_cores((3, 4, 2), (2, 3, 4), (3, 2))
    table = torch.einsum("xaib,ybjc,zckd->xyzijk", *cores).reshape(24, 24)
    torch.testing.assert_close(reference.full(cores), table)


def test_full_leaves_padding_rows_out():
    cores = random_cores((2, 3), (2, 2), (3,))
    torch.testing.assert_close(reference.full(cores, 5), brute_force_table(cores)[:5])


@given(st.integers(0, 10**9))
def test_digits_are_mixed_radix(row):
    shape = TTShape(10**9 + 1, 2, (1001, 1000, 1001), (1, 1, 2), (1, 1))
    found = [int(t[0]) for t in reference.digits(torch.tensor([row]), shape.p)]
    assert tuple(found) == shape.digits(row)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 4), max_size=6),
    mode=st.sampled_from(["sum", "mean"]),
    is_weighted=st.booleans(),
)
def test_bag_equals_torch_on_the_expanded_table(lengths, mode, is_weighted):
    cores = random_cores((3, 2, 2), (2, 1, 3), (2, 3))
    index = torch.randint(0, 12, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    weights = torch.rand(len(index), dtype=torch.float64) if is_weighted and mode == "sum" else None
    expected = torch.nn.functional.embedding_bag(
        index,
        brute_force_table(cores),
        bounds,
        mode=mode,
        per_sample_weights=weights,
        include_last_offset=True,
    )
    torch.testing.assert_close(reference.bag(cores, index, bounds, mode, weights), expected)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bag_gradients_pass_gradcheck(mode):
    cores = [c.requires_grad_() for c in random_cores((3, 2, 2), (2, 1, 3), (2, 3))]
    index, bounds = torch.tensor([0, 11, 5, 5, 2]), torch.tensor([0, 2, 2, 5])
    weights = torch.rand(5, dtype=torch.float64, requires_grad=True) if mode == "sum" else None
    inputs = [*cores, weights] if weights is not None else cores

    def pooled(*tensors):
        return reference.bag(tensors[:3], index, bounds, mode, *tensors[3:])

    assert torch.autograd.gradcheck(pooled, inputs)


def test_rows_name_the_first_index_out_of_range():
    cores = random_cores((2, 3), (2, 2), (3,))
    with pytest.raises(IndexError, match=r"0\.\.5, got 6 at position 1"):
        reference.rows(cores, torch.tensor([5, 6, -1]))


INDEX, BOUNDS = torch.tensor([1, 3, 3, 8, 1, 3, 0, 0]), torch.tensor([0, 2, 2, 5, 6, 8])


def core_gradients(cores, d_table):
    """Gradients of the cores from one of the whole table."""
    leaves = [c.clone().requires_grad_() for c in cores]
    reference.full(leaves).backward(d_table)
    return [leaf.grad for leaf in leaves]


def small_cores():
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 1, 2, 2), (3, 2, 2, 1))
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
def test_modes_and_padding_are_those_of_torch(mode, padding):
    cores = small_cores()
    ours = [c.clone().requires_grad_() for c in cores]
    table = reference.full(cores).requires_grad_()
    out = reference.bag(ours, INDEX, BOUNDS, mode, None, padding)
    wanted = torch.nn.functional.embedding_bag(
        INDEX, table, BOUNDS, mode=mode, include_last_offset=True, padding_idx=padding
    )
    torch.testing.assert_close(out, wanted)
    d_out = torch.randn(5, 4, dtype=torch.float64)
    out.backward(d_out)
    wanted.backward(d_out)
    for a, b in zip(ours, core_gradients(cores, table.grad), strict=True):
        torch.testing.assert_close(a.grad, b)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 3])
def test_gradients_are_divided_by_frequency_as_in_nn_embedding(mode, padding):
    # Against functional.embedding: on the CPU functional.embedding_bag of torch 2.13 looks the
    # count of another row up (row 8, which occurs once here, gets half its gradient).
    cores = small_cores()
    ours = [c.clone().requires_grad_() for c in cores]
    table = reference.full(cores).requires_grad_()
    d_out = torch.randn(5, 4, dtype=torch.float64)
    reference.bag(ours, INDEX, BOUNDS, mode, None, padding, True).backward(d_out)
    is_there = torch.ones(8) if padding is None else (INDEX.ne(padding)).double()
    owner = torch.repeat_interleave(torch.arange(5), torch.diff(BOUNDS))
    rows = torch.nn.functional.embedding(INDEX, table, padding, scale_grad_by_freq=True)
    share = is_there.double()
    if mode == "mean":
        share = share / torch.zeros(5).double().index_add(0, owner, share).clamp(min=1)[owner]
    rows.backward(d_out[owner] * share[:, None])
    for a, b in zip(ours, core_gradients(cores, table.grad), strict=True):
        torch.testing.assert_close(a.grad, b)
