"""Programs in normal form, written by hand: what lowering gives for a TreeLSTM."""

from cortex import ilir as il
from cortex.ilir import (
    Apply,
    Barrier,
    Call,
    For,
    Load,
    Program,
    Reduce,
    Store,
    TensorDecl,
    add,
    ceil_div,
    minimum,
    mul,
    seq,
    sub,
)

V = il.Var

whole = il.Int


def L(t, *i):
    return Load(t, tuple(i))


def sig(x):
    return Apply("sigmoid", (x,))


def tanh(x):
    return Apply("tanh", (x,))


def plus(a, b):
    return Apply("add", (a, b))


def times(a, b):
    return Apply("mul", (a, b))


def prod(x, row, w, k, K, col):
    return Reduce("sum", k, whole(0), whole(K), times(L(x, row, V(k)), L(w, V(k), col)))


def tree_lstm(H, V_, R=64, C=None):
    C = C or H
    n = V("n")
    j = V("j")
    m = V("m")
    leaf = For(
        "n",
        whole(0),
        il.N_LEAVES,
        For(
            "j",
            whole(0),
            whole(H),
            seq(
                Store(
                    "c",
                    (n, j),
                    times(
                        sig(plus(L("E", Call("token", (n,)), j), L("b", j))),
                        tanh(
                            plus(
                                L("E", Call("token", (n,)), add(j, whole(2 * H))),
                                L("b", add(j, whole(2 * H))),
                            )
                        ),
                    ),
                ),
                Store(
                    "h",
                    (n, j),
                    times(
                        sig(
                            plus(
                                L("E", Call("token", (n,)), add(j, whole(H))),
                                L("b", add(j, whole(H))),
                            )
                        ),
                        tanh(L("c", n, j)),
                    ),
                ),
            ),
            "vector",
        ),
        "parallel",
    )
    b = V("lev")
    begin = Call("level_begin", (b,))
    end = Call("level_end", (b,))
    t = V("t")
    first = add(begin, mul(whole(R), t))
    node = add(first, m)
    count = minimum(whole(R), sub(end, first))
    c0, c1 = Call("child0", (node,)), Call("child1", (node,))
    k = V("k")
    col = add(mul(V("jb"), whole(C)), j)

    def mj(x):
        return For("m", whole(0), count, For("j", whole(0), whole(C), x, "vector"))

    def gate(w, i):
        return plus(L(f"T{i}", m, j), L("b", add(col, whole(w * H))))

    body = seq(
        For(
            "m",
            whole(0),
            count,
            For(
                "k",
                whole(0),
                whole(H),
                seq(
                    Store("S", (m, k), plus(L("h", c0, k), L("h", c1, k))),
                    Store("A", (m, k), L("h", c0, k)),
                    Store("B", (m, k), L("h", c1, k)),
                ),
                "vector",
            ),
        ),
        For(
            "jb",
            whole(0),
            whole(H // C),
            seq(
                *[
                    mj(Store(f"T{g}", (m, j), prod("S", m, "Uiou", "k", H, add(col, whole(g * H)))))
                    for g in range(3)
                ],
                mj(Store("T3", (m, j), prod("A", m, "Uf", "k", H, col))),
                mj(Store("T4", (m, j), prod("B", m, "Uf", "k", H, col))),
                mj(
                    seq(
                        Store(
                            "c",
                            (node, col),
                            plus(
                                plus(
                                    times(sig(gate(0, 0)), tanh(gate(2, 2))),
                                    times(sig(gate(3, 3)), L("c", c0, col)),
                                ),
                                times(sig(gate(3, 4)), L("c", c1, col)),
                            ),
                        ),
                        Store("h", (node, col), times(sig(gate(1, 1)), tanh(L("c", node, col)))),
                    )
                ),
            ),
        ),
    )
    nodes = For(
        "lev",
        whole(1),
        sub(il.N_LEVELS, whole(1)),
        seq(For("t", whole(0), ceil_div(sub(end, begin), whole(R)), body, "parallel"), Barrier()),
    )
    T = {}

    def decl(nm, shape, scope):
        T[nm] = TensorDecl(
            nm,
            tuple(whole(s) if isinstance(s, int) else s for s in shape),
            ("",) * len(shape),
            scope,
        )

    decl("E", (V_, 4 * H), "param")
    decl("b", (4 * H,), "param")
    decl("Uiou", (H, 3 * H), "param")
    decl("Uf", (H, H), "param")
    decl("h", (il.N_NODES, H), "state")
    decl("c", (il.N_NODES, H), "state")
    for s in "SAB":
        decl(s, (R, H), "tile")
    for g in range(5):
        decl(f"T{g}", (R, C), "tile")
    return Program(
        "tree_lstm", T, il.structure_functions(2), seq(leaf, Barrier(), nodes), ("h", "c")
    )
