"""A model compiled for this machine: linearize, one native call, the states of the roots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cortex import codegen_c, ra, tables
from cortex import weights as weights_of
from cortex.errors import BackendError, ModelError
from cortex.linearize import Linear, Tokens, linearize

if TYPE_CHECKING:
    import torch

    from cortex.recursive import Recursive

Backend: TypeAlias = Literal["c", "interp"]
Keep: TypeAlias = Literal["root", "all"]
Floats: TypeAlias = npt.NDArray[np.float32]

_KERNELS = Path(__file__).parent / "kernels"
_PROTOTYPE = (
    f"int64_t cortex_run({', '.join(f'const int32_t *{n}' for n in codegen_c.STRUCTURE)}, "
    "const int64_t *numbers)"
)
_NOTHING = np.zeros(1, np.int32)
_N_COUNTS = len(codegen_c.COUNTS)
#: Work below which a second thread costs more than it saves, in multiply-adds: about 100 us.
_SMALL_WORK = 2_500_000


class Result:
    """What a call gives.

    root:   name of an output -> torch tensor (trees, ...), a row for each tree
    linear: the structure it was computed on
    """

    __slots__ = ("_states", "linear", "root")

    def __init__(
        self, root: dict[str, torch.Tensor], states: dict[str, torch.Tensor], linear: Linear
    ) -> None:
        self.root = root
        self.linear = linear
        self._states = states

    def raw(self, name: str) -> torch.Tensor:
        """The states of all nodes in the order they were computed, (linear.n_nodes, ...)."""
        if name not in self._states:
            raise ValueError(
                f"states of all nodes must be kept to be read, got keep='root' or no state "
                f"{name!r}: compile with keep='all'"
            )
        return self._states[name]

    def node(self, name: str) -> torch.Tensor:
        """The states of all nodes in the order of the Forest, (forest's n_nodes, ...)."""
        return self.raw(name)[self.linear.id_of.copy()]


class _Packed:
    """Parameters, tables and panels of one set of weights, with their addresses."""

    __slots__ = ("addresses", "arrays", "panels")

    def __init__(self, arrays: dict[str, Floats], panels: Floats, inputs: Sequence[str]) -> None:
        self.arrays = arrays
        self.panels = panels
        self.addresses = [panels.ctypes.data] + [
            arrays[name].ctypes.data if name in arrays else 0 for name in inputs
        ]


class _Workspace:
    """Memory of one call under way, and the numbers that are given to it."""

    __slots__ = ("memory", "numbers", "packed")

    def __init__(self, n_numbers: int) -> None:
        self.memory = _aligned(1)
        self.numbers = np.zeros(n_numbers, np.int64)
        self.packed: _Packed | None = None


class Compiled:
    """A model with its weights; call it with structures. Made by `compile`.

    Calls from several threads at once are safe: each has a workspace of its own.
    """

    def __init__(
        self,
        model: ra.Model,
        lowered: Any,
        params: dict[str, Floats],
        *,
        backend: Backend,
        threads: int,
        outputs: tuple[str, ...],
        keep: Keep,
    ) -> None:
        import torch  # before any OpenMP code of ours, so that there is one runtime

        self._torch = torch
        self.ra = model
        self.lowered = lowered
        self.backend = backend
        self.threads = threads
        self.outputs = outputs
        self.keep = keep
        self._generated = codegen_c.generate(lowered.program)
        self._options = dict(lowered.linear_options)
        self._tokens: Tokens = (
            "all" if model.node_uses_token else "leaf" if model.leaf_uses_token else "none"
        )
        self._work = sum(depth * columns for depth, columns in self._generated.flops)
        self._idle: list[_Workspace] = []
        self._shapes = [(name, model.states[name]) for name in self._generated.states]
        self._n_states = len(self._shapes)
        features = [lowered.program.tensors[n].scope == "feature" for n in self._generated.inputs]
        self._feature = features.index(True) if any(features) else None
        if backend == "c":
            self._build()
        self._set(params)

    # ---- Stages ----

    @property
    def ilir(self) -> Any:
        """The lowered program."""
        return self.lowered.program

    @property
    def source(self) -> str:
        """The generated C++."""
        return self._generated.text

    def explain(self) -> str:
        """What was compiled, stage by stage, and which primitives were refused and why."""
        lines = [
            f"{self.ra.name}: backend {self.backend}, up to {self.threads} threads, "
            f"{self._generated.products} products on {len(self._generated.views)} packed views"
        ]
        lines += [f"  stage {name}" for name, _ in self.lowered.stages]
        lines += [f"  table {name}" for name, *_ in self.lowered.tables]
        lines += [f"  refused {name}: {reason}" for name, reason in self.lowered.refused]
        return "\n".join(lines)

    # ---- Weights ----

    def update(self, weights: object) -> None:
        """Take other weights of the same shapes: packs and tabulates, compiles nothing."""
        self._set(weights_of.load(self.ra, weights))

    def _set(self, params: dict[str, Floats]) -> None:
        arrays = {**params, **tables.build(self.lowered.tables, params)}
        inputs = self._generated.inputs
        panels = _aligned(1)
        if self.backend == "c":
            panels = _aligned(self._panels_size())
            addresses = [arrays[n].ctypes.data if n in arrays else 0 for n in inputs]
            self._pack(np.array([*addresses, 0], np.int64), panels)
        self._packed = _Packed(arrays, panels, inputs)

    def _build(self) -> None:
        from common import native

        try:
            library = native.build_source(
                f"cortex_{self.ra.name}",
                self._generated.text,
                language="c++",
                openmp=True,
                include_dirs=[_KERNELS],
            )
        except native.CompilerNotFound as error:
            raise BackendError(
                f"backend 'c' needs a C++ compiler: {error}; or compile with backend='interp'"
            ) from error
        self._run = library.function(_PROTOTYPE)
        self._panels_size = library.function("int64_t cortex_panels(void)")
        self._pack = library.function("void cortex_pack(const int64_t *params, float *panels)")

    # ---- Calls ----

    def __call__(self, data: object) -> Result:
        """Linearize and run: one structure or a list of them."""
        return self.run(self.linearize(data))

    def linearize(self, data: object) -> Linear:
        """Number the nodes of structures. Shares nothing with data, which may change later."""
        return linearize(
            data,
            self.ra.structure,
            tokens=self._tokens,
            vocab=self.ra.vocab,
            feature_width=self.ra.feature_width,
            **self._options,
        )

    def run(self, linear: Linear) -> Result:
        """Compute the states of a linearized structure."""
        if self.backend == "interp":
            return self._interpret(linear)
        torch = self._torch
        packed = self._packed
        try:
            space = self._idle.pop()
        except IndexError:
            space = _Workspace(_N_COUNTS + 4 + len(packed.addresses) - 1 + 2 * self._n_states)
            space.numbers[_N_COUNTS + 1] = len(space.memory)
            space.numbers[_N_COUNTS + 2] = space.memory.ctypes.data
        numbers = space.numbers
        first = _N_COUNTS + 3
        if space.packed is not packed:
            numbers[first : first + len(packed.addresses)] = packed.addresses
            space.packed = packed
        n_nodes, n_roots = linear.n_nodes, len(linear.roots)
        child, child_at = linear.child, linear.child_at
        n_edges = child.size if child is not None else 0 if child_at is None else child_at.size
        threads = self.threads
        if threads > 1 and n_nodes * self._work < _SMALL_WORK:
            threads = 1
        numbers[: _N_COUNTS + 1] = (
            n_nodes,
            linear.n_leaves,
            linear.n_levels,
            n_edges,
            n_roots,
            self.ra.vocab or 0,
            0 if linear.block_ptr is None else len(linear.block_ptr) - 1,
            threads,
        )
        if linear.features is not None and self._feature is not None:
            numbers[first + 1 + self._feature] = linear.features.ctypes.data
        at = first + len(packed.addresses)
        states: dict[str, Any] = {}
        roots: dict[str, Any] = {}
        for i, (name, shape) in enumerate(self._shapes):
            if self.keep == "all":
                states[name] = torch.empty((n_nodes, *shape))
                numbers[at + i] = states[name].data_ptr()
            if name in self.outputs:
                roots[name] = torch.empty((n_roots, *shape))
                numbers[at + self._n_states + i] = roots[name].data_ptr()
        if n_nodes:
            arrays = (
                linear.level_ptr,
                _NOTHING if linear.kind_ptr is None else linear.kind_ptr,
                _NOTHING if child is None else child,
                _NOTHING if linear.child_ptr is None else linear.child_ptr,
                _NOTHING if child_at is None else child_at,
                linear.token,
                linear.roots,
                _NOTHING if linear.block_ptr is None else linear.block_ptr,
                _NOTHING if linear.super_ptr is None else linear.super_ptr,
            )
            while needed := self._run(*arrays, numbers):
                space.memory = _aligned(needed + needed // 4)
                numbers[_N_COUNTS + 1] = len(space.memory)
                numbers[_N_COUNTS + 2] = space.memory.ctypes.data
        self._idle.append(space)
        return Result(roots, states, linear)

    def _interpret(self, linear: Linear) -> Result:
        from cortex import interpreter

        arrays: Mapping[str, Floats] = self._packed.arrays
        found = interpreter.run(self.lowered.program, linear, arrays)
        torch = self._torch
        states = {n: torch.from_numpy(np.asarray(found[n], np.float32)) for n, _ in self._shapes}
        roots = {n: states[n][linear.roots.copy()] for n in self.outputs}
        return Result(roots, states if self.keep == "all" else {}, linear)


def compile(
    model: Recursive | ra.Model,
    weights: object = None,
    *,
    backend: Backend = "c",
    schedule: Any = "auto",
    precision: Literal["fp32"] = "fp32",
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
    keep: Keep = "root",
) -> Compiled:
    """Compile a recursive model for this machine.

    weights:  name -> array or tensor, an nn.Module with an import map, or None for seeded ones
    backend:  "c", or "interp" for the plain interpreter of the lowered program
    schedule: a Schedule, "auto" for fixed rules, or "none"
    threads:  the most a call uses; by default as many as torch does. Small calls use one
    outputs:  states returned for the roots; by default all
    keep:     "all" to read the states of every node from the result

    Raises WeightError, ModelError, ScheduleError, and BackendError if the back end cannot run.
    """
    if backend not in ("c", "interp"):
        raise BackendError(f"backend must be 'c' or 'interp', got {backend!r}")
    if precision != "fp32":
        raise BackendError(f"precision must be 'fp32', got {precision!r}")
    if keep not in ("root", "all"):
        raise ValueError(f"keep must be 'root' or 'all', got {keep!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    from cortex.lower import lower
    from cortex.schedule import Schedule

    traced = model if isinstance(model, ra.Model) else ra.trace(model)
    wanted = tuple(traced.states) if outputs is None else tuple(outputs)
    if unknown := [name for name in wanted if name not in traced.states]:
        raise ModelError(
            f"outputs must be states of {traced.name} ({', '.join(traced.states)}), "
            f"got {', '.join(unknown)}"
        )
    if schedule == "auto":
        schedule = Schedule.auto(traced)
    elif schedule == "none":
        schedule = Schedule.none()
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    return Compiled(
        traced,
        lower(traced, schedule),
        weights_of.load(traced, weights),
        backend=backend,
        threads=threads,
        outputs=wanted,
        keep=keep,
    )


def _aligned(size: int) -> Floats:
    """Uninitialised floats that begin at a cache line."""
    memory = np.empty(size + 16, np.float32)
    start = (-memory.ctypes.data // 4) % 16
    return memory[start : start + size]
