"""How long the page takes when there is as much to show as from five papers."""

import time
from pathlib import Path
from typing import Any

import pytest

from common import PAPERS
from common.record import Record
from common.report import charts, page

N_RUNS = 25


def made_up_records() -> list[Record]:
    """80 records along three axes, of one run of 25."""
    return [
        Record(
            "speedup",
            2.0 + rank * batch % 7 / 3,
            "x",
            low=1.9,
            high=5.1,
            rounds=30,
            noise=0.012,
            seconds=0.00123456,
            axes={"rank": rank, "batch": batch, "system": system, "baseline": "torch"},
        )
        for rank in (8, 16, 32, 64)
        for batch in (1, 10, 100, 1000)
        for system in ("ours", "torch", "numpy", "dgl", "sdpa")
    ]


@pytest.mark.bench
@pytest.mark.slow
def test_2000_records_and_25_charts_are_written_within_15_s(
    sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on the first call of a machine: the script of the charts is not made yet.
    monkeypatch.setenv("MLSYS21_CACHE", str(tmp_path / "cache"))
    for number in range(N_RUNS):
        name = f"{PAPERS[number % 5]}_made_up_{number}"
        sample.run(name, made_up_records())
        sample.declare(
            name,
            lambda frame, claims: [
                charts.lines(frame, "axis.rank", "t", "c", log_x=True, column="axis.batch")
            ],
        )
    start = time.process_time()
    path = page.write(sample.store, sample.root / "report.html", **sample.known)
    seconds = time.process_time() - start
    assert path.read_text().count('class="chart"') == N_RUNS
    assert seconds <= 15
