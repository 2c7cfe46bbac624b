"""Matrix products on CPU tensors by our own kernel or a library's, behind one call.

    c = gemm(x, w, bias=b, activation="relu")
    weight = pack(w)                      # once, for many products
    c = gemm(x, weight, out=c, backend="onednn")
    c = gemm(x, w, backend="auto")        # whichever was the fastest on this shape, measured once

Back ends: "native" (kernels/gemm.h), "onednn" (torch's inference operator), "aten" (torch.mm, so
MKL in most builds) and "numpy" (OpenBLAS in most). So a peer of ours can be run with a product as
fast as ours, and ours with what everybody has.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import mmap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from common import large_tensors, native

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Activation",
    "Backend",
    "PackedMatrix",
    "chosen",
    "deterministic",
    "forget",
    "gemm",
    "is_deterministic",
    "onednn_takes",
    "pack",
]

Backend = Literal["native", "onednn", "aten", "numpy"]
Activation = Literal["relu", "sigmoid", "tanh", "gelu"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

_SOURCE = Path(__file__).parent / "kernels" / "gemm.cpp"
_CODES: dict[str, int] = {name: 1 + i for i, name in enumerate(ACTIVATIONS)}
_ENTRIES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_SIZES = {torch.float32: 4, torch.bfloat16: 2}
_HUGE_PAGE = 2**21


class PackedMatrix:
    """The right operand of many products, (k, n), in the form each back end multiplies fastest.

    A form is made when a back end first needs it, from the tensor itself: it must not change.
    """

    __slots__ = ("_panels", "_panels_at", "_weights", "dtype", "k", "n", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        _check_operand("b", tensor)
        self.tensor = tensor.detach()
        self.dtype = tensor.dtype
        self.k, self.n = tensor.shape
        self._panels: Tensor | None = None
        self._panels_at = 0
        self._weights: dict[int, Tensor] = {}

    @property
    def shape(self) -> tuple[int, int]:
        return self.k, self.n

    def __repr__(self) -> str:
        return f"PackedMatrix({self.k}, {self.n}, {self.dtype})"

    def panels_at(self) -> int:
        """Address of the panels of the native back end."""
        if self._panels is None:
            library = _library(openmp=False)
            size = library.function(
                "int64_t gemm_packed_size(int64_t k, int64_t n, int64_t is_bf16)"
            )(self.k, self.n, int(self.dtype is torch.bfloat16))
            panels = _aligned(size)
            row, column = self.tensor.stride()
            _pack(library, self.dtype)(
                self.tensor.data_ptr(), panels.data_ptr(), row, column, self.k, self.n
            )
            self._panels, self._panels_at = panels, panels.data_ptr()
        return self._panels_at

    def weight(self, rows: int) -> Tensor:
        """The weight of the onednn back end, (n, k), as it likes it for this number of rows."""
        found = self._weights.get(rows)
        if found is None:
            _check_onednn(self.dtype)
            plain = self.tensor.t().contiguous()
            found = torch.ops.mkldnn._reorder_linear_weight(plain, max(rows, 1))
            self._weights[rows] = found
        return found


@functools.cache
def onednn_takes(dtype: torch.dtype) -> bool:
    """True if torch's oneDNN operator multiplies this type on this processor."""
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(b: Tensor, *, backend: Backend | None = None, rows: int = 0) -> PackedMatrix:
    """Prepare b (k, n), float32 or bfloat16 of any strides, for many products.

    backend: make its form now rather than in the first product
    rows: of the left operand, which onednn wants to know

    Raises as gemm does.
    """
    packed = PackedMatrix(b)
    if backend == "native":
        packed.panels_at()
    elif backend == "onednn":
        packed.weight(rows)
    elif backend is not None and backend not in BACKENDS:
        raise _unknown("backend", backend, BACKENDS)
    return packed


def gemm(
    a: Tensor,
    b: Tensor | PackedMatrix,
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
    backend: Backend | Literal["auto"] = "native",
    threads: int | None = None,
) -> Tensor:
    """activation(a @ b + bias), or activation(out + a @ b + bias) with `accumulate`.

    a: (m, k), b: (k, n), both float32 or both bfloat16, of any strides; b may be packed
    bias: (n,), float32 or of the operands' type
    out: (m, n) of the operands' type, its rows contiguous; may not share memory with a or b
    backend: "auto" measures native, onednn and aten the first time this process meets a product of
        these sizes, layouts, type, threads and epilogue, and keeps to the fastest; inside
        `deterministic` it is native, whatever was measured
    threads: by default as many as torch uses; the native result has the same bits for any number

    Sums are kept in float32 and rounded once, by onednn and aten too. Nothing is recorded for
    autograd.

    Raises TypeError for other types, ValueError for shapes that do not fit or an unknown name,
    IndexError never.
    """
    # A small product takes two microseconds, so the checks are ordered by what they cost and those
    # of the common case stand here; whatever fails one is worded by the functions at the end.
    dtype = a.dtype
    size = _SIZES.get(dtype, 0)
    if not size or not a.is_cpu or a.requires_grad:
        _check_operand("a", a)
    try:
        m, k = a.shape
    except ValueError:
        _check_operand("a", a)
        raise
    if type(b) is PackedMatrix:
        inner, n = b.k, b.n
        right = None
    else:
        right = cast(Tensor, b)
        if not right.is_cpu or right.requires_grad:
            _check_operand("b", right)
        try:
            inner, n = right.shape
        except ValueError:
            _check_operand("b", right)
            raise
    if inner != k or b.dtype is not dtype:
        raise _mismatch(a, b)
    code = 0 if activation is None else _CODES.get(activation)
    if code is None:
        raise _unknown("activation", activation, ACTIVATIONS)
    if bias is not None:
        _check_bias(bias, dtype, n)
    if out is None:
        if accumulate:
            raise ValueError("accumulate adds to out: pass the tensor to add to as out=")
        pitch = n
    else:
        if (
            out.dtype is not dtype
            or out.shape != (m, n)
            or not out.is_contiguous()
            or not out.is_cpu
            or out.requires_grad
        ):
            _check_out(out, dtype, m, n)
            pitch = out.stride(0)
        else:
            pitch = n
    is_default = threads is None
    if threads is None:
        threads = torch.get_num_threads()
    elif threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if backend == "auto":
        backend = _choose(a, b, bias, activation, accumulate, threads)
    if backend != "native":
        if is_default:
            return _by_library(a, b, bias, activation, out, accumulate, backend)
        return _on_threads(a, b, bias, activation, out, accumulate, backend, threads)
    if out is None:
        if m * n < 2**20:  # not large: spare it the call
            out = torch.empty((m, n), dtype=dtype)
        else:
            out = large_tensors.empty((m, n), dtype)

    a_row, a_column = a.stride()
    a_at, out_at = a.data_ptr(), out.data_ptr()
    end = out_at + ((m - 1) * pitch + n) * size
    if a_at < end and out_at < a_at + ((m - 1) * a_row + (k - 1) * a_column + 1) * size:
        _refuse_overlap("a", m * n * k)
    if right is None:
        panels_at = b._panels_at or b.panels_at()  # type: ignore[union-attr]  # right is None: packed
        b_at = b_row = b_column = 0
    else:
        panels_at, b_at = 0, right.data_ptr()
        b_row, b_column = right.stride()
        if b_at < end and out_at < b_at + ((k - 1) * b_row + (n - 1) * b_column + 1) * size:
            _refuse_overlap("b", m * n * k)
    bias_at = 0
    if bias is not None:
        bias = bias.detach().to(torch.float32).contiguous()
        bias_at = bias.data_ptr()
    if threads > 1:
        native.openmp.ran_parallel_region[0] = True
    entry, workspace_at = _workspaces.ready.get((dtype, threads, n)) or _prepare(dtype, threads, n)
    entry(
        a_at,
        b_at,
        panels_at,
        bias_at,
        out_at,
        workspace_at,
        a_row,
        a_column,
        b_row,
        b_column,
        pitch,
        m,
        k,
        n,
        code + 16 * accumulate + 32 * threads,
    )
    return out


# ---- The native back end ----


# Without OpenMP the one pragma is unknown; the same source serves both builds.
_FLAGS = ("-Wno-unknown-pragmas",)
# Names of Python's own, which the process has.
_LINK_FLAGS = ("-Wl,-z,undefs",)


@functools.cache
def _library(openmp: bool, flags: tuple[str, ...] = ()) -> native.Library:
    return native.build(
        "gemm", [_SOURCE], openmp=openmp, flags=(*flags, *_FLAGS), link_flags=_LINK_FLAGS
    )


_PACK = (
    "void gemm_pack_{}(const {}* b, float* packed, int64_t b_row, int64_t b_column, int64_t k, "
    "int64_t n)"
)


def _pack(library: native.Library, dtype: torch.dtype) -> Callable[..., None]:
    element = {torch.float32: "float", torch.bfloat16: "uint16_t"}[dtype]
    text = _PACK.replace("{}*", f"{element}*").replace("{}", _ENTRIES[dtype])
    return library.function(text).raw


def _entry(library: native.Library, dtype: torch.dtype) -> Callable[..., object]:
    """The Python function the library makes, which costs a tenth of a foreign call."""
    make = ctypes.PyDLL(str(library.path)).gemm_function
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_int64,)
    return cast(Callable[..., object], make(dtype is torch.bfloat16))


_Ready = tuple[Callable[..., object], int]


class _Workspaces(threading.local):
    """One thread's memory, and by (type, threads, columns) the entry point and its address."""

    def __init__(self) -> None:
        self.ready: dict[Any, _Ready] = {}
        self.memory: Tensor | None = None


_workspaces = _Workspaces()


def _prepare(dtype: torch.dtype, threads: int, n: int) -> _Ready:
    library = _library(openmp=threads > 1)
    size = threads * library.function("int64_t gemm_workspace_size(int64_t n)")(n)
    memory = _workspaces.memory
    if memory is None or memory.numel() < size:
        memory = _workspaces.memory = _aligned(size)
        _workspaces.ready.clear()  # they name the smaller one
    ready = _entry(library, dtype), memory.data_ptr()
    _workspaces.ready[dtype, threads, n] = ready
    return ready


def _aligned(size: int) -> Tensor:
    """float32 memory that starts at a cache line, in huge pages where it is worth it.

    A panel of a large matrix walks through more pages than the address caches hold.
    """
    n_bytes = 4 * max(size, 1)
    if n_bytes < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        memory = torch.empty(n_bytes // 4 + 16, dtype=torch.float32)
        skip = -memory.data_ptr() % 64 // 4
        return memory[skip : skip + size]
    area = mmap.mmap(-1, n_bytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    memory = torch.frombuffer(area, dtype=torch.float32)
    skip = -memory.data_ptr() % _HUGE_PAGE // 4
    return memory[skip : skip + size]


# ---- The others ----


def _by_library(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    out: Tensor | None,
    accumulate: bool,
    backend: str,
) -> Tensor:
    product = _LIBRARIES.get(backend)
    if product is None:
        raise _unknown("backend", backend, ("auto", *BACKENDS))
    if out is not None:
        for name, x in (("a", a), ("b", b)):
            if isinstance(x, Tensor) and _overlap(x, out):
                _refuse_overlap(name, out.numel())
    with torch.no_grad():
        return product(a, b, bias, activation, out, accumulate)


def _on_threads(*arguments: Any) -> Tensor:
    from common import steady

    *others, threads = arguments
    with steady.threads(threads):
        return _by_library(*others)


def _onednn(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    out: Tensor | None,
    accumulate: bool,
) -> Tensor:
    _check_onednn(a.dtype)
    weight = b.weight(a.shape[0]) if isinstance(b, PackedMatrix) else b.t()
    if bias is not None:
        bias = bias.to(a.dtype)
    if not a.numel() or not weight.numel():  # the operator refuses empty operands
        return _aten(a, b, bias, activation, out, accumulate)
    fused = "none" if activation is None or accumulate else activation
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        a, weight, bias, fused, [], "none" if fused == "gelu" else ""
    )
    if out is None:
        return product
    if accumulate:
        return _activate(out.add_(product), activation)
    return out.copy_(product)


def _check_onednn(dtype: torch.dtype) -> None:
    if not onednn_takes(dtype):
        raise TypeError(
            "onednn multiplies bfloat16 only on processors with AVX-512: use backend native or "
            "aten, or float32 operands"
        )


def _aten(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    out: Tensor | None,
    accumulate: bool,
) -> Tensor:
    right = b.tensor if isinstance(b, PackedMatrix) else b
    if out is None:
        out = large_tensors.empty((a.shape[0], right.shape[1]), a.dtype)
    if accumulate:
        out.addmm_(a, right)
        if bias is not None:
            out += bias
    elif bias is not None:
        torch.addmm(bias.to(a.dtype), a, right, out=out)
    else:
        torch.mm(a, right, out=out)
    return _activate(out, activation)


def _numpy(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    out: Tensor | None,
    accumulate: bool,
) -> Tensor:
    import numpy as np

    if a.dtype is torch.bfloat16:
        raise TypeError(
            "numpy has no bfloat16: use backend native, onednn or aten, or float32 operands"
        )
    right = (b.tensor if isinstance(b, PackedMatrix) else b).detach().numpy()
    if out is None:
        out = a.new_empty(a.shape[0], right.shape[1])
    if accumulate:
        out += torch.from_numpy(np.matmul(a.detach().numpy(), right))
    else:
        np.matmul(a.detach().numpy(), right, out=out.numpy())
    if bias is not None:
        out += bias
    return _activate(out, activation)


_LIBRARIES: dict[str, Callable[..., Tensor]] = {"onednn": _onednn, "aten": _aten, "numpy": _numpy}


def _activate(x: Tensor, activation: Activation | None) -> Tensor:
    if activation is None:
        return x
    if activation == "gelu":
        return x.copy_(torch.nn.functional.gelu(x))
    return cast(Tensor, getattr(x, f"{activation}_")())


# ---- The choice of "auto" ----

#: Those a choice is between. numpy is left out: it has one type, and threads of its own.
_CANDIDATES: tuple[Backend, ...] = ("native", "onednn", "aten")
# A shape of a training step is met before anything of it ran, so the choice may cost some calls but
# not seconds. A library without instructions for a type or a layout can be a thousand times slower
# than the others: so the product is measured on corners that grow, and who falls behind drops out.
# Per heat: flops of the corner at most, no side halved below, samples, times the best to stay in.
_HEATS = ((2**20, 32, 2, 8.0), (2**28, 256, 5, 1.25), (2**31, 512, 7, 1.0))
_SAMPLE_S = 1e-4
# A library must be faster by more than samples scatter on a busy machine, else one run's choice is
# not the next one's; the native result repeats bit for bit.
_MARGIN = 0.95

_Key = tuple[Any, ...]
_choices: dict[_Key, Backend] = {}
_deterministic = contextvars.ContextVar("common.gemm.deterministic", default=False)


@contextlib.contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Have backend "auto" be native for a while, so that the same bits come from any choice.

    Holds for this thread or task. torch.use_deterministic_algorithms(True) does the same.
    """
    token = _deterministic.set(enabled)
    try:
        yield
    finally:
        _deterministic.reset(token)


def is_deterministic() -> bool:
    """True where "auto" is native without a measurement."""
    return _deterministic.get() or torch.are_deterministic_algorithms_enabled()


def chosen() -> Mapping[_Key, Backend]:
    """What "auto" found so far: (m, k, n, layouts of a and b, type, threads, epilogue) -> name."""
    return dict(_choices)


def forget() -> None:
    """Measure again where a shape is met next."""
    _choices.clear()


def _layout(x: Tensor | PackedMatrix) -> str:
    if isinstance(x, PackedMatrix):
        return "packed"
    row, column = x.stride()
    return "rows" if column == 1 else "columns" if row == 1 else "sparse"


def _choose(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    accumulate: bool,
    threads: int,
) -> Backend:
    if is_deterministic():
        return "native"
    (m, k), n = a.shape, b.shape[1]
    epilogue = (bias is not None, activation, accumulate)
    key = (m, k, n, _layout(a), _layout(b), a.dtype, threads, *epilogue)
    found = _choices.get(key)
    if found is None:
        # Racing threads measure twice and agree on the last: no lock is worth it.
        found = "native"
        if m * k * n > 0:
            found = _fastest(a, b, bias, activation, accumulate, threads)
        _choices[key] = found
    return found


def _fastest(
    a: Tensor,
    b: Tensor | PackedMatrix,
    bias: Tensor | None,
    activation: Activation | None,
    accumulate: bool,
    threads: int,
) -> Backend:
    """The back end of least time for this product; raises what native raised if none can run."""
    is_default = threads == torch.get_num_threads()
    names: tuple[Backend, ...] = tuple(
        name for name in _CANDIDATES if name != "onednn" or onednn_takes(a.dtype)
    )
    times: dict[Backend, float] = {}
    failures: dict[Backend, Exception] = {}
    before: tuple[int, int, int] | None = None
    for most_flops, shortest, samples, factor in _HEATS:
        sides = _corner((a.shape[0], a.shape[1], b.shape[1]), most_flops, shortest)
        if sides == before and factor > 1:
            continue
        before = sides
        m, k, n = sides
        if isinstance(b, PackedMatrix):  # it is packed for the whole
            k, n = b.shape
        left = _cut(a, m, k)
        right = b if isinstance(b, PackedMatrix) else _cut(b, k, n)
        options: dict[str, Any] = {
            "bias": None if bias is None else bias[:n],
            "activation": activation,
            "out": a.new_zeros(m, n) if accumulate else None,
            "accumulate": accumulate,
            "threads": None if is_default else threads,
        }
        calls: dict[Backend, Callable[[], object]] = {}
        for name in names:
            call = functools.partial(gemm, left, right, backend=name, **options)
            try:
                call()
            except (RuntimeError, OSError) as error:  # no compiler; no primitive for the type
                failures[name] = error
            else:
                calls[name] = call
        if not calls:
            raise failures["native"]
        times = _times(calls, threads, samples) if len(calls) > 1 else dict.fromkeys(calls, 0.0)
        best = min(times.values())
        names = tuple(name for name in calls if times[name] <= factor * best)
        if len(names) == 1 and factor > 1:
            return names[0]
    fastest = min(times, key=times.__getitem__)
    own = times.get("native")
    return "native" if own is not None and times[fastest] > _MARGIN * own else fastest


def _corner(sizes: tuple[int, int, int], most_flops: int, shortest: int) -> tuple[int, int, int]:
    """Sizes halved, the largest first, until a product of them is small enough."""
    sides = list(sizes)
    while 2 * sides[0] * sides[1] * sides[2] > most_flops and max(sides) > shortest:
        longest = sides.index(max(sides))
        sides[longest] = max(shortest, sides[longest] // 2)
    return sides[0], sides[1], sides[2]


def _cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns; of a matrix without gaps a copy without gaps, laid out alike.

    oneDNN falls back to plain loops where a matrix has gaps.
    """
    part = x[:rows, :columns]
    if part.shape == x.shape:
        return x
    if x.is_contiguous():
        return part.contiguous()
    return part.t().contiguous().t() if x.t().is_contiguous() else part


def _times(
    calls: Mapping[Backend, Callable[[], object]], threads: int, samples: int
) -> dict[Backend, float]:
    """Least seconds of a call over interleaved samples, so that a slow while slows all alike."""
    # Threads that wait for each other burn processor time without working.
    clock = time.thread_time if threads == 1 else time.perf_counter

    def sample(call: Callable[[], object], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        return (clock() - start) / repeats

    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(100, int(_SAMPLE_S / max(sample(call, 1), 1e-7))))
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(samples):
        order = list(calls) if turn % 2 == 0 else list(calls)[::-1]
        for name in order:
            best[name] = min(best[name], sample(calls[name], repeats[name]))
    return best


# ---- Errors ----


def _check_operand(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in _ENTRIES:
        raise TypeError(f"{name} must be float32 or bfloat16, got {x.dtype}")
    if not x.is_cpu:
        raise TypeError(f"{name} must be on the CPU, got {x.device}")
    if x.dim() != 2:
        raise ValueError(f"{name} must be a matrix, got shape {tuple(x.shape)}")
    _refuse_grad(name, x)


def _refuse_grad(name: str, x: Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad, which gemm does not record: use torch.no_grad()")


def _check_bias(bias: Tensor, dtype: torch.dtype, n: int) -> None:
    if bias.shape != (n,) or bias.dtype not in (dtype, torch.float32) or not bias.is_cpu:
        raise ValueError(
            f"bias must be ({n},) of {dtype} or torch.float32 on the CPU, got "
            f"{tuple(bias.shape)} of {bias.dtype} on {bias.device}"
        )
    _refuse_grad("bias", bias)


def _check_out(out: Tensor, dtype: torch.dtype, m: int, n: int) -> None:
    if out.dtype is not dtype or not out.is_cpu:
        raise TypeError(f"out must be {dtype} on the CPU, got {out.dtype} on {out.device}")
    if out.shape != (m, n):
        raise ValueError(f"out must be ({m}, {n}), got {tuple(out.shape)}")
    row, column = out.stride()
    if (column != 1 and n > 1) or (row < n and m > 1):
        raise ValueError(f"out must have contiguous rows, got strides {(row, column)}")
    _refuse_grad("out", out)


def _overlap(x: Tensor, out: Tensor) -> bool:
    spans = [
        (t.data_ptr(), t.data_ptr() + t.element_size() * (1 + sum(_reach(t)))) for t in (x, out)
    ]
    return max(first for first, _ in spans) < min(last for _, last in spans)


def _reach(x: Tensor) -> list[int]:
    return [(size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)]


def _refuse_overlap(name: str, n_products: int) -> None:
    if n_products:  # an empty tensor shares nothing, wherever it says it is
        raise ValueError(f"out may not share memory with {name}: pass another tensor")


def _mismatch(a: Tensor, b: Tensor | PackedMatrix) -> Exception:
    if b.dtype is not a.dtype:
        return TypeError(f"a and b must be of one type, got {a.dtype} and {b.dtype}")
    return ValueError(f"a and b must share k, got {tuple(a.shape)} and {tuple(b.shape)}")


def _unknown(what: str, name: object, known: tuple[str, ...]) -> ValueError:
    import difflib

    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}{hint}")
