"""Building: what enters the key, what the errors say, what is left behind."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import stat
import sys
from pathlib import Path

import attrs
import numpy as np
import psutil
import pytest

from common import native
from common.native import process, target

SOURCE = (
    '#include "factor.h"\n#include <stdint.h>\nEXPORT int32_t answer(void) { return FACTOR; }\n'
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MLSYS21_CACHE", str(folder))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source including a header that includes another, in a folder of this test alone."""
    path = tmp_path / "answer.c"
    path.write_text(SOURCE + f"// {tmp_path}\n")  # unlike any library this process has loaded
    (tmp_path / "factor.h").write_text('#include "deeper.h"\n#define FACTOR (40 + DEEPER)\n')
    (tmp_path / "deeper.h").write_text("#define DEEPER 2\n")
    return path


def wrapper(tmp_path: Path, body: str) -> str:
    """A compiler that runs `body` first when asked to compile, and else answers as cc does."""
    path = tmp_path / "wrapped-cc"
    path.write_text(
        '#!/bin/sh\ncase "$*" in *-MM*|*--help=*|*--version*) exec cc "$@";; esac\n'
        f'{body}\nexec cc "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def left_in(cache: Path) -> list[Path]:
    """What lies in the cache besides locks, which stay."""
    return [path for path in cache.glob("*") if path.suffix != ".lock"]


def answer(library: native.Library) -> int:
    value: int = library.function("int32_t answer(void)")()
    return value


def test_a_source_is_compiled_once(source: Path) -> None:
    first = native.build("answer", [source])
    second = native.build("answer", [source])
    assert answer(first) == 42
    assert first.compile_seconds is not None
    assert second is first


def test_cpp_entry_points_have_c_names(tmp_path: Path) -> None:
    path = tmp_path / "answer.cpp"
    path.write_text(
        "#include <cstdint>\ntemplate <int n> static int twice() { return 2 * n; }\n"
        "EXPORT int32_t answer() { return twice<21>(); }\n"
    )
    assert answer(native.build("answer", [path])) == 42


def test_several_sources_make_one_library(tmp_path: Path) -> None:
    a, b = tmp_path / "a.c", tmp_path / "b.c"
    a.write_text("int half(void);\nEXPORT int answer(void) { return 2 * half(); }\n")
    b.write_text("int half(void) { return 21; }\n")
    assert answer(native.build("answer", [a, b])) == 42


def test_shared_kernel_headers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shared headers"
    folder.mkdir()
    header = folder / "shared#1.h"
    header.write_text("#define SHARED 42\n")
    monkeypatch.setattr(target, "_KERNEL_HEADERS", folder)
    library = native.build_source(
        "answer", '#include "shared#1.h"\nEXPORT int answer(void) { return SHARED; }\n'
    )
    assert answer(library) == 42
    assert library.sources == (header,)


class TestKey:
    """Two builds share a library if and only if its machine code would be the same."""

    def test_age_and_place_do_not_enter(self, source: Path, tmp_path: Path) -> None:
        first = native.build("answer", [source]).path
        os.utime(source, (1, 1))
        assert native.build("answer", [source]).path == first
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for name in ("answer.c", "factor.h", "deeper.h"):
            (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
        assert native.build("answer", [elsewhere / "answer.c"]).path == first

    @pytest.mark.parametrize("name", ["answer.c", "factor.h", "deeper.h"])
    def test_text_of_sources_and_includes(self, source: Path, tmp_path: Path, name: str) -> None:
        first = native.build("answer", [source])
        with (tmp_path / name).open("a") as stream:
            stream.write("// another line\n")
        assert native.build("answer", [source]).path != first.path

    def test_an_edited_include_takes_effect(self, source: Path, tmp_path: Path) -> None:
        assert answer(native.build("answer", [source])) == 42
        (tmp_path / "deeper.h").write_text("#define DEEPER 3\n")
        assert answer(native.build("answer", [source])) == 43

    @pytest.mark.parametrize(
        "change",
        [
            {"openmp": True},
            {"reassociate": True},
            {"defines": {"WIDTH": 8}},
            {"flags": ["-O1"]},
            {"link_flags": ["-Wl,-O1"]},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_options(self, source: Path, change: dict[str, object]) -> None:
        first = native.build("answer", [source]).path
        assert native.build("answer", [source], **change).path != first

    def test_include_search_path_of_the_environment(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = native.build("answer", [source]).path
        monkeypatch.setenv("CPATH", str(tmp_path))
        assert native.build("answer", [source]).path != first

    def test_compiler_version(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = native.build("answer", [source]).path
        other = tmp_path / "other-cc"
        other.write_text(
            '#!/bin/sh\ncase "$*" in *--version*) echo "cc 99.0"; exit;; esac\nexec cc "$@"\n'
        )
        other.chmod(0o755)
        monkeypatch.setenv("CC", str(other))
        assert native.build("answer", [source]).path != first

    def test_resolved_processor(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Same words, same compiler version; only what -march=native stands for differs.
        first = native.build("answer", [source]).path
        other = tmp_path / "other-cc"
        other.write_text(
            '#!/bin/sh\ncase "$*" in *--help=target*) echo "-march= other"; exit;; esac\n'
            'exec cc "$@"\n'
        )
        other.chmod(0o755)
        monkeypatch.setenv("CC", str(other))
        assert native.build("answer", [source]).path != first

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86 processor")
    def test_asked_processor(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = native.build("answer", [source]).path
        monkeypatch.setenv("MLSYS21_MARCH", "x86-64-v3")
        second = native.build("answer", [source])
        assert second.path != first
        assert "-march=x86-64-v3" in _command(second)
        assert answer(second) == 42

    def test_sanitizers(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = native.build("answer", [source]).path
        monkeypatch.setenv("MLSYS21_SANITIZE", "undefined")
        second = native.build("answer", [source])
        assert second.path != first
        assert "-fsanitize=undefined" in _command(second)


def _command(library: native.Library) -> list[str]:
    import json

    key = library.path.name.partition(".")[0]
    facts = json.loads(library.path.with_name(f"{key}.json").read_text())
    command: list[str] = facts["command"]
    return command


def _is_running_in(process: psutil.Process, group: int) -> bool:
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        # A dead process nobody has waited for yet still has its group.
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    return False


class TestErrors:
    def test_the_first_error_is_shown_with_its_lines(self, tmp_path: Path, cache: Path) -> None:
        path = tmp_path / "bad.c"
        path.write_text("int a;\nint b = missing;\nint c;\nint d = absent;\n")
        with pytest.raises(native.NativeBuildError) as caught:
            native.build("bad", [path])
        text = str(caught.value)
        assert text.startswith(f"{path}:2:")
        assert "'missing' undeclared" in text.splitlines()[0]
        assert [line.split() for line in text.splitlines()[1:4]] == [
            ["1", "int", "a;"],
            ["2>", "int", "b", "=", "missing;"],
            ["3", "int", "c;"],
        ]
        assert text.endswith(f"source kept at {path}")
        assert "absent" in caught.value.log
        assert caught.value.command[0].endswith("cc")
        assert not list(cache.glob("*.tmp"))

    def test_generated_text_is_kept_for_reading(self) -> None:
        with pytest.raises(native.NativeBuildError) as caught:
            native.build_source("bad", "int b = missing;\n")
        assert caught.value.source_path.read_text() == "int b = missing;\n"
        assert "1> int b = missing;" in str(caught.value)

    def test_generated_text_blames_the_line_it_came_from(self) -> None:
        text = "int a;\nint b;\nint c = missing;\n"
        with pytest.raises(native.NativeBuildError, match=r"^schedule\.py:41:\d+: error: .missing"):
            native.build_source("bad", text, line_map={2: ("schedule.py", 40)})

    def test_a_line_map_beyond_the_text_is_refused(self) -> None:
        with pytest.raises(ValueError, match="line_map names line 3, but the text has 1 lines"):
            native.build_source("bad", "int a;\n", line_map={3: ("schedule.py", 1)})

    def test_it_survives_a_trip_between_processes(self) -> None:
        import pickle

        error = native.NativeBuildError(["cc"], "a.c:1:1: error: no\n", Path("a.c"))
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_a_missing_include_is_a_build_error(self) -> None:
        with pytest.raises(native.NativeBuildError, match=r"nowhere\.h: No such file"):
            native.build_source("bad", '#include "nowhere.h"\n')

    def test_an_unresolved_name_fails_the_build(self) -> None:
        with pytest.raises(native.NativeBuildError, match="undefined reference to `absent'"):
            native.build_source("bad", "int absent(void);\nEXPORT int f(void) {return absent();}\n")

    def test_a_killed_compiler(
        self, source: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", wrapper(tmp_path, "kill -9 $$"))
        with pytest.raises(native.NativeBuildError, match="ended by SIGKILL"):
            native.build("answer", [source])
        assert not list(cache.glob("*.tmp"))
        monkeypatch.delenv("CC")
        assert answer(native.build("answer", [source])) == 42

    def test_a_compiler_that_hangs(
        self, source: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The grandchild must end as well: it would hold the output open.
        monkeypatch.setenv("CC", wrapper(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60; exit 1"))
        with pytest.raises(native.NativeBuildError, match=r"timed out after 0\.5 s"):
            native.build("answer", [source], timeout_s=0.5)
        assert not list(cache.glob("*.tmp"))
        group = int((tmp_path / "pid").read_text())
        assert not [p for p in psutil.process_iter() if _is_running_in(p, group)]

    def test_an_interrupt_ends_the_compiler(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), process.CompilerRun(["sleep", "60"]) as run:
            raise KeyboardInterrupt
        assert run.result()[0] == -signal.SIGKILL

    def test_a_source_of_two_gigabytes(self, tmp_path: Path, cache: Path) -> None:
        path = tmp_path / "huge.c"
        with path.open("wb") as stream:
            stream.truncate(2 * 2**30)
        with pytest.raises(native.NativeBuildError, match=r"huge\.c has 2147483648 bytes"):
            native.build("huge", [path])
        assert left_in(cache) == []

    @pytest.mark.parametrize(("suffix", "variable"), [(".c", "CC"), (".cpp", "CXX")])
    def test_no_compiler(
        self,
        tmp_path: Path,
        cache: Path,
        suffix: str,
        variable: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = tmp_path / f"a{suffix}"
        path.write_text("int a;\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv(variable, raising=False)
        hints = r"apt-get install g\+\+ .* dnf install gcc-c\+\+ .* conda install"
        with pytest.raises(native.CompilerNotFound, match=hints):
            native.build("a", [path])
        monkeypatch.setenv(variable, "/nowhere/cc -m64")
        with pytest.raises(native.CompilerNotFound, match=rf"\${variable}=/nowhere/cc -m64"):
            native.build("a", [path])
        assert left_in(cache) == []

    def test_a_missing_source(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nothing\.c"):
            native.build("nothing", [tmp_path / "nothing.c"])

    @pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations"])
    @pytest.mark.parametrize("where", ["flags", "link_flags"])
    def test_flags_that_change_the_whole_process(self, source: Path, flag: str, where: str) -> None:
        with pytest.raises(ValueError, match=f"{flag} is refused: .* denormals .* reassociate"):
            native.build("answer", [source], **{where: [flag]})

    def test_malformed_recipes(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="give either source files or a text"):
            native.Recipe(name="a")
        for told in ({"language": "c++"}, {"line_map": {1: ("a.py", 1)}}):
            with pytest.raises(ValueError, match="language and line_map go with a text"):
                native.Recipe(name="x", sources=["a.c"], **told)
        with pytest.raises(TypeError, match="opnemp"):
            native.build("x", ["a.c"], opnemp=True)
        with pytest.raises(ValueError, match=r"must end in \.c, \.cpp, \.cc"):
            native.Recipe(name="a", sources=[tmp_path / "a.f90"])
        with pytest.raises(ValueError, match="C and C\\+\\+ sources"):
            native.Recipe(name="a", sources=[source, tmp_path / "b.cpp"])
        with pytest.raises(ValueError, match="defines must be named by C identifiers"):
            native.build("answer", [source], defines={"A B": 1})
        with pytest.raises(ValueError, match="name"):
            native.Recipe(name="../a", text="")


def test_an_edit_during_the_build_is_not_lost(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = f'[ -e {tmp_path}/edited ] || echo "#define DEEPER 5" > {tmp_path}/deeper.h'
    monkeypatch.setenv("CC", wrapper(tmp_path, f"{edit}; touch {tmp_path}/edited"))
    assert answer(native.build("answer", [source])) == 45


def test_a_compiler_can_be_asked_for_by_name() -> None:
    recipe = native.Recipe(name="asked", text="EXPORT int one(void) { return 1; }", compiler="gcc")
    (built,) = native.compile_many([recipe])
    assert isinstance(built, native.Compiled)
    absent = attrs.evolve(recipe, compiler="cc-of-nobody")
    with pytest.raises(native.CompilerNotFound, match="looked for cc-of-nobody"):
        native.compile_many([absent])


def test_compile_many_loads_nothing_and_goes_on_after_an_error() -> None:
    fatal = "__attribute__((constructor)) static void end(void) { __builtin_trap(); }"
    recipes = [native.Recipe(name="fatal", text=fatal), native.Recipe(name="bad", text="int f( {")]
    good, bad = native.compile_many(recipes, jobs=2)
    assert isinstance(good, native.Compiled)
    assert good.path.exists()
    assert good.seconds is not None
    assert isinstance(bad, native.NativeBuildError)
    again = native.compile_many(recipes[:1])
    assert again == [native.Compiled(good.path, None)]


def test_build_many_goes_on_after_an_error() -> None:
    texts = [f"EXPORT int answer(void) {{ return {n}; }}\n" for n in (7, 8, 9)]
    recipes = [native.Recipe(name="answer", text=text) for text in texts]
    recipes.insert(1, native.Recipe(name="bad", text="int b = missing;\n"))
    built = native.build_many(recipes, jobs=2)
    assert isinstance(built[1], native.NativeBuildError)
    good = [library for library in built if isinstance(library, native.Library)]
    assert [answer(library) for library in good] == [7, 8, 9]
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        native.build_many([], jobs=0)


def test_warnings_of_the_compiler_are_kept() -> None:
    library = native.build_source("warns", "EXPORT void f(void) { int unused; }\n")
    assert "unused variable" in library.warnings


def test_loaded_sources_hold_files_and_own_includes(source: Path, tmp_path: Path) -> None:
    native.build("answer", [source])
    native.build_source("generated", "EXPORT int g(void) { return 1; }\n")
    listed = native.loaded_sources()
    assert {source, tmp_path / "factor.h", tmp_path / "deeper.h"} <= set(listed)
    assert not [path for path in listed if path.name.endswith("generated.c")]


def test_defines_reach_the_source() -> None:
    text = "EXPORT double ratio(void) { return A + B; }\n"
    library = native.build_source("defined", text, defines={"A": 2.5, "B": True})
    assert library.function("double ratio(void)")() == 3.5


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Path]:
    """A source with a header of its own and one of another package, and that package's folder."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "package.h").write_text(
        "#define FOREIGN 40\nstatic inline int zero(int x) { return 0; }  // unused x\n"
    )
    path = tmp_path / "sum.c"
    path.write_text(
        '#include <package.h>\n#include "own.h"\n#include <stdint.h>\n'
        f"EXPORT int32_t answer(void) {{ return FOREIGN + OWN; }}\n// {tmp_path}\n"
    )
    (tmp_path / "own.h").write_text("#define OWN 2\n")
    return path, folder


def test_foreign_headers_enter_the_key_by_version(foreign: tuple[Path, Path]) -> None:
    path, folder = foreign
    first = native.build("sum", [path], foreign_headers={folder: "package 1"})
    (folder / "package.h").write_text("#define FOREIGN 50\n")  # not looked at
    assert native.build("sum", [path], foreign_headers={folder: "package 1"}) is first
    second = native.build("sum", [path], foreign_headers={folder: "package 2"})
    assert (answer(first), answer(second)) == (42, 52)
    assert "package.h" not in first.warnings
    assert {source.name for source in first.sources} == {"sum.c", "own.h"}


def test_own_headers_beside_foreign_ones_enter_the_key_by_text(foreign: tuple[Path, Path]) -> None:
    path, folder = foreign
    first = native.build("sum", [path], foreign_headers={folder: "package 1"})
    path.with_name("own.h").write_text("#define OWN 3\n")
    second = native.build("sum", [path], foreign_headers={folder: "package 1"})
    assert (answer(first), answer(second)) == (42, 43)


def test_missing_header_is_an_error_beside_foreign_ones_too(foreign: tuple[Path, Path]) -> None:
    path, folder = foreign
    path.with_name("own.h").unlink()
    with pytest.raises(native.NativeBuildError, match=r"own\.h: No such file"):
        native.build("sum", [path], foreign_headers={folder: "package 1"})


def test_the_cache_is_private(cache: Path) -> None:
    assert native.cache_folder() == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_address_sanitizer_needs_its_runtime_first(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "libasan" in Path("/proc/self/maps").read_text():
        pytest.skip("this very process runs under the address sanitizer")
    monkeypatch.setenv("MLSYS21_SANITIZE", "address")
    with pytest.raises(RuntimeError, match=r"start with LD_PRELOAD=.*libasan"):
        native.build("answer", [source])
    monkeypatch.setenv("MLSYS21_SANITIZE", "address;rm")
    with pytest.raises(ValueError, match="MLSYS21_SANITIZE lists sanitizers by comma"):
        native.build("answer", [source])


@pytest.mark.slow
def test_sanitizers_report_a_write_past_the_end(tmp_path: Path) -> None:
    import subprocess

    runtime = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    script = (
        "import numpy as np\nfrom common import native\n"
        "text = 'EXPORT void f(float* x) { x[4] = 1; }'\n"
        "f = native.build_source('past', text).function('void f(float* x)')\n"
        "f(np.zeros(4, np.float32))\n"
    )
    environment = {
        **os.environ,
        "MLSYS21_SANITIZE": "address,undefined",
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",  # so that the sanitizer sees where arrays end
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(target.__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(r"AddressSanitizer: heap-buffer-overflow", done.stderr), done.stderr[-2000:]


def test_reassociation_changes_sums_but_not_results_beyond_rounding() -> None:
    text = (
        "#include <stdint.h>\nEXPORT float sum(const float* x, int64_t n) {\n"
        "float s = 0; for (int64_t i = 0; i < n; i++) s += x[i]; return s; }\n"
    )
    x = np.linspace(0.1, 1.0, 10_000, dtype=np.float32)
    exact = float(x.astype(np.float64).sum())
    for reassociate in (False, True):
        total = native.build_source("sum", text, reassociate=reassociate)
        got = total.function("float sum(const float* x, int64_t n)")(x, len(x))
        # A sum of n positive terms in any order is off by at most n units in the last place.
        assert abs(got - exact) <= len(x) * np.finfo(np.float32).eps * exact
