"""A run's sources are exactly the files of ours it loaded, as they were when it loaded them."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common import provenance
from common.runner import REUSED, run_one, state

SETTINGS: dict[str, object] = {"n": 1, "kind": "plain", "scales": []}


def test_digest_is_of_the_file_named_from_its_package(toy: Any) -> None:
    source = Path("toy/experiments/passes.py")
    wanted = hashlib.sha256((toy.root / source).read_bytes()).hexdigest()
    assert provenance.digest(source) == wanted


@pytest.mark.parametrize("gone", ["toy/gone.py", "nosuchpackage/a.py", ""])
def test_digest_of_what_is_not_there_is_none(toy: Any, gone: str) -> None:
    assert provenance.digest(Path(gone)) is None


def test_run_lists_loaded_modules_and_no_others(toy: Any) -> None:
    outcome = run_one(toy.job("passes", SETTINGS))
    sources = outcome.job.folder.info().sources
    assert {"toy/__init__.py", "toy/experiments/passes.py", "common/record.py"} <= set(sources)
    assert "toy/experiments/fails.py" not in sources
    assert "common/bench.py" not in sources  # nothing was timed
    assert sources["toy/experiments/passes.py"] == provenance.digest(
        Path("toy/experiments/passes.py")
    )


def test_edit_of_a_loaded_module_alone_makes_the_run_stale(toy: Any) -> None:
    job = toy.job("passes", SETTINGS)
    assert run_one(job).status == "ok"
    toy.source("fails").write_text("an unrelated edit")
    assert run_one(job).status == REUSED
    toy.source("passes").write_text(toy.source("passes").read_text() + "\n# edited\n")
    found = state(job)
    assert (found.is_done, found.reason) == (False, "toy/experiments/passes.py has changed")
    assert run_one(job).status == "ok"
    assert run_one(job).status == REUSED


def test_file_edited_while_it_is_in_use_has_no_digest(toy: Any) -> None:
    toy.experiments["toy_passes"].load()
    now = time.time()
    sources = provenance.LoadedSources(("toy",), started=now, server_started=now)
    name = "toy/experiments/passes.py"
    assert sources.digests()[name] == provenance.digest(Path(name))
    earlier = provenance.LoadedSources(("toy",), started=now, server_started=now - 3600)
    assert earlier.digests()[name] == provenance.EDITED


def test_git_state_tells_revision_and_changes(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path / "outside") == (None, None)

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    sha = git("rev-parse", "HEAD").strip()
    assert provenance.git_state(tmp_path) == (sha, False)
    (tmp_path / "file").write_text("two")
    provenance.git_state.cache_clear()
    assert provenance.git_state(tmp_path) == (sha, True)


def test_native_sources_of_loaded_kernels_count(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = toy.root / "toy" / "kernel.c"
    kernel.write_text("int f(void) { return 1; }")

    class Native:
        @staticmethod
        def loaded_sources() -> list[Path]:
            return [kernel, Path("/usr/include/stdio.h")]

    monkeypatch.setitem(sys.modules, "common.native", Native)
    assert provenance.loaded_files(("toy",))["toy/kernel.c"] == kernel.resolve()
