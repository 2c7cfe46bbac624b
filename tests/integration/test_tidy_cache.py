"""The command leaves the folder of compiled kernels at a size one can live with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def reproduce(toy: Any, cache: Path) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, str(toy.driver), "experiment=toy_passes", f"results='{toy.results}'"]
    environment = {**os.environ, "MLSYS21_CACHE": str(cache)}
    return subprocess.run(
        words, capture_output=True, text=True, cwd=toy.root, env=environment, timeout=110
    )


def test_kernels_used_longest_ago_go_at_the_end(toy: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    entries = [cache / f"{digit * 32}.{digit * 8}.so" for digit in "0123"]
    for age, path in enumerate(reversed(entries)):
        path.touch()
        os.truncate(path, 200 * 10**6)  # of holes: no disk is filled
        os.utime(path, (1e9 - 1000 * age, 1e9 - 1000 * age))
    kept = cache / "roofline-m-1.json"
    kept.write_text("{}")
    done = reproduce(toy, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(toy.results / "report.html")
    assert [path.exists() for path in entries] == [False, False, True, True]
    assert kept.exists()


def test_cache_that_may_not_be_used_fails_no_run(toy: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    done = reproduce(toy, cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == str(toy.results / "report.html")
