"""Which compiler builds for which processor, and with which flags."""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from common.native.errors import CompilerNotFound, NativeBuildError
from common.native.process import CompilerRun

Language = Literal["c", "c++"]

# Loading a library linked with these turns denormals off for the whole process (crtfastmath.o).
_FORBIDDEN = ("-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-mdaz-ftz")
_REASSOCIATE = (
    "-fassociative-math",
    "-fno-signed-zeros",
    "-freciprocal-math",
    "-ffinite-math-only",
)
# What gcc reads besides its command line.
SEARCH_VARIABLES = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH")
_KERNEL_HEADERS = Path(__file__).parent.parent / "kernels"
_EXPORT = '__attribute__((visibility("default")))'


@attrs.frozen
class Compiler:
    """One compiler driver: the words that start it and its file's age, which a new one changes."""

    language: Language
    command: tuple[str, ...]
    mtime_ns: int

    def identity(self) -> tuple[str, str]:
        """Its version line, and what `-march` stands for on this machine as it resolves that."""
        return _identity(self, march())


def march() -> str:
    """The wanted processor: MLSYS21_MARCH, else this machine's own."""
    return os.environ.get("MLSYS21_MARCH") or "native"


def sanitizers() -> tuple[str, ...]:
    """The sanitizers named by MLSYS21_SANITIZE, such as address,undefined."""
    names = tuple(n.strip() for n in os.environ.get("MLSYS21_SANITIZE", "").split(",") if n.strip())
    for name in names:
        if not re.fullmatch(r"[a-z-]+", name):
            raise ValueError(f"MLSYS21_SANITIZE lists sanitizers by comma, got {name!r}")
    return names


def find_compiler(language: Language, name: str | None = None) -> Compiler:
    """The compiler of `language`: `name`, else $CC or $CXX, else cc/gcc or c++/g++ on the path.

    Raises CompilerNotFound with the line that installs one.
    """
    variable, names = ("CC", ("cc", "gcc")) if language == "c" else ("CXX", ("c++", "g++"))
    asked = [name] if name else shlex.split(os.environ.get(variable, ""))
    for words in [asked] if asked else [[name] for name in names]:
        path = shutil.which(words[0])
        if path is not None:
            return Compiler(language, (path, *words[1:]), Path(path).stat().st_mtime_ns)
    raise CompilerNotFound(
        language.upper(),
        name or (f"${variable}={shlex.join(asked)}" if asked else " and ".join(names)),
    )


def compile_flags(
    language: Language,
    *,
    openmp: bool,
    reassociate: bool,
    defines: Mapping[str, object],
    extra: Sequence[str],
) -> list[str]:
    """Every flag that decides the code, in a fixed order; include folders are not among them.

    Raises ValueError for flags that would change arithmetic in the whole process.
    """
    flags = ["-std=gnu11"] if language == "c" else ["-std=gnu++17", "-fno-exceptions"]
    flags += ["-O3", f"-march={march()}", "-fPIC", "-shared"]
    flags += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
    if platform.machine() == "x86_64":
        # gcc tuned for Zen splits multiply-adds of long sums: slower, and other bits in one kernel
        # than in the next. clang takes the parameter and ignores it.
        flags += ["-mprefer-vector-width=512", "--param=avoid-fma-max-bits=0"]
    flags += ["-fvisibility=hidden", "-Wall", "-Wextra", "-fdiagnostics-color=never"]
    # EXPORT before a function makes it callable from Python, in C and in C++ alike.
    linkage = "" if language == "c" else 'extern "C" '
    flags.append(f"-DEXPORT={linkage}{_EXPORT}")
    if openmp:
        flags.append("-fopenmp")
    if reassociate:
        flags += _REASSOCIATE
    flags += _define_flags(defines)
    if names := sanitizers():
        flags += [f"-fsanitize={','.join(names)}", "-g", "-fno-omit-frame-pointer"]
    _refuse_fast_math(extra)
    return [*flags, *extra]


def link_flags(extra: Sequence[str]) -> tuple[str, ...]:
    """Words after the sources; an unresolved name is an error of the build, not of the load."""
    _refuse_fast_math(extra)
    strict = () if sanitizers() else ("-Wl,-z,defs",)
    return (*strict, *extra, "-lm")


def include_flags(folders: Sequence[Path]) -> list[str]:
    """Search flags for headers: the caller's folders, then the kernels all packages share."""
    return [f"-I{folder}" for folder in (*folders, _KERNEL_HEADERS)]


def _define_flags(defines: Mapping[str, object]) -> list[str]:
    flags = []
    for name, value in sorted(defines.items()):
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"defines must be named by C identifiers, got {name!r}")
        flags.append(f"-D{name}={int(value) if isinstance(value, bool) else value}")
    return flags


def _refuse_fast_math(flags: Sequence[str]) -> None:
    for flag in flags:
        if flag in _FORBIDDEN:
            raise ValueError(
                f"{flag} is refused: loading such a library flushes denormals to zero in the whole "
                "process; use reassociate=True"
            )


@functools.cache
def _identity(compiler: Compiler, wanted: str) -> tuple[str, str]:
    command, flag = compiler.command, f"-march={wanted}"
    with (
        CompilerRun([*command, flag, "-Q", "--help=target"]) as asking_target,
        CompilerRun([*command, "--version"]) as asking_version,
    ):
        version = asking_version.result()[1].partition("\n")[0]
        code, resolved = asking_target.result()
    if code != 0:
        # Not gcc: its predefined macros name the instruction sets as well.
        resolved = _output([*command, flag, "-dM", "-E", "-x", compiler.language, os.devnull])
    return version, resolved


def _output(command: Sequence[str]) -> str:
    with CompilerRun(command) as run:
        code, output = run.result()
    if code != 0:
        raise NativeBuildError(command, output, Path(os.devnull))
    return output


def require_preloaded_sanitizer(compiler: Compiler) -> None:
    """Raise RuntimeError if loading an address-sanitized library now would end the process."""
    if "address" not in sanitizers() or sys.platform != "linux":
        return
    if "libasan" in Path("/proc/self/maps").read_text():
        return
    runtime = _output([*compiler.command, "-print-file-name=libasan.so"]).strip()
    raise RuntimeError(
        "MLSYS21_SANITIZE=address needs its runtime loaded before Python: "
        f"start with LD_PRELOAD={runtime} ASAN_OPTIONS=detect_leaks=0"
    )
