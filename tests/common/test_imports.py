"""Who may import whom, and what importing a package costs.

common <- paper library <- paper/experiments <- scripts; no paper knows another.
"""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import PAPERS

ROOT = Path(__file__).parents[2]
#: Folders of the checkout that are importable by name.
OURS = {"common", *PAPERS, "configs", "scripts", "tests"}
#: The only files below scripts that may know hydra: they check settings and start its jobs.
KNOW_HYDRA = {
    "common/config.py",
    "common/config_source.py",
    "common/validation.py",
    "common/suite.py",
}
#: Seconds of processor time an import may take, best of several fresh processes.
IMPORT_LIMIT = 0.050
#: Each takes longer to import than a whole package of ours may.
HEAVY = ("torch", "pandas", "hydra", "omegaconf", "altair", "vl_convert", "fbgemm_gpu", "scipy")


def source_files(folder: str) -> list[str]:
    """Python files below a folder of the checkout, as names relative to the checkout."""
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py"))


def imported_modules(source: str, file: str) -> Iterator[str]:
    """Every module a file imports anywhere in it, under TYPE_CHECKING too, as absolute names.

    file: relative to the checkout; relative imports are resolved against it.
    """
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            # "from x import y" may mean the module x.y.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str) -> tuple[str, bool]:
    """("ttrec", True) for ttrec.experiments and below; the flag says whether it is experiments."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[0], parts[1:2] == ["experiments"]


def forbidden_imports(source: str, file: str) -> list[str]:
    """Imports of our own folders that a file must not make."""
    home, is_experiment = layer(file)
    wrong = []
    for module in imported_modules(source, file):
        target, target_is_experiment = layer(module)
        if target not in OURS or (home == "scripts" and target != "tests"):
            continue
        below = target in {"common", home}
        if not below or (target_is_experiment and not (is_experiment and target == home)):
            wrong.append(module)
    return wrong


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("common/bench.py", "import ttrec", ["ttrec"]),
        ("common/bench.py", "from scripts import report", ["scripts", "scripts.report"]),
        ("common/bench.py", "from .experiments import noise", None),
        ("cortex/compile.py", "def f():\n    import panama.wire", ["panama.wire"]),
        ("cortex/compile.py", "from cortex import experiments", ["cortex.experiments"]),
        ("cortex/compile.py", "from . import experiments", ["cortex.experiments"]),
        ("cortex/compile.py", "from common.bench import compare\nfrom .ir import Op", []),
        ("cortex/experiments/overall.py", "from cortex import compile\nimport numpy", []),
        ("cortex/experiments/overall.py", "import common.experiments", ["common.experiments"]),
        ("cortex/experiments/overall.py", "from ttrec import shapes", ["ttrec", "ttrec.shapes"]),
        ("scripts/report.py", "from ttrec.experiments import EXPERIMENTS", []),
        ("scripts/report.py", "import tests.common", ["tests.common"]),
    ],
)
def test_rule_tells_wrong_imports_from_right_ones(
    file: str, source: str, wrong: list[str] | None
) -> None:
    if wrong is None:
        assert forbidden_imports(source, file)
    else:
        assert forbidden_imports(source, file) == wrong


@pytest.mark.parametrize("folder", ["common", *PAPERS, "configs", "scripts"])
def test_files_import_only_the_layers_below_them(folder: str) -> None:
    wrong = {
        file: modules
        for file in source_files(folder)
        if (modules := forbidden_imports((ROOT / file).read_text(), file))
    }
    assert not wrong


@pytest.mark.parametrize("folder", ["common", *PAPERS])
def test_libraries_do_not_know_hydra(folder: str) -> None:
    # Settings reach a library as plain values, so that it can be used without the runner.
    wrong = [
        (file, module)
        for file in source_files(folder)
        if file not in KNOW_HYDRA
        for module in imported_modules((ROOT / file).read_text(), file)
        if module.split(".")[0] in {"hydra", "omegaconf"}
    ]
    assert not wrong


def run_python(code: str) -> str:
    """What a fresh interpreter prints, started in the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def packages() -> list[str]:
    """The packages and their lists of experiments: what a user or the runner imports first."""
    return [name for p in ("common", *PAPERS) for name in (p, f"{p}.experiments")]


@pytest.mark.parametrize("package", packages())
def test_import_loads_nothing_heavy(package: str) -> None:
    loaded = run_python(
        f"import sys; import {package}; print(*[m for m in {HEAVY} if m in sys.modules])"
    )
    assert loaded == ""


@pytest.mark.bench
@pytest.mark.parametrize("package", packages())
def test_import_is_quick(package: str) -> None:
    # Timed inside the process, so that the start of the interpreter is not counted, and by the
    # processor's clock, so that waiting for a turn on a busy machine is not counted either.
    code = (
        "import time; start = time.process_time()\n"
        f"import {package}\n"
        "print(time.process_time() - start)"
    )
    # A neighbour on the same core slows a process by half for seconds: the limit holds if one of
    # many tries, spread over time, stays below it.
    best = float("inf")
    for _ in range(60):
        best = min(best, float(run_python(code)))
        if best < IMPORT_LIMIT:
            break
        time.sleep(0.2)
    assert best < IMPORT_LIMIT, f"import {package} takes {best * 1e3:.0f} ms"
