"""Every peer against the recursive interpreter in float64, and what the peers promise."""

import sys

import attrs
import numpy as np
import pytest
import torch

from common.extras import MissingExtra
from cortex import peers
from cortex.forest import Forest
from cortex.peers.flatten import flatten
from cortex.peers.problem import ARITY
from cortex.ra import trace
from cortex.reference.recursive import evaluate
from cortex.structures import grid, perfect, random_tree, sequence, sst_like, to_objects

VOCAB, HIDDEN = 50, 16


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_tokens(forest: Forest, rng: np.random.Generator) -> Forest:
    return attrs.evolve(forest, token=rng.integers(VOCAB, size=forest.n_nodes))


def forests_of(model: str, rng: np.random.Generator) -> list[Forest]:
    if model in peers.SEQUENCES:
        lengths = [7, 7], [1], [5, 1, 9]
        return [sequence(n, rng.integers(VOCAB, size=sum(n))) for n in lengths]
    if model == "dag_rnn":
        return [
            with_tokens(grid(4, 5, batch=2), rng),
            with_tokens(grid(1, 1), rng),
            random_tree(20, seed=3, arity=None, vocab=VOCAB),
        ]
    return [
        perfect(4, 3, VOCAB, seed=1),
        sst_like(3, seed=2, vocab=VOCAB),
        perfect(1, 1, VOCAB),
        random_tree(31, seed=4, vocab=VOCAB),
    ]


def make(name: str, problem: peers.Problem) -> peers.Peer:
    gone = peers.absent([name])
    if gone:
        pytest.skip(gone[name])
    return peers.make(name, problem)


CASES = [
    (name, model)
    for name in peers.PEERS
    for model in peers.MODELS
    if name != "torch_compile" and (name != "nn" or model in peers.SEQUENCES)
]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_peers_agree_with_the_reference(name, model, rng):
    problem = peers.make_problem(model, HIDDEN, VOCAB, seed=5)
    peer = make(name, problem)
    traced = trace(problem.recursive)
    for forest in forests_of(model, rng):
        wanted = evaluate(traced, forest, problem.weights)[problem.state][forest.roots]
        found = peer(to_objects(forest))
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        # Sums of 16 to 32 products in float32, through at most some 30 levels.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_cell_agrees_for_any_number_of_nodes(rng):
    problem = peers.make_problem("tree_lstm", HIDDEN, VOCAB)
    compiled = peers.make("torch_compile", problem)
    plain = peers.make("level_batched", problem)
    for forest in forests_of("tree_lstm", rng):
        np.testing.assert_allclose(
            compiled(to_objects(forest)), plain(to_objects(forest)), rtol=1e-5, atol=1e-6
        )


def test_levels_hold_leaves_first_and_children_before_parents():
    forest = sst_like(4, seed=1, vocab=VOCAB)
    levels = flatten(to_objects(forest), ARITY["tree_lstm"], all_tokens=False)
    assert levels.bounds[-1] == forest.n_nodes
    assert levels.tokens.numel() == levels.bounds[1] == int((np.diff(forest.child_ptr) == 0).sum())
    assert len(levels.roots) == 4
    for kids, begin in zip(levels.kids, levels.bounds[1:-1], strict=True):
        assert int(kids.max()) < begin
    every = torch.cat([*levels.kids, levels.roots])
    assert sorted(every.tolist()) == list(range(forest.n_nodes))


def test_a_shared_child_is_computed_once():
    levels = flatten(
        to_objects(attrs.evolve(grid(3, 3), token=np.arange(9))), None, all_tokens=True
    )
    assert levels.bounds == [0, 1, 3, 6, 8, 9]
    assert levels.tokens.tolist() == [0, *levels.tokens.tolist()[1:-1], 8]


def test_wrong_names_are_answered():
    problem = peers.make_problem("tree_fc", HIDDEN, VOCAB)
    with pytest.raises(ValueError, match="a peer must be one of eager, "):
        peers.make("cavs", problem)
    with pytest.raises(ValueError, match="peer 'nn' runs lstm and gru, got 'tree_fc'"):
        peers.make("nn", problem)
    with pytest.raises(ValueError, match="model must be one of tree_fc, "):
        peers.make_problem("cnn", HIDDEN, VOCAB)


@pytest.mark.parametrize(("name", "module"), [("dynet", "dynet_config"), ("dgl", "dgl")])
def test_an_absent_peer_gives_the_pip_line(name, module, monkeypatch):
    import importlib

    home = importlib.import_module(f"cortex.peers.with_{name}")
    home.load.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    try:
        assert 'pip install "mlsys21[cortex-peers]"' in peers.absent([name, "eager"])[name]
        with pytest.raises(MissingExtra, match="cortex-peers"):
            home.load()
    finally:
        home.load.cache_clear()


@pytest.mark.parametrize("name", ["dynet", "dgl"])
def test_peers_leave_the_arithmetic_of_the_process_as_it_was(name):
    if peers.absent([name]):
        pytest.skip(f"{name} is not installed")
    peers.make(name, peers.make_problem("tree_fc", 4, 5))
    assert np.float32(1e-30) * np.float32(1e-10) > 0
