"""Every way an experiment can end leaves one run that says so, and nothing running behind it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from joblib.externals.loky import get_reusable_executor

from common import isolation
from common.runner import Interrupted, Job, run_info, run_one


@pytest.fixture
def run(toy: Any) -> Any:
    def one(name: str, settings: dict[str, object], **options: object) -> Any:
        return run_one(toy.job(name, settings, **options))

    return one


def test_records_and_status_of_an_experiment_that_passes(run: Any) -> None:
    outcome = run("passes", {"n": 3, "kind": "plain", "scales": []})
    assert outcome.status == "ok"
    assert [record.value for record in outcome.job.folder.records()] == [1.0, 2.0, 3.0]
    assert outcome.job.folder.info().n_records == 3


def test_exception_is_named_with_the_last_lines_of_the_log(run: Any) -> None:
    outcome = run("fails", {"text": "no luck"})
    assert outcome.status == "failed"
    assert outcome.error.startswith("RuntimeError: no luck\n")
    assert "INFO toy_fails: before" in outcome.error
    assert "Traceback" in outcome.error


@pytest.mark.parametrize(
    ("signum", "words"),
    [(signal.SIGSEGV, "SIGSEGV (Segmentation fault)"), (signal.SIGKILL, "SIGKILL (Killed)")],
)
def test_crash_is_named_by_its_signal_and_keeps_records_made_before(
    run: Any, signum: int, words: str
) -> None:
    outcome = run("crashes", {"signum": int(signum)})
    assert outcome.status == "failed"
    assert outcome.error.startswith(f"ended by {words}")
    assert "last words" in outcome.error
    assert [record.metric for record in outcome.job.folder.records()] == ["early"]


def test_segfault_leaves_the_python_stack_in_the_log(run: Any) -> None:
    outcome = run("crashes", {"signum": int(signal.SIGSEGV)})
    assert "crashes.py" in outcome.error


def test_silent_exit_is_a_failure(run: Any) -> None:
    outcome = run("exits", {"code": 0})
    assert outcome.status == "failed"
    assert outcome.error.startswith("exited with code 0 before it had finished")


def test_hang_ends_at_the_limit_and_says_where_it_was(run: Any) -> None:
    start = time.monotonic()
    outcome = run("hangs", {"stubborn": True}, timeout_s=1.0)
    assert outcome.status == "timeout"
    assert outcome.error.startswith("took longer than timeout_s=1")
    assert "hangs.py" in outcome.error
    assert time.monotonic() - start < 30  # far below the sleep of a hang without a limit


def test_memory_eater_is_ended_before_the_machine_suffers(run: Any) -> None:
    outcome = run("eats", {"mb": 900}, memory_gb=0.5)
    assert outcome.status == "failed"
    assert "more than memory_gb=0.5" in outcome.error


def test_peak_memory_counts_what_the_experiment_took(toy: Any) -> None:
    source = toy.source("eats")
    source.write_text(source.read_text().replace("time.sleep(30)", "pass"))
    outcome = run_one(toy.job("eats", {"mb": 200}))
    peak_mb = outcome.job.folder.info().peak_mb
    assert 190 < peak_mb < 260


def test_full_disk_fails_the_run_and_keeps_earlier_records(run: Any) -> None:
    outcome = run("fills", {"limit_bytes": 3000})
    assert outcome.status == "failed"
    assert "records.jsonl" in outcome.error
    values = [record.value for record in outcome.job.folder.records()]
    assert values == list(range(len(values)))
    assert len(values) > 10


def test_without_isolation_the_same_records_come_from_this_process(run: Any) -> None:
    outcome = run("passes", {"n": 2, "kind": "plain", "scales": []}, isolate=False)
    assert outcome.status == "ok"
    assert len(outcome.job.folder.records()) == 2


def test_child_has_threads_hash_seed_and_passive_waiting_set(toy: Any) -> None:
    toy.source("passes").write_text(
        textwrap.dedent(
            """
            import os, sys
            import attrs

            @attrs.frozen
            class Settings:
                n: int

            def run(settings, ctx):
                import torch
                import threadpoolctl
                ctx.record(None, "torch", float(torch.get_num_threads()), "")
                blas = threadpoolctl.threadpool_info()
                ctx.record(None, "pools", float(max(p["num_threads"] for p in blas)), "")
                ctx.record(None, "hash", float(hash("a") % 1000), "")
                ctx.record(None, "passive", float(os.environ["OMP_WAIT_POLICY"] == "passive"), "")
                ctx.record(None, "scratch", float(len(os.listdir(ctx.scratch))), "")
            """
        )
    )
    records = run_one(toy.job("passes", {"n": 1}, threads=2)).job.folder.records()
    unseeded = subprocess.run(
        [sys.executable, "-c", "print(hash('a') % 1000)"],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        check=True,
    )
    assert {record.metric: record.value for record in records} == {
        "torch": 2.0,
        "pools": 2.0,
        "hash": float(unseeded.stdout),
        "passive": 1.0,
        "scratch": 0.0,
    }


def test_extra_environment_stands_before_anything_loads(toy: Any) -> None:
    toy.source("passes").write_text(
        textwrap.dedent(
            """
            import os, sys
            import attrs

            SEEN = os.environ.get("TOY_SETTING"), "torch" in sys.modules

            @attrs.frozen
            class Settings:
                n: int

            def run(settings, ctx):
                ctx.record(None, "seen", float(SEEN == ("early", False)), "")
            """
        )
    )
    job = toy.job("passes", {"n": 1})
    job.folder.begin(_info(job))
    ending = isolation.run_isolated(
        job.experiment, job.settings, job.folder, job.options, env={"TOY_SETTING": "early"}
    )
    assert ending.status == "ok"
    assert [record.value for record in job.folder.records()] == [1.0]
    assert "TOY_SETTING" not in os.environ


def test_interrupt_ends_the_child_and_the_next_run_goes_on(toy: Any) -> None:
    job = toy.job("hangs", {"stubborn": False})
    with pytest.raises(Interrupted):
        _signal_when_hanging(job, [signal.SIGINT])
    assert job.folder.info().status == "interrupted"
    assert _children_named(job) == []


def test_second_interrupt_kills_a_child_that_does_not_listen(toy: Any) -> None:
    job = toy.job("hangs", {"stubborn": True})
    start = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        _signal_when_hanging(job, [signal.SIGTERM, signal.SIGTERM])
    assert caught.value.signum == signal.SIGTERM
    assert time.monotonic() - start < isolation.GRACE_S
    assert job.folder.info().status == "interrupted"


def test_what_the_experiment_started_ends_with_it(toy: Any, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    source = toy.source("hangs")
    source.write_text(
        source.read_text().replace(
            "    ctx.log.warning",
            "    import subprocess\n"
            "    started = subprocess.Popen(['sleep', '300'])\n"
            f"    open({str(pid_file)!r}, 'w').write(str(started.pid))\n"
            "    ctx.log.warning",
        )
    )
    assert run_one(toy.job("hangs", {"stubborn": False}, timeout_s=1.0)).status == "timeout"
    pid = int(pid_file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_worker_of_joblib_can_run_experiments(toy: Any) -> None:
    # joblib keeps its workers for the next caller: those of an earlier test do not know the toy.
    get_reusable_executor().shutdown(wait=True)
    jobs = [toy.job("passes", {"n": n, "kind": "plain", "scales": []}) for n in (1, 2)]
    work = joblib.Parallel(n_jobs=2, backend="loky")
    outcomes = work(joblib.delayed(run_one)(job) for job in jobs)
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    assert [len(outcome.folder.records()) for outcome in outcomes] == [1, 2]


def test_child_dies_with_the_runner(toy: Any, tmp_path: Path) -> None:
    """A runner killed outright drops its lock, so nothing may go on writing to the run."""
    pid_file = tmp_path / "pid"
    source = toy.source("hangs")
    source.write_text(
        source.read_text().replace(
            "    ctx.log.warning",
            f"    open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n    ctx.log.warning",
        )
    )
    runner = psutil.Popen(
        [sys.executable, str(toy.driver), "experiment=toy_hangs", f"results={toy.results}"]
    )
    _wait_for(lambda: pid_file.exists() and pid_file.read_text() != "")
    runner.kill()
    runner.wait()
    _wait_for(lambda: not psutil.pid_exists(int(pid_file.read_text())))


def _info(job: Job) -> Any:
    return run_info(job)


def _signal_when_hanging(job: Job, signums: list[int]) -> None:
    """Run the job and send this process the signals once the child hangs."""

    def send() -> None:
        _wait_for(lambda: job.folder.log.exists() and "hanging" in job.folder.log.read_text())
        for signum in signums:
            os.kill(os.getpid(), signum)
            time.sleep(0.3)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        run_one(job)
    finally:
        sender.join()


def _children_named(job: Job) -> list[psutil.Process]:
    """Descendants of this process that have the run's log open."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            files = [file.path for file in child.open_files()]
        except psutil.Error:
            continue
        if str(job.folder.log) in files:
            found.append(child)
    return found


def _wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
