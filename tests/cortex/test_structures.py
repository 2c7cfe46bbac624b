"""Importers against what they read, and generators against what they promise."""

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cortex import structures
from cortex.errors import StructureError
from cortex.forest import Dag, Forest, Sequence, Tree
from cortex.linearize import linearize
from cortex.structures import Node, from_children, to_objects


def nested(forest: Forest, node: int) -> tuple[int, tuple[object, ...]]:
    """A node's token and its children's, to the bottom."""
    below = tuple(nested(forest, child) for child in forest.children(node))
    return int(forest.token[node]), below


def trees(forest: Forest) -> list[object]:
    return [nested(forest, int(root)) for root in forest.roots]


TWO = [(-1, ((0, ()), (-1, ((1, ()), (2, ()))))), (3, ())]  # ((0 (1 2)) and 3 alone


def as_nodes(tree: tuple[int, tuple[object, ...]]) -> Node:
    token, below = tree
    return Node([as_nodes(child) for child in below], None if token < 0 else token)  # type: ignore[arg-type]


def test_objects_go_to_a_forest_and_back() -> None:
    forest = structures.from_objects([as_nodes(tree) for tree in TWO])  # type: ignore[arg-type]
    assert trees(forest) == TWO
    assert trees(structures.from_objects(to_objects(forest))) == TWO


def test_fields_of_objects_have_the_names_asked_for() -> None:
    root = SimpleNamespace(kids=[SimpleNamespace(kids=[], word=4, row=[1, 2])], word=5, row=[3, 4])
    forest = structures.from_objects(root, children="kids", token="word", features="row")
    assert trees(forest) == [(5, ((4, ()),))]
    np.testing.assert_array_equal(forest.features, [[3, 4], [1, 2]])
    assert structures.from_objects(root, children="kids", token=None).token.tolist() == [-1, -1]


@pytest.mark.parametrize("table", [[[1.0], [1.0, 2.0]], [[1.0], None]])
def test_features_of_objects_must_be_rows_of_one_width(table: list[object]) -> None:
    leaf, root = (SimpleNamespace(children=[], row=row) for row in table)
    root.children = [leaf]
    if table[1] is None:
        del root.row
    with pytest.raises(StructureError, match="row"):
        structures.from_objects(root, features="row")


def test_parent_arrays_keep_the_order_of_children() -> None:
    forest = structures.from_parents([-1, 0, 0, 2, 2, -1], [0, 5, 6], [-1, 0, -1, 1, 2, 3])
    assert trees(forest) == TWO


@pytest.fixture(params=["native", "plain"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays read by native code, or without it."""
    if request.param == "plain":
        monkeypatch.setattr("cortex.structures.arrays.native_functions", lambda: None)


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16])
def test_parent_arrays_give_back_the_trees_they_came_from(dtype: type) -> None:
    wanted = structures.random_tree(60, 3, None, vocab=9)
    parent = np.full(60, -1, dtype)
    parent[wanted.child_idx] = np.repeat(np.arange(60), np.diff(wanted.child_ptr))
    rows = np.arange(120, dtype=np.float32).reshape(60, 2)
    found = structures.from_parents(parent, token=wanted.token.astype(dtype), features=rows)
    assert trees(found) == trees(wanted)
    np.testing.assert_array_equal(found.features, rows)
    twice = structures.from_parents(np.tile(parent, 2), [0, 60, 120], np.tile(wanted.token, 2))
    assert trees(twice) == trees(wanted) * 2
    assert structures.from_parents(parent[::-1][:1] * 0 - 1).token.tolist() == [-1]
    assert structures.from_parents([]).n_roots == 0


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([-1, -1],), r"tree 0 must have one root .* got 2 at indices \[0, 1\]"),
        (([1, 0],), "got 0 but every node has a parent"),
        (([-1, 1],), "its own parent, got that at index 1"),
        (([-1, 2],), "a node of the same tree, got 2 at index 1"),
        (([-1, -2],), "got -2 at index 1"),
        (([-1, 0, -1], [0, 2]), "tree_ptr must rise from 0 to the 3 nodes"),
        (([-1, 0], [0, 0, 2]), "at least one node a tree"),
        (([-1], [1, 1]), "tree_ptr must rise from 0"),
        (([-1, 0], [0, 2**40, 2]), "tree_ptr must rise from 0"),
        (([-1, 0], None, [1]), "token must have one entry for each of the 2 nodes, got 1"),
        (([-1, 0], None, [1, 2**40]), "must fit in 32 bits"),
        (([-1.0, 0.0],), "parent must be integers"),
        ((-1,), "parent must be integers of one dimension"),
    ],
)
def test_bad_parent_arrays_are_refused_by_index(arguments: Any, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        structures.from_parents(*arguments)


@pytest.mark.usefixtures("each_way")
def test_sequences_of_lengths_are_chains() -> None:
    rows = np.arange(4, dtype=np.float32).reshape(4, 1)
    for lengths in ([3, 1], np.array([3, 1]), iter([3, 1])):
        found = structures.sequence(lengths, [5, 6, 7, 8], rows)
        assert trees(found) == [(7, ((6, ((5, ()),)),)), (8, ())]
        np.testing.assert_array_equal(found.features, rows)
    assert structures.sequence(2).token.tolist() == [-1, -1]
    assert structures.sequence([]).child_ptr.tolist() == [0]
    with pytest.raises(StructureError, match="got 0 for sequence 1"):
        structures.sequence([1, 0])
    with pytest.raises(StructureError, match="one entry for each of the 2 nodes, got 1"):
        structures.sequence(2, [3])


def test_bracketed_text_is_read_with_words_in_order() -> None:
    text = "(3 (2 It) (4 (2 is)\n (2 good)))\n(1 bad)"
    forest = structures.from_ptb(text)
    assert trees(forest) == TWO
    assert forest.names == ("3", "It", "4", "is", "good", "bad")
    labelled = structures.from_ptb(text, labels=True, vocab={"It": 7, "is": 8, "good": 9, "bad": 6})
    assert labelled.token.tolist() == [3, 7, 4, 8, 9, 6]
    assert structures.from_ptb(text, vocab=len).token.tolist() == [-1, 2, -1, 2, 4, 3]
    with pytest.raises(StructureError, match="'is' is not in it"):
        structures.from_ptb(text, vocab={"It": 0})


def test_bracketed_text_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.write_text("(0 a)")
    assert trees(structures.from_ptb(path)) == trees(structures.from_ptb(str(path))) == [(0, ())]


def test_unary_nodes_collapse_when_asked() -> None:
    text = "(S (NP (N dogs)) (VP (V bark)))"
    assert structures.from_ptb(text).n_nodes == 5
    assert trees(structures.from_ptb(text, unary="collapse")) == [(-1, ((0, ()), (1, ())))]
    root = Node([Node([Node([Node([], 1)])]), Node([], 2)])
    assert linearize(root, Tree(2), unary="collapse").token.tolist() == [2, 1, -1]
    with pytest.raises(StructureError, match="must not form a cycle"):
        structures.collapse_unary(from_children([[1], [0]], [0]))
    chain = from_children([*([i + 1] for i in range(1000)), []], [0], range(1001))
    assert trees(structures.collapse_unary(chain)) == [(1000, ())]


CONLLU = """# text = dogs bark loudly
1\tdogs\tdog\tNOUN\t_\t_\t2\tnsubj\t_\t_
2-3\tx\t_\t_\t_\t_\t_\t_\t_\t_
2\tbark\tbark\tVERB\t_\t_\t0\troot\t_\t_
3\tloudly\tloudly\tADV\t_\t_\t2\tadvmod\t_\t_

1\tGo\tgo\tVERB\t_\t_\t0\troot\t_\t_
"""


def test_dependency_trees_have_a_node_a_word() -> None:
    forest = structures.from_conllu(CONLLU)
    assert trees(forest) == [(1, ((0, ()), (2, ()))), (3, ())]
    assert forest.names == ("dogs", "bark", "loudly", "Go")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("\t0\troot\t_\t_\n3", "\t9\troot\t_\t_\n3", "line 4: a head must be 0 or another word"),
        ("\t2\tnsubj", "\t0\tnsubj", "sentence at line 2 must have one root .* got 2"),
        ("\tdog\t", "\t", "line 2: a word must have 10 fields"),
    ],
)
def test_bad_dependency_trees_name_the_line(old: str, new: str, match: str) -> None:
    with pytest.raises(StructureError, match=match):
        structures.from_conllu(CONLLU.replace(old, new))


def test_networkx_graphs_are_read_in_both_directions() -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph([("top", "a"), ("top", "b"), ("b", "c"), ("a", "c")])
    graph.nodes["c"]["token"] = 7
    down = structures.from_networkx(graph)
    up = structures.from_networkx(graph.reverse(), direction="up")
    assert trees(down) == trees(up) == [(-1, ((-1, ((7, ()),)), (-1, ((7, ()),))))]
    assert linearize(graph, Dag()).n_nodes == 4
    graph.add_edge("c", "top")
    with pytest.raises(StructureError, match=r"cycle.* 'top' -> 'a' -> 'c' -> 'top'"):
        linearize(graph, Dag())
    with pytest.raises(StructureError, match="must be a directed graph"):
        structures.from_networkx(networkx.Graph())
    graph.nodes["a"]["features"] = [1.0]
    with pytest.raises(StructureError, match="node 'top' has none"):
        structures.from_networkx(graph)


def test_pyg_graphs_are_read_by_their_fields() -> None:
    edges = np.array([[1, 2, 3, 4], [0, 0, 2, 2]])
    token = np.array([-1, 0, -1, 1, 2])
    data = SimpleNamespace(edge_index=edges, num_nodes=5, x=None, token=token)
    assert trees(structures.from_pyg(data)) == TWO[:1]
    data.edge_index = edges[::-1]
    assert trees(structures.from_pyg(data, direction="down")) == TWO[:1]
    data.edge_index = edges + 1
    with pytest.raises(StructureError, match="edge 3 has 5"):
        structures.from_pyg(data)


def test_dgl_graphs_are_read_by_their_methods() -> None:
    edges = np.array([1, 2, 3, 4]), np.array([0, 0, 2, 2])
    ndata = {"token": np.array([-1, 0, -1, 1, 2]), "x": np.ones((5, 2), np.float32)}
    graph = SimpleNamespace(edges=lambda order: edges, num_nodes=lambda: 5, ndata=ndata)
    forest = structures.from_dgl(graph)
    assert trees(forest) == TWO[:1]
    assert forest.features is not None


class Bracket(list):  # type: ignore[type-arg]
    """As nltk.Tree: a list of subtrees and words, with a label."""

    def label(self) -> str:
        return "X"


def test_nltk_trees_are_lists_with_labels() -> None:
    tree = Bracket([Bracket(["It"]), Bracket(["is", "good"])])
    assert trees(structures.from_nltk(tree, unary="collapse")) == TWO[:1]
    assert structures.from_nltk([tree, tree]).n_roots == 2
    names = structures.from_nltk(tree).names
    assert names == ("X", "X", "X", "It", "is", "good")


def test_syntax_trees_have_the_types_of_nodes_as_tokens() -> None:
    forest = structures.from_ast("x = 1 + y")
    names = [structures.AST_TYPES[token] for token in forest.token.tolist()]
    assert names == ["Module", "Assign", "Name", "BinOp", "Constant", "Add", "Name"]
    assert linearize(ast.parse("x = 1 + y"), Tree(None)).n_nodes == 7
    worded = structures.from_ast("x = 1 + y; y = 1", words=True).token.tolist()
    assert worded[:3] == structures.from_ast("x = 1; y = 1").token.tolist()[:3]
    assert len({t for t in worded if t >= len(structures.AST_TYPES)}) == 3
    with pytest.raises(StructureError, match="line 1: source must parse"):
        structures.from_ast("x = = 1")


def test_the_standard_library_is_a_forest_with_many_equal_subtrees() -> None:
    forest = structures.standard_library(12)
    assert forest.n_roots == 12
    linear = linearize(forest, Tree(None), dedup=True, tokens="all")
    assert linear.n_nodes < 0.7 * forest.n_nodes


def test_sequences_come_from_tokens_or_rows() -> None:
    one = linearize([[5, 6, 7], [8]], Sequence())
    assert one.token[one.roots].tolist() == [7, 8]
    assert linearize([5, 6, 7], Sequence()).n_levels == 3
    assert linearize(np.array([5, 6]), Sequence()).token.tolist() == [5, 6]
    rows = linearize([np.ones((2, 3)), np.zeros((1, 3))], Sequence(), feature_width=3)
    np.testing.assert_array_equal(rows.features, [[1, 1, 1], [0, 0, 0], [1, 1, 1]])
    with pytest.raises(StructureError, match="at least one element, got 0 for sequence 1"):
        linearize([[1], []], Sequence())
    with pytest.raises(StructureError, match="all of one kind"):
        linearize([[1], [0.5]], Sequence())


def test_a_batch_may_mix_texts_but_not_kinds() -> None:
    assert linearize(["(0 a)", "(1 (0 a) (0 b))"], Tree(2)).n_roots == 2
    assert linearize([structures.perfect(2)] * 3, Tree(2)).n_roots == 3
    with pytest.raises(StructureError, match="of one kind"):
        linearize(["(0 a)", Node([])], Tree(2))


def test_perfect_trees_are_full_and_seeded() -> None:
    forest = structures.perfect(8, 10, vocab=50, seed=1)
    assert (forest.n_nodes, forest.n_roots) == (2550, 10)
    linear = linearize(forest, Tree(2), tokens="leaf", vocab=50)
    assert np.diff(linear.level_ptr).tolist() == [10 * 2**k for k in range(7, -1, -1)]
    np.testing.assert_array_equal(forest.token, structures.perfect(8, 10, 50, 1).token)
    assert structures.perfect(3, 0).n_roots == 0


def test_grids_have_one_level_for_each_diagonal() -> None:
    linear = linearize(structures.grid(3, 5, batch=2), Dag())
    assert linear.n_levels == 3 + 5 - 1
    assert linear.n_leaves == 2
    for preds in (("S", "E"), ("N", "E", "NE"), ("N", "W", "NW", "NE")):
        grid = structures.grid(4, 3, preds)
        parents = np.bincount(grid.child_idx, minlength=12)
        assert parents[grid.roots[0]] == 0
        linearize(grid, Dag())
    with pytest.raises(ValueError, match="circle"):
        structures.grid(2, 2, ("N", "S"))
    with pytest.raises(ValueError, match="preds must be of"):
        structures.grid(2, 2, ("up",))


@pytest.mark.parametrize("arity", [1, 2, 3, 5])
def test_random_trees_have_the_arity_asked_for(arity: int) -> None:
    forest = structures.random_tree(50, 1, arity)
    assert linearize(forest, Tree(arity)).n_roots == 1
    assert 50 - arity < forest.n_nodes <= 50


def test_generated_sentences_have_the_statistics_of_sst() -> None:
    forest = structures.sst_like(2000, seed=3)
    linear = linearize(forest, Tree(2), kinds=True, tokens="leaf", vocab=21_000)
    sizes = np.diff(np.append(forest.roots, forest.n_nodes))
    n_levels = np.searchsorted(linear.level_ptr, linear.roots, side="right")
    assert linear.kind_ptr is not None
    kinds = np.diff(linear.kind_ptr[1:], axis=1).sum(axis=0) / linear.n_inner
    # Means of 2000 trees stray by 0.4 nodes and 0.1 levels, fractions by half a percent.
    assert abs(sizes.mean() - 38) < 1.5
    assert sizes.max() <= 97
    assert abs(n_levels.mean() - 11) < 0.5
    assert n_levels.max() <= 28
    assert abs(kinds[1] + kinds[2] - 0.56) < 0.02
    assert abs(kinds[3] - 0.25) < 0.02
    assert len(np.unique(forest.token)) > 2000
    np.testing.assert_array_equal(forest.token, structures.sst_like(2000, seed=3).token)


def test_readers_import_no_library() -> None:
    code = (
        "import sys, cortex; cortex.structures.from_ptb('(0 a)'); "
        "print([m for m in ('torch', 'networkx', 'nltk', 'dgl') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert run.stdout.strip() == "[]", run.stderr
