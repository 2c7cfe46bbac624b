"""From C or C++ sources to a loaded library, compiled once per content.

The key of a library is the sha256 of everything its machine code follows from: the text of its
sources and own includes, the flags, the compiler and the processor. Where files lie and when they
were written does not enter, so two checkouts share their entries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import attrs

from common import files
from common.cache_folder import cache_folder
from common.native import cache, library, openmp, prototype, target
from common.native.errors import NativeBuildError
from common.native.library import Library
from common.native.process import CompilerRun, TimedOut
from common.native.target import Compiler, Language

T = TypeVar("T")

_ABI = "1"  # raised when entries of an older version of this layer must not be loaded
_MAX_SOURCE_BYTES = 64 * 2**20
_LANGUAGES: dict[str, Language] = {".c": "c", ".cpp": "c++", ".cc": "c++"}


def _paths(paths: Iterable[Path | str]) -> tuple[Path, ...]:
    return tuple(Path(path).resolve() for path in paths)


def _words(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(words)


def _versions(headers: Mapping[Path | str, str]) -> dict[Path, str]:
    return {Path(folder).resolve(): version for folder, version in headers.items()}


@attrs.frozen(kw_only=True)
class Recipe:
    """What to build; the arguments of `build` or `build_source` as a value."""

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[A-Za-z0-9_.-]+"))
    sources: tuple[Path, ...] = attrs.field(default=(), converter=_paths)
    text: str | None = None
    language: Language | None = None  # of the text, "c" by default
    line_map: Mapping[int, tuple[str, int]] | None = None
    compiler: str | None = None
    openmp: bool = False
    reassociate: bool = False
    defines: Mapping[str, object] = attrs.field(factory=dict)
    include_dirs: tuple[Path, ...] = attrs.field(default=(), converter=_paths)
    foreign_headers: Mapping[Path, str] = attrs.field(factory=dict, converter=_versions)
    flags: tuple[str, ...] = attrs.field(default=(), converter=_words)
    link_flags: tuple[str, ...] = attrs.field(default=(), converter=_words)
    timeout_s: float = attrs.field(default=600.0, validator=attrs.validators.gt(0))

    def __attrs_post_init__(self) -> None:
        if (self.text is None) == (not self.sources):
            raise ValueError(f"{self.name}: give either source files or a text")
        if self.text is None and (self.language or self.line_map):
            raise ValueError(
                f"{self.name}: language and line_map go with a text; a file's ending names its own"
            )
        for path in self.sources:
            if path.suffix not in _LANGUAGES:
                raise ValueError(f"{path} must end in {', '.join(_LANGUAGES)}")
        if len({_LANGUAGES[path.suffix] for path in self.sources}) > 1:
            raise ValueError(f"{self.name}: build C and C++ sources as libraries of their own")


@attrs.frozen
class Compiled:
    """A library in the cache that this process has not loaded.

    seconds: time the compiler took, or None if it was found in the cache
    """

    path: Path
    seconds: float | None


class Options(TypedDict, total=False):
    """How to compile: keywords of `build` and `build_source`, and fields of a Recipe.

    compiler:          another one than $CC, $CXX or the system's, by name: clang-16
    openmp:            compile and link with -fopenmp
    reassociate:       let the compiler reorder sums and assume finite numbers
    defines:           preprocessor names and values
    include_dirs:      folders searched for headers, before common/kernels
    foreign_headers:   folders of another package's headers, and that package's version: it enters
                       the key for them, as to scan thousands of lines at every start takes seconds
    flags, link_flags: further words for the compiler, before and after the sources
    timeout_s:         how long the compiler may take, 600 by default
    """

    compiler: str | None
    openmp: bool
    reassociate: bool
    defines: Mapping[str, object]
    include_dirs: Iterable[Path | str]
    foreign_headers: Mapping[Path | str, str]
    flags: Iterable[str]
    link_flags: Iterable[str]
    timeout_s: float


def build(name: str, sources: Iterable[Path | str], **options: Unpack[Options]) -> Library:
    """Compile C (.c) or C++ (.cpp) files for this machine, or find them compiled, and load them.

    Functions called from Python are marked EXPORT, which makes them visible and, in C++, extern
    "C". Headers in common/kernels are found without being asked for. The options are those of
    Options.

    Raises NativeBuildError with the first compiler error, CompilerNotFound, FileNotFoundError for
    a missing source, and ValueError for flags that change arithmetic in the whole process.
    """
    return _build(Recipe(name=name, sources=sources, **options))


def build_source(
    name: str,
    text: str,
    *,
    language: Language = "c",
    line_map: Mapping[int, tuple[str, int]] | None = None,
    **options: Unpack[Options],
) -> Library:
    """Compile generated C or C++ text, as `build` does with files.

    The text is kept in the cache folder, where errors point to. line_map says where a line of the
    text (counted from 1) and those after it came from: {12: ("schedule.py", 40)} makes the
    compiler speak of schedule.py:40 instead.
    """
    return _build(Recipe(name=name, text=text, language=language, line_map=line_map, **options))


def build_many(
    recipes: Iterable[Recipe], jobs: int | None = None
) -> list[Library | NativeBuildError]:
    """Build recipes side by side; one that does not compile gives its error, the rest go on.

    jobs: compilers at a time; by default one for each core this process may use
    """
    return _side_by_side(_build, recipes, jobs)


def compile_many(
    recipes: Iterable[Recipe], jobs: int | None = None
) -> list[Compiled | NativeBuildError]:
    """As `build_many`, but nothing is loaded here: for libraries that another process will run.

    A loaded library stays for the life of a process, and code that may crash must not run in it.
    """
    return _side_by_side(_compile_only, recipes, jobs)


def _side_by_side(
    build_one: Callable[[Recipe], T], recipes: Iterable[Recipe], jobs: int | None
) -> list[T | NativeBuildError]:
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    from concurrent.futures import ThreadPoolExecutor

    def attempt(recipe: Recipe) -> T | NativeBuildError:
        try:
            return build_one(recipe)
        except NativeBuildError as error:
            return error

    with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(attempt, recipes))


def _compile_only(recipe: Recipe) -> Compiled:
    folder = cache_folder()
    while True:
        plan = _plan(recipe, _sources(recipe, folder))
        found = _find_or_compile(recipe, plan, folder)
        if found is not None:  # else a source was edited during the build
            entry, seconds = found
            return Compiled(entry.library, seconds)


def _sources(recipe: Recipe, folder: Path) -> tuple[Path, ...]:
    return recipe.sources if recipe.text is None else (_kept_text(recipe, folder),)


def _build(recipe: Recipe) -> Library:
    folder = cache_folder()
    sources = _sources(recipe, folder)
    while True:
        plan = _plan(recipe, sources)
        known = library.loaded(plan.key)
        if known is not None:
            return known
        target.require_preloaded_sanitizer(plan.compiler)
        found = _find_or_compile(recipe, plan, folder)
        if found is None:
            continue  # a source was edited during the build
        entry, seconds = found
        own = [path for path in plan.files if recipe.text is None or path not in sources]
        try:
            return library.load(
                recipe.name,
                plan.key,
                entry,
                own,
                is_openmp=recipe.openmp,
                compile_seconds=seconds,
            )
        except OSError:
            if entry.library.exists():
                raise
            # Pruned by another process after it was verified.


def _find_or_compile(
    recipe: Recipe, plan: _Plan, folder: Path
) -> tuple[cache.Entry, float | None] | None:
    entry = cache.find(folder, plan.key)
    if entry is not None:
        return entry, None
    with cache.locked(folder, plan.key) as alone:
        # Another process may have built it while we waited for the lock.
        entry = cache.find(folder, plan.key) if alone else None
        return (entry, None) if entry is not None else _compile(recipe, plan, folder, alone)


@attrs.frozen(eq=False)
class _Plan:
    """All that decides a build: the compiler, its words, the files read and their key."""

    compiler: Compiler
    command: tuple[str, ...]  # without -o and the sources
    link_flags: tuple[str, ...]
    sources: tuple[Path, ...]
    files: tuple[Path, ...]  # sources and own includes
    digests: list[tuple[str, str]]  # of files, by name
    key: str


def _plan(recipe: Recipe, sources: tuple[Path, ...]) -> _Plan:
    language = _LANGUAGES[sources[0].suffix]
    compiler = target.find_compiler(language, recipe.compiler)
    flags = target.compile_flags(
        language,
        openmp=recipe.openmp,
        reassociate=recipe.reassociate,
        defines=recipe.defines,
        extra=recipe.flags,
    )
    link_flags = target.link_flags(recipe.link_flags)
    command = (*compiler.command, *flags, *target.include_flags(recipe.include_dirs))
    for path in sources:
        _refuse_huge(path)
    versions = sorted(recipe.foreign_headers.values())
    # -MG: what is not found is foreign, or else the compilation will say that it is missing.
    asked = (*command, "-MM", *(["-MG"] if versions else []), "-MT", "_", *map(str, sources))
    with CompilerRun(asked) as scan:
        identity = compiler.identity()
        prototype.load_parser()  # needs as long as the compiler does, so meanwhile
        code, rules = scan.result()
    if code != 0:
        raise NativeBuildError(asked, rules, sources[0])
    files = _files_named(rules)
    if versions:
        files = tuple(path for path in files if path.exists())
    digests = _digests(files)
    search = [os.environ.get(name, "") for name in target.SEARCH_VARIABLES]
    parts = [_ABI, language, identity, search, flags, link_flags, digests]
    if versions:
        parts.append(versions)
        command += tuple(f"-isystem{folder}" for folder in recipe.foreign_headers)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return _Plan(compiler, command, link_flags, sources, files, digests, key)


def _digests(files: Sequence[Path]) -> list[tuple[str, str]]:
    return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def _refuse_huge(path: Path) -> None:
    size = path.stat().st_size
    if size > _MAX_SOURCE_BYTES:
        text = f"error: {path.name} has {size} bytes, the limit is {_MAX_SOURCE_BYTES}: split it"
        raise NativeBuildError((), text, path)


def _files_named(rules: str) -> tuple[Path, ...]:
    """The prerequisites of the make rules `_: a.c b.h` the compiler writes."""
    words: list[str] = []
    for rule in re.split(r"^_:", rules.replace("\\\n", " "), flags=re.M)[1:]:
        words += re.split(r"(?<!\\)\s+", rule.strip())
    names = (re.sub(r"\\([ #])", r"\1", word).replace("$$", "$") for word in words)
    return tuple(dict.fromkeys(Path(name).resolve() for name in names))


def _compile(
    recipe: Recipe, plan: _Plan, folder: Path, alone: bool
) -> tuple[cache.Entry, float] | None:
    """Compile and commit; None if a file changed meanwhile, so that the key no longer holds."""
    source = plan.sources[0]
    with cache.scratch(folder, plan.key, alone) as scratch:
        built = scratch / "library.so"
        command = [*plan.command, *map(str, plan.sources), "-o", str(built), *plan.link_flags]
        started = time.perf_counter()
        try:
            with CompilerRun(command, scratch) as run:
                code, log = run.result(recipe.timeout_s)
        except TimedOut as error:
            raise NativeBuildError(command, str(error), source) from None
        seconds = time.perf_counter() - started
        if code != 0:
            raise NativeBuildError(command, log, source)
        if recipe.openmp and (complaint := openmp.version_complaint(built)):
            raise NativeBuildError(command, complaint, source)
        if _digests(plan.files) != plan.digests:
            return None
        facts = {"recipe": recipe.name, "seconds": seconds, "warnings": log, "command": command}
        return cache.commit(folder, plan.key, built, facts), seconds


def _kept_text(recipe: Recipe, folder: Path) -> Path:
    """Write generated text, with its #line directives, to where errors can point."""
    text = _with_line_directives(recipe.text or "", recipe.line_map or {})
    suffix = ".cpp" if recipe.language == "c++" else ".c"
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.{recipe.name}{suffix}"
    if not path.exists():
        files.write_whole(path, text)
    return path


def _with_line_directives(text: str, line_map: Mapping[int, tuple[str, int]]) -> str:
    lines = text.splitlines(keepends=True)
    for number in line_map:
        if not 1 <= number <= len(lines):
            raise ValueError(f"line_map names line {number}, but the text has {len(lines)} lines")
    out = []
    for number, line in enumerate(lines, start=1):
        if number in line_map:
            file, origin = line_map[number]
            out.append(f"#line {origin} {json.dumps(file)}\n")
        out.append(line)
    return "".join(out)
