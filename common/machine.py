"""What this machine is, as far as it decides how fast code runs."""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import attrs

T = TypeVar("T")

# Instruction sets that kernels or the libraries beside them choose their code by.
ISA_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq"),
    *("avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
SPEED_VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS|BLIS|KMP|GOMP|ATEN|DNNL|ONEDNN|MALLOC)_\w+|LD_PRELOAD"
)
TYPICAL_CACHE_BYTES = {"L1d": 32 * 2**10, "L2": 2**20, "L3": 32 * 2**20}
_PATH = re.compile(r"~?(?:/[^/:,;\s]+)*/([^/:,;\s]*)")


@attrs.frozen
class Machine:
    """Everything we record of a machine; a probe that failed left None.

    The stable part, which `id` is made of, comes first. No host, user or folder name is kept.

    cpu_quota:    cores' worth of time the control group allows, None for no limit
    cache_bytes:  by level ("L1d", "L2", "L3"), of one cache of the level
    blas:         library, version and kernel type numpy and others call, e.g. "openblas 0.3.30
                  SkylakeX"
    openmp:       OpenMP runtimes loaded, one line each
    environment:  variables that change speed; values without their folders
    """

    cpu: str | None
    isa: tuple[str, ...] | None
    cores: int
    cpu_quota: float | None
    cache_bytes: Mapping[str, int] | None
    ram_gb: float | None
    gpu: str | None

    kernel: str | None
    python: str | None
    torch: str | None
    numpy: str | None
    compiler: str | None
    governor: str | None
    blas: tuple[str, ...] | None
    openmp: tuple[str, ...] | None
    environment: Mapping[str, str]
    load: float | None
    steal_share: float | None

    @property
    def id(self) -> str:
        """Same for every process on this machine and on ones like it."""
        # Memory in whole GB: the kernel keeps a little more or less from boot to boot.
        ram = None if self.ram_gb is None else round(self.ram_gb)
        stable = (self.cpu, self.isa, self.cores, self.cpu_quota, self.cache_bytes, ram, self.gpu)
        text = json.dumps(stable, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def usable_cores(self) -> float:
        """Cores' worth of time this process can use."""
        return float(self.cores) if self.cpu_quota is None else min(self.cores, self.cpu_quota)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the id among them."""
        plain: dict[str, Any] = attrs.asdict(self)
        for name in ("isa", "blas", "openmp"):
            plain[name] = None if plain[name] is None else list(plain[name])
        return {"id": self.id, **plain}


def fingerprint() -> Machine:
    """Probe the machine; never raises.

    Versions are read without importing anything; `blas` and `openmp` show only what this process
    has loaded so far.
    """
    return Machine(
        cpu=_probe(_cpu_model),
        isa=_probe(_isa),
        cores=_probe(lambda: len(os.sched_getaffinity(0))) or os.cpu_count() or 1,
        cpu_quota=_probe(cpu_quota),
        cache_bytes=_probe(cache_bytes),
        ram_gb=_probe(_ram_gb),
        gpu=_probe(_gpu),
        kernel=_probe(lambda: f"{platform.system()} {platform.release()}"),
        python=_probe(lambda: f"{platform.python_implementation()} {platform.python_version()}"),
        torch=_probe(lambda: _version("torch")),
        numpy=_probe(lambda: _version("numpy")),
        compiler=_probe(_compiler),
        governor=_probe(_governor),
        blas=_probe(_blas),
        openmp=_probe(_openmp),
        environment=speed_variables(),
        load=_probe(lambda: os.getloadavg()[0]),
        steal_share=_probe(_steal_share),
    )


def speed_variables() -> dict[str, str]:
    """Environment variables that change speed; of a path only the name of a library is kept."""

    def nameless(path: re.Match[str]) -> str:
        return path[1] if ".so" in path[1] else "<path>"

    return {
        name: _PATH.sub(nameless, value)
        for name, value in sorted(os.environ.items())
        if SPEED_VARIABLES.fullmatch(name)
    }


def cache_sizes_or_typical() -> dict[str, int]:
    """As `cache_bytes`; what is common today where the sizes cannot be read."""
    return TYPICAL_CACHE_BYTES | (_probe(cache_bytes) or {})


def last_level_cache_bytes() -> int:
    """Size of the largest cache; 32 MiB where it cannot be read."""
    return max((_probe(cache_bytes) or TYPICAL_CACHE_BYTES).values())


def cache_bytes(cpu_folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Bytes of one data or unified cache of each level, {"L1d": ..., "L2": ..., "L3": ...}."""
    sizes = {}
    for index in sorted(cpu_folder.glob("index*")):
        kind = (index / "type").read_text().strip()
        if kind == "Instruction":
            continue
        level = (index / "level").read_text().strip()
        size = (index / "size").read_text().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1], 1)
        sizes[f"L{level}" + ("d" if kind == "Data" else "")] = int(size.rstrip("KMG")) * unit
    if not sizes:
        raise OSError(f"no cache is described under {cpu_folder}")
    return sizes


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time the control group allows (version 2, else 1); None for no limit."""
    unified = root / "cpu.max"
    if unified.is_file():
        quota, period = unified.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
    return None if quota_us < 0 else quota_us / int((root / "cpu/cpu.cfs_period_us").read_text())


def _probe(read: Callable[[], T]) -> T | None:
    # Whatever a strange system raises here, a missing fact must not stop a measurement.
    try:
        return read()
    except Exception:
        return None


@lru_cache(maxsize=1)
def _cpu_info() -> dict[str, Any]:
    import cpuinfo

    info: dict[str, Any] = cpuinfo.get_cpu_info()
    return info


def _proc_cpuinfo() -> dict[str, str]:
    """First block of /proc/cpuinfo; a thousand times faster than asking cpuinfo."""
    first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _cpu_model() -> str:
    fields = _probe(_proc_cpuinfo) or {}
    if "model name" not in fields:
        return str(_cpu_info()["brand_raw"])
    # Virtual machines shorten the name to one all generations share: the numbers tell them apart.
    numbers = [fields.get(name, "?") for name in ("cpu family", "model", "stepping")]
    return f"{fields['model name']} (family {numbers[0]} model {numbers[1]} stepping {numbers[2]})"


def _isa() -> tuple[str, ...]:
    fields = _probe(_proc_cpuinfo) or {}
    listed = fields.get("flags") or fields.get("Features")
    flags = set(listed.split() if listed else _cpu_info()["flags"])
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


def _ram_gb() -> float:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 2)


def _governor(cpu_folder: Path = Path("/sys/devices/system/cpu/cpu0")) -> str:
    return (cpu_folder / "cpufreq/scaling_governor").read_text().strip()


def _gpu() -> str | None:
    """Name of the first NVIDIA GPU, from its driver so that torch need not be loaded for it."""
    for entry in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in entry.read_text().splitlines():
            if line.startswith("Model:"):
                return line.split(":", 1)[1].strip()
    return None


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)


@lru_cache(maxsize=1)
def _compiler() -> str:
    found = subprocess.run(
        [os.environ.get("CC", "cc"), "--version"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return found.stdout.splitlines()[0]


def _loaded_libraries(kind: str) -> list[dict[str, Any]]:
    from threadpoolctl import threadpool_info

    return [entry for entry in threadpool_info() if entry["user_api"] == kind]


def _blas() -> tuple[str, ...]:
    entries = _loaded_libraries("blas")
    words = ([e["internal_api"], e.get("version"), e.get("architecture")] for e in entries)
    return tuple(sorted({" ".join(str(w) for w in line if w) for line in words}))


def _openmp() -> tuple[str, ...]:
    entries = _loaded_libraries("openmp")
    names = (f"{Path(e['filepath']).name} {e.get('version') or ''}".strip() for e in entries)
    return tuple(sorted(names))


def _steal_share() -> float:
    """Share of processor time since boot that the hypervisor gave to others."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return fields[7] / sum(fields[:8])
