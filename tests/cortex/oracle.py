"""The nine models as plain recursive PyTorch in float64, one node at a time, and small forests.

Written from the equations, without anything of the compiler. Recursion is memoised a node, so that
a DAG's shared node is computed once.
"""

import numpy as np
import torch

from cortex.forest import Forest


def forest(children, tokens, roots=None, features=None):
    """A forest from a list of child lists."""
    ptr = np.cumsum([0, *map(len, children)])
    used = {c for node in children for c in node}
    heads = [n for n in range(len(children)) if n not in used] if roots is None else roots
    return Forest(ptr, [c for node in children for c in node], heads, tokens, features)


def _make(rng, children, vocab, width, **kw):
    n = len(children)
    features = None if width is None else rng.normal(size=(n, width)).astype(np.float32)
    return forest(children, rng.integers(0, vocab, n), features=features, **kw)


def perfect(rng, vocab, levels=4, batch=2, arity=2, width=None):
    """Complete trees."""
    children = []

    def grow(level):
        mine = [] if level == 1 else [grow(level - 1) for _ in range(arity)]
        children.append(mine)
        return len(children) - 1

    roots = [grow(levels) for _ in range(batch)]
    return _make(rng, children, vocab, width, roots=roots)


def random_trees(rng, vocab, leaves=(1, 2, 9, 14), arity=2, width=None):
    """Trees with full nodes of one arity, merged at random."""
    children, roots = [], []
    for n in leaves:
        open_ = list(range(len(children), len(children) + 1 + (n - 1) * (arity - 1)))
        children += [[] for _ in open_]
        while len(open_) > 1:
            at = int(rng.integers(0, len(open_) - arity + 1))
            children.append(open_[at : at + arity])
            open_[at : at + arity] = [len(children) - 1]
        roots += open_
    return _make(rng, children, vocab, width, roots=roots)


def sst_like(rng, vocab, width=None):
    """Binary trees of about 19 leaves, as sentences have."""
    return random_trees(rng, vocab, leaves=rng.integers(2, 40, 4).tolist(), width=width)


def chain(rng, vocab, length=30, width=None):
    """A binary tree as deep as it can be."""
    children = [[], *([[]] * 0)]
    top = 0
    for _ in range(length):
        children.append([])
        children.append([top, len(children) - 1])
        top = len(children) - 1
    return _make(rng, children, vocab, width)


def single_leaf(rng, vocab, width=None):
    """One node."""
    return _make(rng, [[]], vocab, width)


def variable(rng, vocab, n=25, width=None):
    """Trees whose nodes have any number of children."""
    children = [[] for _ in range(n)]
    for node in range(n - 1):
        children[int(rng.integers(node + 1, n))].append(node)
    return _make(rng, children, vocab, width)


def sequences(rng, vocab, lengths=(1, 2, 12), width=None):
    """Chains of one child a node."""
    children, roots = [], []
    for length in lengths:
        start = len(children)
        children += [[start + t - 1] if t else [] for t in range(length)]
        roots.append(len(children) - 1)
    return _make(rng, children, vocab, width, roots=roots)


def grid(rng, vocab, rows=5, columns=6, width=None):
    """A pixel's predecessors are the ones above and to the left."""
    children = []
    for r in range(rows):
        for c in range(columns):
            above = [(r - 1) * columns + c] if r else []
            children.append(above + ([r * columns + c - 1] if c else []))
    return _make(rng, children, vocab, width)


class Oracle:
    """Evaluates one of the models by name; `words` as the model has it."""

    def __init__(self, name, weights, data, *, words="leaves", variant=None, arity=2):
        self.w = {k: torch.tensor(np.asarray(v, np.float64)) for k, v in weights.items()}
        self.step = getattr(self, name)
        self.data, self.words, self.variant, self.arity = data, words, variant, arity

    def __call__(self):
        """State -> (n_nodes, ...) in the order of the forest."""
        data, memo = self.data, {}
        ptr, idx = data.child_ptr.tolist(), data.child_idx.tolist()

        def visit(n):
            if n not in memo:
                memo[n] = self.step(n, [visit(c) for c in idx[ptr[n] : ptr[n + 1]]])
            return memo[n]

        nodes = [visit(n) for n in range(data.n_nodes)]
        return {k: torch.stack([node[k] for node in nodes]).numpy() for k in nodes[0]}

    def x(self, n, kids=()):
        """The input projection, 0 where a node has no word."""
        if kids and self.words == "leaves":
            return torch.zeros((), dtype=torch.float64)
        if "E" in self.w:
            row = self.w["E"][int(self.data.token[n])]
        else:
            row = torch.tensor(self.data.features[n].astype(np.float64))
        return self.w["W"].T @ row if "W" in self.w else row

    def TreeFC(self, n, kids):
        if not kids:
            return {"h": self.w["E"][int(self.data.token[n])]}
        both = torch.cat([kids[0]["h"], kids[1]["h"]])
        return {"h": torch.relu(self.w["W"].T @ both + self.w["b"])}

    def TreeRNN(self, n, kids):
        if not kids:
            return {"h": self.w["E"][int(self.data.token[n])]}
        left, right = self.w["Wl"].T @ kids[0]["h"], self.w["Wr"].T @ kids[1]["h"]
        return {"h": torch.tanh(left + right + self.w["b"])}

    def _gru(self, n, kids):
        size = len(self.w["Uh"])
        s = sum((k["h"] for k in kids), torch.zeros(size, dtype=torch.float64))
        x_r, x_z, x_h = (self.x(n, kids) + self.w["b"]).split(size)
        u_r, u_z = self.w["Urz"].split(size, dim=1)
        r, z = torch.sigmoid(u_r.T @ s + x_r), torch.sigmoid(u_z.T @ s + x_z)
        inner = r if self.variant == "cavs" else r * s
        return s, z, torch.tanh(self.w["Uh"].T @ inner + x_h)

    def TreeGRU(self, n, kids):
        s, z, g = self._gru(n, kids)
        return {"h": z * s + (1 - z) * g}

    def SimpleTreeGRU(self, n, kids):
        _, z, g = self._gru(n, kids)
        return {"h": (1 - z) * g}

    def TreeLSTM(self, n, kids):
        size = len(self.w["Uf"])
        s = sum((k["h"] for k in kids), torch.zeros(size, dtype=torch.float64))
        x_i, x_o, x_u, x_f = (self.x(n, kids) + self.w["b"]).split(size)
        i, o, u = (self.w["Uiou"].T @ s).split(size)
        c = torch.sigmoid(i + x_i) * torch.tanh(u + x_u)
        for k in kids:
            c = c + torch.sigmoid(self.w["Uf"].T @ k["h"] + x_f) * k["c"]
        return {"h": torch.sigmoid(o + x_o) * torch.tanh(c), "c": c}

    def NaryTreeLSTM(self, n, kids):
        size = len(self.w["b"]) // 4
        zero = torch.zeros(size, dtype=torch.float64)
        h = torch.cat([k["h"] for k in kids] or [zero] * self.arity)
        x_i, x_o, x_u, x_f = (self.x(n, kids) + self.w["b"]).split(size)
        i, o, u = (self.w["Uiou"].T @ h).split(size)
        c = torch.sigmoid(i + x_i) * torch.tanh(u + x_u)
        for k, f in zip(kids, (self.w["Uf"].T @ h).split(size), strict=False):
            c = c + torch.sigmoid(f + x_f) * k["c"]
        return {"h": torch.sigmoid(o + x_o) * torch.tanh(c), "c": c}

    def MVRNN(self, n, kids):
        if not kids:
            token = int(self.data.token[n])
            if "EM" in self.w:
                matrix = self.w["EM"][token]
            else:
                matrix = self.w["A0"] + self.w["EL"][token] @ self.w["ER"][token]
            return {"a": self.w["E"][token], "A": matrix}
        (a, A), (b, B) = ((k["a"], k["A"]) for k in kids)
        p = torch.tanh(self.w["W"] @ torch.cat([B @ a, A @ b]) + self.w["b"])
        return {"a": p, "A": self.w["WM"] @ torch.cat([A, B])}

    def DAGRNN(self, n, kids):
        s = sum((k["h"] for k in kids), torch.zeros(len(self.w["b"]), dtype=torch.float64))
        return {"h": torch.tanh(self.x(n) + self.w["U"].T @ s + self.w["b"])}

    def LSTM(self, n, kids):
        size = len(self.w["U"])
        zero = torch.zeros(size, dtype=torch.float64)
        before = kids[0] if kids else {"h": zero, "c": zero}
        i, f, g, o = (self.x(n) + self.w["U"].T @ before["h"] + self.w["b"]).split(size)
        c = torch.sigmoid(f) * before["c"] + torch.sigmoid(i) * torch.tanh(g)
        return {"h": torch.sigmoid(o) * torch.tanh(c), "c": c}

    def GRU(self, n, kids):
        size = len(self.w["U"])
        h = kids[0]["h"] if kids else torch.zeros(size, dtype=torch.float64)
        x_r, x_z, x_n = (self.x(n) + self.w["bx"]).split(size)
        h_r, h_z, h_n = (self.w["U"].T @ h + self.w["bh"]).split(size)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        new = torch.tanh(x_n + r * h_n)
        return {"h": (1 - z) * new + z * h}
