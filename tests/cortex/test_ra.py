"""Tracing: what a model computes, what is refused, and models nobody listed."""

import inspect
import subprocess
import sys

import numpy as np
import oracle
import pytest

import cortex as cx
from cortex import ra, weights
from cortex.reference.recursive import evaluate

H, V = 4, 9


def model(body, leaf=None, structure=None, states=None, **more):
    """A model from functions of (self, n), with the usual parameters."""

    class Made(cx.Recursive):
        def __init__(self):
            self.structure = cx.Tree(2) if structure is None else structure
            self.E, self.W, self.b = cx.Param(V, H), cx.Param(H, H), cx.Param(H)
            self.state(**(states or {"h": H}))
            for name, value in more.items():
                setattr(self, name, value)

        def node(self, n):
            return body(self, n)

    if leaf is not None:
        Made.leaf = leaf
    return Made()


def word(self, n):
    return {"h": self.E[n.token]}


def test_equal_expressions_are_one_object():
    def body(self, n):
        first = cx.tanh(n.left.h @ self.W + self.b)
        assert first is cx.tanh(n.left.h @ self.W + self.b)
        return {"h": first * cx.tanh(n.left.h @ self.W + self.b)}

    traced = ra.trace(model(body, word))
    assert sum(isinstance(x, ra.Product) for x in ra.walk(traced.node.values())) == 1


def test_a_loop_over_children_becomes_one_reduce_whatever_the_arity():
    def body(self, n):
        return {"h": cx.sum(k.h @ self.W for k in n.children)}

    for structure in (cx.Tree(2), cx.Tree(None), cx.Tree(5), cx.Dag()):
        found = ra.trace(model(body, word, structure)).node["h"]
        assert found is ra.Reduce(
            "sum", ra.ChildState(ra.Each(), "h", (H,)) @ ra.Param("W", (H, H))
        )


def test_positions_may_differ_where_the_arity_is_fixed():
    def body(self, n):
        return {"h": cx.sum(k.h * j for j, k in enumerate(n.children))}

    traced = ra.trace(model(body, word, cx.Tree(3)))
    assert not any(isinstance(x, ra.Reduce) for x in ra.walk(traced.node.values()))
    with pytest.raises(cx.ModelError, match=r"all children alike"):
        ra.trace(model(body, word, cx.Tree(None)))


def test_zero_states_remove_what_they_enter():
    def body(self, n):
        s = n.children.sum("h")
        gate = cx.sigmoid(s @ self.W + self.b)
        kept = cx.sum(cx.sigmoid(k.h @ self.W) * k.h for k in n.children)
        return {"h": gate * s + (1 - gate) * cx.tanh(self.b) + kept}

    for structure in (cx.Tree(2), cx.Tree(None)):
        traced = ra.trace(model(body, None, structure))
        assert repr(traced.leaf["h"]) == "(1 - sigmoid(b)) * tanh(b)"


def test_python_may_branch_on_is_leaf():
    def body(self, n):
        return {"h": self.E[n.token] if n.is_leaf else n.left.h + n.right.h}

    def chosen(self, n):
        return {"h": cx.where(n.is_leaf, self.E[n.token], n.left.h + n.right.h)}

    a, b = ra.trace(model(body)), ra.trace(model(chosen))
    assert (a.leaf, a.node) == (b.leaf, b.node)
    assert a.leaf_uses_token
    assert not a.node_uses_token


def remember(self, n):
    self.last = n.left.h
    return {"h": self.last}


def branch(self, n):
    return {"h": n.left.h if n.left.h else n.right.h}


WRONG = {
    "a branch on a value": (branch, "P1"),
    "a comparison": (lambda self, n: {"h": n.left.h > 0}, "P1"),
    "where on a value": (lambda self, n: {"h": cx.where(n.left.h, 1.0, n.right.h)}, "P1"),
    "a parent": (lambda self, n: {"h": n.parent.h}, r"n\.parent"),
    "a sibling": (lambda self, n: {"h": n.siblings[0].h}, r"n\.siblings"),
    "a child's payload": (lambda self, n: {"h": self.E[n.left.token]}, "'token'"),
    "a value kept between calls": (remember, r"self\.last"),
    "a state of wrong shape": (lambda self, n: {"h": cx.concat([n.left.h, n.right.h])}, r"\[8\]"),
    "a forgotten state": (lambda self, n: {}, "forgets h"),
    "an unknown state": (lambda self, n: {"h": n.left.h, "d": n.left.h}, "returns d"),
    "nothing returned": (lambda self, n: None, "dict"),
    "shapes that do not fit": (lambda self, n: {"h": n.left.h @ cx.concat([self.W, self.W])},
                               r"children\[0\]\.h @ \[W; W\]"),
    "unequal sums": (lambda self, n: {"h": n.left.h + self.W}, r"children\[0\]\.h \+ W"),
    "a step": (lambda self, n: {"h": n.left.h[::2]}, "slices"),
    "numpy": (lambda self, n: {"h": np.tanh(n.left.h)}, "numpy's tanh"),
    "an array": (lambda self, n: {"h": n.left.h + np.ones(H)}, "cx.Param"),
    "a token as a number": (lambda self, n: {"h": n.left.h * n.token}, "n.token"),
    "a child that is not there": (lambda self, n: {"h": n.children[2].h}, "arity is 2"),
    "previous in a tree": (lambda self, n: {"h": n.previous.h}, "cx.Sequence"),
    "features of no width": (lambda self, n: {"h": n.features}, "feature_width"),
    "a parameter of no model": (lambda self, n: {"h": n.left.h * ra.Param("Z", (H,))}, "Z"),
    "an unequal split": (lambda self, n: {"h": cx.split(n.left.h, 3)[0]}, "3 equal parts"),
    "a transposed value": (lambda self, n: {"h": (self.W + 1).T @ n.left.h}, "transposed"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_models_are_refused_with_the_line(case):
    body, said = WRONG[case]
    with pytest.raises(cx.ModelError, match=said) as error:
        ra.trace(model(body, word))
    file, _, line = str(error.value).rpartition(" ")[2].rpartition(":")
    assert file.endswith("test_ra.py")
    lines, first = inspect.getsourcelines(body)
    node, at = inspect.getsourcelines(model)
    places = {*range(first, first + len(lines)), *range(at, at + len(node))}
    assert int(line) in places


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda self, n: {"h": n.children[0].h}, "fixed arity"),
        (lambda self, n: {"h": sum(k.h for k in n.children)}, "builtin sum"),
        (lambda self, n: {"h": n.left.h}, "arity 2"),
        (lambda self, n: {"h": len(n.children) * self.b}, "not known"),
        (
            lambda self, n: {
                "h": cx.sum(cx.sum(k.h * j.h for j in n.children) for k in n.children)
            },
            "pairs",
        ),
        (
            lambda self, n: {
                "h": cx.sum(k.h @ U for k, U in zip(n.children, [self.W], strict=False))
            },
            "alike",
        ),
    ],
)
def test_any_arity_refuses_what_needs_positions(body, said):
    with pytest.raises(cx.ModelError, match=said):
        ra.trace(model(body, word, cx.Tree(None)))


def test_a_leaf_has_no_children():
    with pytest.raises(cx.ModelError, match="has no children"):
        ra.trace(model(lambda self, n: {"h": n.left.h}, lambda self, n: {"h": n.left.h}))


class Attention(cx.Recursive):
    """Children weighted by a softmax of their scores."""

    structure = cx.Tree(None)

    def __init__(self):
        self.E, self.q, self.W = cx.Param(V, H), cx.Param(H), cx.Param(H, H)
        self.state(h=H)

    def leaf(self, n):
        return {"h": self.E[n.token]}

    def node(self, n):
        top = cx.max(cx.dot(k.h, self.q) for k in n.children)
        total = cx.sum(cx.exp(k.h @ self.q - top) for k in n.children)
        mixed = cx.sum(cx.exp(k.h @ self.q - top) / total * k.h for k in n.children)
        return {"h": cx.tanh(mixed @ self.W)}


def test_attention_over_children(rng):
    traced = ra.trace(Attention())
    given = weights.seeded(traced)
    data = oracle.variable(rng, V)
    found = evaluate(traced, data, given)["h"]
    for n in range(data.n_nodes):
        kids = data.child_idx[data.child_ptr[n] : data.child_ptr[n + 1]]
        if not len(kids):
            continue
        score = np.exp(found[kids] @ given["q"].astype(float))
        wanted = np.tanh((score / score.sum()) @ found[kids] @ given["W"].astype(float))
        np.testing.assert_allclose(found[n], wanted, atol=1e-12)


def test_two_states_up_of_different_rank(rng):
    def body(self, n):
        grown = cx.tanh(n.left.A @ n.right.h)
        return {"h": grown + self.b, "A": n.left.A @ n.right.A * cx.dot(n.left.h, n.right.h)}

    def leaf(self, n):
        return {"h": self.E[n.token], "A": self.W.T}

    traced = ra.trace(model(body, leaf, states={"h": H, "A": (H, H)}))
    given = weights.seeded(traced)
    found = evaluate(traced, oracle.forest([[], [], [0, 1]], [3, 4, -1]), given)
    h = found["h"]
    np.testing.assert_allclose(h[2], np.tanh(given["W"].T @ h[1]) + given["b"], atol=1e-6)
    np.testing.assert_allclose(found["A"][2], (given["W"] @ given["W"]).T * (h[0] @ h[1]),
                               atol=1e-6)  # fmt: skip


def test_printing_names_shared_values_and_parses_as_it_reads():
    text = str(ra.trace(cx.models.TreeLSTM(H, V)))
    assert "sum(sigmoid(k.h @ Uf + b[12:16]) * k.c for k in children)" in text
    assert "h [4] = sigmoid(" in text
    x, y = ra.Feature(3), ra.Param("y", (3,))
    assert repr((x + y) * x) == "(features + y) * features"
    assert repr(x - (y - x)) == "features - (y - features)"
    assert repr(x / (y * x)) == "features / (y * features)"


def test_rewrite_replaces_everywhere_and_keeps_what_is_unchanged():
    traced = ra.trace(cx.models.TreeLSTM(H, V))
    c = traced.node["c"]
    assert ra.rewrite(c, lambda x: None) is c
    zero = ra.rewrite(c, lambda x: ra.Number(0, x.shape) if isinstance(x, ra.ChildState) else None)
    assert not any(isinstance(x, ra.ChildState) for x in ra.walk([zero]))


def test_deep_expressions_need_no_recursion():
    x = ra.Feature(2)
    for _ in range(5000):
        x = cx.tanh(x) + 1
    assert sum(1 for _ in ra.walk([x])) == 10002
    assert ra.rewrite(x, lambda _: None) is x


def test_import_is_light():
    code = "import sys, cortex; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
