"""Which code produced a run: digests of the files that were loaded, and the git revision."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

#: In place of a digest when a file was edited while it was in use; it equals no digest.
EDITED = "edited while running"


def package_folder(package: str) -> Path | None:
    """Folder that holds a top-level package's folder, None if there is none; imports nothing."""
    if not package.isidentifier():
        return None
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).resolve().parent


def digest(source: Path) -> str | None:
    """sha256 of a source file named from its package on ("ttrec/cores.py"), None if it is gone."""
    folder = package_folder(source.parts[0]) if source.parts else None
    return None if folder is None else file_digest(folder / source)


def file_digest(path: Path) -> str | None:
    """sha256 of a file, None if it cannot be read; a file that did not change is read once."""
    try:
        state = path.stat()
        return _digest_of(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _digest_of(path: Path, _mtime_ns: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def loaded_files(packages: Iterable[str]) -> dict[str, Path]:
    """Files of the packages' modules and native kernels that this process has loaded.

    Keys are paths from the package on, with forward slashes.
    """
    wanted = set(packages)
    # By name first: with torch loaded there are thousands of modules that are not ours.
    paths = {
        Path(file).resolve()
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in wanted
        if isinstance(file := getattr(module, "__file__", None), str)
    }
    native = sys.modules.get("common.native")
    if native is not None:
        paths.update(Path(source).resolve() for source in native.loaded_sources())
    folders = {package: package_folder(package) for package in wanted}
    found: dict[str, Path] = {}
    for path in paths:
        for package, folder in folders.items():
            if folder is not None and path.is_relative_to(folder / package):
                found[path.relative_to(folder).as_posix()] = path
    return found


class LoadedSources:
    """Digests of the code this process has loaded so far.

    A file whose content on disk is newer than its use here gets EDITED instead of a digest, since
    what ran is not what is there now; a run that holds it is never reused.

    packages:        import names that count as ours
    server_started:  seconds since the epoch when modules already loaded now were at the latest read
    """

    def __init__(self, packages: Collection[str], started: float, server_started: float) -> None:
        self._packages = tuple(packages)
        self._preloaded = set(loaded_files(packages))
        self._started = started
        self._server_started = server_started

    def digests(self) -> Mapping[str, str]:
        """Path from the package on -> sha256, sorted by path."""
        found: dict[str, str] = {}
        for name, path in sorted(loaded_files(self._packages).items()):
            since = self._server_started if name in self._preloaded else self._started
            try:
                edited = path.stat().st_mtime > since
            except OSError:
                edited = True
            found[name] = EDITED if edited else file_digest(path) or EDITED
        return found


@functools.lru_cache(maxsize=8)
def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Revision checked out at folder, and whether tracked files differ from it; None if unknown."""
    sha = _git(folder, "rev-parse", "HEAD")
    if sha is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return sha.strip(), None if changes is None else bool(changes.strip())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
