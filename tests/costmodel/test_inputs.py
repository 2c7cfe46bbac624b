"""What the analysis calls exact must be exact, in every order of the sums."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest

from costmodel import measure as m
from costmodel.affine import Affine
from costmodel.inputs import Inexact, Inputs, bounds, is_exact, plan_inputs, values
from costmodel.ir import (
    Access,
    Array,
    Binary,
    Call,
    Compare,
    Computation,
    Const,
    Index,
    Load,
    Loop,
    Negate,
    Program,
    Select,
)
from tests.costmodel.nests import matmul, with_body

i, j, k = map(Affine.of, "ijk")
AT_I = Access("x", (i,))
TYPES = {"float32": np.float32, "float64": np.float64}


def nest(statements, extents, arrays, dtype="float32"):
    """Statements in one loop nest; all arrays come from the caller."""
    body = tuple(Computation(write, expr) for write, expr in statements)
    for name, extent in reversed(extents.items()):
        body = (Loop(name, Affine(), Affine((), extent), body),)
    made = tuple(Array(name, shape, dtype, "inout") for name, shape in arrays.items())
    return Program("p", made, body)


def add(left, right):
    return Binary("+", left, right)


def scan(factor, n=40):
    """x[i + 1] = x[i] + x[i + 1] * factor: every cell feeds the next."""
    after = Access("x", (i + 1,))
    expr = add(Load(AT_I), Binary("*", Load(after), Const(factor)))
    return nest([(after, expr)], {"i": n}, {"x": (n + 1,)})


def scaled_sum(factor, n):
    """y = factor * y, then y += x[i] n times, as in PolyBench's gemm."""
    y = Access("y", ())
    return Program(
        "p",
        (Array("x", (n,), "float32", "in"), Array("y", (), "float32", "inout")),
        (
            Computation(y, Binary("*", Load(y), Const(factor))),
            Loop("i", Affine(), Affine((), n), (Computation(y, add(Load(y), Load(AT_I))),)),
        ),
    )


@pytest.mark.parametrize(
    ("program", "amplitude", "exact"),
    [
        (matmul(512), 8, True),  # 8 + 512 * 64 is far below 2^24
        (matmul(262_143), 8, True),  # 8 + 262,143 * 64 = 2^24 - 56
        (matmul(262_144), 8, False),
        (matmul(262_144), 4, True),
        (matmul(262_144, "float64"), 8, True),
        (matmul(10**9, "int32"), 8, True),  # wraps around alike in any order
        (scaled_sum(0.5, 100), 8, True),
        (scaled_sum(0.1, 100), 8, False),
        (scaled_sum(2.0**-21, 100), 8, False),  # 800 in steps of 2^-21
        (scan(1.0, n=10), 8, True),
        (scan(1.0, n=1000), 8, False),  # the rule is coarse: it doubles in every round
        (nest([(AT_I, Call("sqrt", (Load(AT_I),)))], {"i": 4}, {"x": (4,)}), 1, False),
        (nest([(AT_I, Binary("/", Load(AT_I), Const(4)))], {"i": 4}, {"x": (4,)}), 8, True),
        (nest([(AT_I, Binary("/", Load(AT_I), Const(3)))], {"i": 4}, {"x": (4,)}), 8, False),
        (nest([(AT_I, Index(i * 2**20))], {"i": 17}, {"x": (17,)}), 8, True),  # up to 2^24
        (nest([(AT_I, Index(i * 2**20 + 1))], {"i": 17}, {"x": (17,)}), 8, False),
    ],
)
def test_known_cases(program, amplitude, exact):
    assert is_exact(program, amplitude) is exact


def test_the_amplitude_shrinks_until_the_program_is_exact():
    assert plan_inputs(matmul(512)) == Inputs(True, -8.0, 1.0, 17)
    assert plan_inputs(matmul(262_144)) == Inputs(True, -4.0, 1.0, 9)
    assert not plan_inputs(scaled_sum(0.1, 100)).is_exact


def test_integers_that_are_divided_by_are_positive():
    y = Access("y", (i,))
    program = nest(
        [(AT_I, Binary("/", Load(AT_I), Load(y)))], {"i": 4}, {"x": (4,), "y": (4,)}, "int32"
    )
    planned = plan_inputs(program)
    assert planned.is_exact
    assert planned.low == 1


# --- against execution in exact arithmetic ------------------------------------------------------


class Tracked:
    """Runs a program in fractions and notes every value an operation gives."""

    def __init__(self, program, given):
        self.cells = {
            (a.name, at): Fraction(float(v))
            for a in program.arrays
            for at, v in np.ndenumerate(given[a.name])
        }
        self.seen = []
        self.largest = {}

    def run(self, nodes, point):
        for node in nodes:
            if isinstance(node, Loop):
                for value in range(node.lower.value(point), node.upper.value(point)):
                    self.run(node.body, {**point, node.name: value})
            else:
                result = self.value(node.expr, point)
                self.cells[self.key(node.write, point)] = result
                name = node.write.array
                self.largest[name] = max(self.largest.get(name, Fraction(0)), abs(result))

    def key(self, access, point):
        return access.array, tuple(index.value(point) for index in access.index)

    def value(self, expr, point):
        result = self._value(expr, point)
        self.seen.append(result)
        return result

    def _value(self, expr, point):
        go = lambda e: self.value(e, point)  # noqa: E731
        match expr:
            case Load(access):
                return self.cells[self.key(access, point)]
            case Const(value):
                return Fraction(value)
            case Index(affine):
                return Fraction(affine.value(point))
            case Negate(value):
                return -go(value)
            case Call("abs", (value,)):
                return abs(go(value))
            case Select(Compare("<", left, right), then, otherwise):
                return go(then) if go(left) < go(right) else go(otherwise)
            case Binary(op, left, right):
                a, b = go(left), go(right)
                table = {"+": a + b, "-": a - b, "*": a * b, "min": min(a, b), "max": max(a, b)}
                return a / b if op == "/" else table[op]
        raise AssertionError(expr)


def random_expr(rng, depth):
    roll = rng.random()
    if depth == 0 or roll < 0.3:
        index = lambda: rng.choice([i, j, i + 1, j + 1])  # noqa: E731
        return Load(rng.choice([Access("x", (index(),)), Access("y", (index(), index()))]))
    if roll < 0.45:
        return rng.choice([Const(0.5), Const(3), Const(-0.75), Index(i + j * 2), Const(0.0)])
    parts = [random_expr(rng, depth - 1) for _ in range(4)]
    if roll < 0.6:
        return rng.choice(
            [
                Negate(parts[0]),
                Call("abs", (parts[0],)),
                Binary("/", parts[0], Const(rng.choice([4, -2]))),
                Select(Compare("<", parts[0], parts[1]), parts[2], parts[3]),
            ]
        )
    return Binary(rng.choice(["+", "+", "-", "*", "min", "max"]), parts[0], parts[1])


def random_nest(rng, dtype):
    statements = []
    for _ in range(rng.randint(1, 3)):
        write = rng.choice([AT_I, Access("x", (j + 1,)), Access("y", (i, j))])
        expr = random_expr(rng, 2)
        if rng.random() < 0.5:
            expr = Binary(rng.choice("+-"), Load(write), expr)
        statements.append((write, expr))
    return nest(statements, {"i": 3, "j": 2}, {"x": (4,), "y": (4, 4)}, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("amplitude", [1, 8])
def test_no_operation_of_an_exact_program_rounds_or_leaves_its_bound(dtype, amplitude, rng):
    generator = random.Random(int(rng.integers(2**32)))
    n_exact = 0
    for _ in range(300):
        program = random_nest(generator, dtype)
        try:
            found = bounds(program, amplitude)
        except Inexact:
            continue
        n_exact += 1
        given = {a.name: rng.integers(-amplitude, amplitude + 1, a.shape) for a in program.arrays}
        tracked = Tracked(program, given)
        tracked.run(program.body, {})
        for value in tracked.seen:
            assert Fraction(float(TYPES[dtype](float(value)))) == value, str(program)
        for name, largest in tracked.largest.items():
            assert largest <= found[name].largest, str(program)
        for (name, _), value in tracked.cells.items():
            assert value % found[name].granule == 0 or not value, str(program)
    assert n_exact >= 50


def test_a_sum_at_its_bound_is_exact_in_every_order_and_one_beyond_is_not(rng):
    n = 2**18 - 1
    terms = np.full(n, 64.0, dtype=np.float32)
    for _ in range(5):
        # Partial sums of random parts, then those in random order: what tiling and vectors do.
        cuts = np.sort(rng.integers(0, n, 40))
        parts = [np.cumsum(p, dtype=np.float32)[-1] for p in np.split(terms, cuts) if len(p)]
        rng.shuffle(parts)
        total = np.cumsum(np.array(parts), dtype=np.float32)[-1]
        assert float(total) == 64.0 * n
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)


def test_a_chain_of_products_is_exact_only_while_it_is_short():
    def chain(length):
        names = [f"m{n}" for n in range(length + 1)]
        arrays = [Array(n, (512, 512), "float32", "in") for n in (*names, "b")]
        body = []
        for source, target in itertools.pairwise(names):
            write = Access(target, (i, j))
            product = Binary("*", Load(Access(source, (i, k))), Load(Access("b", (k, j))))
            loop = (Computation(write, add(Load(write), product)),)
            for name in "kji":
                loop = (Loop(name, Affine(), Affine((), 512), loop),)
            body += loop
        return Program("chain", tuple(arrays), tuple(body))

    assert [is_exact(chain(length), 8) for length in (1, 2, 4)] == [True, False, False]
    assert is_exact(chain(2), 2)


# --- what the child fills in --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("is_dominant", [False, True])
def test_the_child_fills_arrays_with_the_values_promised(dtype, is_dominant, monkeypatch):
    planned = Inputs(True, -8.0, 1.0, 17, is_dominant)
    monkeypatch.setattr(m, "plan_inputs", lambda _: planned)
    program = matmul(5, dtype)
    given = {a.name: values(program, planned, a, seed=3) for a in program.arrays}
    assert {a.name for a in program.arrays} == set(given)
    checks = " && ".join(
        f"{name}[{r}][{c}] == {value}"
        for name, array in given.items()
        for (r, c), value in np.ndenumerate(array)
    )
    text = with_body(program, f"C[0][0] = ({checks}) ? 1 : 2;")
    wanted = with_body(program, "C[0][0] = 1;")
    options = m.Options(passes=(1, 1), sessions=1, seed=3)
    assert m.measure(program, wanted, [text], options=options).variants[0].status == "ok"
    other = m.Options(passes=(1, 1), sessions=1, seed=4)
    assert m.measure(program, wanted, [text], options=other).variants[0].status == "wrong"


def test_values_differ_between_arrays_and_items():
    program = matmul(32)
    planned = plan_inputs(program)
    a, b, c = (values(program, planned, array).ravel() for array in program.arrays)
    assert abs(np.corrcoef([a, b, c])[np.triu_indices(3, 1)]).max() < 0.15  # 1024 pairs: 5 sigma
    assert set(np.unique(a)) == set(range(-8, 9))


def test_a_factorization_runs_on_numbers_that_stay_finite():
    n = 24
    a = Array("A", (n, n), "float64", "inout")
    body = (
        "for (int k = 0; k < 24; k++) { A[k][k] = sqrt(A[k][k]);"
        "for (int i = k + 1; i < 24; i++) A[i][k] = A[i][k] / A[k][k];"
        "for (int i = k + 1; i < 24; i++) for (int j = k + 1; j <= i; j++)"
        " A[i][j] = A[i][j] - A[i][k] * A[j][k]; }"
    )
    expr = Call("sqrt", (Load(Access("A", (k, k))),))
    loop = Loop("k", Affine(), Affine((), n), (Computation(Access("A", (k, k)), expr),))
    program = Program("cholesky", (a,), (loop,))
    text = with_body(program, body)
    assert m.measure(program, text, [text], options=m.Options(passes=(1, 1))).check == "tolerance"
