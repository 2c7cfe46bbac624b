"""The folder for what is made once on a machine: compiled kernels, its peaks, the chart library."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
import warnings
from pathlib import Path


def cache_folder() -> Path:
    """The folder, ready to write to: $MLSYS21_CACHE, else one in the user's cache folder.

    Created with access for its owner alone. If it cannot be written, a temporary folder of this
    process serves instead, after one warning. Raises PermissionError if the folder belongs to
    another user or everyone may write to it, since whoever can write there runs code here.
    """
    return _usable_folder(os.environ.get("MLSYS21_CACHE", ""))


@functools.lru_cache(maxsize=16)
def _usable_folder(asked: str) -> Path:
    folder = Path("~/.cache/mlsys21/native")  # as a warning names it when there is no home
    try:
        folder = Path(asked).expanduser().absolute() if asked else _in_home()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        _refuse_foreign(folder, status)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except _ForeignFolder:
        raise
    except OSError as error:
        import tempfile

        private = Path(tempfile.mkdtemp(prefix="mlsys21-native-"))
        warnings.warn(
            f"native libraries cannot be kept in {folder} ({error.strerror}); they are built anew "
            f"for this process in {private}: set MLSYS21_CACHE to a writable folder",
            RuntimeWarning,
            stacklevel=3,
        )
        _remove_at_exit(private)
        return private
    return folder


def _in_home() -> Path:
    """The user's cache folder; FileNotFoundError for a user without a home."""
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("mlsys21")) / "native"
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # older versions give a folder named ~ in the working directory
        raise FileNotFoundError(errno.ENOENT, "no home folder")
    return folder


class _ForeignFolder(PermissionError):
    pass


def _refuse_foreign(folder: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise _ForeignFolder(
            f"{folder} belongs to user {status.st_uid}, not to {os.geteuid()}: "
            "set MLSYS21_CACHE to a folder of your own"
        )
    if status.st_mode & stat.S_IWOTH:
        raise _ForeignFolder(f"everyone may write to {folder}: chmod 700 it, or set MLSYS21_CACHE")


def _remove_at_exit(folder: Path) -> None:
    import atexit

    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child must not take it from its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
