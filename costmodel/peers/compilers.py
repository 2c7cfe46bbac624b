"""Compilers on the plain C of a program, as a user would call them."""

from __future__ import annotations

import shutil

from common import native
from common.extras import MissingExtra
from costmodel import plain_c
from costmodel.errors import CompileError
from costmodel.ir import Program
from costmodel.isl_scheduler import TILE, isl_scheduled
from costmodel.translation_unit import Entry, Failed, compile_batch, entry_text

COMMON = ("-O3", "-fwrapv", "-w")
#: Debian's clang has Polly inside; Clang 16 is the newest in Debian 12.
CLANG = "clang-16"


def gcc(program: Program, threads: int = 1) -> Entry:
    """gcc -O3: vectorizes, exchanges loops of perfect nests, and tiles nothing."""
    return _compiled(program, None, COMMON)


def graphite(program: Program, threads: int = 1) -> Entry:
    """gcc with its polyhedral optimizer, which schedules by isl and tiles by 51."""
    return _compiled(program, None, (*COMMON, "-floop-nest-optimize"))


def clang(program: Program, threads: int = 1) -> Entry:
    """clang -O3 without Polly, to tell the compiler's part from Polly's."""
    return _compiled(program, CLANG, COMMON)


def polly(program: Program, threads: int = 1) -> Entry:
    """clang with Polly: isl's schedule, tiles of 32, and its own matrix product."""
    return _compiled(program, CLANG, (*COMMON, "-mllvm", "-polly"))


def isl(program: Program, threads: int = 1, *, tile: int = TILE, fuse: bool = True) -> Entry:
    """isl's schedule with tiles of 32, as Pluto does, or without; compiled by gcc -O3."""
    text = isl_scheduled(program, "f", tile=tile, fuse=fuse)
    compiled = compile_batch(program, [text], flags=COMMON)
    (entry,) = compiled.entries
    if isinstance(entry, Failed):
        raise CompileError(f"gcc refused {program.name} as isl schedules it: {entry.message}")
    return entry


def require_clang() -> None:
    """Raise MissingExtra with the command that installs it where there is no clang."""
    if shutil.which(CLANG) is None:
        raise MissingExtra(f"{CLANG} is needed for the Polly peer: apt-get install {CLANG}")


def _compiled(program: Program, compiler: str | None, flags: tuple[str, ...]) -> Entry:
    if compiler is not None:
        require_clang()
    text = plain_c.source(program, "peer") + entry_text(program.arrays, "peer", "call")
    recipe = native.Recipe(name="peer", text=text, flags=flags, compiler=compiler)
    (built,) = native.compile_many([recipe])
    if isinstance(built, native.NativeBuildError):
        raise CompileError(f"{compiler or 'gcc'} refused {program.name}: {built}")
    return Entry(built.path, "call")
