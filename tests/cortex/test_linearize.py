"""The numbering: its properties, and the native version against the plain one."""

import copy
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex import structures
from cortex.blocks import into_blocks
from cortex.errors import StructureError, TokenError
from cortex.forest import Dag, Forest, Sequence, Structure, Tree
from cortex.linearize import (
    _ARRAYS,
    Linear,
    levels,
    linearize,
    linearize_forest,
    native_functions,
    walk_to_forest,
)
from cortex.reference import linearize as reference
from cortex.structures import Node, from_children, to_objects

CASES: dict[str, tuple[Forest, Structure]] = {
    "sst": (structures.sst_like(6, 1), Tree(2)),
    "perfect": (structures.perfect(5, 3), Tree(2)),
    "grid": (structures.grid(4, 5), Dag()),
    "grid_se": (structures.grid(3, 4, ("S", "E", "SE"), batch=2), Dag()),
    "any_arity": (structures.random_tree(40, 3, None), Tree(None)),
    "ternary": (structures.random_tree(31, 3, 3, vocab=5), Tree(3)),
    "sequences": (structures.sequence([1, 4, 2], range(7)), Sequence()),
    "single_leaf": (structures.perfect(1), Tree(2)),
    "empty": (structures.sst_like(0), Tree(2)),
    "equal_subtrees": (structures.perfect(6, 4, vocab=2), Tree(2)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Forest, Structure]:
    """A forest and the structure it is of."""
    return CASES[request.param]


def assert_same(one: Linear, other: Linear) -> None:
    for name in (*_ARRAYS, "n_nodes", "n_leaves", "n_levels", "features"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None), name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=name)
            assert np.shape(left) == np.shape(right), name


def children_of(linear: Linear, node: int) -> list[int]:
    if node < linear.n_leaves:
        return []
    i = node - linear.n_leaves
    if linear.child is not None:
        return linear.child[:, i].tolist()
    assert linear.child_ptr is not None
    assert linear.child_at is not None
    return linear.child_at[linear.child_ptr[i] : linear.child_ptr[i + 1]].tolist()


@st.composite
def dags(draw: st.DrawFn, arity: int | None = None) -> Forest:
    """A DAG whose numbers are shuffled, so that no direction can be relied on."""
    n = draw(st.integers(1, 24))
    rows: list[list[int]] = []
    for node in range(n):
        size = 0 if node == 0 else draw(st.integers(0, 3) if arity is None else st.just(arity))
        if draw(st.booleans()):
            size = 0
        rows.append([draw(st.integers(0, node - 1)) for _ in range(size)])
    new = draw(st.permutations(range(n)))
    shuffled: list[list[int]] = [[] for _ in range(n)]
    for node, row in enumerate(rows):
        shuffled[new[node]] = [new[child] for child in row]
    token = [draw(st.integers(-1, 2)) for _ in range(n)]
    features = np.array([[draw(st.integers(0, 1))] for _ in range(n)], np.float32)
    return from_children(
        shuffled, draw(st.lists(st.integers(0, n - 1), max_size=3)), token, features
    )


@pytest.mark.parametrize("dedup", [False, True])
def test_native_numbering_is_that_of_the_plain_version(
    case: tuple[Forest, Structure], dedup: bool
) -> None:
    forest, structure = case
    for kinds in (False, True) if structure.max_children else (False,):
        options = {"kinds": kinds, "dedup": dedup}
        assert_same(
            linearize_forest(forest, structure, **options),
            reference.linearize(forest, structure, **options),
        )


@settings(max_examples=60, deadline=None)
@given(dags(), st.booleans(), st.sampled_from(["any", "none", "leaf"]))
def test_any_dag_is_numbered_as_by_the_plain_version(
    forest: Forest, dedup: bool, tokens: str
) -> None:
    options = {"dedup": dedup, "tokens": tokens}
    if tokens == "leaf":
        forest = Forest(forest.child_ptr, forest.child_idx, forest.roots, abs(forest.token))
    assert_same(
        linearize_forest(forest, Dag(), **options), reference.linearize(forest, Dag(), **options)
    )


@settings(max_examples=40, deadline=None)
@given(dags(arity=2), st.booleans())
def test_kinds_of_any_dag_are_those_of_the_plain_version(forest: Forest, dedup: bool) -> None:
    options = {"dedup": dedup, "kinds": True}
    assert_same(
        linearize_forest(forest, Dag(2), **options), reference.linearize(forest, Dag(2), **options)
    )


TOKENS: dict[str, object] = {
    "lists": [[5, 2**31 - 1, 5], [7], [5, 6]],
    "tuples": ([7], (5, 6), [1, 2, 3, 4]),
    "one": [1, 2, 3],
    "int64": np.arange(4),
    "int32": np.arange(5, dtype=np.int32),
    "mixed": [np.arange(3), [4], np.arange(9)[::2], np.array([1, -1])],
    "bytes": [np.array([1, 2], np.uint8), [3, 300]],
    "numpy_integers": [list(np.arange(3)), [4]],
}


@pytest.mark.parametrize("data", TOKENS.values(), ids=TOKENS)
def test_sequences_are_numbered_as_by_the_plain_version(data: Any) -> None:
    rows = data if isinstance(data[0], (list, tuple, np.ndarray)) else [data]
    children: list[list[int]] = []
    for row in rows:
        children += [[len(children) + i - 1] if i else [] for i in range(len(row))]
    ends = np.cumsum([len(row) for row in rows]) - 1
    forest = from_children(children, ends, [int(token) for row in rows for token in row])
    for options in ({}, {"kinds": True}, {"dedup": True}):
        wanted = reference.linearize(forest, Sequence(), **options)
        assert_same(linearize(data, Sequence(), **options), wanted)
        assert_same(linearize(forest, Sequence(), **options), wanted)
    wanted = into_blocks(reference.linearize(forest, Sequence()), 2)
    assert_same(linearize(data, Sequence(), depth=2), wanted)


@pytest.mark.parametrize(
    ("data", "tokens", "match"),
    [
        ([[1, 2], [3, 9]], "all", r"tree 1, node root: a token must be .* size 9, got 9"),
        (np.array([9, 1]), "leaf", r"node root\[0\]: a token must be .* size 9, got 9"),
        ([np.array([1, -2])], "any", "a token must be from 0 .* got -2"),
        ([[1, -1]], "all", "the model reads a token at every node, found none"),
        ([[1], []], "all", "at least one element, got 0 for sequence 1"),
        ([[1.5, 2.0]], "all", "must be integers"),
        ([["a"]], "all", "must be integers"),
        ([[1, 2**40]], "all", "must fit in 32 bits"),
    ],
)
def test_bad_sequences_are_refused_by_name(data: Any, tokens: Any, match: str) -> None:
    with pytest.raises((StructureError, TokenError), match=match):
        linearize(data, Sequence(), tokens=tokens, vocab=9)


def test_only_tokens_that_are_read_are_looked_at() -> None:
    for data in ([[1, 50]], [np.array([1, 50])], structures.sequence(2, [1, 50])):
        assert linearize(data, Sequence(), tokens="leaf", vocab=9).token.tolist() == [1, 50]
        assert linearize(data, Sequence(), tokens="none").n_nodes == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 6), min_size=1, max_size=5), max_size=4), st.randoms())
def test_chains_in_any_order_are_numbered_as_by_the_plain_version(
    rows: list[list[int]], random: Random
) -> None:
    """Shuffled chains, and those that are nearly sequences one after another."""
    children: list[list[int]] = []
    for row in rows:
        children += [[len(children) + i - 1] if i else [] for i in range(len(row))]
    new = list(range(len(children)))
    if random.random() < 0.7:
        random.shuffle(new)
    elif len(new) > 1:
        i = random.randrange(len(new) - 1)
        new[i], new[i + 1] = new[i + 1], new[i]
    moved: list[list[int]] = [[] for _ in children]
    for node, row in enumerate(children):
        moved[new[node]] = [new[child] for child in row]
    roots = [random.randrange(len(new)) for _ in range(2)] if new else []
    forest = from_children(moved, roots, [token for row in rows for token in row])
    assert_same(linearize(forest, Sequence()), reference.linearize(forest, Sequence()))


def test_arrays_are_made_when_they_are_looked_at(case: tuple[Forest, Structure]) -> None:
    linear = linearize(*case)
    assert "order" not in vars(linear)
    assert linear.order is linear.order
    assert not linear.order.flags.writeable
    assert_same(copy.deepcopy(linear), linear)
    assert_same(pickle.loads(pickle.dumps(linear)), linear)
    with pytest.raises(AttributeError, match="'Linear' has no attribute 'ordre'"):
        linear.ordre  # type: ignore[attr-defined]  # noqa: B018


def test_walk_of_objects_finds_what_the_plain_walk_finds(case: tuple[Forest, Structure]) -> None:
    roots = to_objects(case[0])
    ours, nodes = walk_to_forest(roots, ("children", "token"))
    plain, plain_nodes = reference.walk(roots, ("children", "token"))
    for name in ("child_ptr", "child_idx", "roots", "token"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name))
    assert all(one is other for one, other in zip(nodes, plain_nodes, strict=True))


def test_objects_and_their_forest_get_one_numbering(case: tuple[Forest, Structure]) -> None:
    forest, structure = case
    if isinstance(structure, Sequence):
        structure = Tree(1)
    roots = to_objects(forest)
    assert_same(linearize(roots, structure), linearize(structures.from_objects(roots), structure))


def test_children_precede_parents_in_contiguous_levels(case: tuple[Forest, Structure]) -> None:
    forest, structure = case
    linear = linearize(forest, structure)
    assert linear.level_ptr[0] == 0
    assert linear.level_ptr[-1] == linear.n_nodes == forest.n_nodes
    np.testing.assert_array_equal(np.sort(linear.order), np.arange(forest.n_nodes))
    np.testing.assert_array_equal(linear.order[linear.id_of], np.arange(forest.n_nodes))
    level_of = np.empty(linear.n_nodes, int)
    for b, nodes in enumerate(levels(linear)):
        assert len(nodes) > 0
        level_of[nodes] = b
    for node in range(linear.n_nodes):
        below = children_of(linear, node)
        old = forest.children(linear.order[node])
        assert below == linear.id_of[old].tolist()
        assert (node < linear.n_leaves) == (not old)
        assert level_of[node] == 1 + max((level_of[c] for c in below), default=-1)
    np.testing.assert_array_equal(linear.token, forest.token[linear.order])
    np.testing.assert_array_equal(linear.roots, linear.id_of[forest.roots])


def test_kinds_say_which_children_are_leaves() -> None:
    linear = linearize(structures.sst_like(8, 3), Tree(2), kinds=True)
    assert linear.kind_ptr is not None
    np.testing.assert_array_equal(linear.kind_ptr[:, 0], linear.level_ptr[:-1])
    np.testing.assert_array_equal(linear.kind_ptr[:, -1], linear.level_ptr[1:])
    for b in range(1, linear.n_levels):
        for kind in range(4):
            for node in range(linear.kind_ptr[b, kind], linear.kind_ptr[b, kind + 1]):
                left, right = children_of(linear, node)
                assert kind == (left < linear.n_leaves) + 2 * (right < linear.n_leaves)


def test_equal_subtrees_get_one_number_and_keep_their_value(
    case: tuple[Forest, Structure],
) -> None:
    forest, structure = case

    def values(token: np.ndarray, children: list[list[int]]) -> list[object]:
        found: list[object] = []
        for node, row in enumerate(children):
            found.append(hash((int(token[node]), tuple(found[c] for c in row))))
        return found

    plain, merged = linearize(forest, structure), linearize(forest, structure, dedup=True)
    one = values(plain.token, [children_of(plain, n) for n in range(plain.n_nodes)])
    other = values(merged.token, [children_of(merged, n) for n in range(merged.n_nodes)])
    assert len(set(other)) == len(other)
    for node in range(forest.n_nodes):
        assert one[plain.id_of[node]] == other[merged.id_of[node]]


def test_equal_tokens_with_other_features_stay_apart() -> None:
    features = np.array([[0.0], [0.0], [1.0]], np.float32)
    forest = from_children([[], [], []], [0, 1, 2], [5, 5, 5], features)
    linear = linearize(forest, Tree(2), dedup=True)
    assert linear.n_nodes == 2
    np.testing.assert_array_equal(linear.features, [[0.0], [1.0]])


def test_one_address_and_offsets_reach_every_array() -> None:
    linear = linearize(structures.sst_like(3), Tree(2), kinds=True)
    for name, offset in linear.offsets.items():
        array = getattr(linear, name)
        np.testing.assert_array_equal(
            linear.memory[offset : offset + array.size], array.reshape(-1)
        )


@pytest.mark.parametrize("structure", [Tree(1), Dag(1), Tree(None), Dag(None)])
def test_chains_of_200_000_objects_need_no_recursion(structure: Structure) -> None:
    node = Node([], 0)
    for _ in range(199_999):
        node = Node([node], 1)
    linear = linearize(node, structure)
    assert linear.n_levels == 200_000
    assert linear.n_leaves == 1
    while node.children:  # or else the interpreter itself recurses to free them
        node = node.children.pop()


@pytest.mark.parametrize("turned", [False, True])
def test_deep_dags_in_any_order_need_no_recursion(turned: bool) -> None:
    n = 100_000
    one = np.maximum(np.arange(n) - 1, 0)
    two = np.maximum(np.arange(n) - 2, 0)
    child_idx = np.stack([one, two], 1)[1:].ravel()
    child_ptr = np.concatenate([[0, 0], np.arange(1, n) * 2])
    if turned:  # node i becomes n - 1 - i, and its neighbours in memory change places
        new = (n - 1 - np.arange(n)) ^ 1
        rows = np.empty((n, 2), np.int64)
        rows[new[1:]] = new[child_idx].reshape(-1, 2)
        counts = np.full(n, 2)
        counts[new[0]] = 0
        child_ptr = np.concatenate([[0], np.cumsum(counts)])
        child_idx = np.delete(rows, new[0], 0).ravel()
        roots = [new[n - 1]]
    else:
        roots = [n - 1]
    linear = linearize(Forest(child_ptr, child_idx, roots, np.zeros(n, int)), Dag(2))
    assert linear.n_levels == n
    np.testing.assert_array_equal(linear.level_ptr, np.arange(n + 1))
    assert linear.roots.tolist() == [n - 1]
    assert linear.child is not None
    np.testing.assert_array_equal(linear.child, [one[1:], two[1:]])


def test_a_long_cycle_is_found_without_recursion() -> None:
    n = 100_000
    forest = Forest(np.arange(n + 1), (np.arange(n) + 1) % n, [0], np.zeros(n, int))
    with pytest.raises(StructureError, match=r"no cycle, got one .* \.\.\.\(\d+ more\)\.\.\."):
        linearize(forest, Dag())


def test_a_million_nodes_are_numbered() -> None:
    forest = structures.perfect(17, 8)
    linear = linearize(forest, Tree(2), kinds=True)
    assert linear.n_nodes == 8 * (2**17 - 1)
    assert linear.n_levels == 17
    assert linearize(structures.sequence([500_000, 1]), Sequence()).n_levels == 500_000


def test_a_later_change_of_the_objects_has_no_effect() -> None:
    root = Node([Node([], 1), Node([], 2)])
    linear = linearize(root, Tree(2))
    root.children[0].token = 9
    root.children.clear()
    np.testing.assert_array_equal(linear.token, [1, 2, -1])


class Slotted:
    """Fields in slots."""

    __slots__ = ("children", "token")

    def __init__(self, children: object, token: object = None) -> None:
        self.children, self.token = children, token


class Computed:
    """Fields made anew at each look."""

    def __init__(self, children: list[object], token: object = None) -> None:
        self.kept, self.number = children, token

    @property
    def children(self) -> object:
        return iter(list(self.kept))

    @property
    def token(self) -> object:
        return self.number


class WithDict(Node):
    """Its dict is made at once, which moves the fields."""

    def __init__(self, children: list[Node], token: int | None = None) -> None:
        super().__init__(children, token)
        self.__dict__["extra"] = 1


def as_dict(children: object, token: object = None) -> dict[str, object]:
    return {"children": children, "token": token}


@pytest.mark.parametrize("make", [Node, Slotted, Computed, WithDict, as_dict])
def test_every_kind_of_object_is_read(make: type) -> None:
    shared = make([], np.int64(4))
    root = make([make([make([], 1), shared]), make((), 2**30 + 5), shared])
    linear = linearize([root, root], Dag())
    np.testing.assert_array_equal(linear.token, [2**30 + 5, 4, 1, -1, -1])
    assert linear.roots.tolist() == [4, 4]


def test_none_and_absent_tokens_are_minus_one() -> None:
    class Bare:
        children = None

    assert linearize([Node(None, None), Bare()], Tree(2)).token.tolist() == [-1, -1]  # type: ignore[arg-type]


class Angry:
    """Raises in the middle of a walk."""

    token = None

    @property
    def children(self) -> object:
        raise KeyError("mine")


class Shown:
    """Hands out the children of another, which nobody else refers to."""

    token = None

    def __init__(self, of: Node) -> None:
        self.of = of

    @property
    def children(self) -> list[Node]:
        return self.of.children


def test_nodes_that_a_property_hands_out_again_are_the_same_nodes() -> None:
    below = Node([Node([], 1), Node([], 2)])
    root = Node([below, Shown(below)])  # type: ignore[list-item]
    linear = linearize(root, Dag(2))
    assert linear.token.tolist() == [1, 2, -1, -1, -1]
    assert linear.child is not None
    assert linear.child[:, :2].tolist() == [[0, 0], [1, 1]]
    with pytest.raises(StructureError, match=r"node root\[0\] and of tree 0, node root\[1\]"):
        linearize(root, Tree(2))
    up = Shown(below)
    below.children = [up]  # type: ignore[list-item]
    del up
    with pytest.raises(StructureError, match="cycle, got one through the nodes 1 -> 1"):
        linearize(below, Dag())


def test_limits_beyond_32_bits_do_not_wrap() -> None:
    assert linearize(Node([], 2**31 - 1), Tree(2), tokens="leaf", vocab=2**32 + 5).n_nodes == 1
    with pytest.raises(TokenError, match="below the vocabulary size 2147483647, got 2147483647"):
        linearize(Node([], 2**31 - 1), Tree(2), tokens="leaf", vocab=2**31 - 1)
    for data in (Node([Node([]), Node([])]), structures.perfect(2)):
        with pytest.raises(StructureError, match="has 4294967298 children at every inner node"):
            linearize(data, Tree(2**32 + 2))


FAILING = {
    "none_child": lambda: [Node([Node([], 1), None])],  # type: ignore[list-item]
    "bad_token": lambda: [Node([Node([], "dog")])],  # type: ignore[arg-type]
    "huge_token": lambda: [Node([], 2**40)],
    "no_children": lambda: [Node([Node([], 1), 7])],  # type: ignore[list-item]
    "text_children": lambda: [Node("ab")],  # type: ignore[arg-type]
    "raises": lambda: [Computed([Node([], 1), Angry()])],
    "arity": lambda: [Node([Node([], 1)])],
    "shared": lambda: [Node([(kept := Node([], 1)), kept])],
}


@pytest.mark.parametrize("name", FAILING)
def test_reference_counts_are_unchanged_after_a_failed_walk(name: str) -> None:
    roots = FAILING[name]()
    leaf = Node([], 3)
    tree = Node([leaf, leaf], 2)
    data = [Computed([tree], 1), *roots]

    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in (leaf, tree, data[0], roots[0], leaf.children, None)]

    def attempt() -> None:
        with pytest.raises((StructureError, TokenError, KeyError)):
            linearize(data, Tree(2))
        with pytest.raises((StructureError, TokenError, KeyError)):
            linearize(roots, Tree(2))

    attempt()
    gc.collect()
    before = counts()
    for _ in range(50):
        attempt()
    gc.collect()
    after = counts()
    assert after[:-1] == before[:-1]
    assert abs(after[-1] - before[-1]) < 25  # None has many other users


_LITTLE_MEMORY = """
import resource, sys
from cortex.linearize import linearize
from cortex.forest import Dag
from cortex.structures import Node

class Many:
    token = None
    def __init__(self, kept): self.kept = kept
    children = property(lambda self: Row(self.kept))

class Row:  # no list, so a list is made of it and held
    def __init__(self, kept): self.kept = kept
    def __iter__(self): return iter(self.kept)

leaf = Node([], 3)
linearize([leaf], Dag())
for make in (Many, Node, lambda kept: {"children": kept}):
    root = make([leaf] * 30_000_000)
    before = sys.getrefcount(leaf), sys.getrefcount(root)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    least = 320 * 2**20 if make is Many else 32 * 2**20  # the list of a Row must fit
    resource.setrlimit(resource.RLIMIT_AS, (used + least, resource.RLIM_INFINITY))
    what = "numbered"
    try:
        linearize([root], Dag())
    except MemoryError:
        what = "refused"
    print(what, sys.getrefcount(leaf) - before[0], sys.getrefcount(root) - before[1])
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    del root
print(linearize([leaf], Dag()).n_nodes)
"""


def run_apart(code: list[str], **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *code],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_reference_counts_are_unchanged_when_memory_runs_out() -> None:
    assert run_apart(["-c", _LITTLE_MEMORY]).split("\n")[:-1] == ["refused 0 0"] * 3 + ["1"]


_A_MILLION = """
import resource, sys
from cortex.linearize import linearize
from cortex.forest import Sequence, Tree
from cortex.structures import perfect, sequence, to_objects
form, bytes_a_node = sys.argv[1], int(sys.argv[2])
structure = Sequence() if form == "sequence" else Tree(2)
small, large = sequence([9]), sequence([2**20])
if form != "sequence":
    small, large = perfect(3), perfect(20)
if form == "objects":
    small, large = to_objects(small), to_objects(large)
linearize(small, structure)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (bytes_a_node << 20), resource.RLIM_INFINITY))
for _ in range(4):  # what a call takes it gives back
    try:
        print(linearize(large, structure).n_nodes)
    except MemoryError:
        print("refused")
"""


# The result has order, id_of, token and an edge: 16 bytes a node, a sequence also level_ptr.
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("form", "enough", "nodes"),
    [("forest", 52, 2**20 - 1), ("sequence", 32, 2**20), ("objects", 110, 2**20 - 1)],
)
def test_a_million_nodes_take_some_tens_of_bytes_each(form: str, enough: int, nodes: int) -> None:
    assert run_apart(["-c", _A_MILLION, form, str(enough)]).split() == [str(nodes)] * 4
    assert "refused" in run_apart(["-c", _A_MILLION, form, "15"])


_IS_SANITIZED = """
import pytest
from cortex.linearize import linearize
from cortex.structures import sst_like
from cortex.forest import Tree
linearize(sst_like(1), Tree(2))
paths = {line.split()[-1] for line in open("/proc/self/maps") if line.rstrip().endswith(".so")}
ours = [text for p in paths if b"cortex_functions" in (text := open(p, "rb").read())]
assert len(ours) == 1 and b"__asan_report" in ours[0] and b"__ubsan" in ours[0]
raise SystemExit(pytest.main(["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow",
    "-k", "not memory_runs_out and not tens_of_bytes", "tests/cortex/test_linearize.py",
    "tests/cortex/test_problems.py", "tests/cortex/test_structures.py"]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sanitizers_find_nothing_in_the_walk() -> None:
    compiler = ["c++", "-print-file-name=libasan.so"]
    runtime = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout.strip()
    passed = run_apart(
        ["-c", _IS_SANITIZED],
        MLSYS21_SANITIZE="address,undefined",
        LD_PRELOAD=runtime,
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1",
        PYTHONMALLOC="malloc",  # so that the sanitizer sees where objects end
    )
    assert " passed" in passed


def test_a_walk_within_a_walk_is_safe() -> None:
    class Nested:
        token = 1

        @property
        def children(self) -> list[Node]:
            assert linearize(Node([Node([]), Node([])]), Tree(2)).n_nodes == 3
            return [Node([], 5), Node([], 6)]

    assert linearize([Nested(), Nested()], Tree(2)).token.tolist() == [5, 6, 5, 6, 1, 1]


def test_python_is_enough_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = structures.sst_like(2)
    roots = to_objects(forest)
    expected = linearize(roots, Tree(2), dedup=True)
    monkeypatch.setattr("cortex.linearize.native_functions", lambda: None)
    assert_same(linearize(roots, Tree(2), dedup=True), expected)


def test_without_the_header_numbering_goes_on_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plainly = native_functions.__wrapped__  # as in a process that has not compiled yet
    monkeypatch.setattr("cortex.linearize.sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"Python\.h is not in .*: apt-get install python3\."):
        assert plainly() is None


def test_kinds_need_a_small_fixed_arity() -> None:
    with pytest.raises(ValueError, match="kinds need a fixed number"):
        linearize(structures.sst_like(1), Tree(None), kinds=True)
