"""Bad input: one test a row of the table of errors, by type and by what the message names."""

import numpy as np
import pytest

from cortex import structures
from cortex.errors import StructureError, TokenError
from cortex.forest import Dag, Forest, Sequence, Tree
from cortex.linearize import linearize
from cortex.structures import Node, from_children


def leaf(token: int = 0) -> Node:
    return Node([], token)


def pair(left: Node, right: Node) -> Node:
    return Node([left, right])


def test_a_cycle_names_its_nodes() -> None:
    forest = from_children([[1], [2, 3], [1], []], [0])
    with pytest.raises(StructureError, match=r"cycle, got one through the nodes 1 -> 2 -> 1"):
        linearize(forest, Dag())


def test_a_cycle_of_objects_is_found() -> None:
    node = Node([])
    node.children = [Node([node])]
    with pytest.raises(StructureError, match="cycle"):
        linearize(node, Dag())
    with pytest.raises(StructureError, match="cycle"):
        linearize(node, Tree(None))


def test_a_cycle_below_no_root_is_found() -> None:
    with pytest.raises(StructureError, match="cycle"):
        linearize(from_children([[], [2], [1]], [0]), Dag())


def test_too_many_children_name_tree_path_and_numbers() -> None:
    bad = pair(leaf(), Node([leaf(), leaf(), leaf()]))
    with pytest.raises(
        StructureError, match=r"tree 1, node root\[1\]: Tree\(arity=2\) has 2 .* found 3"
    ):
        linearize([pair(leaf(), leaf()), bad], Tree(2))


def test_a_unary_node_is_refused_with_the_way_out() -> None:
    with pytest.raises(StructureError, match='unary="collapse"'):
        linearize(pair(Node([leaf()]), leaf()), Tree(2))


def test_a_shared_child_of_a_tree_names_both_parents() -> None:
    shared = leaf()
    root = pair(pair(shared, leaf()), pair(leaf(), shared))
    with pytest.raises(StructureError, match=r"node root\[0\] and of .*node root\[1\].*cx\.Dag"):
        linearize(root, Tree(2))
    with pytest.raises(StructureError, match="a child twice of"):
        linearize(pair(shared, shared), Tree(2))


def test_an_empty_batch_is_no_error() -> None:
    for structure in (Tree(2), Tree(None), Dag(), Sequence()):
        linear = linearize([], structure)
        assert (linear.n_nodes, linear.n_levels, linear.n_roots) == (0, 0, 0)


def test_a_none_tree_is_named_by_its_index() -> None:
    with pytest.raises(StructureError, match="tree 2 is None"):
        linearize([leaf(), leaf(), None], Tree(2))


def test_single_leaves_and_sequences_of_one_work() -> None:
    assert linearize(leaf(), Tree(2)).n_levels == 1
    assert linearize([3], Sequence()).token.tolist() == [3]


@pytest.mark.parametrize(("token", "got"), [(-2, "-2"), (10, "10"), (2**40, str(2**40))])
def test_a_token_outside_names_tree_node_token_and_vocabulary(token: int, got: str) -> None:
    with pytest.raises(TokenError, match=rf"tree 0, node root\[1\].* got {got}"):
        linearize(pair(leaf(), leaf(token)), Tree(2), tokens="leaf", vocab=10)


def test_tokens_of_arrays_are_checked_as_well() -> None:
    forest = structures.perfect(3, vocab=10)
    with pytest.raises(TokenError, match="below the vocabulary size 1, got"):
        linearize(forest, Tree(2), tokens="leaf", vocab=1)
    negative = Forest(forest.child_ptr, forest.child_idx, forest.roots, forest.token - 5)
    with pytest.raises(TokenError, match="from 0"):
        linearize(negative, Tree(2))


def test_tokens_nobody_reads_are_not_looked_at() -> None:
    root = Node([leaf(), leaf()], "a phrase")  # type: ignore[arg-type]
    assert linearize(root, Tree(2), tokens="leaf", vocab=1).n_nodes == 3
    root.children[0].token = "word"  # type: ignore[assignment]
    assert linearize(root, Tree(2), tokens="none").n_nodes == 3


def test_a_missing_token_names_the_leaf() -> None:
    with pytest.raises(StructureError, match=r"root\[0\]: the model reads a token at every leaf"):
        linearize(pair(Node([]), leaf()), Tree(2), tokens="leaf")
    with pytest.raises(StructureError, match=r"node root: .* at every node"):
        linearize(pair(leaf(), leaf()), Tree(2), tokens="all")


def test_a_token_that_is_no_integer_names_the_leaf() -> None:
    root = pair(leaf(), Node([], "dog"))  # type: ignore[arg-type]
    with pytest.raises(StructureError, match=r"root\[1\]: 'token' must be an integer .*'dog'"):
        linearize(root, Tree(2))


def test_features_of_wrong_width_dtype_or_rows() -> None:
    good = structures.grid(2, 2, features=np.zeros((4, 3), np.float32))
    assert linearize(good, Dag(), feature_width=3).features is not None
    with pytest.raises(StructureError, match="4 columns, as the model declares, got 3"):
        linearize(good, Dag(), feature_width=4)
    with pytest.raises(StructureError, match="width 4, but the data has none"):
        linearize(structures.grid(2, 2), Dag(), feature_width=4)
    with pytest.raises(StructureError, match="float32, got float64"):
        Forest([0, 0], [], [0], [1], np.zeros((1, 2)))
    with pytest.raises(StructureError, match=r"one row for each node, \(1, width\)"):
        Forest([0, 0], [], [0], [1], np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("parent", "match"),
    [
        ([-1, 0, -1], r"one root \(parent -1\), got 2 at indices \[0, 2\]"),
        ([1, 0], "got 0 but every node has a parent"),
        ([-1, 7], "got 7 at index 1"),
        ([-1, 1], "its own parent, got that at index 1"),
    ],
)
def test_parent_arrays_name_the_index(parent: list[int], match: str) -> None:
    with pytest.raises(StructureError, match=match):
        structures.from_parents(parent)


def test_a_parent_array_with_a_cycle_is_refused_when_numbered() -> None:
    with pytest.raises(StructureError, match="cycle"):
        linearize(structures.from_parents([-1, 2, 1]), Tree(None))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("(3 (2 a)\n", "line 1, column 1: every opening"),
        ("(3 a)\n(2 b))", "line 2, column 6: a closing"),
        ("(3 a)\n (2 ())", "line 2, column 6: a bracket must hold"),
        ("word", r"line 1, column 1: a tree must start with '\('"),
    ],
)
def test_unbalanced_text_names_line_and_column(text: str, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        structures.from_ptb(text)


def test_broken_arrays_say_which_entry() -> None:
    with pytest.raises(StructureError, match="child_idx must hold nodes from 0 and below 2, got 5"):
        linearize(Forest([0, 1, 1], [5], [0], [0, 0]), Tree(None))
    with pytest.raises(StructureError, match="child_ptr must rise"):
        linearize(Forest([0, 2, 1], [1], [0], [0, 0]), Tree(None))
    with pytest.raises(StructureError, match="roots must hold nodes"):
        linearize(Forest([0, 0], [], [1], [0]), Tree(None))


def test_objects_without_children_name_their_type() -> None:
    with pytest.raises(StructureError, match=r"root\[0\]: a int has no 'children'"):
        linearize(Node([4]), Tree(None))  # type: ignore[list-item]
    with pytest.raises(StructureError, match="'children' must be a list of nodes, got str"):
        linearize(Node("ab"), Tree(None))  # type: ignore[arg-type]


def test_a_deep_path_leaves_out_its_middle() -> None:
    node = leaf(99)
    for _ in range(3000):
        node = Node([node])
    with pytest.raises(TokenError, match=r"\.\.\.\(2988 more\)\.\.\."):
        linearize(node, Tree(1), tokens="leaf", vocab=10)
