"""One OpenMP runtime in the process, and none that hangs after a fork.

torch carries its own libgomp under the same SONAME as gcc's, so whichever is loaded first serves
both, and torch.set_num_threads governs our kernels as well.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs
import cffi

# torch's bundled runtime exports these and no newer ones; a library needing more would load on
# the machine that built it and fail elsewhere.
NEWEST_GOMP = (5, 0)
NEWEST_OMP = (5, 0)
_CONSTRUCTS = {
    "GOMP_teams4": "#pragma omp teams outside a target region",
    "GOMP_alloc": "the omp allocate directive",
    "GOMP_free": "the omp allocate directive",
    "GOMP_error": "#pragma omp error",
    "GOMP_warning": "#pragma omp error",
    "GOMP_scope_start": "#pragma omp scope with a task reduction",
}

# Raised by every call into a library built with OpenMP, before the call.
ran_parallel_region: list[bool] = [False]


@attrs.frozen
class Runtime:
    """An OpenMP runtime loaded in this process."""

    path: Path
    prefix: str  # libgomp, libomp, libiomp, vcomp
    n_threads: int

    @property
    def serves_us(self) -> bool:
        """Whether our kernels can bind to it: they ask for libgomp.so.1.

        Some wheels bring a libgomp under a name of their own, which nobody else's code uses.
        """
        return self.path.name.startswith("libgomp.so")


def runtimes() -> tuple[Runtime, ...]:
    """The OpenMP runtimes loaded in this process, by asking threadpoolctl."""
    from threadpoolctl import threadpool_info

    return tuple(
        Runtime(Path(info["filepath"]), info["prefix"], info["num_threads"])
        for info in threadpool_info()
        if info["user_api"] == "openmp"
    )


def set_threads(n: int) -> None:
    """Let parallel regions of the calling thread use `n` threads; 1 starts none at all.

    With torch in the process prefer torch.set_num_threads, which does this as well: torch goes
    back to its own number when it first computes in a thread.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _runtime().omp_set_num_threads(n)


@functools.cache
def _runtime() -> Any:
    ffi = cffi.FFI()
    ffi.cdef("void omp_set_num_threads(int n);")
    # By SONAME: the one already in the process answers, which is the one our kernels call.
    return ffi.dlopen("libgomp.so.1")


@functools.cache
def prepare() -> None:
    """Called once a process when its first OpenMP library was loaded.

    Warns if several runtimes could serve us, and makes forked children use one thread if this
    process has run a parallel region by then: the threads of the parent's pool do not exist in the
    child, and a region there would wait for them for ever.
    """
    _runtime()
    os.register_at_fork(after_in_child=_after_fork)
    own = [str(runtime.path) for runtime in runtimes() if runtime.serves_us]
    if len(own) > 1:
        warnings.warn(
            f"{len(own)} OpenMP runtimes our kernels could bind to are loaded, thread counts may "
            f"not agree: {', '.join(own)}",
            RuntimeWarning,
            stacklevel=2,
        )


def _after_fork() -> None:
    if ran_parallel_region[0]:
        set_threads(1)
        torch = sys.modules.get("torch")
        if hasattr(torch, "set_num_threads"):
            # torch sets the runtime back to its own number when it first computes in a thread.
            torch.set_num_threads(1)  # type: ignore[union-attr]  # hasattr above


def version_complaint(library: Path) -> str | None:
    """Why `library` would not load beside torch's OpenMP runtime, or None if it would.

    Reads the needed symbol versions with binutils' objdump, which gcc needs anyway.
    """
    objdump = shutil.which("objdump")
    if objdump is None:
        return None
    done = subprocess.run(
        [objdump, "-T", str(library)], capture_output=True, text=True, check=False
    )
    for version, symbol in re.findall(r"\*UND\*.*?\(?(G?OMP_[\d.]+)\)?\s+(\S+)", done.stdout):
        kind, _, number = version.partition("_")
        newest = NEWEST_GOMP if kind == "GOMP" else NEWEST_OMP
        if tuple(int(part) for part in number.split(".")) > newest:
            hint = _CONSTRUCTS.get(symbol, "the newer OpenMP construct behind it")
            return (
                f"error: {symbol} needs {version}, but the OpenMP runtime bundled with torch ends "
                f"at {kind}_{'.'.join(map(str, newest))}: avoid {hint}"
            )
    return None
