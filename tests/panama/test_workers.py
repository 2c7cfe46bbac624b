"""Ranks that fail, die or lose who started them."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch")

from panama.workers import Workers

ROOT = Path(__file__).parents[2]


def make(rank, ranks):
    def fail():
        if rank == 1:
            raise ValueError("no such lesson")
        return "well"

    def die():
        if rank == 1:
            os._exit(3)
        return "well"

    return {"place": lambda n: (rank, ranks, n), "fail": fail, "die": die}


def make_none(rank, ranks):
    raise LookupError("nothing to do")


@pytest.mark.parametrize(
    ("duty", "words"),
    [("fail", r"(?s)rank 1 failed.*no such lesson"), ("die", "rank 1 died, exit code 3")],
)
def test_answers_come_by_rank_and_a_failure_ends_all(duty, words):
    with Workers(2, make) as workers:
        assert workers.call("place", 7) == [(0, 2, 7), (1, 2, 7)]
        with pytest.raises(RuntimeError, match=words):
            workers.call(duty)
        assert not any(p.is_alive() for p in workers._processes)


def test_ranks_that_cannot_start_say_why():
    with pytest.raises(RuntimeError, match=r"(?s)rank \d failed.*nothing to do"):
        Workers(1, make_none)


def test_ranks_end_with_who_started_them(tmp_path):
    script = tmp_path / "start.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from panama.training import make_lessons
            from panama.workers import Workers

            if __name__ == "__main__":
                workers = Workers(1, make_lessons)
                print(workers._processes[0].pid, flush=True)
                time.sleep(60)
            """
        )
    )
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    rank = int(parent.stdout.readline())
    assert psutil.pid_exists(rank)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(rank) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(rank)
