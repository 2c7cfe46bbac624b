"""The cache: what is loaded is whole, what is raced for is built once, what dies leaves no trap."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from common import native
from common.cache_folder import _usable_folder
from common.native import cache as native_cache

ROOT = Path(native_cache.__file__).parents[2]

# Prints whether the compiler ran; exits with the kernel's answer.
BUILD = """
import sys
from common import native
lib = native.build("answer", [sys.argv[1]])
print(lib.compile_seconds is not None, lib.path)
sys.exit(lib.function("int32_t answer(void)")())
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("MLSYS21_CACHE", str(path))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.c"
    path.write_text(
        f"#include <stdint.h>\nEXPORT int32_t answer(void) {{ return 42; }} // {path}\n"
    )
    return path


def start(source: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(source)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def build_elsewhere(source: Path, **environment: str) -> tuple[bool, Path, str]:
    """Build and call in another process: (compiled, library, what it wrote to stderr)."""
    with start(source, **environment) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 42, err
    compiled, _, path = out.strip().partition(" ")
    return compiled == "True", Path(path), err


def test_a_second_process_finds_the_library(source: Path) -> None:
    assert build_elsewhere(source)[0]
    compiled, _, err = build_elsewhere(source)
    assert not compiled
    assert err == ""


def test_eight_processes_race_for_one_key(source: Path, folder: Path) -> None:
    racers = [start(source) for _ in range(8)]
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [42] * 8, outputs
    assert [err for _, err in outputs] == [""] * 8
    assert sum(out.startswith("True") for out, _ in outputs) == 1
    assert len(list(folder.glob("*.so"))) == 1
    assert not list(folder.glob("*.tmp"))


def test_a_race_without_locks_is_harmless(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second builder commits while the first still compiles; both must load what they find.
    def no_locks(*_: object) -> None:
        raise OSError("this file system knows no locks")

    monkeypatch.setattr(native_cache.fcntl, "flock", no_locks)
    with native_cache.locked(native.cache_folder(), "0" * 32) as alone:
        assert not alone
    library = native.build("answer", [source])
    assert library.function("int32_t answer(void)")() == 42
    build_elsewhere(source)
    assert len(list(folder.glob("*.so"))) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "truncate",
        "flip a bit",
        "foreign library",
        "no library",
        "json of nothing",
        "other json",
        "half a json",
    ],
)
def test_damage_is_noticed_before_loading(source: Path, folder: Path, damage: str) -> None:
    _, library, _ = build_elsewhere(source)
    commit = next(folder.glob("*.json"))
    whole = library.read_bytes()
    if damage == "truncate":
        os.truncate(library, len(whole) // 2)
    elif damage == "flip a bit":
        middle = len(whole) // 2
        library.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "foreign library":
        facts = json.loads(commit.read_text())
        shutil.copy("/bin/sh", folder / "other.so")
        commit.write_text(json.dumps({**facts, "name": "../cache/other.so"}))
    elif damage == "no library":
        library.unlink()
    else:
        texts = {"json of nothing": "null", "other json": "{}", "half a json": '{"name": "'}
        commit.write_text(texts[damage])

    compiled, again, err = build_elsewhere(source)

    assert compiled
    assert err.count("is built again") >= 1
    assert str(commit) in err
    assert again.read_bytes()
    assert not build_elsewhere(source)[0]


def test_a_builder_killed_while_compiling_leaves_no_trap(
    source: Path, tmp_path: Path, folder: Path
) -> None:
    compiler, pid = tmp_path / "slow-cc", tmp_path / "pid"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-MM*|*--help=*|*--version*) exec cc "$@";; esac\n'
        f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 60\n"
    )
    compiler.chmod(0o755)
    with start(source, CC=str(compiler)) as victim:
        deadline = time.monotonic() + 30
        while not pid.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        victim.kill()
        victim.communicate()
    try:
        assert victim.returncode == -signal.SIGKILL
        assert len(list(folder.glob("*.tmp"))) == 1  # it was in the middle of it
        compiled, _, err = build_elsewhere(source)  # the same key: the wrapper passes for cc
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
    assert compiled
    assert err == ""
    assert not list(folder.glob("*.tmp"))


def test_two_threads_share_one_library(source: Path) -> None:
    recipes = [native.Recipe(name="answer", sources=[source]) for _ in range(8)]
    built = native.build_many(recipes, jobs=4)
    assert len({id(library) for library in built}) == 1


# The user data base of the played machine gives a home that nobody can write, or none at all.
HOMELESS = """
import os, pwd, sys, types

def look_up(uid):
    if sys.argv[1] == "no entry":
        raise KeyError(uid)
    return types.SimpleNamespace(pw_dir="/proc/nobody")

pwd.getpwuid = look_up
from common import native
from common.cache_folder import cache_folder

for text in ("3", "4"):
    lib = native.build_source("homeless", f"EXPORT int f(void) {{ return {text}; }}")
    assert lib.function("int32_t f(void)")() == int(text)
assert cache_folder() == lib.path.parent
print(lib.path.parent)
"""


class TestFolder:
    @pytest.mark.parametrize("home", ["unwritable", "no entry"])
    def test_no_home_gives_a_temporary_cache_and_one_warning(
        self, tmp_path: Path, home: str
    ) -> None:
        homes = ("HOME", "XDG_", "MLSYS21_CACHE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(homes)}
        here, temporary = tmp_path / "here", tmp_path / "temporary"
        here.mkdir()
        temporary.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", HOMELESS, home],
            cwd=here,
            env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("RuntimeWarning: native libraries cannot be kept in") == 1
        assert "set MLSYS21_CACHE" in done.stderr
        assert Path(done.stdout.strip()).parent == temporary
        # Nothing stays: neither there, nor in a folder named ~ where the process stood.
        assert list(temporary.iterdir()) == list(here.iterdir()) == []

    def test_unwritable_folder_gives_a_temporary_one_and_one_warning(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLSYS21_CACHE", "/proc/mlsys21")  # nobody can create it
        with pytest.warns(RuntimeWarning, match="cannot be kept in /proc/mlsys21"):
            first = native.cache_folder()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert native.cache_folder() == first
        library = native.build_source("elsewhere", "EXPORT int f(void) { return 3; }\n")
        assert library.path.parent == first
        shutil.rmtree(first)

    def test_a_read_only_folder_is_left_alone(self, source: Path) -> None:
        folder = Path(tempfile.mkdtemp())  # outside the test's own, which others may not enter
        nobody = 65534 if os.geteuid() == 0 else os.geteuid()
        os.chown(folder, nobody, -1)
        folder.chmod(0o500)
        # Root may write anywhere, so the process gives that up once all is imported.
        script = (
            "import os, shutil, sys, tempfile, platformdirs, pycparser.c_parser\n"
            "from common import native\n"
            f"os.seteuid({nobody})\n"
            "lib = native.build_source('readonly', 'EXPORT int f(void) { return 42; }')\n"
            "native.build_source('readonly2', 'EXPORT int f(void) { return 43; }')\n"
            "sys.exit(lib.function('int32_t f(void)')())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "MLSYS21_CACHE": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        left = list(folder.iterdir())
        folder.chmod(0o700)
        folder.rmdir()
        assert done.returncode == 42, done.stderr
        assert done.stderr.count("RuntimeWarning") == 1
        assert left == []

    def test_a_folder_of_another_user_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if os.geteuid() == 0:
            folder.mkdir()
            os.chown(folder, 65534, -1)
        else:
            monkeypatch.setenv("MLSYS21_CACHE", "/usr")
        with pytest.raises(PermissionError, match="belongs to user"):
            native.cache_folder()

    def test_a_folder_open_to_everyone_is_refused(self, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.raises(PermissionError, match=r"everyone may write to .*chmod 700"):
            native.cache_folder()

    def test_the_users_cache_is_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("MLSYS21_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        _usable_folder.cache_clear()  # what it found for this session's own home
        try:
            assert native.cache_folder() == tmp_path / "mlsys21" / "native"
        finally:
            _usable_folder.cache_clear()


@pytest.fixture
def three_entries(folder: Path) -> list[Path]:
    """Libraries used one, two and three hours ago."""
    paths = []
    for n in range(3):
        text = f"EXPORT int f(void) {{ return {n}; }} // {folder}\n"
        library = native.build_source("pruned", text)
        paths.append(library.path)
        for path in folder.glob(f"{library.path.name.partition('.')[0]}.*"):
            os.utime(path, (time.time() - 3600 * (n + 1),) * 2)
    return paths


def test_prune_drops_what_was_not_used_longest(three_entries: list[Path], folder: Path) -> None:
    newest, middle, oldest = three_entries
    sizes = sum(p.stat().st_size for p in folder.glob("*") if p.suffix != ".lock")
    (folder / "roofline.json").write_text("{}")  # not an entry
    native.prune(max_mb=(sizes - 1) / 1e6)
    assert [p.exists() for p in (newest, middle, oldest)] == [True, True, False]
    native.prune(max_mb=0)
    assert not list(folder.glob("*.so"))
    assert (folder / "roofline.json").exists()
    assert len(list(folder.glob("*.lock"))) >= 3  # another process may be waiting on one


def test_a_hit_counts_as_use(three_entries: list[Path], folder: Path) -> None:
    oldest = three_entries[2]
    key = oldest.name.partition(".")[0]
    assert native_cache.find(folder, key) is not None
    native.prune(max_mb=0.02 + oldest.stat().st_size / 1e6)
    assert oldest.exists()
    assert not three_entries[1].exists()


def test_pruned_libraries_that_are_loaded_keep_working(source: Path) -> None:
    library = native.build("answer", [source])
    call = library.function("int32_t answer(void)")
    native.prune(max_mb=0)
    assert not library.path.exists()
    assert call() == 42
    assert build_elsewhere(source)[0]


def test_prune_leaves_an_entry_being_built(three_entries: list[Path], folder: Path) -> None:
    key = three_entries[2].name.partition(".")[0]
    with native_cache.locked(folder, key):
        native.prune(max_mb=0)
    assert three_entries[2].exists()


def test_prune_removes_what_killed_builders_left(folder: Path) -> None:
    native.cache_folder()
    old, fresh = folder / f"{'0' * 32}.a.tmp", folder / f"{'0' * 32}.b.tmp"
    for path in (old, fresh):
        path.mkdir()
    os.utime(old, (1, 1))
    native.prune()
    assert (old.exists(), fresh.exists()) == (False, True)
    with pytest.raises(ValueError, match="max_mb must not be negative"):
        native.prune(max_mb=-1)


def test_on_a_network_a_private_copy_is_loaded(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_cache, "file_system", lambda path: "nfs4")
    library = native.build("answer", [source])
    mapped = Path("/proc/self/maps").read_text()
    assert str(library.path) not in mapped
    assert f"{library.path.stem}" in mapped
    assert native.prune(max_mb=0) == 0
    assert library.path.exists()
    assert library.function("int32_t answer(void)")() == 42


def test_file_systems_are_told_apart() -> None:
    assert native_cache.file_system(Path("/proc/self")) == "proc"
    assert not native_cache.is_network(Path("/proc"))
    assert native_cache.file_system(Path("/proc/self/nothing/here")) == "proc"


def test_an_entry_pruned_before_it_is_loaded_is_built_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_elsewhere(source)
    find, calls = native_cache.find, []

    def find_then_lose(folder: Path, key: str) -> native_cache.Entry | None:
        entry = find(folder, key)
        if entry is not None and not calls:
            calls.append(key)
            native.prune(max_mb=0)
        return entry

    monkeypatch.setattr(native_cache, "find", find_then_lose)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library = native.build("answer", [source])
    assert calls
    assert library.compile_seconds is not None
    assert library.function("int32_t answer(void)")() == 42
