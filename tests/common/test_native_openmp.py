"""OpenMP: one runtime in the process, no hang after a fork, nothing newer than torch carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import native
from common.native import openmp

ROOT = Path(openmp.__file__).parents[2]

TEAM = """
#include <omp.h>
#include <stdint.h>
EXPORT int32_t team(void) {
    int32_t threads = 0;
    #pragma omp parallel reduction(+:threads)
    threads += 1;
    return threads;
}
"""

PRELUDE = f"""
import os, signal, sys
from common import native
from common.native import openmp
lib = native.build_source("team", {TEAM!r}, openmp=True)
team = lib.function("int32_t team(void)")

def in_child(check):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # a region that waits for the parent's threads waits for ever
        os._exit(0 if check() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + script],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_DYNAMIC": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("call", ["team()", "team.raw()"])
def test_a_child_forked_after_a_region_does_not_hang(call: str) -> None:
    run(
        "openmp.set_threads(2)\n"
        f"assert {call} == 2\n"
        f"assert in_child(lambda: {call} == 1) == 0\n"
        f"assert {call} == 2\n"
        f"assert in_child(lambda: in_child(lambda: {call} == 1) == 0) == 0\n"
    )


def test_torch_does_not_hang_in_a_child_forked_after_a_region() -> None:
    run(
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "assert team() == 2\n"
        "big = torch.ones(1000, 1000)\n"  # past the size from which torch works in parallel
        "assert in_child(lambda: bool((big + big).sum() == 2e6) and team() == 1) == 0\n"
    )


def test_a_child_forked_before_any_region_keeps_its_threads() -> None:
    # A server that only loads libraries must not leave its children with one thread.
    run("openmp.set_threads(2)\nassert in_child(lambda: team() == 2) == 0\n")


@pytest.mark.parametrize(
    "imports",
    [
        "import torch; team()",
        "team(); import torch",
        "import torch; torch.ones(300, 300) @ torch.ones(300, 300); team()",
    ],
    ids=["torch first", "ours first", "torch at work"],
)
def test_one_runtime_serves_torch_and_us(imports: str) -> None:
    run(
        f"{imports}\n"
        "assert len(openmp.runtimes()) == 1, openmp.runtimes()\n"
        "torch.set_num_threads(2); assert team() == 2\n"
        "torch.set_num_threads(1); assert team() == 1\n"
        "assert torch.get_num_threads() == 1  # now torch has set the number in this thread\n"
        "openmp.set_threads(2); assert torch.get_num_threads() == 2\n"
    )


@pytest.mark.parametrize(
    "order", ["import sklearn.cluster; team()", "team(); import sklearn.cluster"]
)
def test_scikit_learn_brings_no_second_runtime_to_us(order: str) -> None:
    run(f"{order}\nassert len([r for r in openmp.runtimes() if r.serves_us]) == 1\n")


def test_two_runtimes_we_could_bind_to_are_warned_about(tmp_path: Path) -> None:
    found = subprocess.run(
        ["cc", "-print-file-name=libgomp.so.1"], capture_output=True, text=True, check=True
    ).stdout.strip()
    copy = tmp_path / "libgomp.so.1"
    # With another SONAME of the same length the loader takes it for another library.
    copy.write_bytes(Path(found).read_bytes().replace(b"libgomp.so.1\0", b"libgump.so.1\0"))
    script = f"""
import ctypes, warnings
from common import native
ctypes.CDLL({str(copy)!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    native.build_source("team", {TEAM!r}, openmp=True)
assert len(caught) == 1, caught
assert "2 OpenMP runtimes" in str(caught[0].message)
assert {str(copy)!r} in str(caught[0].message)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_threads_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        openmp.set_threads(0)


def test_set_threads_sets_the_next_region() -> None:
    run("openmp.set_threads(2)\nassert team() == 2\nopenmp.set_threads(1)\nassert team() == 1\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("omp_display_env(0);", "omp_display_env needs OMP_5.1"),
        (
            "#pragma omp scope reduction(task, +: x)\nx += 1;",
            "GOMP_scope_start needs GOMP_5.1, but the OpenMP runtime bundled with torch ends at "
            "GOMP_5.0: avoid #pragma omp scope",
        ),
    ],
    ids=["function", "construct"],
)
def test_what_torchs_runtime_lacks_fails_the_build(body: str, message: str) -> None:
    head = "#include <omp.h>\nint x;\nEXPORT void f(void)\n"
    text = f"{head}{{\n#pragma omp parallel\n{{\n{body}\n}}\n}}\n"
    with pytest.raises(native.NativeBuildError) as caught:
        native.build_source("newer", text, openmp=True)
    assert message in str(caught.value)
