"""Loading our libraries leaves the arithmetic of the process as it was."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from common.native import target

ROOT = Path(target.__file__).parents[2]

# A product that is denormal, in numpy, in torch and in Python itself.
PROBE = """
import sys
import numpy as np
import torch
def denormals_live():
    small = np.full(64, 1e-30, np.float32)
    return bool(
        (small * np.float32(1e-10) > 0).all()
        and (torch.from_numpy(small) * 1e-10 > 0).all()
        and sys.float_info.min / 2 > 0
    )
assert denormals_live(), "already off before loading anything"
"""


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE + script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("openmp", [False, True])
@pytest.mark.parametrize("reassociate", [False, True])
def test_no_combination_of_our_flags_flushes_denormals(openmp: bool, reassociate: bool) -> None:
    run(
        "from common import native\n"
        "text = 'EXPORT float half(float x) { return x * 0.5f; }'\n"
        f"lib = native.build_source('half', text, openmp={openmp}, reassociate={reassociate})\n"
        "assert denormals_live()\n"
        "assert lib.function('float half(float x)')(2e-40) > 0\n"
        "assert denormals_live()\n"
    )


# What a kernel cannot be compiled without; names its users choose freely.
OPTIONS = {
    "published.cpp": {"defines": {"TT_Q1": 2, "TT_Q2": 2, "TT_Q3": 4, "TT_R1": 16, "TT_R2": 16}},
    "tt_trie.cpp": {"defines": {"TT_D": 3}},
    # It calls the interpreter it is loaded into.
    "gemm.cpp": {"link_flags": ["-Wl,-z,undefs"]},
    "linearize.cpp": {
        "foreign_headers": {Path(sysconfig.get_path("include")): "of the interpreter"},
        "flags": ["-fexceptions"],
        "link_flags": ["-Wl,-z,undefs"],
    },
}


def test_no_kernel_of_the_repository_flushes_denormals() -> None:
    kernels = sorted(p for p in ROOT.glob("*/kernels/*") if p.suffix in (".c", ".cpp"))
    assert ROOT / "common/kernels/peak.c" in kernels
    # What decides is how a library is linked, so the optimizer's time is saved.
    run(
        "from pathlib import Path\n"
        "from common import native\n"
        "from ttrec.kernels import tt_eager\n"
        "from pathlib import PosixPath\n"
        f"options = {OPTIONS!r} | {{'tt_eager.cpp': tt_eager.build_options()}}\n"
        "recipes = []\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    own = options.get(path.name, {})\n"
        "    own = {'openmp': True, **own, 'flags': ['-O0', *own.get('flags', [])]}\n"
        "    recipes.append(native.Recipe(name=path.stem, sources=[path], **own))\n"
        "for built in native.build_many(recipes):\n"
        "    assert isinstance(built, native.Library), built\n"
        "assert denormals_live()\n",
        *map(str, kernels),
    )


def test_the_probe_notices_what_the_refused_flag_does(tmp_path: Path) -> None:
    source, library = tmp_path / "fast.c", tmp_path / "fast.so"
    source.write_text("int nothing(void) { return 0; }\n")
    subprocess.run(
        ["cc", "-ffast-math", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    run(
        "import ctypes\n"
        "ctypes.CDLL(sys.argv[1])\n"
        "version = int(sys.argv[2])\n"
        # From gcc 13 on, -ffast-math no longer does it for shared objects.
        "assert denormals_live() == (version >= 13)\n",
        str(library),
        subprocess.run(["cc", "-dumpversion"], capture_output=True, text=True, check=True)
        .stdout.partition(".")[0]
        .strip(),
    )
