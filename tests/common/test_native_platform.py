"""Where compiled kernels are offered: elsewhere one sentence, and the rest of common imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import common
from common.native import target

ROOT = Path(common.__file__).parents[1]

# Played before anything of ours is imported; the standard library knows better by then.
IMPORT = """
import platform, sys
sys.platform, platform.machine = sys.argv[1], lambda: sys.argv[2]
import common, common.claims
try:
    import common.native
except ImportError as error:
    print(error)
"""


def said(system: str, machine: str) -> str:
    """What importing common.native says on a played machine; nothing where it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, system, machine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_linux_is_served(machine: str) -> None:
    assert said("linux", machine) == ""


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")]
)
def test_elsewhere_one_sentence_says_what_is_wanted(system: str, machine: str) -> None:
    assert said(system, machine) == (
        f"compiled kernels need Linux on x86_64 or aarch64, got {system} on {machine}: "
        "use a Linux container or virtual machine\n"
    )


def test_flags_only_one_processor_knows_are_left_out_on_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flags(machine: str) -> set[str]:
        monkeypatch.setattr(target.platform, "machine", lambda: machine)
        return set(target.compile_flags("c", openmp=True, reassociate=False, defines={}, extra=[]))

    own = {"-mprefer-vector-width=512", "--param=avoid-fma-max-bits=0"}
    assert flags("x86_64") - flags("aarch64") == own
    assert flags("aarch64") < flags("x86_64")
