"""`optimize` and its command line, on kernels small enough to search in a moment."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import costmodel
from costmodel import __main__ as cli
from costmodel import checkpoints, execution, optimizer
from costmodel.ir import Program
from costmodel.model import CostModel, ModelConfig
from tests.costmodel.nests import matmul
from tests.costmodel.test_features import deep

SOURCE = """
void add(int A[N][N], const int B[N][N]) {
#pragma scop
  for (int j = 0; j < N; j++)
    for (int i = 0; i < N; i++)
      A[i][j] += B[i][j];
#pragma endscop
}
"""


@pytest.fixture(scope="module")
def faster():
    return costmodel.optimize(SOURCE, params={"N": 400}, budget_s=1.0, level_limit=6)


def test_a_matrix_product_comes_out_faster():
    found = costmodel.optimize(matmul(160), budget_s=1.0, level_limit=12)
    assert "register_tile" in found.schedule
    assert found.measured > 1.2
    assert found.schedule in found.c_source
    assert len(found.table) > 5


def test_what_was_found_runs_on_arrays_and_tensors(faster):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, (400, 400)).astype(np.int32) for _ in range(2))
    wanted = a + b
    tensor = torch.from_numpy(a.copy())
    faster(tensor, torch.from_numpy(b))
    faster(a, b)
    np.testing.assert_array_equal(a, wanted)
    np.testing.assert_array_equal(tensor.numpy(), wanted)


def test_the_c_written_compiles_by_itself(faster, tmp_path):
    path = tmp_path / "out.c"
    path.write_text(faster.c_source)
    words = ["cc", "-std=c99", "-O1", "-w", "-march=native", "-c", str(path), "-o", "/dev/null"]
    subprocess.run(words, check=True, cwd=tmp_path)


def good():
    return [np.zeros((400, 400), np.int32) for _ in range(2)]


def shared():
    (a, _) = good()
    return [a, a]


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        (lambda: good()[:1], TypeError, r"takes 2 arrays \(A, B\), got 1"),
        (lambda: [good()[0].astype(float), good()[1]], TypeError, "A must be int32, got float64"),
        (lambda: [good()[0][:3], good()[1]], ValueError, r"A must have shape \(400, 400\)"),
        (lambda: [good()[0].T, good()[1]], ValueError, "A is not contiguous"),
        (lambda: [[1, 2], good()[1]], TypeError, "A must be a numpy array or a CPU tensor"),
        (shared, ValueError, "A and B share memory"),
    ],
)
def test_wrong_arguments_are_named(faster, arrays, error, text):
    with pytest.raises(error, match=text):
        faster(*arrays())


def test_identity_is_returned_where_nothing_is_worth_it(monkeypatch):
    monkeypatch.setattr(optimizer, "WORTHWHILE", 1e9)
    found = costmodel.optimize(matmul(32), budget_s=0.5, level_limit=3)
    assert found.schedule == ""
    assert found.measured == 1.0
    assert len(found.table) > 1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model as drawn, not trained: it says something of everything."""
    torch.manual_seed(3)
    sizes = ModelConfig(comp_widths=(16,), embedding=8, merge_width=8, head_widths=(8,))
    members = [CostModel(sizes), CostModel(sizes)]
    for member in members:
        torch.nn.init.normal_(member.head[-1].weight, std=2.0)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    checkpoints.save(members, path)
    return path


@pytest.fixture
def _nothing_compiled(monkeypatch):
    def refuse(*arguments, **words):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(execution, "measure", refuse)
    monkeypatch.setattr(optimizer, "compile_batch", refuse)


@pytest.mark.usefixtures("_nothing_compiled")
@pytest.mark.parametrize("search", ["free", "beam", "mcts", "random", "exhaustive"])
def test_with_a_model_alone_nothing_is_compiled(model, search):
    found = costmodel.optimize(
        matmul(64, "int32"),
        model=model,
        search=search,
        space="paper",
        samples=5,
        level_limit=8,
        execute_top=None,
    )
    assert found.measured is None
    assert found.noise is None
    assert not found.found.measured
    assert len(found.table) > 4
    assert found.table["measured"].isna().all()
    assert found.schedule
    assert found.predicted == pytest.approx(found.table["speedup"].max())
    assert found.doubt > 0
    assert "predicted, not measured" in found.c_source


def test_the_best_predicted_are_run_and_the_fastest_taken(model):
    found = costmodel.optimize(
        matmul(64, "int32"), model=model, search="beam", space="paper", level_limit=8, execute_top=3
    )
    run = found.table.dropna()
    assert len(run) == 4  # with the program as it is written
    assert set(run["speedup"].nlargest(3)) == set(found.table["speedup"].nlargest(3))
    best = run["measured"].max()
    if found.schedule:
        assert found.measured == pytest.approx(best)
    else:
        assert best < optimizer.WORTHWHILE
    assert found.predicted > 0


@pytest.mark.usefixtures("_nothing_compiled")
def test_a_program_a_model_has_no_room_for_is_refused_where_nothing_may_run(model):
    with pytest.raises(costmodel.UnsupportedProgram, match="at most 7 loops"):
        costmodel.optimize(deep(8), model=model, execute_top=0)


def test_a_program_a_model_has_no_room_for_is_run_and_that_is_said(model):
    with pytest.warns(UserWarning, match="candidates are run instead: .* at most 7 loops"):
        found = costmodel.optimize(
            deep(8), model=model, search="beam", space="paper", level_limit=1, budget_s=0.0
        )
    assert found.predicted is None
    assert found.measured is not None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"execute_top": 0}, "at least 1 without a model"),
        ({"execute_top": -1, "model": "default"}, "0 or more with one"),
        ({"search": "luck"}, "search must be one of free, beam, mcts"),
    ],
)
def test_numbers_and_names_that_mean_nothing_are_refused(words, text):
    with pytest.raises(ValueError, match=text):
        costmodel.optimize(matmul(8), **words)


def test_threads_do_not_enter_the_prediction(model):
    words = {"model": model, "search": "beam", "space": "paper", "level_limit": 6}
    one, two = (
        costmodel.optimize(matmul(64, "int32"), execute_top=0, threads=n, **words) for n in (1, 2)
    )
    assert two.predicted == pytest.approx(one.predicted)
    assert "parallel" in two.schedule
    assert "parallel" not in one.schedule


def test_a_python_kernel_is_taken_as_well():
    @costmodel.kernel(N=64)
    def copy(A: "float32[N, N]", B: "out float32[N, N]"):  # noqa: F722, F821
        for i in range(N):  # noqa: F821
            for j in range(N):  # noqa: F821
                B[i, j] = A[i, j]

    assert isinstance(optimizer.read(copy), Program)
    assert costmodel.optimize(copy, budget_s=0.0).program.name == "copy"


def test_the_command_line_writes_what_it_found(tmp_path, capsys):
    source, out = tmp_path / "k.c", tmp_path / "out.c"
    source.write_text(SOURCE)
    words = ["optimize", str(source), "-D", "N=300", "-o", str(out), "--budget", "0"]
    assert cli.main(words) == 0
    assert "void add(" in out.read_text()
    shown = capsys.readouterr().out
    assert "schedules tried" in shown
    assert str(out) in shown.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-D", "N"], "-D takes NAME=VALUE"),
        ([], "N"),
        (["-D", "N=8", "--function", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, words, text):
    source = tmp_path / "k.c"
    source.write_text(SOURCE)
    assert cli.main(["optimize", str(source), *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("costmodel: ")
    assert text in shown
    assert shown.count("\n") == 1


def test_a_file_that_is_not_there_is_one_sentence(capsys):
    assert cli.main(["optimize", "/nowhere/k.c"]) == 2
    assert "/nowhere/k.c" in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    code = "import costmodel.__main__ as m, sys; m._parser(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
