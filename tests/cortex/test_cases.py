"""Cases: their sizes, and batches that are distinct with objects of each candidate's own."""

import numpy as np
import pytest

from cortex.cases import Batches, Case, assert_close


def tokens(roots):
    """Of all leaves, in the order of a walk."""
    found, stack = [], list(roots)
    while stack:
        node = stack.pop()
        stack.extend(node.children)
        if not node.children:
            found.append(node.token)
    return tuple(found)


def test_each_call_takes_the_next_distinct_batch(rng):
    batches = Batches(Case("tree_fc", "perfect", 2, 16), rng, distinct=3)
    first, second = batches.fresh(tokens), batches.fresh(tokens)
    seen = [first() for _ in range(4)]
    assert len(set(seen)) == 3
    assert seen[3] == seen[0]
    assert [second() for _ in range(4)] == seen


def test_candidates_share_no_objects(rng):
    batches = Batches(Case("tree_fc", "perfect", 1, 16), rng, distinct=1)
    first, second = batches.fresh(lambda roots: roots[0]), batches.fresh(lambda roots: roots[0])
    assert first() is not second()


def test_trees_of_many_sizes_are_timed_in_groups(rng):
    ran = []
    batches = Batches(Case("tree_lstm", "sst", 1, 16), rng)
    batches.fresh(ran.append)()
    assert len(ran) == batches.group == 16
    assert Batches(Case("tree_lstm", "perfect", 1, 16), rng).group == 1


@pytest.mark.parametrize(
    ("text", "hidden", "nodes"),
    [("mv_rnn/perfect/2", 64, 510), ("dag_rnn/grid/3", 256, 300), ("lstm/chain7/2", 256, 14)],
)
def test_cases_are_read_from_text(text, hidden, nodes):
    case = Case.of(text, 256)
    assert case.hidden == hidden
    forest = case.forest(0)
    assert forest.n_nodes == nodes
    assert forest.n_roots == case.batch
    assert forest.token.max() < case.vocab


def test_states_are_compared_by_their_scale():
    assert_close(np.array([1000.0]), np.array([1000.01]))
    with pytest.raises(AssertionError):
        assert_close(np.array([0.5]), np.array([0.501]))
