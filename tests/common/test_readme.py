"""The READMEs: their examples run, their commands and links exist, their lists are complete."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml

from common import PAPERS
from common.experiment import Context, Experiment
from common.validation import LAUNCHERS
from tests.common.readmes import READMES, ROOT, blocks, library_examples


def python_examples() -> list[Any]:
    return [
        pytest.param(code, id=f"{file}-{number}")
        for file in READMES
        for number, code in enumerate(blocks(file, "python"), 1)
    ]


@pytest.mark.parametrize("code", python_examples())
def test_python_example_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    runpy.run_path(str(script))


@pytest.mark.parametrize("file", READMES)
def test_readme_is_there(file: str) -> None:
    assert (ROOT / file).is_file()


def test_there_are_python_examples() -> None:
    assert len(python_examples()) >= 4


def test_every_paper_has_an_example_in_the_top_readme() -> None:
    assert set(library_examples()) == set(PAPERS)


# --- commands and links --------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command of the shell examples, without its comment."""
    lines = [
        line for file in READMES for code in blocks(file, "bash") for line in code.splitlines()
    ]
    return sorted({" ".join(shlex.split(line, comments=True)) for line in lines} - {""})


def test_commands_start_programs_of_this_repository() -> None:
    missing = []
    for command in commands():
        words = [word for word in command.split() if "=" not in word or word.startswith("-")]
        if words[:2] == ["python", "-m"]:
            module = words[2].replace(".", "/")
            found = any(
                (ROOT / file).is_file() for file in (f"{module}.py", f"{module}/__main__.py")
            )
        elif words[0] == "bash":
            found = (ROOT / words[1]).is_file()
        else:
            found = words[:3] == ["pip", "install", "-e"]
        if not found:
            missing.append(command)
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if "-m scripts.reproduce" in c])
def test_reproduce_accepts_the_documented_arguments(command: str, tmp_path: Path) -> None:
    arguments = command.split()[3:]
    if "--help" not in arguments:  # list=true checks every setting and runs nothing
        arguments = [*arguments, "list=true", f"results={tmp_path}"]
    arguments = list(dict.fromkeys(arguments))
    # Launchers of clusters are in no extra of the tests: then it must say how to get them.
    asked = [word.removeprefix("machine=") for word in arguments if word.startswith("machine=")]
    absent = [extra for machine in asked if (extra := missing_launcher(machine))]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.reproduce", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if absent:
        assert done.returncode == 2
        assert f'pip install "mlsys21[{absent[0]}]"' in done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr


def missing_launcher(machine: str) -> str | None:
    """The extra that brings a machine's launcher, when it is not installed here."""
    module, extra = LAUNCHERS.get(machine, ("common", ""))
    try:
        importlib.import_module(module)
    except ImportError:
        return extra
    return None


@pytest.mark.parametrize("file", READMES)
def test_links_lead_to_files(file: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / file).read_text())
    local = [target for target in targets if "://" not in target]
    broken = [target for target in local if not ((ROOT / file).parent / target).exists()]
    assert not broken


# --- what the READMEs list -----------------------------------------------------------------------


def test_common_readme_names_every_file_of_the_layer() -> None:
    # Experiments name themselves: scripts.reproduce lists them.
    text = (ROOT / "common" / "README.md").read_text()
    files = [
        path.relative_to(ROOT / "common").as_posix()
        for path in (ROOT / "common").rglob("*")
        if path.suffix in {".py", ".c", ".h", ".j2", ".css", ".js", ".toml"}
        and not path.name.startswith("_")
        and not {"__pycache__", "experiments"} & set(path.parts)
    ]
    unnamed = [file for file in files if f"`{file}`" not in text]
    assert not unnamed


def test_common_readme_names_no_file_that_is_gone() -> None:
    text = (ROOT / "common" / "README.md").read_text()
    named = re.findall(r"^\| `([\w/]+\.\w+)`", text, re.MULTILINE)
    assert named
    assert not [file for file in named if not (ROOT / "common" / file).is_file()]


def named_files(file: str) -> list[Path]:
    """Every path in backquotes that ends as a file or folder of this repository does."""
    text = (ROOT / file).read_text()
    # The files of the worked example are the reader's to write.
    text = re.sub(r"^### Add an experiment$.*?^## ", "", text, flags=re.MULTILINE | re.DOTALL)
    names = re.findall(r"`([\w./-]+(?:\.(?:py|pyi|c|cpp|h|v|md|toml|yaml|jsonl|sh|cff)|/))`", text)
    return [Path(name) for name in dict.fromkeys(names)]


@pytest.mark.parametrize("file", READMES)
def test_every_file_a_readme_names_exists(file: str) -> None:
    # A name stands relative to its README, to the top, or, after a sibling, to that one's folder.
    folder = (ROOT / file).parent
    known = {path.name for path in folder.rglob("*") if "__pycache__" not in path.parts}
    written = {"results/", "results/data/", "run.json", "settings.yaml", "records.jsonl", "cells/"}
    gone = [
        str(name)
        for name in named_files(file)
        if not ((folder / name).exists() or (ROOT / name).exists())
        and not (len(name.parts) == 1 and name.name in known)
        and not ({str(name), f"{name}/"} & written)
    ]
    assert not gone


def test_documented_variables_are_read_somewhere() -> None:
    table = re.findall(r"^\| `([A-Z0-9_]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    # rich honours NO_COLOR by itself.
    ours = [name for name in table if name != "NO_COLOR"]
    sources = [*(ROOT / "common").rglob("*.py"), ROOT / "scripts" / "setup.sh"]
    text = "".join(path.read_text() for path in sources)
    assert ours
    assert not [name for name in ours if name not in text]


@pytest.mark.parametrize(
    ("file", "marker"),
    [("README.md", "headline"), *((f"{p}/README.md", "claims") for p in (*PAPERS, "common"))],
)
def test_generated_table_stands_between_its_markers(file: str, marker: str) -> None:
    text = (ROOT / file).read_text()
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    assert text.count(begin) == text.count(end) == 1
    table = text.split(begin)[1].split(end)[0]
    assert "|" in table, f"run python -m scripts.report --readme to fill {file}"


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_readme_says_so_while_it_has_no_experiments(paper: str) -> None:
    from common.experiment import all_experiments

    text = (ROOT / paper / "README.md").read_text()
    assert ("No experiments yet" in text) != bool(all_experiments([paper]))


# --- the worked example of an experiment ---------------------------------------------------------


@pytest.fixture
def worked_example(tmp_path: Path) -> SimpleNamespace:
    """The four pieces of "Add an experiment", as the README gives them."""
    examples = library_examples().values()
    module, entry = (code for code in blocks("README.md", "python") if code not in examples)
    (claim,) = blocks("README.md", "toml")
    (values,) = blocks("README.md", "yaml")
    script = tmp_path / "sum.py"
    script.write_text(module)
    return SimpleNamespace(
        claim=tomllib.loads(claim)["claim"][0],
        claims_text=claim,
        module=SimpleNamespace(**runpy.run_path(str(script))),
        values=yaml.safe_load(values),
        entry=runpy_entry(entry, tmp_path),
    )


def runpy_entry(code: str, folder: Path) -> Experiment:
    script = folder / "entry.py"
    script.write_text(code)
    entry: Experiment = runpy.run_path(str(script))["entry"]
    return entry


def test_worked_example_declares_one_name_everywhere(worked_example: SimpleNamespace) -> None:
    entry = worked_example.entry
    assert entry.claims == (worked_example.claim["id"],)
    assert worked_example.values["defaults"] == [f"/schema/{entry.name}@_here_", "_self_"]
    fields = {field.name for field in worked_example.module.Settings.__attrs_attrs__}
    assert set(worked_example.values) - {"defaults"} == fields


def test_worked_example_s_claim_is_accepted(
    worked_example: SimpleNamespace, tmp_path: Path
) -> None:
    from common import claims_file

    path = tmp_path / "claims.toml"
    path.write_text(worked_example.claims_text)
    assert list(claims_file.parse(path, "common")) == [worked_example.claim["id"]]


def test_worked_example_measures_what_it_claims(worked_example: SimpleNamespace) -> None:
    # The double has the signatures of the real Context and refuses any other call.
    context = mock.create_autospec(Context, instance=True)
    context.progress.side_effect = lambda items, label: iter(items)
    context.rng.side_effect = lambda name: np.random.default_rng(0)
    worked_example.module.run(worked_example.module.Settings(sizes=[10, 1000]), context)

    assert context.compare.call_count == 2
    for call in context.compare.call_args_list:
        metric, candidates = call.args
        assert metric == worked_example.claim["metric"]
        assert call.kwargs["claim"] == worked_example.claim["id"]
        baseline = candidates[call.kwargs["baseline"]]()
        for candidate in candidates.values():
            call.kwargs["verify"](candidate(), baseline)
        with pytest.raises(AssertionError):
            call.kwargs["verify"](baseline + 1, baseline)


def test_worked_example_draws_what_it_measured(worked_example: SimpleNamespace) -> None:
    row = {"metric": "speedup", "unit": "x", "value": 9.0, "low": 8.0, "high": 10.0}
    row |= {"noisy": False, "axis.system": "ours", "axis.baseline": "loop"}
    frame = pd.DataFrame([row | {"axis.size": 10}, row | {"axis.size": 1000, "value": 9.5}])
    (chart,) = worked_example.module.charts(frame, {})
    assert len(chart.rows) == 2
