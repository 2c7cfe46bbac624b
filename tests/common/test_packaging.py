"""What a user who installs the package gets: files, names, stubs, citation, licence."""

import ast
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import PAPERS, experiment
from tests.common.readmes import library_examples

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", *PAPERS)
#: Written beside the sources by Python and by tools, never part of the package.
GENERATED = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.so")
#: Kinds of file that packages hold besides Python, now or when their kernels and RTL stand.
DATA_SUFFIXES = (
    *(".c", ".cpp", ".h", ".v", ".toml", ".yaml", ".j2", ".css", ".js", ".pyi", ".jsonl"),
    *(".pt", ".json"),
)

TITLES = {
    "A Deep Learning Based Cost Model for Automatic Code Optimization": "Baghdadi",
    "Cortex: A Compiler for Recursive Deep Learning Models": "Fegade",
    "Data Movement Is All You Need: A Case Study on Optimizing Transformers": "Ivanov",
    "In-network Aggregation for Shared Machine Learning Clusters": "Gebara",
    "TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models": "Yin",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


# --- the wheel -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads, with a data file of every kind added to one package."""
    folder = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        ignore = shutil.ignore_patterns(*GENERATED)
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for outside in ("configs", "scripts", "tests"):
        shutil.copytree(ROOT / outside, folder / outside, ignore=shutil.ignore_patterns(*GENERATED))
    for suffix in DATA_SUFFIXES:
        (folder / "panama" / f"probe{suffix}").write_text("kept")
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    return built


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_file_of_the_packages_and_no_other(source: Path, wheel: Path) -> None:
    wanted = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    assert {f"panama/probe{suffix}" for suffix in DATA_SUFFIXES} < wanted
    assert wheel_files(wheel) == wanted


def test_wheel_leaves_the_checkout_s_folders_out(wheel: Path) -> None:
    # Names as general as these must not land in anyone's site-packages.
    assert {name.split("/")[0] for name in wheel_files(wheel)} == set(PACKAGES)


def test_wheel_states_licence_and_version(wheel: Path, project: dict[str, Any]) -> None:
    (distribution,) = metadata.distributions(path=[str(wheel)])
    assert distribution.version == project["version"]
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata.get_all("License-File") == ["LICENSE"]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's packages in a folder, as pip leaves them."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


# The checkout must not be importable, neither by its folder nor by an editable install.
EXAMPLE = """
import os, runpy, sys
checkout, package = sys.argv[1:]
sys.path = [p for p in sys.path if os.path.realpath(p or ".") != checkout]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
runpy.run_path("example.py")
print(sys.modules[package].__file__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", PAPERS)
def test_library_example_works_from_the_wheel_outside_the_checkout(
    package: str, unpacked: Path, tmp_path: Path
) -> None:
    (tmp_path / "example.py").write_text(library_examples()[package])
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE, str(ROOT), package],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(unpacked / package / "__init__.py")


INSTALLED = """
import importlib, json, sys
import common.claims, common.experiment
found = {"claims": sorted({claim.package for claim in common.claims.load().values()})}
found["files"] = {}
for name in json.loads(sys.argv[1]):
    package = importlib.import_module(name)
    importlib.import_module(f"{name}.experiments")
    found["files"][name] = package.__file__
found["torch"] = "torch" in sys.modules
found["experiments"] = list(common.experiment.all_experiments())
errors = {}
import ttrec
for name in ("TTEmbeddingBag", "tt_embedding_bag"):
    try:
        getattr(ttrec, name)
    except ImportError as error:
        errors[name] = [type(error).__name__, str(error)]
found["errors"] = errors
found["shape"] = ttrec.suggest_shape(10131227, 16, 8).params
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_base_installation_imports_and_names_the_missing_extra(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, timeout=700)
    assert done.returncode == 0, done.stderr

    # Run away from the checkout, so that only what was installed can be imported.
    command = [python, "-c", INSTALLED, json.dumps(PACKAGES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(str(environment) in file for file in found["files"].values())
    assert not found["torch"]
    assert set(PAPERS) <= set(found["claims"])
    assert set(found["experiments"]) == set(experiment.all_experiments())
    assert found["shape"] > 0
    assert set(found["errors"]) == {"TTEmbeddingBag", "tt_embedding_bag"}
    for kind, message in found["errors"].values():
        assert kind == "MissingExtra"
        assert 'pip install "mlsys21[ttrec]"' in message


@pytest.mark.soak
@pytest.mark.timeout(1800)  # each downloads and unpacks torch
@pytest.mark.parametrize("package", PAPERS)
def test_each_extra_alone_brings_what_its_example_needs(
    package: str, wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=300)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    extra = package.replace("_", "-")  # pip before 23.3 finds no other spelling
    wanted = f"mlsys21[{extra}] @ {wheel.as_uri()}"
    done = subprocess.run([*pip, wanted], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    (tmp_path / "example.py").write_text(library_examples()[package])
    done = subprocess.run(
        [python, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


WITHOUT_EXTRAS = """
import importlib, json, sys
for name in ("torch", "networkx", "islpy", "scipy", "fbgemm_gpu"):
    sys.modules[name] = None  # as if it were not installed
import cortex
uses = {package: lambda package=package, name=name: getattr(importlib.import_module(package), name)
        for package, name in json.loads(sys.argv[1]).items()}
uses["cortex"] = lambda: cortex.compile(cortex.models.TreeRNN(4, 8), backend="interp")
found = {}
for package, use in uses.items():
    try:
        use()
    except ImportError as error:
        found[package] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


def test_name_whose_package_is_missing_names_the_extra() -> None:
    names = {
        "costmodel": "optimize",
        "transformer_dm": "EncoderLayer",
        "panama": "simulate",
        "ttrec": "TTEmbeddingBag",
    }
    command = [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(PAPERS)
    for package, (kind, message) in found.items():
        assert kind == "MissingExtra"
        extra = package.replace("_", "-")
        assert re.fullmatch(rf'\w+ is needed for .+: pip install "mlsys21\[{extra}\]"', message)


# --- names, versions, stubs ----------------------------------------------------------------------


def stub_names(package: str) -> set[str]:
    """Public names a package's stub promises."""
    tree = ast.parse((ROOT / package / "__init__.pyi").read_text())
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", PAPERS)
def test_stub_and_module_offer_the_same_names(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == stub_names(package)
    assert set(dir(module)) == stub_names(package)
    for name in stub_names(package):
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed_and_carries_the_project_s_version(
    package: str, project: dict[str, Any]
) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert importlib.import_module(package).__version__ == project["version"]


# --- dependencies --------------------------------------------------------------------------------


@functools.cache
def distributions_by_import() -> Mapping[str, list[str]]:
    """Distributions installed here, by the names they are imported by."""
    return metadata.packages_distributions()


def imported_distributions(folder: str) -> set[str]:
    """Distributions that the files of a folder import anywhere, by their normalized names."""
    known = distributions_by_import()
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    foreign = names - sys.stdlib_module_names - {*PACKAGES, "configs", "scripts"}
    return {normalized(known.get(name, [name])[0]) for name in foreign}


def normalized(requirement: str) -> str:
    """The distribution of a requirement: PyYAML>=6 -> pyyaml."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("folder", ["common", "configs", "scripts", *PAPERS])
def test_what_is_imported_is_declared(folder: str, project: dict[str, Any]) -> None:
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {normalized(requirement) for wanted in lists for requirement in wanted}
    assert imported_distributions(folder) <= declared


@pytest.mark.parametrize("folder", ["common/native", "configs"])
def test_what_every_installation_needs_is_no_extra(folder: str, project: dict[str, Any]) -> None:
    # torch is looked at only where a caller passes its tensors.
    needed = imported_distributions(folder) - {"torch"}
    assert needed <= set(map(normalized, project["dependencies"]))


# --- licence and citation ------------------------------------------------------------------------


def test_licence_is_the_one_declared(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_citation_names_this_version_and_the_five_papers(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    cited = {work["title"]: work["authors"][0]["family-names"] for work in citation["references"]}
    assert cited == TITLES
