"""Programs to try things on: the 30 of PolyBench 4.2, the paper's ten, and matmul.

    program = programs.load("gemm", size="small", dtype="float32")
    program = programs.load("blur", size={"C": 3, "H": 100, "W": 200})
    ten = programs.paper_benchmarks()

The C is our own, from the mathematics; sizes and names are those of PolyBench and the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from costmodel.c_frontend import from_c
from costmodel.ir import ITEM_BYTES, DType, Program

_FOLDER = Path(__file__).with_name("benchmarks")
_SIZES = ("mini", "small", "medium", "large")

# Sizes by program: names, then numbers for mini, small, medium and large.
_Rows = tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_MATMUL: _Rows = ("NI NJ NK", (20, 25, 30), (60, 70, 80), (200, 220, 240), (1000, 1100, 1200))
_SQUARE: _Rows = ("N", (40,), (120,), (400,), (2000,))
_WIDE: _Rows = ("M N", (38, 42), (116, 124), (390, 410), (1900, 2100))
_SAMPLES: _Rows = ("M N", (28, 32), (80, 100), (240, 260), (1200, 1400))
_RANK: _Rows = ("M N", (20, 30), (60, 80), (200, 240), (1000, 1200))
_SEIDEL: _Rows = ("TSTEPS N", (20, 40), (40, 120), (100, 400), (500, 2000))
_JACOBI: _Rows = ("TSTEPS N", (20, 30), (40, 90), (100, 250), (500, 1300))
_DOITGEN: _Rows = ("NQ NR NP", (8, 10, 12), (20, 25, 30), (40, 50, 60), (140, 150, 160))
_CONV: _Rows = (
    "B F C H W K",
    (2, 2, 3, 8, 10, 3),
    (2, 2, 3, 62, 62, 3),
    (4, 2, 3, 254, 254, 3),
    (8, 2, 3, 510, 510, 3),
)
_IMAGE: _Rows = ("H W", (12, 14), (128, 128), (512, 512), (1024, 1024))

POLYBENCH: dict[str, _Rows] = {
    "2mm": (
        "NI NJ NK NL",
        (16, 18, 22, 24),
        (40, 50, 70, 80),
        (180, 190, 210, 220),
        (800, 900, 1100, 1200),
    ),
    "3mm": (
        "NI NJ NK NL NM",
        (16, 18, 20, 22, 24),
        (40, 50, 60, 70, 80),
        (180, 190, 200, 210, 220),
        (800, 900, 1000, 1100, 1200),
    ),
    "adi": ("TSTEPS N", (20, 20), (40, 60), (100, 200), (500, 1000)),
    "atax": _WIDE,
    "bicg": _WIDE,
    "cholesky": _SQUARE,
    "correlation": _SAMPLES,
    "covariance": _SAMPLES,
    "deriche": ("W H", (64, 64), (192, 128), (720, 480), (4096, 2160)),
    "doitgen": _DOITGEN,
    "durbin": _SQUARE,
    "fdtd-2d": ("TMAX NX NY", (20, 20, 30), (40, 60, 80), (100, 200, 240), (500, 1000, 1200)),
    "floyd-warshall": ("N", (60,), (180,), (500,), (2800,)),
    "gemm": _MATMUL,
    "gemver": _SQUARE,
    "gesummv": ("N", (30,), (90,), (250,), (1300,)),
    "gramschmidt": _RANK,
    "heat-3d": ("TSTEPS N", (20, 10), (40, 20), (100, 40), (500, 120)),
    "jacobi-1d": ("TSTEPS N", (20, 30), (40, 120), (100, 400), (500, 2000)),
    "jacobi-2d": _JACOBI,
    "lu": _SQUARE,
    "ludcmp": _SQUARE,
    "mvt": _SQUARE,
    "nussinov": ("N", (60,), (180,), (500,), (2500,)),
    "seidel-2d": _SEIDEL,
    "symm": _RANK,
    "syr2k": _RANK,
    "syrk": _RANK,
    "trisolv": _SQUARE,
    "trmm": _RANK,
}

# The paper's list, with a size of its own: that of the authors' benchmarks. Where they give a
# smallest size ("96 and larger") it is that one, and one round of time.
PAPER: dict[str, tuple[_Rows, tuple[int, ...]]] = {
    "blur": (
        ("C H W", (3, 12, 14), (3, 64, 64), (3, 256, 256), (3, 1024, 1024)),
        (3, 1024, 1024),
    ),
    "conv_relu": (_CONV, (32, 2, 3, 1022, 1022, 3)),
    "convolution": (_CONV, (32, 2, 3, 1022, 1022, 3)),
    "cvtcolor": (_IMAGE, (1024, 1024)),
    "doitgen": (_DOITGEN, (256, 256, 256)),
    "heat2d": (_IMAGE, (1024, 1024)),
    "heat3d": (
        ("D H W", (6, 8, 10), (32, 40, 48), (64, 96, 128), (256, 256, 256)),
        (960, 1120, 1214),
    ),
    "jacobi2d": (_JACOBI, (1, 96)),
    "mvt": (_SQUARE, (256,)),
    "seidel2d": (_SEIDEL, (1, 256)),
}

_TABLE: dict[str, _Rows] = {n: rows for n, (rows, _) in PAPER.items()} | POLYBENCH
_TABLE["matmul"] = _MATMUL
_FILES = {"jacobi2d": "jacobi-2d", "seidel2d": "seidel-2d"}
# Those that count: lengths of paths, pairs of bases.
_WHOLE_NUMBERS = ("floyd-warshall", "nussinov")

NAMES = tuple(sorted(_TABLE))


def load(name: str, size: str | Mapping[str, int] = "small", dtype: DType | None = None) -> Program:
    """One of NAMES.

    size:  mini, small, medium or large, as PolyBench names them; "paper" for those of PAPER; or
           numbers in place of those of mini, by the names the C source uses
    dtype: of every array; by default float64, and int32 for those that count

    Raises ValueError for an unknown name, size or dtype.
    """
    c_type = {"float32": "float", "float64": "double", "int32": "int"}
    dtype = dtype or ("int32" if name in _WHOLE_NUMBERS else "float64")
    if dtype not in c_type:
        raise ValueError(f"dtype must be one of {', '.join(c_type)}, got {dtype!r}")
    return from_c(source_path(name), params=sizes(name, size), defines={"DATA_TYPE": c_type[dtype]})


def paper_benchmarks(
    size: str = "paper",
    dtype: DType = "float32",
    max_gb: float = 2.0,
    names: Iterable[str] = tuple(PAPER),
) -> dict[str, Program]:
    """The paper's ten kernels, or those named, in one round of time where they have rounds.

    Those whose arrays take more than max_gb (10**9 bytes) together get smaller ones of about the
    same proportions: heat3d, of the authors' sizes.
    """
    return {name: _fitted(name, sizes(name, size), dtype, max_gb) for name in names}


def _fitted(name: str, wanted: dict[str, int], dtype: DType, max_gb: float) -> Program:
    if "TSTEPS" in wanted:
        wanted["TSTEPS"] = 1
    while True:
        program = load(name, wanted, dtype)
        over = n_bytes(program) / (1e9 * max_gb)
        if over <= 1:
            return program
        # Sizes of images and volumes shrink alike; channels and filters stay.
        long = [key for key, value in wanted.items() if 2 * value > max(wanted.values())]
        for key in long:
            wanted[key] = math.floor(wanted[key] * over ** (-1 / len(long)))


def n_bytes(program: Program) -> int:
    """Bytes of all arrays of a program."""
    return sum(math.prod(array.shape) * ITEM_BYTES[array.dtype] for array in program.arrays)


def sizes(name: str, size: str | Mapping[str, int]) -> dict[str, int]:
    """The numbers of a size by the names the C source uses."""
    source_path(name)
    names, *rows = _TABLE[name]
    known = dict(zip(_SIZES, rows, strict=True))
    if name in PAPER:
        known["paper"] = PAPER[name][1]
    if not isinstance(size, str):
        unknown = sorted(set(size) - set(names.split()))
        if unknown:
            raise ValueError(f"sizes of {name} are {names}, got {', '.join(unknown)}")
        return {**sizes(name, "mini"), **size}
    if size not in known:
        raise ValueError(f"size of {name} must be one of {', '.join(known)}, got {size!r}")
    return dict(zip(names.split(), known[size], strict=True))


def source_path(name: str) -> Path:
    """The C file of a program; compiled as it is, it has the mini size and doubles."""
    if name not in _TABLE:
        raise ValueError(f"there is no program {name!r}: the names are {', '.join(NAMES)}")
    return _FOLDER / f"{_FILES.get(name, name)}.c"
