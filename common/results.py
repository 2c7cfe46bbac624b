"""Everything that was measured: the runs of a results folder, as values and as tables."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from common import extras, files
from common.record import (
    Record,
    ResultsError,
    ResultsWarning,
    RunInfo,
    Scalar,
    canonical_json,
    run_key,
)
from common.run_folder import RunFolder
from common.spelling import did_you_mean

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Record",
    "ResultsError",
    "ResultsWarning",
    "Run",
    "RunFolder",
    "RunInfo",
    "Scalar",
    "Store",
    "run_key",
]

#: Folder under the root that holds generated data sets, not runs.
DATA_FOLDER = "data"

_RUN_COLUMNS = (
    "experiment",
    "profile",
    "seed",
    "threads",
    "machine_id",
    "key",
    "started",
    "status",
)
_RECORD_COLUMNS = (
    "claim",
    "metric",
    "value",
    "low",
    "high",
    "unit",
    "rounds",
    "noise",
    "noisy",
    "contended",
    "fraction_of_roofline",
    "seconds",
)
_REALS = ("value", "low", "high", "noise", "fraction_of_roofline", "seconds")
_AXIS = "axis."


@attrs.frozen
class Run:
    """One run as read: what it was, what it measured, where it lies."""

    info: RunInfo
    records: tuple[Record, ...]
    path: Path


class Store:
    """The runs under a results folder; reads only, and reads anew at each call.

    A run that cannot be read whole (run.json missing, of a newer schema or damaged, records cut
    short or changed) is left out with a ResultsWarning naming the file; the others still show.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def run_list(self, latest: bool = True) -> list[Run]:
        """The runs, by experiment and start; of runs that differ in their seed only, the newest.

        A run that did not finish takes no finished one's place: it stands beside it while it is the
        newer one. latest=False gives every seed's run.
        """
        runs = sorted(
            self._read(), key=lambda run: (run.info.experiment, run.info.started, run.info.key)
        )
        return _newest(runs) if latest else runs

    def frame(self, *, latest: bool = False, **equals: Scalar) -> pandas.DataFrame:
        """A row per record: the run's columns, the record's, then its axes as "axis.<name>".

        equals keeps the rows where a column has that value, e.g. experiment="ttrec_kernels",
        **{"axis.rank": 8}. latest=True takes the runs of run_list(). An absent value is missing
        (None, NaN or NA); whole numbers stay whole.

        Raises ValueError for a column that does not exist; an axis nobody recorded gives no rows.
        """
        import pandas

        for name in equals:
            if not name.startswith(_AXIS):
                _require_column(name, (*_RUN_COLUMNS, *_RECORD_COLUMNS))
        wanted_run = {name: equals.pop(name) for name in _RUN_COLUMNS if name in equals}

        def keep(info: RunInfo) -> bool:
            return all(getattr(info, name) == value for name, value in wanted_run.items())

        runs = self._read(keep, wanted_run.get("experiment"))
        if latest:
            runs = iter(_newest(sorted(runs, key=lambda run: run.info.started)))
        rows = _Columns()
        for run in runs:
            records: Sequence[Record] = run.records
            if equals:
                records = [r for r in records if all(_cell(r, k) == v for k, v in equals.items())]
            rows.add(run.info, records)
        return pandas.DataFrame(
            {name: _series(name, values, pandas) for name, values in rows.finished()}
        )

    def runs(self) -> pandas.DataFrame:
        """A row per run, every seed's: the fields of run.json but the machine and the sources.

        settings is JSON text; n_records is what was read.
        """
        import pandas

        left_out = ("machine", "sources", "records_sha256", "schema")
        names = [a.name for a in attrs.fields(RunInfo) if a.name not in left_out]
        rows = []
        for run in self.run_list(latest=False):
            row = {name: getattr(run.info, name) for name in names}
            rows.append(
                row | {"settings": canonical_json(run.info.settings), "n_records": len(run.records)}
            )
        return pandas.DataFrame(rows, columns=names)

    def export(self, path: Path) -> None:
        """Write every record with its run's columns to path: .csv, .jsonl or .parquet.

        The file appears whole or not at all. Raises ValueError for another ending, MissingExtra
        when .parquet has no pyarrow.
        """
        path = Path(path)
        writers: dict[str, Callable[[Path], None]] = {
            ".csv": lambda file: self.frame().to_csv(file, index=False),
            ".jsonl": self._export_jsonl,
            ".parquet": self._export_parquet,
        }
        if path.suffix not in writers:
            raise ValueError(f"an export must end in {', '.join(writers)}, got {path.name!r}")
        try:
            with files.replacing(path) as beside:
                writers[path.suffix](beside)
        except OSError as problem:
            raise ResultsError(f"cannot write {path}: {problem.strerror or problem}") from problem

    def _export_jsonl(self, file: Path) -> None:
        with file.open("w") as out:
            for run in self.run_list(latest=False):
                constant = {name: getattr(run.info, name) for name in _RUN_COLUMNS}
                for record in run.records:
                    out.write(json.dumps(constant | json.loads(record.to_json())) + "\n")

    def _export_parquet(self, file: Path) -> None:
        extras.require("pyarrow", None, "parquet export")
        frame = self.frame()
        for name in frame.select_dtypes(object):  # parquet wants one type in a column
            frame[name] = frame[name].map(str, na_action="ignore")
        frame.to_parquet(file, index=False)

    def _read(
        self, keep: Callable[[RunInfo], bool] = lambda info: True, experiment: Scalar = None
    ) -> Iterator[Run]:
        """Every readable run that keep accepts, folder by folder in the order of their names.

        Given an experiment, only its folders are looked at.
        """
        for path in self._folders():
            if experiment is not None and path.parent.name != experiment:
                continue
            folder = RunFolder(self.root, path.parent.name, path.name)
            try:
                info = folder.info()
                if info is None:
                    raise ResultsError(f"{path / 'run.json'} is missing")
                if keep(info):
                    yield Run(info, tuple(folder.verified_records(info)), path)
            except ResultsError as problem:
                warnings.warn(f"run left out: {problem}", ResultsWarning, stacklevel=3)

    def _folders(self) -> Iterator[Path]:
        """<root>/<experiment>/<key>, without hidden folders and the data sets."""
        for experiment in _subfolders(self.root):
            if experiment.name != DATA_FOLDER:
                yield from _subfolders(experiment)


def _subfolders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            found = [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise ResultsError(f"cannot read {path}: {problem.strerror}") from problem
    return sorted(found)


def _newest(runs: Iterable[Run]) -> list[Run]:
    """Of runs that agree in all but seed the last finished one, and the last begun after it.

    runs come in the order of their start.
    """
    finished: dict[tuple[object, ...], Run] = {}
    unfinished: dict[tuple[object, ...], Run] = {}
    for run in runs:
        info = run.info
        settings = canonical_json(info.settings)
        same = (info.experiment, info.profile, info.threads, info.machine_id, settings)
        if info.status == "ok":
            finished[same] = run
            unfinished.pop(same, None)
        else:
            unfinished[same] = run
    newest = [*finished.values(), *unfinished.values()]
    return sorted(newest, key=lambda run: (run.info.experiment, run.info.started))


def _require_column(name: str, columns: tuple[str, ...]) -> None:
    if name not in columns:
        hint = did_you_mean(name, columns) or ":"
        raise ValueError(
            f"the frame has no column {name!r}{hint} Columns are {', '.join(columns)}"
            f" and {_AXIS}<name>"
        )


def _cell(record: Record, column: str) -> Scalar:
    if column.startswith(_AXIS):
        return record.axes.get(column.removeprefix(_AXIS))
    value: Scalar = getattr(record, column)
    return value


class _Columns:
    """Values by column; a column that starts late is filled up with None, once, when it grows."""

    def __init__(self) -> None:
        self._n_rows = 0
        self._run: list[list[Any]] = [[] for _ in _RUN_COLUMNS]
        self._record: list[list[Any]] = [[] for _ in _RECORD_COLUMNS]
        self._axes: dict[str, list[Any]] = {}

    def add(self, info: RunInfo, records: Sequence[Record]) -> None:
        for column, name in zip(self._run, _RUN_COLUMNS, strict=True):
            column.extend([getattr(info, name)] * len(records))
        for column, name in zip(self._record, _RECORD_COLUMNS, strict=True):
            column.extend(map(attrgetter(name), records))
        for row, record in enumerate(records, self._n_rows):
            for name, value in record.axes.items():
                column = self._axes.setdefault(name, [])
                if len(column) < row:
                    column.extend([None] * (row - len(column)))
                column.append(value)
        self._n_rows += len(records)

    def finished(self) -> Iterator[tuple[str, list[Any]]]:
        yield from zip(_RUN_COLUMNS, self._run, strict=True)
        yield from zip(_RECORD_COLUMNS, self._record, strict=True)
        for name, column in self._axes.items():
            column.extend([None] * (self._n_rows - len(column)))
            yield _AXIS + name, column


def _series(name: str, values: list[Any], pandas: Any) -> Any:
    """A column in the narrowest type that loses nothing: pandas would make 32 beside None 32.0."""
    if name in _REALS:
        return pandas.Series(values, dtype="float64")
    kinds = {type(value) for value in values}
    missing = type(None) in kinds
    kinds.discard(type(None))
    if name == "rounds" and not kinds:
        return pandas.Series(values, dtype="Int64")
    if kinds == {bool}:
        return pandas.Series(values, dtype="boolean" if missing else "bool")
    exact = all(abs(value) <= 2**53 for value in values if type(value) is int)
    if kinds == {int} and exact:
        return pandas.Series(values, dtype="Int64" if missing else "int64")
    if kinds and kinds <= {int, float} and exact:
        return pandas.Series(values, dtype="float64")
    if kinds == {str}:
        return pandas.Series(values)
    return pandas.Series(values, dtype="object")
