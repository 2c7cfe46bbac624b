"""The nine models through the NumPy interpreter equal a recursive float64 oracle."""

import numpy as np
import oracle
import pytest
import torch

from cortex import models, ra, weights
from cortex.errors import ModelError
from cortex.reference.recursive import evaluate

VOCAB, HIDDEN = 11, 6
BINARY = ("perfect", "random_trees", "chain", "single_leaf", "sst_like")
ANY = (*BINARY, "variable")
CASES = [
    *(("TreeFC", {}, shape) for shape in BINARY),
    *(("TreeRNN", {}, shape) for shape in BINARY),
    *(("TreeGRU", {"arity": None}, shape) for shape in ANY),
    *(("TreeGRU", {"words": "nodes"}, shape) for shape in BINARY),
    ("TreeGRU", {"variant": "cavs"}, "random_trees"),
    *(("SimpleTreeGRU", {}, shape) for shape in BINARY),
    ("SimpleTreeGRU", {"arity": None, "words": "nodes"}, "variable"),
    *(("TreeLSTM", {}, shape) for shape in BINARY),
    *(("TreeLSTM", {"arity": None, "words": "nodes"}, shape) for shape in ANY),
    *(("NaryTreeLSTM", {}, shape) for shape in BINARY),
    *(("MVRNN", {}, shape) for shape in BINARY),
    ("MVRNN", {"rank": 2}, "random_trees"),
    *(("DAGRNN", {}, shape) for shape in (*ANY, "grid", "sequences")),
    *(("LSTM", {}, shape) for shape in ("sequences", "single_leaf")),
    *(("GRU", {}, shape) for shape in ("sequences", "single_leaf")),
]


def check(name, options, data, dtype="float64", tolerance=1e-12):
    vocab = options.pop("vocab", VOCAB)
    traced = ra.trace(getattr(models, name)(HIDDEN, vocab, **options))
    given = weights.seeded(traced, seed=3)
    keep = {k: v for k, v in options.items() if k in ("words", "variant", "arity")}
    wanted = oracle.Oracle(name, given, data, **keep)()
    found = evaluate(traced, data, given, dtype)
    assert found.keys() == wanted.keys()
    for state in found:
        assert found[state].dtype == dtype
        np.testing.assert_allclose(found[state], wanted[state], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
def test_reference_equals_the_oracle(rng, name, options, shape):
    check(name, dict(options), getattr(oracle, shape)(rng, VOCAB))


@pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
def test_float32_reference_is_close_to_the_oracle(rng, name, options, shape):
    # The bar of the compiled code; MV-RNN's matrices and ReLU grow, hence relative too.
    check(name, dict(options), getattr(oracle, shape)(rng, VOCAB), "float32", 3e-6)


@pytest.mark.parametrize("inputs", ["inside", "hoisted"])
@pytest.mark.parametrize("name", ["TreeGRU", "TreeLSTM", "NaryTreeLSTM", "DAGRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("vocab", [VOCAB, None])
def test_inputs_may_be_projected_by_the_model(rng, name, inputs, vocab):
    shape = oracle.sequences if name in ("LSTM", "GRU") else oracle.random_trees
    data = shape(rng, VOCAB, width=5)
    check(name, {"inputs": inputs, "width": 5, "vocab": vocab}, data)
    model = getattr(models, name)(HIDDEN, vocab, inputs=inputs, width=5)
    assert ra.trace(model).hoist_inputs == (inputs == "hoisted")


def test_nary_takes_any_fixed_arity(rng):
    data = oracle.random_trees(rng, VOCAB, arity=3)
    check("NaryTreeLSTM", {"arity": 3}, data)


def test_a_chain_of_any_length_needs_no_recursion(rng):
    data = oracle.sequences(rng, VOCAB, lengths=(3000,))
    traced = ra.trace(models.GRU(2, VOCAB))
    assert np.isfinite(evaluate(traced, data, weights.seeded(traced))["h"]).all()


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 17])
def test_torch_sequences_import_unchanged(rng, name, bias, length):
    module = getattr(torch.nn, name)(5, HIDDEN, bias=bias)
    traced = ra.trace(getattr(models, name)(HIDDEN, None, inputs="inside", width=5))
    data = oracle.sequences(rng, VOCAB, lengths=(length,), width=5)
    found = evaluate(traced, data, weights.load(traced, module))
    with torch.no_grad():
        wanted, _ = module.double()(torch.tensor(data.features).double())
    # The biases are added once in float32 when they are imported.
    np.testing.assert_allclose(found["h"], wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_torch_cells_import_unchanged(rng, name):
    module = getattr(torch.nn, f"{name}Cell")(5, HIDDEN)
    traced = ra.trace(getattr(models, name)(HIDDEN, None, inputs="inside", width=5))
    data = oracle.sequences(rng, VOCAB, lengths=(9,), width=5)
    found = evaluate(traced, data, weights.load(traced, module))["h"]
    state, module = None, module.double()
    with torch.no_grad():
        for row, h in zip(torch.tensor(data.features).double(), found, strict=True):
            state = module(row, state)
            wanted = state[0] if name == "LSTM" else state
            np.testing.assert_allclose(h, wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: models.LSTM(4, 9, inputs="outside"), "'outside'"),
        (lambda: models.LSTM(4, 9, inputs="inside"), "width"),
        (lambda: models.LSTM(4, 9, width=5), "16, got 5"),
        (lambda: models.TreeGRU(4, 9, variant="dynet"), "'dynet'"),
        (lambda: models.TreeLSTM(4, 9, words="some"), "'some'"),
    ],
)
def test_options_are_checked(build, said):
    with pytest.raises(ModelError, match=said):
        build()
