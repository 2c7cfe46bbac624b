"""Finished parts of an experiment, kept so that an interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from common import files

if TYPE_CHECKING:
    from common.record import Record

T = TypeVar("T")

# Where a function holds what it captured. Two functions made at one place in the code may differ
# there, which their name and parameters do not tell.
_CAPTURING = ("__closure__", "__defaults__", "__self__")


@attrs.frozen
class Cell:
    """One finished part: its value, the records made inside it and the code that made them.

    sources: digest of every file of ours that was loaded when the part was done
    """

    value: Any
    records: tuple[str, ...]
    sources: Mapping[str, str]


class Cells:
    """The cells of one run, a file each.

    folder:  where the files are
    sources: digests of what this process has loaded so far
    digest:  present digest of a source file, None when it is gone
    replay:  given each record of a cell that is taken from its file
    resume:  whether cells of earlier runs may be used
    """

    def __init__(
        self,
        folder: Path,
        *,
        sources: Callable[[], Mapping[str, str]],
        digest: Callable[[Path], str | None],
        replay: Callable[[Record], None],
        log: logging.Logger,
        resume: bool = True,
    ) -> None:
        self._folder = folder
        self._sources = sources
        self._digest = digest
        self._replay = replay
        self._log = log
        self._resume = resume
        self._open: list[list[Record]] = []
        self._captured: dict[Path, Callable[..., Any]] = {}
        self._of_this_run: set[Path] = set()

    def get(self, fn: Callable[..., T], params: Mapping[str, Any]) -> T:
        """The kept value of fn(**params), computed and kept if there is none."""
        path = self._path(fn, params)
        cell = self._load(path)
        if cell is not None:
            from common.record import Record

            for line in cell.records:
                self._replay(Record.from_json(line))
            value: T = cell.value
            return value
        self._open.append([])
        try:
            value = fn(**params)
        finally:
            records = self._open.pop()
        self._store(path, Cell(value, tuple(r.to_json() for r in records), dict(self._sources())))
        return value

    def note(self, record: Record) -> None:
        """Remember a record as made inside the cells that are being computed now."""
        for records in self._open:
            records.append(record)

    def _path(self, fn: Callable[..., Any], params: Mapping[str, Any]) -> Path:
        import joblib

        if not hasattr(fn, "__qualname__"):
            raise TypeError(
                f"a cell needs a function with a name, got {fn!r}: pass the function itself, and "
                "what it is given as parameters"
            )
        name = f"{fn.__module__}.{fn.__qualname__}"
        key = hashlib.sha256(f"{name} {joblib.hash(dict(params))}".encode()).hexdigest()[:16]
        path = self._folder / f"{fn.__name__.strip('<>')}-{key}.joblib"
        captures = any(getattr(fn, part, None) for part in _CAPTURING)
        if captures and self._captured.setdefault(path, fn) != fn:
            raise ValueError(
                f"two cells of '{fn.__qualname__}' have the same parameters "
                f"({dict(params) or 'none'}): pass what differs between them as parameters"
            )
        return path

    def _load(self, path: Path) -> Cell | None:
        import joblib

        if not path.exists() or not (self._resume or path in self._of_this_run):
            return None
        try:
            cell = joblib.load(path)
        except Exception as problem:  # whatever unpickling a damaged file raises
            self._log.warning("%s cannot be read and is computed again: %s", path, problem)
            return None
        if not isinstance(cell, Cell):
            self._log.warning("%s holds no cell and is computed again", path)
            return None
        for source, old in cell.sources.items():
            if self._digest(Path(source)) != old:
                self._log.info("%s is computed again: %s has changed", path.name, source)
                return None
        return cell

    def _store(self, path: Path, cell: Cell) -> None:
        import joblib

        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as beside:
            joblib.dump(cell, beside)
        self._of_this_run.add(path)
