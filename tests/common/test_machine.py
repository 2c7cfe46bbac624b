"""The machine's fingerprint: what it holds, what it hides and what it survives."""

import json
import os
from pathlib import Path

import attrs
import pytest

from common import machine
from common.machine import Machine, fingerprint


def test_fingerprint_is_plain_json_with_its_id() -> None:
    found = fingerprint()
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["id"] == found.id
    assert len(found.id) == 12
    assert plain["cores"] == len(os.sched_getaffinity(0))
    assert set(plain) == {"id", *(field.name for field in attrs.fields(Machine))}


def test_id_follows_the_stable_part_alone() -> None:
    found = fingerprint()
    passing = attrs.evolve(
        found, load=99.0, steal_share=0.5, kernel="Linux 1.0", environment={"OMP_NUM_THREADS": "1"}
    )
    assert passing.id == found.id
    for change in (
        {"cpu": "another"},
        {"cores": found.cores + 1},
        {"isa": ("avx2",)},
        {"cache_bytes": {"L2": 1}},
        {"ram_gb": 1.0},
        {"cpu_quota": 0.5},
    ):
        assert attrs.evolve(found, **change).id != found.id


def test_id_is_the_same_before_and_after_loading_libraries() -> None:
    before = fingerprint().id
    import numpy
    import torch

    torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    after = fingerprint()
    assert after.id == before
    assert after.openmp
    assert after.blas


@pytest.mark.parametrize(
    ("probe", "field", "value"),
    [
        ("_cpu_model", "cpu", "some processor"),
        ("_isa", "isa", ("avx2",)),
        ("cpu_quota", "cpu_quota", 0.75),
        ("cache_bytes", "cache_bytes", {"L2": 5}),
        ("_ram_gb", "ram_gb", 3.0),
        ("_gpu", "gpu", "some accelerator"),
        ("_compiler", "compiler", "some compiler"),
        ("_governor", "governor", "powersave"),
        ("_blas", "blas", ("some library",)),
        ("_openmp", "openmp", ("some runtime",)),
        ("_steal_share", "steal_share", 0.25),
    ],
)
def test_what_a_probe_reads_is_what_the_fingerprint_shows(
    monkeypatch: pytest.MonkeyPatch, probe: str, field: str, value: object
) -> None:
    monkeypatch.setattr(machine, probe, lambda: value)
    assert getattr(fingerprint(), field) == value


def test_governor_is_that_of_the_first_core(tmp_path: Path) -> None:
    folder = tmp_path / "cpufreq"
    folder.mkdir()
    (folder / "scaling_governor").write_text("schedutil\n")
    assert machine._governor(tmp_path) == "schedutil"


def test_a_probe_that_fails_leaves_null(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such thing here")

    for name in (
        "cache_bytes",
        "cpu_quota",
        "_cpu_model",
        "_isa",
        "_blas",
        "_openmp",
        "_compiler",
        "_ram_gb",
        "_steal_share",
        "_gpu",
        "_version",
        "_governor",
    ):
        monkeypatch.setattr(machine, name, broken)
    monkeypatch.setattr(os, "sched_getaffinity", broken)
    monkeypatch.setattr(os, "getloadavg", broken)
    found = fingerprint()
    assert found.cores == (os.cpu_count() or 1)
    for name in (
        "cpu",
        "isa",
        "cache_bytes",
        "cpu_quota",
        "ram_gb",
        "gpu",
        "torch",
        "numpy",
        "compiler",
        "governor",
        "blas",
        "openmp",
        "load",
        "steal_share",
    ):
        assert getattr(found, name) is None, name
    assert machine.last_level_cache_bytes() == 32 * 2**20
    assert machine.cache_sizes_or_typical()["L2"] == 2**20
    assert json.dumps(found.to_dict())
    assert found.id


def test_no_name_of_host_user_or_folder_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_TOOL_LIBRARIES", "/home/somebody/lib/libtool.so.1:/home/somebody")
    monkeypatch.setenv("LD_PRELOAD", "/opt/secret-place/libjemalloc.so.2")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    monkeypatch.setenv("MY_PASSWORD", "hunter2")
    found = fingerprint()
    assert found.environment["OMP_TOOL_LIBRARIES"] == "libtool.so.1:<path>"
    assert found.environment["LD_PRELOAD"] == "libjemalloc.so.2"
    assert found.environment["MKL_NUM_THREADS"] == "3"
    text = json.dumps(found.to_dict())
    for private in ("somebody", "secret-place", "hunter2", "PASSWORD", str(Path.home()) + "/"):
        assert private not in text
    # One-letter host names occur in any text.
    host = os.uname().nodename
    assert len(host) < 4 or host not in text


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "MKL_CBWR", "OPENBLAS_CORETYPE", "KMP_AFFINITY", "GOMP_SPINCOUNT"]
)
def test_variables_that_change_speed_are_recorded(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "x1")
    assert machine.speed_variables()[name] == "x1"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_quota_is_read_from_either_control_group(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert machine.cpu_quota(tmp_path) == quota


def test_usable_cores_are_limited_by_quota() -> None:
    found = attrs.evolve(fingerprint(), cores=8, cpu_quota=None)
    assert found.usable_cores == 8.0
    assert attrs.evolve(found, cpu_quota=1.5).usable_cores == 1.5
    assert attrs.evolve(found, cpu_quota=64.0).usable_cores == 8.0


def test_cache_sizes_leave_out_the_instruction_cache(tmp_path: Path) -> None:
    levels = [
        ("1", "Data", "48K"),
        ("1", "Instruction", "32K"),
        ("2", "Unified", "1024K"),
        ("3", "Unified", "32M"),
    ]
    for i, values in enumerate(levels):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in zip(("level", "type", "size"), values, strict=True):
            (folder / name).write_text(value + "\n")
    assert machine.cache_bytes(tmp_path) == {"L1d": 48 * 2**10, "L2": 2**20, "L3": 32 * 2**20}
    with pytest.raises(OSError, match="no cache is described"):
        machine.cache_bytes(tmp_path / "nowhere")
