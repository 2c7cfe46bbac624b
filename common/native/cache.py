"""The folder of built libraries: entries named by content, committed by a json file.

An entry `<key>` is a library `<key>.<first 8 of its sha256>.so` and `<key>.json`, written last,
which holds the library's name, size and sha256. A library is loaded only after these match:
mapping a truncated one kills the process with SIGBUS instead of raising. Files are never replaced
in place, and `.lock` files never removed, since a process may hold or have mapped them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from common import files
from common.cache_folder import cache_folder

_NETWORK = re.compile(
    r"nfs|cifs|smb|lustre|gpfs|beegfs|ceph|gluster|afs|9p|fuse\.sshfs|pvfs|orangefs"
)
_KEY = re.compile(r"[0-9a-f]{32}")  # others keep small files of their own in the same folder
_ABANDONED_S = 86400.0  # a build folder this old belongs to no living compiler


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@attrs.frozen(eq=False)
class Entry:
    """A committed library: the path to load, and what its json file says."""

    library: Path
    facts: dict[str, Any]


def find(folder: Path, key: str) -> Entry | None:
    """The entry of `key` if it is committed and undamaged; marks it as used.

    A damaged one gives None and a warning: the caller builds it again.
    """
    commit = folder / f"{key}.json"
    try:
        facts = json.loads(commit.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{commit} is unreadable and is built again: {error}", RuntimeWarning, stacklevel=2
        )
        return None
    complaint = _complaint(folder, key, facts)
    if complaint:
        warnings.warn(f"{commit}: {complaint}; it is built again", RuntimeWarning, stacklevel=2)
        return None
    with contextlib.suppress(OSError):
        os.utime(commit)
    return Entry(folder / facts["name"], facts)


def _complaint(folder: Path, key: str, facts: Any) -> str | None:
    try:
        name, size, digest = facts["name"], facts["size"], facts["sha256"]
        if name != f"{key}.{digest[:8]}.so":
            return f"it names a foreign library {name!r}"
        content = (folder / name).read_bytes()
    except (KeyError, TypeError):
        return "it is not of this format"
    except OSError as error:
        return f"its library cannot be read ({error.strerror})"
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        return f"{name} is damaged: {size} bytes expected, {len(content)} found or other content"
    return None


def commit(folder: Path, key: str, built: Path, facts: dict[str, Any]) -> Entry:
    """Move a finished library into place and commit it; `built` lies in the same file system."""
    with built.open("rb+") as stream:
        content = stream.read()
        os.fsync(stream.fileno())
    digest = hashlib.sha256(content).hexdigest()
    library = folder / f"{key}.{digest[:8]}.so"
    built.replace(library)
    facts = {"name": library.name, "size": len(content), "sha256": digest, **facts}
    files.write_whole(folder / f"{key}.json", json.dumps(facts, indent=1))
    return Entry(library, facts)


@contextlib.contextmanager
def locked(folder: Path, key: str) -> Iterator[bool]:
    """Hold the key's lock while building; false if the file system knows no locks.

    flock itself rather than a lock library: it waits without polling, and where it is missing the
    race to build is harmless, while a lock file left by a killed process would not be.
    """
    with (folder / f"{key}.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True  # closing the file drops the lock, and so does the death of the process


@contextlib.contextmanager
def scratch(folder: Path, key: str, alone: bool) -> Iterator[Path]:
    """A folder for one build's intermediates, removed at the end.

    alone: the key's lock is held, so folders left by killed builders of this key can go.
    """
    if alone:
        for left in folder.glob(f"{key}.*.tmp"):
            _remove(left)
    import tempfile

    path = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".tmp", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def file_system(path: Path) -> str:
    """The type of the file system `path` lies on, such as ext4 or nfs4; empty if unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), Path(), ""
    for line in mounts.splitlines():
        _, point, this_kind, *_ = line.split(" ")
        mount = Path(point.replace("\\040", " "))
        # The later of equal mounts lies on top.
        if resolved.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, this_kind
    return kind


def is_network(path: Path) -> bool:
    """Whether another machine could delete files under `path` while we have them mapped."""
    return _NETWORK.match(file_system(path)) is not None


def prune(max_mb: float = 512) -> int:
    """Drop the least recently used entries until the cache holds at most `max_mb` megabytes.

    Does nothing on a network file system, where a library may be mapped by another machine.
    Returns the number of entries dropped.
    """
    if max_mb < 0:
        raise ValueError(f"max_mb must not be negative, got {max_mb}")
    folder = cache_folder()
    if is_network(folder):
        return 0
    sizes: dict[str, int] = {}
    used: dict[str, float] = {}
    now = time.time()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            key, status = path.name.partition(".")[0], path.stat()
            if path.suffix == ".lock" or not _KEY.fullmatch(key):
                continue
            if path.is_dir():
                if now - status.st_mtime > _ABANDONED_S:
                    _remove(path)
                continue
            sizes[key] = sizes.get(key, 0) + status.st_size
            used[key] = max(used.get(key, 0.0), min(status.st_mtime, now))
    total, dropped = sum(sizes.values()), 0
    for key in sorted(sizes, key=lambda key: used[key]):
        if total <= max_mb * 1e6:
            break
        total -= sizes[key]
        dropped += _drop(folder, key)
    return dropped


def _drop(folder: Path, key: str) -> bool:
    with (folder / f"{key}.lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # being built
        (folder / f"{key}.json").unlink(missing_ok=True)  # first: what is left is uncommitted
        for path in folder.glob(f"{key}.*"):
            if path.suffix != ".lock":
                _remove(path)
    return True
