"""Files that are there whole or not at all, whatever kills the process that writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, data: str | bytes) -> None:
    """Put data in place of the file at path; readers see the old content or all of the new.

    It is on the disk on return. Text is written as UTF-8. Raises OSError, and then leaves path as
    it was and nothing beside it.
    """
    with replacing(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside path to write to; at the end of the block that file takes path's place.

    A block that raises leaves path as it was. What a killed process leaves ends in .tmp.
    """
    beside = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield beside
        sync(beside)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    # The rename itself must outlive a power cut; some network file systems refuse.
    with contextlib.suppress(OSError):
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
