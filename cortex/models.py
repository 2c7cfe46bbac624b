"""The paper's nine models (sec. 7.1), written as a user would.

Row vectors multiply weights from the left, x @ U. `inputs` says where a node's input projection x
is computed:

    "preprojected"  x is a row of E, or the feature row, as the authors' programs read it
    "inside"        x = e @ W at every node, e a row of E or of features, `width` wide
    "hoisted"       as inside, with x of inner nodes computed before the recursion where nodes are
                    batched (cortex.lower.hoist)

vocab=None reads dense feature rows in place of tokens. words="leaves": only leaves have an input,
as in a constituency tree; words="nodes": all have, as in a dependency tree.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from cortex import recursive as cx
from cortex.errors import ModelError
from cortex.forest import Dag, Sequence, Tree
from cortex.ra import Expr
from cortex.recursive import Node, Param, Recursive

Inputs = Literal["preprojected", "hoisted", "inside"]
Words = Literal["leaves", "nodes"]
States = Mapping[str, Expr]


class _WithInput(Recursive):
    """A model whose nodes read an input projection of `size` columns."""

    def _declare_input(
        self, size: int, vocab: int | None, inputs: Inputs, width: int | None
    ) -> None:
        if inputs not in ("preprojected", "hoisted", "inside"):
            raise ModelError(
                f"inputs must be 'preprojected', 'hoisted' or 'inside', got {inputs!r}"
            )
        projected = inputs == "preprojected"
        if projected and width not in (None, size):
            raise ModelError(
                f"preprojected inputs have width {size}, got {width}; inputs='inside' projects them"
            )
        wide = size if projected else width
        if wide is None:
            raise ModelError(f"inputs={inputs!r} needs the width of an unprojected input, got None")
        self._reads_token, self._projects = vocab is not None, not projected
        if vocab is None:
            self.feature_width = wide
        else:
            self.E = Param(vocab, wide)
        if not projected:
            self.W = Param(wide, size)
        self.hoist_inputs = inputs == "hoisted"

    def _input(self, n: Node) -> Expr:
        read: Expr = self.E[n.token] if self._reads_token else n.features
        return read @ self.W if self._projects else read

    def _declare_words(self, words: Words) -> None:
        if words not in ("leaves", "nodes"):
            raise ModelError(f"words must be 'leaves' or 'nodes', got {words!r}")
        self._words = words

    def _word(self, n: Node, size: int) -> Expr:
        if self._words == "nodes" or n.is_leaf:
            return self._input(n)
        return cx.constant(0.0, size)


class TreeFC(Recursive):
    """h = relu([h_l; h_r] W + b), at a leaf a row of E (Looks et al. 2017). W: (2h, h)."""

    structure = Tree(2)

    def __init__(self, hidden: int, vocab: int) -> None:
        self.E = Param(vocab, hidden)
        self.W, self.b = Param(2 * hidden, hidden), Param(hidden)
        self.state(h=hidden)

    def leaf(self, n: Node) -> States:
        return {"h": self.E[n.token]}

    def node(self, n: Node) -> States:
        return {"h": cx.relu(cx.concat([n.left.h, n.right.h]) @ self.W + self.b)}


class TreeRNN(Recursive):
    """h = tanh(h_l W_l + h_r W_r + b), at a leaf a row of E."""

    structure = Tree(2)

    def __init__(self, hidden: int, vocab: int) -> None:
        self.E = Param(vocab, hidden)
        self.Wl, self.Wr = Param(hidden, hidden), Param(hidden, hidden)
        self.b = Param(hidden)
        self.state(h=hidden)

    def leaf(self, n: Node) -> States:
        return {"h": self.E[n.token]}

    def node(self, n: Node) -> States:
        return {"h": cx.tanh(n.left.h @ self.Wl + n.right.h @ self.Wr + self.b)}


class TreeGRU(_WithInput):
    """A gated unit over the sum s of the children's states.

    r = sig(s U_r + x_r + b_r), z = sig(s U_z + x_z + b_z), g = tanh((r * s) U_h + x_h + b_h),
    h = z * s + (1 - z) * g. Urz: U_r beside U_z; x and b hold r, z, h.

    variant="cavs": g reads r U_h, the shortcut of the authors' benchmark programs.
    """

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        arity: int | None = 2,
        inputs: Inputs = "preprojected",
        width: int | None = None,
        words: Words = "leaves",
        variant: Literal["cavs"] | None = None,
    ) -> None:
        if variant not in (None, "cavs"):
            raise ModelError(f"variant must be None or 'cavs', got {variant!r}")
        self.structure = Tree(arity)
        self._hidden, self._variant = hidden, variant
        self._declare_words(words)
        self._declare_input(3 * hidden, vocab, inputs, width)
        self.Urz, self.Uh = Param(hidden, 2 * hidden), Param(hidden, hidden)
        self.b = Param(3 * hidden)
        self.state(h=hidden)

    def _gates(self, n: Node) -> tuple[Expr, Expr, Expr]:
        hidden = self._hidden
        s = n.children.sum("h")
        x = self._word(n, 3 * hidden) + self.b
        r, z = cx.split(cx.sigmoid(s @ self.Urz + x[: 2 * hidden]), 2)
        inner = r if self._variant == "cavs" else r * s
        return s, z, cx.tanh(inner @ self.Uh + x[2 * hidden :])

    def node(self, n: Node) -> States:
        s, z, g = self._gates(n)
        return {"h": z * s + (1 - z) * g}


class SimpleTreeGRU(TreeGRU):
    """TreeGRU with h = (1 - z) * g."""

    def node(self, n: Node) -> States:
        _, z, g = self._gates(n)
        return {"h": (1 - z) * g}


class TreeLSTM(_WithInput):
    """Child-sum TreeLSTM: one forget gate a child (Tai et al. 2015).

    i, o = sig(s U + x + b), u = tanh(s U + x + b), f_k = sig(h_k U_f + x_f + b_f),
    c = i * u + sum f_k * c_k, h = o * tanh(c), s the sum of the children's h. Uiou holds i, o, u;
    x and b hold i, o, u, f.
    """

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        arity: int | None = 2,
        inputs: Inputs = "preprojected",
        width: int | None = None,
        words: Words = "leaves",
    ) -> None:
        self.structure = Tree(arity)
        self._hidden = hidden
        self._declare_words(words)
        self._declare_input(4 * hidden, vocab, inputs, width)
        self.Uiou, self.Uf = Param(hidden, 3 * hidden), Param(hidden, hidden)
        self.b = Param(4 * hidden)
        self.state(h=hidden, c=hidden)

    def node(self, n: Node) -> States:
        hidden = self._hidden
        x = self._word(n, 4 * hidden) + self.b
        i, o, u = cx.split(n.children.sum("h") @ self.Uiou + x[: 3 * hidden], 3)
        kept = cx.sum(cx.sigmoid(k.h @ self.Uf + x[3 * hidden :]) * k.c for k in n.children)
        c = cx.sigmoid(i) * cx.tanh(u) + kept
        return {"h": cx.sigmoid(o) * cx.tanh(c), "c": c}


class NaryTreeLSTM(_WithInput):
    """N-ary TreeLSTM: weights of its own for every child position (Tai et al. 2015).

    As TreeLSTM with s U = [h_1; ...; h_k] U, and forget gates f_1 .. f_k = sig([h_1; ...; h_k] U_f
    + x_f + b_f) that see all children. Uiou: (k h, 3 h), Uf: (k h, k h).
    """

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        arity: int = 2,
        inputs: Inputs = "preprojected",
        width: int | None = None,
        words: Words = "leaves",
    ) -> None:
        self.structure = Tree(arity)
        self._hidden = hidden
        self._declare_words(words)
        self._declare_input(4 * hidden, vocab, inputs, width)
        self.Uiou = Param(arity * hidden, 3 * hidden)
        self.Uf = Param(arity * hidden, arity * hidden)
        self.b = Param(4 * hidden)
        self.state(h=hidden, c=hidden)

    def node(self, n: Node) -> States:
        hidden = self._hidden
        x = self._word(n, 4 * hidden) + self.b
        every = cx.concat([k.h for k in n.children])
        i, o, u = cx.split(every @ self.Uiou + x[: 3 * hidden], 3)
        forget = cx.split(every @ self.Uf, len(n.children))
        c = cx.sigmoid(i) * cx.tanh(u)
        for k, f in zip(n.children, forget, strict=True):
            c = c + cx.sigmoid(f + x[3 * hidden :]) * k.c
        return {"h": cx.sigmoid(o) * cx.tanh(c), "c": c}


class MVRNN(Recursive):
    """A vector a and a matrix A at every node (Socher et al. 2012).

    p = tanh(W [B a; A b] + bias), P = W_M [A; B] for children (a, A), (b, B). W, WM: (h, 2h).

    rank: a word's matrix is A0 + L R with L (h, rank) and R (rank, h) of its own, as Socher et al.
          do for large vocabularies; None keeps a whole matrix a word
    """

    structure = Tree(2)

    def __init__(self, hidden: int, vocab: int, *, rank: int | None = None) -> None:
        self._rank = rank
        self.E = Param(vocab, hidden)
        if rank is None:
            self.EM = Param(vocab, hidden, hidden)
        else:
            self.A0 = Param(hidden, hidden)
            self.EL, self.ER = Param(vocab, hidden, rank), Param(vocab, rank, hidden)
        self.W, self.WM = Param(hidden, 2 * hidden), Param(hidden, 2 * hidden)
        self.b = Param(hidden)
        self.state(a=hidden, A=(hidden, hidden))

    def leaf(self, n: Node) -> States:
        if self._rank is None:
            matrix: Expr = self.EM[n.token]
        else:
            matrix = self.A0 + self.EL[n.token] @ self.ER[n.token]
        return {"a": self.E[n.token], "A": matrix}

    def node(self, n: Node) -> States:
        left, right = n.left, n.right
        both = cx.concat([right.A @ left.a, left.A @ right.a])
        return {
            "a": cx.tanh(self.W @ both + self.b),
            "A": self.WM @ cx.concat([left.A, right.A]),
        }


class DAGRNN(_WithInput):
    """h(v) = tanh(x(v) + (sum of h over predecessors) U + b) (Shuai et al. 2015)."""

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        arity: int | None = None,
        inputs: Inputs = "preprojected",
        width: int | None = None,
    ) -> None:
        self.structure = Dag(arity)
        self._declare_input(hidden, vocab, inputs, width)
        self.U, self.b = Param(hidden, hidden), Param(hidden)
        self.state(h=hidden)

    def node(self, n: Node) -> States:
        return {"h": cx.tanh(self._input(n) + n.children.sum("h") @ self.U + self.b)}


class LSTM(_WithInput):
    """torch.nn.LSTM: gates i, f, g, o; c = f * c' + i * g, h = o * tanh(c)."""

    structure = Sequence()
    imports: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "torch.nn.modules.rnn.LSTM": {
            "W": "weight_ih_l0.T",
            "U": "weight_hh_l0.T",
            "b": "bias_ih_l0? + bias_hh_l0?",
        },
        "torch.nn.modules.rnn.LSTMCell": {
            "W": "weight_ih.T",
            "U": "weight_hh.T",
            "b": "bias_ih? + bias_hh?",
        },
    }

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        inputs: Inputs = "preprojected",
        width: int | None = None,
    ) -> None:
        self._declare_input(4 * hidden, vocab, inputs, width)
        self.U, self.b = Param(hidden, 4 * hidden), Param(4 * hidden)
        self.state(h=hidden, c=hidden)

    def node(self, n: Node) -> States:
        i, f, g, o = cx.split(self._input(n) + n.previous.h @ self.U + self.b, 4)
        c = cx.sigmoid(f) * n.previous.c + cx.sigmoid(i) * cx.tanh(g)
        return {"h": cx.sigmoid(o) * cx.tanh(c), "c": c}


class GRU(_WithInput):
    """torch.nn.GRU: gates r, z, n; n = tanh(x_n + b_in + r * (h' U_n + b_hn)).

    h = (1 - z) * n + z * h'. bx is torch's bias_ih, bh its bias_hh.
    """

    structure = Sequence()
    imports: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "torch.nn.modules.rnn.GRU": {
            "W": "weight_ih_l0.T",
            "U": "weight_hh_l0.T",
            "bx": "bias_ih_l0?",
            "bh": "bias_hh_l0?",
        },
        "torch.nn.modules.rnn.GRUCell": {
            "W": "weight_ih.T",
            "U": "weight_hh.T",
            "bx": "bias_ih?",
            "bh": "bias_hh?",
        },
    }

    def __init__(
        self,
        hidden: int,
        vocab: int | None,
        *,
        inputs: Inputs = "preprojected",
        width: int | None = None,
    ) -> None:
        self._hidden = hidden
        self._declare_input(3 * hidden, vocab, inputs, width)
        self.U = Param(hidden, 3 * hidden)
        self.bx, self.bh = Param(3 * hidden), Param(3 * hidden)
        self.state(h=hidden)

    def node(self, n: Node) -> States:
        two, before = 2 * self._hidden, n.previous.h
        x, y = self._input(n) + self.bx, before @ self.U + self.bh
        r, z = cx.split(cx.sigmoid(x[:two] + y[:two]), 2)
        new = cx.tanh(x[two:] + r * y[two:])
        return {"h": (1 - z) * new + z * before}
