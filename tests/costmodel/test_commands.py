"""The commands that make data, train, evaluate and explain, one after the other on a tiny set."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import torch

from costmodel import __main__ as cli
from costmodel import checkpoints, dataset, shards
from costmodel.checkpoints import load_model
from costmodel.ensemble_training import read_samples
from costmodel.measure import Options
from costmodel.model import CostModel, ModelConfig
from costmodel.model_card import ModelCard
from costmodel.score_table import scores_of

SOURCE = """
void add(int A[N][N], const int B[N][N]) {
  for (int j = 0; j < N; j++)
    for (int i = 0; i < N; i++)
      A[i][j] += B[i][j];
}
"""
SMALL = ModelConfig(comp_widths=(16,), embedding=8, merge_width=8, head_widths=(8,))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "THREE_FIT", SMALL)


def seed_of_all_splits() -> int:
    """Of a set of ten programs that has some of each split."""
    for seed in itertools.count():
        drawn = [dataset.draw(seed, number, 3, "tiny") for number in range(10)]
        usable = [d for d in drawn if len(d.schedules) >= dataset.MIN_SCHEDULES]
        if len({shards.split_of(d.program.hash) for d in usable}) == 3:
            return seed
    raise AssertionError


@pytest.fixture(scope="module")
def words() -> list[str]:
    seed = str(seed_of_all_splits())
    sizes = ["--programs", "10", "--schedules", "3", "--profile", "tiny", "--jobs", "1"]
    return ["--seed", seed, *sizes]


@pytest.fixture(scope="module")
def data(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured rows of ten programs, so of all three splits."""
    folder = tmp_path_factory.mktemp("data") / "rows"
    quick = Options(passes=(1, 1), sessions=1, timeout_s=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "LABEL_OPTIONS", quick)
        patch.setitem(dataset.generate.__kwdefaults__, "options", quick)
        assert cli.main(["generate", str(folder), *words]) == 0
    return folder


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "THREE_FIT", SMALL)
        words = ["--members", "2", "--epochs", "3", "--batch", "8", "--jobs", "1"]
        assert cli.main(["train", str(data), "-o", str(path), *words]) == 0
    return path


def test_generate_goes_on_and_says_what_is_there(
    words: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in shards.shards(data)}
    rows = shards.labels(shards.read_rows(data))
    n_programs = len({row.program_hash for row in rows})
    assert cli.main(["generate", str(data), *words]) == 0
    assert {path: path.read_bytes() for path in shards.shards(data)} == before
    assert f"{len(rows)} labels of {n_programs} programs" in capsys.readouterr().out
    assert cli.main(["generate", str(data), *words, "--seed", "999"]) == 2
    assert f"holds a set with seed={words[1]}" in capsys.readouterr().err


def test_train_writes_an_ensemble_and_its_card(data: Path, model: Path) -> None:
    ensemble, card = load_model(model), ModelCard.read(model)
    assert len(ensemble.members) == card.members == 2
    one, other = ensemble.members
    assert isinstance(one, CostModel)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    rows = shards.labels(shards.read_rows(data))
    assert sum(s.n for s in card.scores.values()) == len(rows)
    assert card.scores["test"].n == sum(b.n for b in card.bins)
    assert card.training["epochs"] == 3
    assert card.parameters == sum(p.numel() for p in one.parameters())
    known = json.loads((data / "card.json").read_text())
    for name in ("sampler", "machines", "compilers", "flags", "noise", "rows", "programs"):
        assert json.loads(json.dumps(card.data[name])) == known[name]
    assert card.checkpoint["bytes"] == model.stat().st_size
    assert card.best_constant_mape is not None
    again = ModelCard.read(model.with_suffix(".json"))
    assert attrs.asdict(again)["training"] == attrs.asdict(card)["training"]


def test_evaluate_prints_scores_of_each_split_and_bins(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(data), "--model", str(model), "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    ensemble = load_model(model)
    for split, samples in read_samples(data, jobs=1).items():
        scores = scores_of(ensemble, samples)
        assert f"{scores.mape:.1f} " in shown
        assert split in shown
        # The card's are of the weights before they were rounded to float16.
        assert ModelCard.read(model).scores[split].mape == pytest.approx(scores.mape, rel=0.02)
    assert "test: errors by measured speedup" in shown
    words = ["--model", str(model), "--split", "train", "--jobs", "1"]
    assert cli.main(["evaluate", str(data), *words]) == 0
    shown = capsys.readouterr().out
    assert "train: errors by measured speedup" in shown
    assert "validation" not in shown


def test_explain_shows_code_and_both_speedups(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "k.c"
    source.write_text(SOURCE)
    words = ["explain", str(source), "-D", "N=200", "--model", str(model)]
    assert cli.main([*words, "--schedule", "interchange(S0, 0, 1)", "--measure"]) == 0
    shown = capsys.readouterr().out
    assert "void add(" in shown
    assert "schedule: interchange(S0, 0, 1)" in shown
    assert "predicted: " in shown
    assert "give or take" in shown
    assert "measured: " in shown
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "none, the program as written" in shown
    assert "predicted: 1.00 times" in shown
    assert "measured" not in shown


def test_optimize_takes_a_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "k.c"
    source.write_text(SOURCE)
    words = ["optimize", str(source), "-D", "N=200", "--model", str(model), "--space", "paper"]
    assert cli.main([*words, "--search", "mcts", "--samples", "2", "--execute-top", "0"]) == 0
    shown = capsys.readouterr().out
    assert "predicted" in shown
    assert "give or take 0%" not in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate", "nowhere"], "no trained model comes with"),
        (["evaluate", "nowhere", "--model", "absent.pt"], "there is no checkpoint at absent.pt"),
        (["train", "nowhere", "-o", "x.pt"], "nowhere has no rows"),
        (["generate", "nowhere", "--programs", "0"], "needs at least 1 program"),
        (["explain", "nowhere.c"], "nowhere.c"),
        (["optimize", "nowhere.c"], "nowhere.c"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "DEFAULT", tmp_path / "default.pt")
    assert cli.main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("costmodel: ")
    assert text in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "x.pt").exists()


def test_a_schedule_that_does_not_fit_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "k.c"
    source.write_text(SOURCE)
    words = ["explain", str(source), "-D", "N=200", "--model", "none", "--schedule"]
    assert cli.main([*words, "unroll(S7, 4)"]) == 2
    assert "there is no statement S7" in capsys.readouterr().err
