"""C source through the compiler's own preprocessor, without the headers of the system."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from common.native import CompilerNotFound
from common.native.target import find_compiler
from costmodel.errors import CompileError, UnsupportedProgram

# What PolyBench's headers and the system's would define; a source's own #define goes before.
_KNOWN = {
    "DATA_TYPE": "double",
    "SCALAR_VAL(x)": "x",
    "SQRT_FUN(x)": "sqrt(x)",
    "EXP_FUN(x)": "exp(x)",
    "POW_FUN(x,y)": "pow(x,y)",
    "POLYBENCH_LOOP_BOUND(x,y)": "x",
    "POLYBENCH_1D(v,a,d)": "v[a]",
    "POLYBENCH_2D(v,a,b,d,e)": "v[a][b]",
    "POLYBENCH_3D(v,a,b,c,d,e,f)": "v[a][b][c]",
    "POLYBENCH_4D(v,a,b,c,x,d,e,f,g)": "v[a][b][c][x]",
    "M_PI": "3.14159265358979323846",
    "int32_t": "int",
    "int64_t": "long",
    "size_t": "unsigned long",
    "ptrdiff_t": "long",
    "__restrict__": "restrict",
    "__restrict": "restrict",
    "__inline__": "inline",
    "__inline": "inline",
    "__attribute__(x)": "",
    "__extension__": "",
}
_INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]*)[>"]')
_DEFINE = re.compile(r"\s*#\s*define\s+(\w+)(?=\s|$)")


def preprocessed(
    text: str, file: str, folder: Path | None, keep: Collection[str], defines: Mapping[str, object]
) -> str:
    """The text with macros replaced and `# line "file"` marks, as pycparser reads it.

    file:    name to be shown in messages
    folder:  where `#include "..."` is looked for; other includes are dropped
    keep:    names that stay names although the source defines them as macros
    defines: macros as on a compiler's command line; they go before the source's

    Raises CompileError if there is no compiler, UnsupportedProgram with its message.
    """
    try:
        compiler = find_compiler("c")
    except CompilerNotFound as error:
        raise CompileError(f"{file} needs a C preprocessor: {error}") from None
    undefine = [name for name in keep if re.search(rf"\b{re.escape(name)}\b", text)]
    fixed = {name.partition("(")[0] for name in defines}
    command = [*compiler.command, "-E", "-x", "c", "-nostdinc", "-"]
    for name, value in {**_KNOWN, **{n: str(v) for n, v in defines.items()}}.items():
        if name not in keep:
            command.append(f"-D{name}={value}")
    if folder is not None:
        command.append(f"-I{folder}")
    source = _prepared(text, file, folder, {*undefine, *fixed}, undefine, defines)
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise UnsupportedProgram(f"{shlex.join(compiler.command)} -E refused the source: {first}")
    return done.stdout


def first_error(clean: str) -> str | None:
    """What the compiler has against a preprocessed text, with file and line; None if nothing."""
    command = [*find_compiler("c").command, "-fsyntax-only", "-w", "-x", "cpp-output", "-"]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, input=clean, capture_output=True, text=True, check=False, env=environment
    )
    lines = (line for line in done.stderr.splitlines() if " error: " in line)
    return next(lines, None)


def _prepared(
    text: str,
    file: str,
    folder: Path | None,
    dropped: Collection[str],
    undefine: Collection[str],
    defines: Mapping[str, object],
) -> str:
    """Lines as they were, but for includes of others' headers and definitions of `dropped`."""
    after_include = [f"#undef {name}" for name in undefine]
    for name, value in defines.items():
        after_include += [f"#undef {name.partition('(')[0]}", f"#define {name} {value}"]
    lines = [f'# 1 "{file}"']
    # A backslash continues a definition on the next line; blank lines keep the count.
    joined = re.sub(r"\\\n", "\\\n", re.sub(r"_PB_(\w+)", r"\1", text))
    in_dropped = False
    for number, line in enumerate(joined.split("\n"), 1):
        include, define = _INCLUDE.match(line), _DEFINE.match(line)
        if in_dropped or (define and define[1] in dropped):
            in_dropped = line.endswith("\\")
            lines.append("")
        elif include is None:
            lines.append(line)
        elif include[1] == '"' and folder is not None and (folder / include[2]).is_file():
            lines += [line, *after_include, f'# {number + 1} "{file}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"
