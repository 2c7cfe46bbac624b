"""Every peer computes what our plain C computes, and an absent one says what to install."""

import sys

import pytest

from common.extras import MissingExtra
from costmodel import peers, plain_c, programs
from costmodel.c_frontend import from_c
from costmodel.errors import UnsupportedProgram
from costmodel.ir import Program
from costmodel.measure import Options, time_batch
from costmodel.peers import compilers, halide, halide_pipeline
from costmodel.translation_unit import Entry, compile_batch
from tests.costmodel.kernels import KERNELS

ONCE = Options(passes=(1, 1), sessions=1)
HALIDE = ("mullapudi2016", "li2018", "adams2019")


def need(name: str) -> None:
    absent = peers.why_absent(name)
    if absent:
        pytest.skip(absent)


def run(program: Program, entry: Entry):
    (baseline,) = compile_batch(program, [plain_c.function(program, "plain")]).entries
    assert isinstance(baseline, Entry)
    found = time_batch(program, baseline, [entry], options=ONCE)
    assert found.check != "none"
    return found.variants[0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_peer_computes_what_plain_c_computes(peer, kernel):
    need(peer)
    program = KERNELS[kernel]
    measured = run(program, peers.build(peer, program))
    assert measured.is_timed, (measured.status, measured.error)


@pytest.mark.parametrize("name", [*programs.PAPER, "matmul", "gemm", "2mm", "atax", "bicg"])
def test_halide_expresses_the_programs_of_the_paper(name):
    need("adams2019")
    program = programs.load(name, "mini", "float32")
    if name in ("jacobi2d", "seidel2d"):  # one round of time, as in the paper's list
        size = {**programs.sizes(name, "mini"), "TSTEPS": 1}
        source, types = programs.source_path(name), {"DATA_TYPE": "float"}
        program = from_c(source, params=size, defines=types)
    measured = run(program, peers.build("adams2019", program))
    assert measured.is_timed, (measured.status, measured.error)


def test_a_peer_of_another_program_is_caught():
    # The check itself: heat2d and a program that differs from it in one factor.
    heat = KERNELS["heat2d"]
    other = Program.parse(str(heat).replace("0.25", "0.5"))
    assert run(heat, peers.build("gcc", other)).status == "wrong"


def test_polly_rewrites_what_clang_leaves():
    need("polly")
    matmul = KERNELS["matmul"]
    code = {name: peers.build(name, matmul).library.read_bytes() for name in ("clang", "polly")}
    assert code["clang"] != code["polly"]


@pytest.mark.parametrize("name", HALIDE)
def test_halide_gives_a_schedule_that_is_not_the_default(name):
    need(name)
    scheduler = {"mullapudi2016": "Mullapudi2016", "li2018": "Li2018", "adams2019": "Adams2019"}
    text = halide.schedule_source(KERNELS["matmul"], scheduler[name])
    assert "vectorize" in text


def test_a_temporary_set_anew_in_a_loop_becomes_a_func_over_that_loop():
    need("adams2019")
    made = halide_pipeline.make_pipeline(KERNELS["doitgen"])
    # A is read from one buffer and written to another, C4 is read.
    assert [array.name for array, _ in made.arguments] == ["A", "C4", "A"]


def test_only_what_a_single_statement_writes_is_computed():
    need("adams2019")
    made = halide_pipeline.make_pipeline(KERNELS["heat2d"])
    boxes = {array.name: box for array, box in made.arguments}
    assert boxes == {"A": ((0, 40), (0, 44)), "B": ((1, 38), (1, 42))}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'def f(A: "inout float32[8, 8]"):\n'
            "    for i in range(0, 8):\n        for j in range(0, i):\n"
            "            A[i, j] = 1.0\n",
            "bounds of loop j depend on other loops",
        ),
        (
            'def f(A: "inout float32[8]"):\n'
            "    for i in range(0, 8):\n        if i - 3 >= 0:\n            A[i] = 1.0\n",
            "has a guard",
        ),
        (
            'def f(A: "inout float32[8]", B: "out float32[8]"):\n'
            "    for i in range(0, 8):\n        A[i] = A[i] + 1.0\n"
            "    for i in range(0, 8):\n        B[i] = A[i]\n"
            "    for i in range(0, 8):\n        A[i] = A[i] * 2.0\n",
            "computes A once, but S2 writes it again",
        ),
        (
            'def f(A: "inout float32[8]", B: "inout float32[8]"):\n'
            "    for t in range(0, 3):\n"
            "        for i in range(1, 7):\n            B[i] = A[i - 1] + A[i + 1]\n"
            "        for i in range(1, 7):\n            A[i] = B[i]\n",
            "S0 and S1 take turns on [AB] in loop t",
        ),
    ],
    ids=["triangle", "guard", "rewritten", "rounds"],
)
def test_what_is_no_pipeline_is_refused(text, why):
    need("adams2019")
    with pytest.raises(UnsupportedProgram, match=why):
        peers.build("adams2019", Program.parse(text))


def test_an_absent_peer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "halide", None)
    halide.clear_caches()
    with pytest.raises(MissingExtra, match=r'pip install "mlsys21\[costmodel-peers\]"'):
        peers.build("adams2019", KERNELS["matmul"])
    assert "costmodel-peers" in (peers.why_absent("adams2019") or "")
    monkeypatch.setattr(compilers, "CLANG", "clang-absent")
    with pytest.raises(MissingExtra, match="needed for the Polly peer: apt-get install"):
        peers.build("polly", KERNELS["matmul"])
    assert peers.why_absent("gcc") is None
    halide.clear_caches()


def test_an_unknown_peer_is_refused():
    with pytest.raises(ValueError, match="peer must be one of gcc, graphite"):
        peers.build("icc", KERNELS["matmul"])
