"""Halide's auto-schedulers: Mullapudi et al. 2016, Li et al. 2018, Adams et al. 2019.

The pipeline is compiled ahead of time to an object, which stands in a library like our own
variants: timing it needs neither Python nor Halide's `realize`. Compiled objects are kept in the
cache folder by program, scheduler and version of halide.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import attrs

from common import files, native
from common.cache_folder import cache_folder
from common.extras import require
from costmodel.errors import CompileError
from costmodel.ir import Program
from costmodel.peers.halide_pipeline import Box, make_pipeline, strides_of
from costmodel.translation_unit import Entry

Scheduler = Literal["Mullapudi2016", "Li2018", "Adams2019"]

_TYPES = {
    "float32": "halide_type_float, 32",
    "float64": "halide_type_float, 64",
    "int32": "halide_type_int, 32",
}


def halide(program: Program, scheduler: Scheduler, threads: int = 1) -> Entry:
    """The program scheduled by Halide for `threads` cores.

    Halide calls the number it is given "parallelism", a least amount of work to share and not a
    number of threads; the pool's size is set by HL_NUM_THREADS in the measuring process.

    Raises MissingExtra without halide, UnsupportedProgram for programs that are no pipeline.
    """
    compiled = _object(program, scheduler, threads)
    text = _call_text(compiled)
    version, package = _installed()
    recipe = native.Recipe(
        name="halide",
        text=text,
        flags=("-w",),
        foreign_headers={package / "include": version},
        link_flags=(str(compiled.object), str(_runtime()), "-lpthread", "-ldl"),
    )
    (built,) = native.compile_many([recipe])
    if isinstance(built, native.NativeBuildError):
        raise CompileError(f"{program.name} of Halide {scheduler} did not link: {built}")
    return Entry(built.path, "call", is_parallel=threads > 1)


def schedule_source(program: Program, scheduler: Scheduler, threads: int = 1) -> str:
    """The schedule Halide chose, as C++ text."""
    return _object(program, scheduler, threads).schedule


@attrs.frozen
class _Object:
    """arguments: (place among the program's arrays, dtype, strides, box) of each buffer."""

    object: Path
    symbol: str
    arguments: tuple[tuple[int, str, tuple[int, ...], Box], ...]
    schedule: str


def _object(program: Program, scheduler: Scheduler, threads: int) -> _Object:
    version, _ = _installed()
    source = Path(__file__).with_name("halide_pipeline.py").read_text()
    facts = [str(program), scheduler, threads, version, _target(), source]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    symbol = f"halide_{digest}"
    folder = cache_folder()
    found, commit = folder / f"{symbol}.o", folder / f"{symbol}.txt"
    hl = _with_plugins()
    made = make_pipeline(program)
    names = [array.name for array in program.arrays]
    arguments = tuple(
        (names.index(array.name), array.dtype, tuple(strides_of(array)), box)
        for array, box in made.arguments
    )
    if not commit.exists():
        target = hl.get_host_target().with_feature(hl.TargetFeature.NoRuntime)
        options = hl.AutoschedulerParams(scheduler, {"parallelism": str(threads)})
        try:
            result = made.pipeline.apply_autoscheduler(target, options)
            draft = folder / f"{symbol}.{os.getpid()}.o"
            made.pipeline.compile_to(
                {hl.OutputFileType.object: str(draft)}, list(made.inputs), symbol, target
            )
        except hl.HalideError as error:
            raise CompileError(f"Halide {scheduler} refused {program.name}: {error}") from None
        draft.replace(found)
        files.write_whole(commit, result.schedule_source)
    return _Object(found, symbol, arguments, commit.read_text())


def _target() -> str:
    return str(_with_plugins().get_host_target())


@functools.cache
def _with_plugins() -> Any:
    hl = require("halide", "costmodel_peers", "Halide's auto-schedulers")
    for name in ("mullapudi2016", "li2018", "adams2019"):
        hl.load_plugin(str(_installed()[1] / "lib64" / f"libautoschedule_{name}.so"))
    return hl


@functools.cache
def _installed() -> tuple[str, Path]:
    """Version of halide, and its folder."""
    from importlib import metadata

    hl = require("halide", "costmodel_peers", "Halide's auto-schedulers")
    assert hl.__file__ is not None
    return metadata.version("halide"), Path(hl.__file__).parent


def _runtime() -> Path:
    """Halide's run-time system as an object, made once: it takes seconds."""
    hl = _with_plugins()
    facts = f"{_installed()[0]} {_target()}"
    digest = hashlib.sha256(facts.encode()).hexdigest()[:24]
    path = cache_folder() / f"halide_runtime_{digest}.o"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}.o")
        hl.compile_standalone_runtime(str(draft), hl.get_host_target())
        draft.replace(path)
    return path


def _call_text(compiled: _Object) -> str:
    """`call(void **arrays)`, which describes the arrays to Halide and runs the pipeline."""
    lines = []
    places = [place for place, *_ in compiled.arguments]
    for number, (place, dtype, strides, box) in enumerate(compiled.arguments):
        full = box or ((0, 1),)
        offset = sum(low * stride for (low, _), stride in zip(full, strides, strict=True))
        dims = ", ".join(
            f"{{{low}, {n}, {stride}, 0}}"
            for (low, n), stride in zip(reversed(full), reversed(strides), strict=True)
        )
        size = 8 if dtype == "float64" else 4
        host = f"(uint8_t *)arrays[{place}] + {offset * size}"
        if place in places[number + 1 :]:
            # Read and written back: any tile may be written before another one reads it.
            n_bytes = size * (1 + sum((n - 1) * s for (_, n), s in zip(full, strides, strict=True)))
            lines.append(
                f"  static uint8_t before{number}[{n_bytes}] __attribute__((aligned(64)));\n"
                f"  memcpy(before{number}, {host}, {n_bytes});\n"
            )
            host = f"before{number}"
        lines.append(
            f"  halide_dimension_t d{number}[] = {{{dims}}};\n"
            f"  halide_buffer_t b{number} = {{0}};\n"
            f"  b{number}.host = {host};\n"
            f"  b{number}.type = (struct halide_type_t){{{_TYPES[dtype]}, 1}};\n"
            f"  b{number}.dimensions = {len(full)};\n"
            f"  b{number}.dim = d{number};\n"
        )
    digest = hashlib.sha256(compiled.object.read_bytes()).hexdigest()
    parameters = ", ".join("halide_buffer_t *" for _ in compiled.arguments)
    given = ", ".join(f"&b{number}" for number in range(len(compiled.arguments)))
    return (
        f"/* object {digest} */\n#include <stdlib.h>\n#include <string.h>\n"
        "#include <HalideRuntime.h>\n"
        f"int {compiled.symbol}({parameters});\n"
        f"EXPORT void call(void **arrays) {{\n{''.join(lines)}"
        f"  if ({compiled.symbol}({given})) abort();\n}}\n"
    )


def clear_caches() -> None:
    """Look for halide anew."""
    _with_plugins.cache_clear()
    _installed.cache_clear()
