"""A run on disk, results/<experiment>/<key>/: a kill at any moment leaves it readable.

Three rules carry this. run.json is only ever replaced whole. A record is one write at the end of
records.jsonl, synced before append returns. A finished run.json holds count and digest of the
records, so records that do not belong to it, or are cut short, are noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import filelock
import yaml

from common import files
from common.record import Record, ResultsError, RunInfo, canonical_json


class RunFolder:
    """The folder of one run; making the object touches no file.

    path/run.json       what the run was and how it ended
    path/settings.yaml  the settings alone, for people and for tools that read yaml
    path/records.jsonl  a Record per line
    path/cells/         finished parts of the run; they outlive a run that is done again
    path/log.txt        the log of the child
    path.lock           beside the folder; never deleted: a lock file that goes away is no lock

    Raises ResultsError naming the file when one cannot be read or written.
    """

    def __init__(self, root: Path, experiment: str, key: str) -> None:
        self.path = Path(root) / experiment / key
        self.cells = self.path / "cells"
        self.log = self.path / "log.txt"
        self._run = self.path / "run.json"
        self._records = self.path / "records.jsonl"
        self._lock = filelock.FileLock(self.path.with_name(f"{key}.lock"), thread_local=False)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @contextlib.contextmanager
    def lock(self, timeout: float = -1) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go when the process dies.

        Waits up to timeout seconds (-1 for ever), then raises filelock.Timeout.
        """
        with _naming(self.path.parent, "write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = self._lock.acquire(timeout=timeout)
        except filelock.Timeout:
            raise
        except OSError as problem:
            raise ResultsError(
                f"cannot lock {self._lock.lock_file}: {problem.strerror}"
            ) from problem
        with held:
            yield

    def begin(self, info: RunInfo) -> None:
        """Start the run: run.json as given, no records; cells/ stays.

        The new run.json is on the disk before anything of an earlier run is touched, and takes its
        place last: a full disk costs no earlier result, and at no moment does a run.json stand
        beside records of another run without its digest telling so.
        """
        with _naming(self.path, "write"):
            self.cells.mkdir(parents=True, exist_ok=True)
            for stale in self.path.rglob("*.tmp"):  # left by a killed run; the lock is ours
                stale.unlink(missing_ok=True)
        settings = yaml.safe_dump(json.loads(canonical_json(info.settings)), sort_keys=True)
        self._replace(self.path / "settings.yaml", settings)
        with _naming(self._run, "write"), files.replacing(self._run) as new_run:
            new_run.write_text(info.to_json())
            files.sync(new_run)
            with _naming(self._records, "write"):
                self._records.write_bytes(b"")
                files.sync(self._records)

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk on return. Safe from several processes and threads.

        A write that fails (full disk) takes back what it wrote, so earlier records stay whole.
        """
        line = record.to_json().encode() + b"\n"
        with _naming(self._records, "write"):
            fd = os.open(self._records, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # A file system without locks still keeps each O_APPEND write in one piece.
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_EX)
                size = os.fstat(fd).st_size
                try:
                    while line:  # once, unless the disk is full: the next turn then says so
                        line = line[os.write(fd, line) :]
                    os.fsync(fd)
                except OSError:
                    os.ftruncate(fd, size)
                    raise
            finally:
                os.close(fd)

    def finish(
        self,
        status: str,
        *,
        seconds: float | None,
        peak_mb: float | None,
        error: str | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> RunInfo:
        """Write how the run ended and what its records are; returns the new run.json's content.

        A last line cut short by a kill is removed; a run that left one cannot be "ok" and is kept
        as "failed".
        """
        info = self.info()
        if info is None:
            raise ResultsError(f"{self._run} is missing: begin() must come before finish()")
        data = self._read_records()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with _naming(self._records, "write"):
                os.truncate(self._records, len(whole))
            if status == "ok":
                status, error = "failed", f"the last line of {self._records.name} was cut short"
        info = attrs.evolve(
            info,
            status=status,
            seconds=seconds,
            peak_mb=peak_mb,
            error=error,
            sources=dict(info.sources if sources is None else sources),
            n_records=whole.count(b"\n"),
            records_sha256=hashlib.sha256(whole).hexdigest(),
        )
        self._replace(self._run, info.to_json())
        return info

    def info(self) -> RunInfo | None:
        """The content of run.json, None if there is none."""
        with _naming(self._run, "read"):
            try:
                text = self._run.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            return RunInfo.from_json(text)
        except (ValueError, TypeError) as problem:
            raise ResultsError(f"{self._run} is not a readable run: {problem}") from None

    def records(self) -> list[Record]:
        """Every whole record so far; a last line without its end is still being written."""
        return self._parse(self._read_records())

    def verified_records(self, info: RunInfo) -> list[Record]:
        """The records, if they are the ones info speaks of; ResultsError otherwise.

        While a run is not finished it speaks of none, and every whole record counts.
        """
        data = self._read_records()
        if info.records_sha256 is not None:
            n_lines = data.count(b"\n")
            if n_lines != info.n_records:
                raise ResultsError(
                    f"{self._records} has {n_lines} whole records, run.json says {info.n_records}"
                )
            if hashlib.sha256(data).hexdigest() != info.records_sha256:
                raise ResultsError(f"{self._records} was changed after the run ended")
        return self._parse(data)

    def reusable(self, digest: Callable[[Path], str | None]) -> tuple[bool, str]:
        """Whether the earlier run can stand for a new one; if not, why.

        digest gives the present sha256 of a source file (path relative to the repository's root),
        None when it is gone.
        """
        try:
            info = self.info()
            if info is None:
                return False, "there is no earlier run"
            if info.status != "ok":
                return False, f"the earlier run's status is {info.status!r}"
            for source, old in info.sources.items():
                new = digest(Path(source))
                if new != old:
                    return False, f"{source} {'is gone' if new is None else 'has changed'}"
            self.verified_records(info)
        except ResultsError as problem:
            return False, str(problem)
        return True, ""

    def _read_records(self) -> bytes:
        with _naming(self._records, "read"):
            return self._records.read_bytes()

    def _parse(self, data: bytes) -> list[Record]:
        lines = data.split(b"\n")
        lines.pop()  # empty after the last line's end, else a line cut short
        try:  # all at once, which takes half as long
            rows = json.loads(b"[%s]" % b",".join(lines))
            if len(rows) == len(lines):
                return [Record.from_row(row) for row in rows]
        except (ValueError, TypeError, RecursionError):
            pass  # now line by line, to say which
        records: list[Record] = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(Record.from_json(line))
            except (ValueError, TypeError, RecursionError) as problem:
                where = f"{self._records}, line {number},"
                raise ResultsError(f"{where} is not a readable record: {problem}") from None
        return records

    def _replace(self, path: Path, text: str) -> None:
        with _naming(path, "write"):
            files.write_whole(path, text)


@contextlib.contextmanager
def _naming(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError into one sentence about path."""
    try:
        yield
    except OSError as problem:
        raise ResultsError(f"cannot {verb} {path}: {problem.strerror or problem}") from problem
