"""Let MKL run its fast kernels: a preloaded library that says the processor is an Intel one.

MKL, which multiplies float32 for torch, picks its kernels by the maker of the processor and on
others takes slower ones. A comparison with stock torch alone would then count a product's speed as
data movement saved; ours and the peers run once more where the answer is always yes. It stands only
if it is loaded before torch, so in an interpreter of its own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["environment", "has_mkl", "is_unlocked", "library"]

_SOURCE = """\
EXPORT int mkl_serv_intel_cpu_true(void) { return 1; }
EXPORT int mkl_serv_intel_cpu(void) { return 1; }
"""


def library() -> Path:
    """The library to preload, built when it is first asked for."""
    from common import native

    return native.build_source("mkl_unlocked", _SOURCE).path


def environment() -> dict[str, str]:
    """What must stand in the environment of an interpreter whose MKL is to be unlocked."""
    others = os.environ.get("LD_PRELOAD", "").split()
    return {"LD_PRELOAD": " ".join([str(library()), *others])}


def is_unlocked() -> bool:
    """Whether this process was started with the library loaded before torch."""
    try:
        # Torch's own is not seen here: its libraries are loaded without global names.
        return bool(ctypes.CDLL(None).mkl_serv_intel_cpu_true())
    except AttributeError:
        return False


def has_mkl() -> bool:
    """Whether torch multiplies float32 with MKL at all."""
    import torch

    return bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]  # as torch has it
