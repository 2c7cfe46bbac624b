"""Workflows and scripts: every path and module they name is there, every extra is declared."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import PAPERS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [*WORKFLOWS, *sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

#: Top folders of the checkout; results/ and .venv/ are made by the commands themselves.
_FOLDERS = "|".join(["tests", "scripts", "configs", "common", r"\.ci", r"\.github", *PAPERS])
_PATH = re.compile(rf"(?<![\w.-])(?:{_FOLDERS})/[\w./-]*\w")
_MODULE = re.compile(r"python[\d.]* -m ((?:scripts|common)[\w.]*\w)")
_SETUP = re.compile(r"setup\.sh\"? ([a-z_,]+)")


def paths_in(text: str) -> set[str]:
    """Paths of the checkout a text names, those of modules run by python -m among them."""
    modules = {f"{name.replace('.', '/')}.py" for name in _MODULE.findall(text)}
    return set(_PATH.findall(text)) | modules


def test_paths_are_found_in_a_text() -> None:
    text = """
        bash "$root/scripts/setup.sh" dev   # see .github/workflows/tests.yml
        .venv/bin/python -m pytest tests/ttrec/test_bag.py::test_sum results/report.html
        exec .venv/bin/python -m scripts.reproduce "$@" -m pytest my-tests/none.py
    """
    assert paths_in(text) == {
        "scripts/setup.sh",
        ".github/workflows/tests.yml",
        "tests/ttrec/test_bag.py",
        "scripts/reproduce.py",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_path_exists(file: Path) -> None:
    named = paths_in(file.read_text())
    assert named, "no path was recognized"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_extra_is_declared(file: Path) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = set(pyproject["project"]["optional-dependencies"])
    used = {extra for words in _SETUP.findall(file.read_text()) for extra in words.split(",")}
    assert used <= declared


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflow_is_bounded_and_checks_the_code_out_first(file: Path) -> None:
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["jobs"]
    for name, job in jobs.items():
        assert job["timeout-minutes"] <= 120, name
        assert job["steps"][0]["uses"].startswith("actions/checkout@"), name
