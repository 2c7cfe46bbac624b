"""Random programs: deterministic, in bounds, of the sizes and kinds their profile promises."""

import itertools
import math

import pytest

from costmodel import bounds
from costmodel.ir import Binary, Const, Program, Statement
from costmodel.poly import polyhedral, reduction_op
from costmodel.random_programs import PROFILES, random_program

N = 150


def depth(statement: Statement) -> int:
    return len(statement.loops)


@pytest.mark.parametrize("profile", ["paper", "small", "tiny"])
def test_programs_stay_in_bounds_and_read_back(profile: str) -> None:
    for seed in range(N):
        program = random_program(seed, profile)
        assert program.statements
        bounds.check(program)
        assert Program.parse(str(program)) == program


def test_a_seed_gives_one_program_and_seeds_differ() -> None:
    for profile in PROFILES:
        first = [random_program([7, i], profile) for i in range(40)]
        assert first == [random_program([7, i], profile) for i in range(40)]
    assert len({random_program([7, i], "small").hash for i in range(200)}) >= 190


@pytest.mark.parametrize("seed", range(N))
def test_small_programs_run_for_microseconds_to_milliseconds(seed: int) -> None:
    program = random_program(seed, "small")
    instances = polyhedral(program).domains.get_set_list()
    points = sum(
        instances.get_at(at).count_val().to_python() for at in range(instances.n_set())
    )  # fmt: skip
    assert 3e4 <= points <= 4e6
    assert 1 <= max(map(depth, program.statements)) <= 5
    assert sum(a.size_bytes for a in program.arrays) <= 2**26


def test_paper_programs_follow_the_papers_depths_and_memory() -> None:
    programs = [random_program(seed, "paper") for seed in range(400)]
    deepest = [max(map(depth, p.statements)) for p in programs]
    assert min(deepest) == 2
    assert max(deepest) == 7
    for program in programs:
        assert {a.dtype for a in program.arrays} == {"int32"}
        assert sum(a.size_bytes for a in program.arrays) <= 2**28
        # Two branches of one or two computations each.
        assert len(program.statements) <= 4
        assert len(program.body) == 1  # the outermost loop is shared


def test_two_branches_share_four_loops_or_all_of_the_shallower_one() -> None:
    for seed in range(200):
        statements = random_program(seed, "paper").statements
        for a, b in itertools.pairwise(statements):
            common = sum(x is y for x, y in zip(a.loops, b.loops, strict=False))
            # A computation that sets the result of a reduction stands outside its loops.
            assert common >= min(4, depth(a), depth(b)) or reduction_op(b)


def test_every_kind_of_computation_occurs_and_some_read_what_others_wrote() -> None:
    programs = [random_program(seed, "small") for seed in range(300)]
    statements = [s for p in programs for s in p.statements]
    assert {p.arrays[0].dtype for p in programs} == {"float32", "int32"}
    n = len(statements)
    simple = sum(not s.reads for s in statements)
    reductions = [s for s in statements if reduction_op(s)]
    windows = sum(any(len(i.names) == 2 for r in s.reads for i in r.index) for s in reductions)
    stencils = sum(len({r.array for r in s.reads}) == 1 < len(s.reads) for s in statements)
    linked = sum(
        any(r.array == before.write.array for r in s.reads)
        for p in programs
        for at, s in enumerate(p.statements)
        for before in p.statements[:at]
    )
    assert simple >= 0.05 * n
    assert len(reductions) - windows >= 0.1 * n
    assert windows >= 0.03 * n
    assert stencils >= 0.1 * n
    assert linked >= 0.1 * n


def test_constants_are_powers_of_two_so_that_products_are_exact() -> None:
    def constants(expr: object) -> list[float]:
        match expr:
            case Const(value):
                return [value]
            case Binary(_, left, right):
                return constants(left) + constants(right)
        return []

    for seed in range(N):
        for statement in random_program(seed, "small").statements:
            for value in constants(statement.computation.expr):
                assert value == 0 or math.log2(abs(value)).is_integer()
