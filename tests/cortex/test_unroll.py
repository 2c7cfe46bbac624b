"""Unrolled recursion: blocks, super nodes, equal results, one barrier a block."""

import itertools

import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch")

from cortex import compiled, kernel, models, ra, weights  # noqa: E402
from cortex.blocks import into_blocks  # noqa: E402
from cortex.errors import ScheduleError  # noqa: E402
from cortex.forest import Dag, Sequence, Tree  # noqa: E402
from cortex.linearize import _ARRAYS, linearize  # noqa: E402
from cortex.lower import lower  # noqa: E402
from cortex.lower.barriers import barriers_a_pass  # noqa: E402
from cortex.reference.recursive import evaluate  # noqa: E402
from cortex.schedule import Schedule  # noqa: E402
from cortex.structures import grid, perfect, random_tree, sequence, to_objects  # noqa: E402

VOCAB = 11
NAMES = ["TreeRNN", "TreeLSTM", "TreeGRU", "SimpleTreeGRU"]


def inner_children(linear):
    """(node, its children) of inner nodes."""
    for i in range(linear.n_inner):
        if linear.child is not None:
            yield i + linear.n_leaves, linear.child[:, i].tolist()
        else:
            begin, end = linear.child_ptr[i : i + 2]
            yield i + linear.n_leaves, linear.child_at[begin:end].tolist()


@pytest.mark.parametrize("depth", [1, 2, 3, 50])
@pytest.mark.parametrize("arity", [2, None])
def test_super_nodes_are_subtrees_and_read_only_what_is_done(rng, arity, depth):
    forest = oracle.random_trees(rng, VOCAB)
    plain = linearize(forest, Tree(arity))
    found = into_blocks(plain, depth)
    n_supers = len(found.super_ptr) - 1
    in_super = np.repeat(np.arange(n_supers), np.diff(found.super_ptr))
    in_block = np.repeat(np.arange(len(found.block_ptr) - 1), np.diff(found.block_ptr))
    super_of = {found.n_leaves + i: s for i, s in enumerate(in_super)}
    assert len(super_of) == found.n_inner
    for node, children in inner_children(found):
        wanted = forest.child_idx[slice(*forest.child_ptr[found.order[node] :][:2])]
        assert found.order[children].tolist() == wanted.tolist()
        for child in children:
            assert child < node
            if child >= found.n_leaves and super_of[child] != super_of[node]:
                assert in_block[super_of[child]] < in_block[super_of[node]]
    for s in range(n_supers):
        nodes = {n for n, of in super_of.items() if of == s}
        read = {c for n, children in inner_children(found) if n in nodes for c in children}
        assert len(nodes - read) == 1, "a super node has one top"
    assert found.order[found.roots].tolist() == forest.roots.tolist()
    assert found.order[found.id_of].tolist() == list(range(forest.n_nodes))
    assert len(found.block_ptr) - 1 == -(-(plain.n_levels - 1) // depth)


def assert_same(one, other):
    for name in (*_ARRAYS, "n_nodes", "n_leaves", "n_levels", "features"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("depth", [2, 3, 7, 2**40])
@pytest.mark.parametrize("arity", [2, None])
def test_native_blocks_are_those_of_numpy(rng, arity, depth):
    forest = oracle.random_trees(rng, VOCAB)
    wanted = into_blocks(linearize(forest, Tree(arity)), depth)
    found = linearize(forest, Tree(arity), depth=depth)
    assert_same(found, wanted)
    packed = kernel.pack_linear(wanted)
    packed[3] = found.memory[3]  # edges, which nobody reads where their number is fixed
    np.testing.assert_array_equal(found.memory, packed)
    objects = to_objects(forest)
    wanted = into_blocks(linearize(objects, Tree(arity)), depth)
    assert_same(linearize(objects, Tree(arity), depth=depth), wanted)


def test_blocks_of_nothing_and_of_leaves():
    for data, n_levels in (([], 0), (perfect(1, 3), 1)):
        found = linearize(data, Tree(2), depth=2)
        assert_same(found, into_blocks(linearize(data, Tree(2)), 2))
        assert found.n_levels == n_levels
        assert found.block_ptr.tolist() == [0]


@pytest.mark.parametrize("depth", [2, 200, 200_000])
def test_blocks_of_long_chains_take_no_time_for_their_depth(depth):
    chain = sequence([200_000, 1])
    found = linearize(chain, Sequence(), depth=depth)
    assert len(found.super_ptr) - 1 == len(found.block_ptr) - 1 == -(-199_999 // depth)
    assert_same(found, into_blocks(linearize(chain, Sequence()), depth))


def test_blocks_are_refused_where_they_would_be_wrong(monkeypatch):
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        linearize(perfect(3), Tree(2), depth=0)
    for options in ({"dedup": True}, {"kinds": True}):
        with pytest.raises(ValueError, match=f"without kinds and dedup, got {next(iter(options))}"):
            linearize(perfect(3), Tree(2), depth=2, **options)
    with pytest.raises(ValueError, match=r"need trees .* got Dag.*: use a depth of 1"):
        linearize(grid(2, 2), Dag(), depth=2)
    with pytest.raises(ValueError, match="nodes with several parents"):
        into_blocks(linearize(grid(3, 3), Dag()), 2)
    monkeypatch.setattr("cortex.linearize.native_functions", lambda: None)
    assert linearize(perfect(3), Tree(2), depth=2).block_ptr.tolist() == [0, 1]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", [7])
def test_compiled_code_equals_the_reference(monkeypatch, name, depth, threads, hidden):
    # Small work takes one thread otherwise.
    monkeypatch.setattr(kernel, "LEAST_WORK", 0)
    model = ra.trace(getattr(models, name)(hidden, VOCAB))
    params = weights.seeded(model, seed=3)
    forest = random_tree(151, seed=5, vocab=VOCAB)
    schedule = Schedule.paper().unroll(depth)
    net = compiled.compile(model, params, schedule=schedule, threads=threads, keep="all")
    found = net(forest)
    wanted = evaluate(model, forest, params)
    for state in model.states:
        # Products over `hidden` terms in float32, through a few levels of gates.
        np.testing.assert_allclose(found.node(state), wanted[state], rtol=1e-5, atol=3e-6)
        np.testing.assert_array_equal(found.root[state], found.node(state)[forest.roots])


@pytest.mark.parametrize("leaves", [(1,), (1, 1, 2)])
def test_leaves_alone_are_trees_too(rng, leaves):
    model = ra.trace(models.TreeLSTM(16, VOCAB))
    params = weights.seeded(model, seed=3)
    forest = oracle.random_trees(rng, VOCAB, leaves=leaves)
    net = compiled.compile(model, params, schedule=Schedule.paper().unroll(2))
    wanted = evaluate(model, forest, params)["h"][forest.roots]
    np.testing.assert_allclose(net(forest).root["h"], wanted, rtol=1e-5, atol=3e-6)
    assert net([]).root["h"].shape == (0, 16)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [2, 3])
def test_a_block_has_one_barrier(name, depth):
    lowered = lower(ra.trace(getattr(models, name)(6, VOCAB)), Schedule.paper().unroll(depth))
    assert barriers_a_pass(lowered.program) == 1


def test_illegal_unrolling_is_refused():
    dag = ra.trace(models.DAGRNN(6, VOCAB))
    with pytest.raises(ScheduleError, match=r"unroll is illegal for DAGRNN: .*; use a Tree"):
        lower(dag, Schedule.paper().unroll(2))
    tree = ra.trace(models.TreeRNN(6, VOCAB))
    apart = Schedule().batch().specialize("leaf")
    for schedule in (
        Schedule.none(),
        Schedule.paper().batch(None).fuse("none"),
        apart,
        Schedule.paper().dedup(),
        Schedule.paper().specialize("children"),
        Schedule.paper().partition("column"),
    ):
        with pytest.raises(ScheduleError, match="unroll is illegal for TreeRNN"):
            lower(tree, schedule.unroll(2))


def test_deeper_blocks_are_fewer():
    forest = random_tree(151, seed=5, vocab=VOCAB)
    counts = [len(linearize(forest, Tree(2), depth=d).block_ptr) for d in (2, 3, 4)]
    assert all(a > b for a, b in itertools.pairwise(counts))
