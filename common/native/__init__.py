"""C and C++ kernels: compiled for this machine, cached by content, called with checks.

    lib = native.build("scale", [Path(__file__).with_name("scale.c")])
    scale = lib.function("void scale(const float* x, float* out, int64_t n)")
    scale(x, out, x.numel())

In the source, `EXPORT` before a function makes it callable from here (in C++ it is also extern
"C"), and the headers of common/kernels are found without an include folder.

Environment: MLSYS21_CACHE is the folder of built libraries, MLSYS21_MARCH a processor other than
this machine's (x86-64-v3), MLSYS21_SANITIZE a list of sanitizers (address,undefined), CC and CXX
the compilers.
"""

import platform
import sys

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    raise ImportError(
        "compiled kernels need Linux on x86_64 or aarch64, got "
        f"{sys.platform} on {platform.machine()}: use a Linux container or virtual machine"
    )

from common.cache_folder import cache_folder
from common.native import openmp
from common.native.build import (
    Compiled,
    Options,
    Recipe,
    build,
    build_many,
    build_source,
    compile_many,
)
from common.native.cache import prune
from common.native.call import NativeFunction
from common.native.errors import CompilerNotFound, NativeBuildError
from common.native.library import Library, loaded_sources
from common.native.prototype import Parameter, Prototype

__all__ = [
    "Compiled",
    "CompilerNotFound",
    "Library",
    "NativeBuildError",
    "NativeFunction",
    "Options",
    "Parameter",
    "Prototype",
    "Recipe",
    "build",
    "build_many",
    "build_source",
    "cache_folder",
    "compile_many",
    "loaded_sources",
    "openmp",
    "prune",
]
