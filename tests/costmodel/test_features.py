"""Features: nothing of names, everything of the nest."""

from __future__ import annotations

import re

import numpy as np
import pytest

from costmodel import compact_vector, paper_vector
from costmodel.affine import Affine
from costmodel.errors import ScheduleError, UnsupportedProgram
from costmodel.extents import extents
from costmodel.feature_limits import signed_log
from costmodel.features import COMP_SIZES, LOOP_SIZE, Representation, featurize
from costmodel.ir import Access, Array, Binary, Computation, Const, Expr, Load, Loop, Program
from costmodel.nest import Nest
from costmodel.random_programs import random_program
from costmodel.random_schedules import Sizes, random_schedules, random_steps
from costmodel.schedule import Schedule, ScheduledProgram, apply
from costmodel.steps import STEPS, Parallel, Step

BOTH: tuple[Representation, ...] = ("paper", "compact")

TWO_NESTS = Program.parse("""
def f(A: "in float32[64, 96]", B: "out float32[64, 96]", C: "out float32[64, 96]"):
    for i in range(64):
        for j in range(96):
            B[i, j] = A[i, j] * 2.0
    for i in range(64):
        for j in range(96):
            C[i, j] = B[i, j] + A[i, j]
""")

MATMUL = Program.parse("""
def f(A: "in float32[200, 300]", B: "in float32[300, 256]", C: "inout float32[200, 256]"):
    for i in range(200):
        for j in range(256):
            for k in range(1, 300):
                C[i, j] = C[i, j] + A[i, k] * B[k, j + -1 + 1]
""")


def unchecked(program: Program, steps: tuple[Step, ...]) -> ScheduledProgram:
    """Features are of nests; whether one is legal does not matter here."""
    nest = Nest.of(program)
    for step in steps:
        nest = step.apply(nest)
    return ScheduledProgram(program, program, Schedule(steps), nest)


@pytest.mark.parametrize("representation", BOTH)
def test_names_do_not_matter(representation: Representation) -> None:
    for seed in range(15):
        program = random_program(seed, "small")
        text = re.sub(r"\bi(\d)", r"loop\1", re.sub(r"\bA(\d+)", r"Z\1", str(program)))
        assert text != str(program)
        other = Program.parse(text.replace("def program", "def other"))
        for schedule in random_schedules(program, 3, seed):
            first = featurize(apply(program, schedule), representation)
            assert first.equals(featurize(apply(other, schedule), representation))


def test_the_vectors_of_the_paper_have_its_sizes() -> None:
    assert paper_vector.N_VALUES == 1267
    assert COMP_SIZES["paper"] == 2534
    tree = featurize(apply(MATMUL))
    assert tree.comps.shape == (1, 2534)
    assert tree.loops.shape == (3, LOOP_SIZE) == (3, 16)
    assert tree.comps.dtype == tree.loops.dtype == np.float32


def test_positions_of_the_papers_vector() -> None:
    steps = (STEPS["interchange"]("S0", 1, 2), STEPS["tile"]("S0", 0, (32, 64)))  # type: ignore[call-arg]
    row = featurize(unchecked(MATMUL, (*steps, STEPS["unroll"]("S0", 8)))).comps[0]  # type: ignore[call-arg]
    assert row[0] == 1  # a reduction
    # The nest is i/32, k/64, i, k, j: upper, fused, moved to + 1, tile level + 1, size, in result.
    np.testing.assert_array_equal(row[1:7], [200, 0, 0, 1, 32, 1])
    np.testing.assert_array_equal(row[7:13], [256, 0, 3, 0, 0, 1])
    np.testing.assert_array_equal(row[13:19], [300, 0, 2, 2, 64, 0])
    assert not row[19:43].any()  # depths 3 to 6
    write, same, a = (row[43 + 58 * n :][:58] for n in range(3))
    assert (write[0], same[0], a[0]) == (1, 1, 2)
    assert (write[57], same[57], a[57]) == (0, 1, 0)
    matrix = a[1:57].reshape(7, 8)
    expected = np.zeros((7, 8))
    expected[0, 0] = expected[1, 2] = 1  # A[i, k]
    np.testing.assert_array_equal(matrix, expected)
    assert not row[43 + 58 * 4 : 1261].any()  # accesses 4 to 20
    np.testing.assert_array_equal(row[1261:1267], [1, 0, 1, 0, 1, 8])
    np.testing.assert_array_equal(row[1267:], signed_log(row[:1267]))


def test_positions_of_the_loop_vector() -> None:
    steps = (STEPS["interchange"]("S0", 1, 2), STEPS["tile"]("S0", 0, (32, 64)))  # type: ignore[call-arg]
    rows = featurize(unchecked(MATMUL, (*steps, STEPS["unroll"]("S0", 8)))).loops  # type: ignore[call-arg]
    # Children first: k, j, i.
    np.testing.assert_array_equal(rows[0][:8], [300, 1, 0, 2, 2, 64, 0, 0])
    np.testing.assert_array_equal(rows[1][:8], [256, 0, 0, 3, 0, 0, 1, 8])
    np.testing.assert_array_equal(rows[2][:8], [200, 0, 0, 0, 1, 32, 0, 0])
    np.testing.assert_array_equal(rows[:, 8:], signed_log(rows[:, :8]))


@pytest.mark.parametrize("representation", BOTH)
def test_fusing_changes_the_tree(representation: Representation) -> None:
    apart = featurize(apply(TWO_NESTS), representation)
    outer = featurize(apply(TWO_NESTS, "fuse(S0, S1, 1)"), representation)
    whole = featurize(apply(TWO_NESTS, "fuse(S0, S1, 2)"), representation)
    # Two nests under a root of their own, then a shared loop, then one nest.
    assert apart.child_loops == ((), (0,), (), (2,), (1, 3))
    assert outer.child_loops == ((), (), (0, 1))
    assert whole.child_loops == ((), (0,))
    assert whole.child_comps == ((0, 1), ())
    assert not apart.loops[apart.root].any()
    assert outer.loops[outer.root][2] == 1  # fused: its place is the first
    assert whole.loops[0][2] == 1
    back = featurize(
        apply(TWO_NESTS, "fuse(S0, S1, 2); unfuse(S1, 1); unfuse(S1, 0)"), representation
    )
    assert back.equals(apart)


def nests_of(seed: int, space: str) -> dict[Nest, ScheduledProgram]:
    """Different nests of one program, legal or not."""
    program = random_program(seed, "small")
    found: dict[Nest, ScheduledProgram] = {}
    for draw in range(40):
        steps = random_steps(program, [seed, draw], space, Sizes())  # type: ignore[arg-type]
        if space == "paper":
            steps = tuple(step for step in steps if not isinstance(step, Parallel))
        scheduled = unchecked(program, steps)
        found.setdefault(scheduled.nest, scheduled)
    return found


def assert_all_differ(nests: dict[Nest, ScheduledProgram], representation: Representation) -> int:
    seen: dict[bytes, ScheduledProgram] = {}
    for scheduled in nests.values():
        try:
            tree = featurize(scheduled, representation)
        except UnsupportedProgram:
            continue  # refused is not overlooked
        key = repr(tree.shape).encode() + tree.loops.tobytes() + tree.comps.tobytes()
        other = seen.setdefault(key, scheduled)
        assert other is scheduled, f"'{other.schedule}' looks like '{scheduled.schedule}'"
    return len(seen)


@pytest.mark.parametrize("seed", range(12))
def test_no_two_nests_of_the_papers_space_look_alike(seed: int) -> None:
    nests = nests_of(seed, "paper")
    assert assert_all_differ(nests, "paper") >= 0.9 * len(nests) > 1


@pytest.mark.parametrize("seed", range(12))
def test_no_two_nests_of_the_extended_space_look_alike(seed: int) -> None:
    nests = nests_of(seed, "extended")
    assert assert_all_differ(nests, "compact") >= 0.9 * len(nests) > 1


CHANGES = {
    "interchange(S0, 0, 1)": "interchange(S0, 0, 2)",
    "interchange(S0, 0, 1); interchange(S0, 1, 2)": "interchange(S0, 1, 2); interchange(S0, 0, 1)",
    "tile(S0, 0, 32, 32)": "tile(S0, 0, 32, 64)",
    "tile(S0, 0, 32, 32, 32)": "tile(S0, 0, 32, 32)",
    "tile(S0, 1, 32, 32)": "tile(S0, 0, 32, 32)",
    "tile(S0, 0, 128, 128); tile(S0, 2, 32, 32)": "tile(S0, 0, 128, 128); tile(S0, 2, 32, 64)",
    "unroll(S0, 4)": "unroll(S0, 8)",
    "tile(S0, 0, 128, 128, 32); tile(S0, 3, 32, 32)": (
        "tile(S0, 0, 128, 128); tile(S0, 2, 32, 32, 32)"
    ),
    "": "unroll(S0, 4)",
}


@pytest.mark.parametrize("representation", BOTH)
@pytest.mark.parametrize("one", CHANGES)
def test_a_changed_step_changes_the_vectors(one: str, representation: Representation) -> None:
    first, second = (
        featurize(unchecked(MATMUL, Schedule.parse(text).steps), representation)
        for text in (one, CHANGES[one])
    )
    assert not first.equals(second)


EXTENDED = (
    "skew(S0, 0, 1, 1)", "skew(S0, 0, 1, 2)", "reverse(S0, 0)", "shift(S0, 0, 1)",
    "vectorize(S0)", "parallel(S0, 0)", "parallel(S0, 1)", "register_tile(S0, 1, 8)",
    "register_tile(S0, 0, 2, 1, 8)", "register_tile(S0, 1, 8); pack(S0, B, 1)",
    "register_tile(S0, 1, 8); pack(S0, A, 1)", "register_tile(S0, 1, 8); pack(S0, B, 0)",
    "skew(S0, 0, 1, 1); interchange(S0, 0, 1)", "tile(S0, 0, 8, 8); interchange(S0, 1, 2)",
)  # fmt: skip


def test_every_extended_step_shows_in_the_compact_vectors() -> None:
    trees = [featurize(unchecked(MATMUL, Schedule.parse(t).steps), "compact") for t in EXTENDED]
    trees.append(featurize(apply(MATMUL), "compact"))
    for at, tree in enumerate(trees):
        assert not any(tree.equals(other) for other in trees[:at])


PRODUCER = Program.parse("""
def f(A: "in float32[64, 96]", T: "temp float32[64, 96]", C: "out float32[64, 96]"):
    for i in range(64):
        for j in range(96):
            T[i, j] = A[i, j] * 2.0
    for i in range(64):
        for j in range(96):
            C[i, j] = T[i, j] + A[i, j]
""")


def test_inlining_and_contraction_show_in_the_compact_vectors() -> None:
    texts = ("fuse(S0, S1, 1)", "fuse(S0, S1, 1); contract(T, 0, 1)",
             "fuse(S0, S1, 1); contract(T, 0, 2)", "inline(S0)")  # fmt: skip
    trees = [featurize(apply(PRODUCER, text), "compact") for text in texts]
    for at, tree in enumerate(trees):
        assert not any(tree.equals(other) for other in trees[:at])


def deep(n_loops: int, n_reads: int = 1) -> Program:
    arrays = [Array("B", (4, 64), "float32", "in"), Array("A", (4,), "float32", "inout")]
    expr: Expr = Const(1.0)
    for number in range(n_reads):
        read = Load(Access("B", (Affine.of("i0"), Affine((), number))))
        expr = Binary("+", expr, read)
    body: Loop | Computation = Computation(Access("A", (Affine.of("i0"),)), expr)
    for depth in reversed(range(n_loops)):
        body = Loop(f"i{depth}", Affine(), Affine((), 4), (body,))
    return Program("deep", tuple(arrays), (body,))


@pytest.mark.parametrize("representation", BOTH)
def test_what_does_not_fit_is_refused_with_the_limit(representation: Representation) -> None:
    featurize(unchecked(deep(7, 20), ()), representation)
    with pytest.raises(UnsupportedProgram, match=r"at most 7 loops .* S0 of deep has 8"):
        featurize(unchecked(deep(8), ()), representation)
    with pytest.raises(UnsupportedProgram, match=r"at most 21 different .* S0 of deep has 22"):
        featurize(unchecked(deep(2, 21), ()), representation)


def test_the_papers_vector_refuses_a_nest_it_has_no_place_for() -> None:
    steps = Schedule.parse("interchange(S0, 0, 1); fuse(S0, S1, 1)").steps
    with pytest.raises(UnsupportedProgram, match="sharing 1 loops"):
        featurize(unchecked(TWO_NESTS, steps), "paper")
    featurize(unchecked(TWO_NESTS, steps), "compact")


def test_extents_of_a_triangle() -> None:
    program = Program.parse("""
def f(A: "out float32[20]"):
    for i in range(3, 20):
        for j in range(i, 20):
            A[i] = 1.0
""")
    found = extents(program.statements[0])
    assert (found["j"].low, found["j"].high) == (3, 20)
    sizes = [len(range(i, 20)) for i in range(3, 20)]
    assert found["j"].mean == sum(sizes) / len(sizes)


def test_compact_vectors_take_two_kilobytes_in_half_precision() -> None:
    assert 2 * compact_vector.SIZE <= 2048


def test_most_random_schedules_have_features() -> None:
    refused = total = 0
    for seed in range(20):
        program = random_program(seed, "small")
        for schedule in random_schedules(program, 5, seed):
            total += 1
            try:
                featurize(apply(program, schedule), "paper")
            except (UnsupportedProgram, ScheduleError):
                refused += 1
    assert refused <= 0.01 * total
