"""TTEmbeddingBagCollection against its tables one by one."""

import pytest
import torch

from ttrec.collection import TableConfig, TTEmbeddingBagCollection
from ttrec.optim import SGD, Adagrad

CONFIGS = (
    TableConfig("a", 500, 16, rank=8),
    TableConfig("b", 90, 12, rank=3, mode="mean", padding_idx=2),
    TableConfig("c", 1000, 8, rank=4, d=4, mode="max"),
    TableConfig("d", 60, 8, rank=4, d=2),
)
BATCH = 7


def make_batch(seed=0, dtype=torch.int64):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (len(CONFIGS) * BATCH,), generator=generator)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    parts = [
        torch.randint(0, c.num_embeddings, (int(lengths[t * BATCH : (t + 1) * BATCH].sum()),),
                      generator=generator)
        for t, c in enumerate(CONFIGS)
    ]  # fmt: skip
    return torch.cat(parts).to(dtype), offsets.to(dtype)


def twins(**options):
    torch.manual_seed(0)
    one = TTEmbeddingBagCollection(CONFIGS, **options)
    other = TTEmbeddingBagCollection(CONFIGS, **options)
    other.load_state_dict(one.state_dict())
    return one, other


def one_by_one(collection, indices, offsets):
    outs = []
    for t, bag in enumerate(collection.tables.values()):
        part = offsets[t * BATCH : (t + 1) * BATCH + 1]
        outs.append(bag(indices[part[0] : part[-1]], part - part[0]))
    return outs


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("optimizer", [None, SGD(0.1), Adagrad(0.1)])
def test_one_call_is_bitwise_the_tables_one_by_one(optimizer, dtype):
    together, apart = twins(optimizer=optimizer, target_var=1.0)
    for seed in range(3):
        indices, offsets = make_batch(seed, dtype)
        outs, wanted = together(indices, offsets), one_by_one(apart, indices, offsets)
        for found, out in zip(outs, wanted, strict=True):
            assert torch.equal(found, out)
        sum(out.square().sum() for out in outs).backward()
        sum(out.square().sum() for out in wanted).backward()
        for (name, a), b in zip(
            together.state_dict(keep_vars=True).items(),
            apart.state_dict(keep_vars=True).values(),
            strict=True,
        ):
            assert torch.equal(a, b), name
            assert optimizer is not None or torch.equal(a.grad, b.grad), name


def test_weights_have_their_gradient():
    configs = [TableConfig("a", 500, 16, rank=8), TableConfig("b", 90, 12, rank=3)]
    collection = TTEmbeddingBagCollection(configs, target_var=1.0)
    indices, offsets = torch.tensor([1, 499, 7, 7, 89]), torch.tensor([0, 2, 2, 3, 5])
    weights = torch.rand(5).requires_grad_()
    outs = collection(indices, offsets, per_sample_weights=weights)
    sum(out.square().sum() for out in outs).backward()
    again = weights.detach().clone().requires_grad_()
    wanted = [
        bag(indices[low:high], offsets[2 * t : 2 * t + 3] - low, again[low:high])
        for t, (bag, low, high) in enumerate(
            zip(collection.tables.values(), (0, 2), (2, 5), strict=True)
        )
    ]
    sum(out.square().sum() for out in wanted).backward()
    assert torch.equal(weights.grad, again.grad)


def test_bad_index_names_its_table_and_changes_nothing():
    collection, before = twins(optimizer=SGD(0.1))
    indices, offsets = make_batch()
    first_of_b = int(offsets[BATCH])
    indices[first_of_b + 1] = 90
    with pytest.raises(IndexError, match=r"table 'b' must lie in 0\.\.89, got 90 at position 1"):
        collection(indices, offsets)
    for a, b in zip(collection.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_second_backward_and_stale_backward_are_refused():
    collection, _ = twins(optimizer=SGD(0.1))
    batch = make_batch()
    first, second = (sum(out.sum() for out in collection(*batch)) for _ in range(2))
    second.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already applied"):
        second.backward()
    with pytest.raises(RuntimeError, match=r"backward of forward 2 has stepped .* forward 1"):
        first.backward()


def test_unused_tables_get_zero_gradients():
    collection, _ = twins()
    outs = collection(*make_batch())
    outs[0].sum().backward()
    grads = [core.grad for core in collection.tables["b"].cores]
    assert all(grad is None or int(grad.count_nonzero()) == 0 for grad in grads)


def test_torch_backend_gives_the_same():
    native, _ = twins(target_var=1.0)
    plain = TTEmbeddingBagCollection(CONFIGS, backend="torch")
    plain.load_state_dict(native.state_dict())
    for a, b in zip(native(*make_batch()), plain(*make_batch()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"offsets": torch.zeros(4, dtype=torch.int64)}, ValueError, r"tables \* batch \+ 1"),
        ({"table_splits": [0, 1, 2, 3, 4]}, ValueError, "must agree with offsets"),
        ({"indices": torch.zeros(3)}, TypeError, "indices must be int32 or int64"),
        ({"per_sample_weights": torch.ones(1)}, NotImplementedError, "in every table"),
    ],
)
def test_bad_arguments_are_named(change, kind, words):
    collection, _ = twins()
    indices, offsets = make_batch()
    with pytest.raises(kind, match=words):
        collection(**{"indices": indices, "offsets": offsets, **change})


def test_table_names_must_differ():
    with pytest.raises(ValueError, match="all different"):
        TTEmbeddingBagCollection([TableConfig("a", 10, 8, rank=2)] * 2)
